//! AVX-512: vectors of 64 bytes.

use super::{
    same,
    vector::{REACH, Vector},
};
use crate::PageBytes;
use crate::codec::lz4::encode::{self, Table};
use std::arch::x86_64::*;

/// Proof that this CPU has AVX-512 F, BW and VL: only [`Avx512::new`] makes one.
///
/// The three are asked for together, since no CPU of interest has F alone, so that code which needs
/// bytes (BW) or shorter vectors (VL) does not change what the name means; and with them BMI1, BMI2
/// and LZCNT, which are older.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// `None` where the CPU or the kernel lacks one of them.
    pub(crate) fn new() -> Option<Avx512> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt"))
        .then_some(Avx512(()))
    }

    pub(crate) fn page_repeats(self, page: &PageBytes, word: u64) -> bool {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn compiled(v: Avx512, page: &PageBytes, word: u64) -> bool {
            same::page_repeats(v, page, word)
        }
        // SAFETY: `self` exists, so this CPU has all three.
        unsafe { compiled(self, page, word) }
    }

    pub(crate) fn fill_page(self, page: &mut PageBytes, word: u64) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn compiled(page: &mut PageBytes, word: u64) {
            same::fill_page(page, word);
        }
        // SAFETY: `self` exists, so this CPU has all three.
        unsafe { compiled(page, word) }
    }

    pub(crate) fn encode_lz4(self, page: &PageBytes, out: &mut [u8], table: &mut Table) -> usize {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2,lzcnt")]
        fn compiled(v: Avx512, page: &PageBytes, out: &mut [u8], table: &mut Table) -> usize {
            encode::encode(v, page, out, table)
        }
        // SAFETY: `self` exists, so this CPU has all of them.
        unsafe { compiled(self, page, out, table) }
    }
}

impl Vector for Avx512 {
    type Block = [u8; 64];
    type Lanes = __m512i;

    #[inline(always)]
    fn blocks(page: &PageBytes) -> &[[u8; 64]] {
        page.as_chunks().0
    }

    #[inline(always)]
    fn splat(self, word: u64) -> __m512i {
        // SAFETY: `self` exists, so this CPU has AVX-512F.
        unsafe { _mm512_set1_epi64(word as i64) }
    }

    #[inline(always)]
    fn load(self, block: &[u8; 64]) -> __m512i {
        // SAFETY: `self` exists, so this CPU has AVX-512F; `block` is 64 readable bytes, and the
        // instruction asks for no alignment.
        unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` exists, so this CPU has AVX-512F.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` exists, so this CPU has AVX-512F.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn is_zero(self, a: __m512i) -> bool {
        // SAFETY: `self` exists, so this CPU has AVX-512F.
        unsafe { _mm512_test_epi64_mask(a, a) == 0 }
    }

    #[inline(always)]
    fn agree(self, a: &[u8; REACH], b: &[u8; REACH]) -> usize {
        // SAFETY: `self` exists, so this CPU has AVX-512BW and VL, and AVX, which is older; `a` and
        // `b` are 32 readable bytes, and the instructions ask for no alignment.
        let differ = unsafe {
            let a = _mm256_loadu_si256(a.as_ptr().cast());
            let b = _mm256_loadu_si256(b.as_ptr().cast());
            _mm256_cmpneq_epi8_mask(a, b)
        };
        differ.trailing_zeros() as usize
    }
}
