//! AVX2: vectors of 32 bytes.

use super::{
    same,
    vector::{REACH, Vector},
};
use crate::PageBytes;
use crate::codec::lz4::encode::{self, Table};
use std::arch::x86_64::*;

/// Proof that this CPU has AVX2: only [`Avx2::new`] makes one.
///
/// BMI1, BMI2 and LZCNT are asked for together with it, since every CPU of interest that has the
/// one has the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// `None` where the CPU or the kernel does not support AVX2.
    pub(crate) fn new() -> Option<Avx2> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt"))
        .then_some(Avx2(()))
    }

    pub(crate) fn page_repeats(self, page: &PageBytes, word: u64) -> bool {
        #[target_feature(enable = "avx2")]
        fn compiled(v: Avx2, page: &PageBytes, word: u64) -> bool {
            same::page_repeats(v, page, word)
        }
        // SAFETY: `self` exists, so this CPU has AVX2.
        unsafe { compiled(self, page, word) }
    }

    pub(crate) fn fill_page(self, page: &mut PageBytes, word: u64) {
        #[target_feature(enable = "avx2")]
        fn compiled(page: &mut PageBytes, word: u64) {
            same::fill_page(page, word);
        }
        // SAFETY: `self` exists, so this CPU has AVX2.
        unsafe { compiled(page, word) }
    }

    pub(crate) fn encode_lz4(self, page: &PageBytes, out: &mut [u8], table: &mut Table) -> usize {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
        fn compiled(v: Avx2, page: &PageBytes, out: &mut [u8], table: &mut Table) -> usize {
            encode::encode(v, page, out, table)
        }
        // SAFETY: `self` exists, so this CPU has AVX2 and what comes with it.
        unsafe { compiled(self, page, out, table) }
    }
}

impl Vector for Avx2 {
    type Block = [u8; 32];
    type Lanes = __m256i;

    #[inline(always)]
    fn blocks(page: &PageBytes) -> &[[u8; 32]] {
        page.as_chunks().0
    }

    #[inline(always)]
    fn splat(self, word: u64) -> __m256i {
        // SAFETY: `self` exists, so this CPU has AVX2.
        unsafe { _mm256_set1_epi64x(word as i64) }
    }

    #[inline(always)]
    fn load(self, block: &[u8; 32]) -> __m256i {
        // SAFETY: `self` exists, so this CPU has AVX2; `block` is 32 readable bytes, and the
        // instruction asks for no alignment.
        unsafe { _mm256_loadu_si256(block.as_ptr().cast()) }
    }

    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` exists, so this CPU has AVX2.
        unsafe { _mm256_xor_si256(a, b) }
    }

    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` exists, so this CPU has AVX2.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    fn is_zero(self, a: __m256i) -> bool {
        // SAFETY: `self` exists, so this CPU has AVX2, which includes AVX.
        unsafe { _mm256_testz_si256(a, a) == 1 }
    }

    #[inline(always)]
    fn agree(self, a: &[u8; REACH], b: &[u8; REACH]) -> usize {
        let (a, b) = (self.load(a), self.load(b));
        // SAFETY: `self` exists, so this CPU has AVX2.
        let equal = unsafe { _mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)) };
        (!equal).trailing_zeros() as usize
    }
}
