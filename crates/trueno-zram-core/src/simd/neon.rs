//! NEON: vectors of 16 bytes.

use super::{
    same,
    vector::{REACH, Vector},
};
use crate::PageBytes;
use crate::codec::lz4::encode::{self, Table};
use std::arch::aarch64::*;

/// Proof that this CPU has NEON: only [`Neon::new`] makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(());

impl Neon {
    /// `None` where the CPU does not support NEON.
    pub(crate) fn new() -> Option<Neon> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    pub(crate) fn page_repeats(self, page: &PageBytes, word: u64) -> bool {
        #[target_feature(enable = "neon")]
        fn compiled(v: Neon, page: &PageBytes, word: u64) -> bool {
            same::page_repeats(v, page, word)
        }
        // SAFETY: `self` exists, so this CPU has NEON.
        unsafe { compiled(self, page, word) }
    }

    pub(crate) fn fill_page(self, page: &mut PageBytes, word: u64) {
        // Every target of this architecture that we build for has NEON from the start.
        same::fill_page(page, word);
    }

    pub(crate) fn encode_lz4(self, page: &PageBytes, out: &mut [u8], table: &mut Table) -> usize {
        #[target_feature(enable = "neon")]
        fn compiled(v: Neon, page: &PageBytes, out: &mut [u8], table: &mut Table) -> usize {
            encode::encode(v, page, out, table)
        }
        // SAFETY: `self` exists, so this CPU has NEON.
        unsafe { compiled(self, page, out, table) }
    }
}

impl Vector for Neon {
    type Block = [u8; 16];
    type Lanes = uint64x2_t;

    #[inline(always)]
    fn blocks(page: &PageBytes) -> &[[u8; 16]] {
        page.as_chunks().0
    }

    #[inline(always)]
    fn splat(self, word: u64) -> uint64x2_t {
        // SAFETY: `self` exists, so this CPU has NEON.
        unsafe { vdupq_n_u64(word) }
    }

    #[inline(always)]
    fn load(self, block: &[u8; 16]) -> uint64x2_t {
        // SAFETY: `self` exists, so this CPU has NEON; `block` is 16 readable bytes, and a load of
        // bytes asks for no alignment.
        unsafe { vreinterpretq_u64_u8(vld1q_u8(block.as_ptr())) }
    }

    #[inline(always)]
    fn xor(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        // SAFETY: `self` exists, so this CPU has NEON.
        unsafe { veorq_u64(a, b) }
    }

    #[inline(always)]
    fn or(self, a: uint64x2_t, b: uint64x2_t) -> uint64x2_t {
        // SAFETY: `self` exists, so this CPU has NEON.
        unsafe { vorrq_u64(a, b) }
    }

    #[inline(always)]
    fn is_zero(self, a: uint64x2_t) -> bool {
        // SAFETY: `self` exists, so this CPU has NEON.
        unsafe { vmaxvq_u32(vreinterpretq_u32_u64(a)) == 0 }
    }

    #[inline(always)]
    fn agree(self, a: &[u8; REACH], b: &[u8; REACH]) -> usize {
        let mut agreed = 0;
        for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
            // SAFETY: `self` exists, so this CPU has NEON; `a` and `b` are 16 readable bytes, and a
            // load of bytes asks for no alignment. The shift leaves four bits of each byte.
            let differ = unsafe {
                let equal = vceqq_u8(vld1q_u8(a.as_ptr()), vld1q_u8(b.as_ptr()));
                let four_bits = vshrn_n_u16::<4>(vreinterpretq_u16_u8(equal));
                !vget_lane_u64::<0>(vreinterpret_u64_u8(four_bits))
            };
            if differ != 0 {
                return agreed + differ.trailing_zeros() as usize / 4;
            }
            agreed += 16;
        }
        agreed
    }
}
