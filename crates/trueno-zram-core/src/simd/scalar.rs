//! 64-bit words: the reference, and what runs on a CPU that has nothing wider.

#![forbid(unsafe_code)]

use super::{
    same,
    vector::{REACH, Vector},
};
use crate::PageBytes;
use crate::codec::lz4::encode::{self, Table};

/// Every CPU has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

impl Scalar {
    pub(crate) fn page_repeats(self, page: &PageBytes, word: u64) -> bool {
        same::page_repeats(self, page, word)
    }

    pub(crate) fn fill_page(self, page: &mut PageBytes, word: u64) {
        same::fill_page(page, word);
    }

    pub(crate) fn encode_lz4(self, page: &PageBytes, out: &mut [u8], table: &mut Table) -> usize {
        encode::encode(self, page, out, table)
    }
}

impl Vector for Scalar {
    type Block = [u8; 8];
    type Lanes = u64;

    #[inline(always)]
    fn blocks(page: &PageBytes) -> &[[u8; 8]] {
        page.as_chunks().0
    }

    #[inline(always)]
    fn splat(self, word: u64) -> u64 {
        word
    }

    #[inline(always)]
    fn load(self, block: &[u8; 8]) -> u64 {
        u64::from_ne_bytes(*block)
    }

    #[inline(always)]
    fn xor(self, a: u64, b: u64) -> u64 {
        a ^ b
    }

    #[inline(always)]
    fn or(self, a: u64, b: u64) -> u64 {
        a | b
    }

    #[inline(always)]
    fn is_zero(self, a: u64) -> bool {
        a == 0
    }

    #[inline(always)]
    fn agree(self, a: &[u8; REACH], b: &[u8; REACH]) -> usize {
        let (a, b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
        let mut agreed = 0;
        for (a, b) in a.iter().zip(b) {
            let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
            if differ != 0 {
                return agreed + differ.trailing_zeros() as usize / 8;
            }
            agreed += 8;
        }
        agreed
    }
}
