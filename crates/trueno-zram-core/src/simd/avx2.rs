//! AVX2: vectors of 32 bytes.

use super::{same, vector::Vector};
use crate::PageBytes;
use std::arch::x86_64::*;

/// Proof that this CPU has AVX2: only [`Avx2::new`] makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// `None` where the CPU or the kernel does not support AVX2.
    pub(crate) fn new() -> Option<Avx2> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
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
}
