//! What this CPU can do: asked once, and lowered on request.
//!
//! The name of an instruction set ([`SimdBackend`]) may be written down anywhere. The right to use
//! one is an `Isa`, whose variants hold values that only exist where the CPU has the instructions.

#![forbid(unsafe_code)]

use crate::PageBytes;
use crate::codec::lz4::encode::Table;
#[cfg(target_arch = "aarch64")]
use crate::simd::neon::Neon;
use crate::simd::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::simd::{avx2::Avx2, avx512::Avx512};
use std::fmt;

/// An instruction set that this crate has code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SimdBackend {
    /// Plain 64-bit words: on every CPU.
    Scalar,
    /// x86-64 with AVX2, and BMI1, BMI2 and LZCNT, which came with it.
    Avx2,
    /// x86-64 with AVX-512 F, BW and VL, and what AVX2 asks for beside itself.
    Avx512,
    /// AArch64 with NEON.
    Neon,
}

impl SimdBackend {
    /// All of them, best first.
    pub const ALL: [SimdBackend; 4] = [
        SimdBackend::Avx512,
        SimdBackend::Avx2,
        SimdBackend::Neon,
        SimdBackend::Scalar,
    ];

    /// Whether this CPU has it.
    pub fn is_available(self) -> bool {
        Isa::new(self).is_some()
    }
}

impl fmt::Display for SimdBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            SimdBackend::Scalar => "scalar",
            SimdBackend::Avx2 => "avx2",
            SimdBackend::Avx512 => "avx512",
            SimdBackend::Neon => "neon",
        })
    }
}

/// The best instruction set of this CPU, in the order AVX-512, AVX2, NEON, scalar.
pub fn detect_backend() -> SimdBackend {
    Isa::best().backend()
}

/// An instruction set that this CPU has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Isa {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

impl Isa {
    /// Exactly `backend`, if this CPU has it.
    pub(crate) fn new(backend: SimdBackend) -> Option<Isa> {
        match backend {
            SimdBackend::Scalar => Some(Isa::Scalar(Scalar)),
            #[cfg(target_arch = "x86_64")]
            SimdBackend::Avx2 => Avx2::new().map(Isa::Avx2),
            #[cfg(target_arch = "x86_64")]
            SimdBackend::Avx512 => Avx512::new().map(Isa::Avx512),
            #[cfg(target_arch = "aarch64")]
            SimdBackend::Neon => Neon::new().map(Isa::Neon),
            #[allow(unreachable_patterns)] // Which ones are left depends on the architecture.
            _ => None,
        }
    }

    /// The best one no better than `backend`.
    pub(crate) fn at_most(backend: SimdBackend) -> Isa {
        SimdBackend::ALL
            .into_iter()
            .skip_while(|better| *better != backend)
            .find_map(Isa::new)
            .unwrap_or(Isa::Scalar(Scalar))
    }

    /// The best one.
    pub(crate) fn best() -> Isa {
        Isa::at_most(SimdBackend::ALL[0])
    }

    /// Its name.
    pub(crate) fn backend(self) -> SimdBackend {
        match self {
            Isa::Scalar(_) => SimdBackend::Scalar,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => SimdBackend::Avx2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => SimdBackend::Avx512,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => SimdBackend::Neon,
        }
    }

    /// Whether `page` is `word` (native byte order) from its first byte to its last.
    pub(crate) fn page_repeats(self, page: &PageBytes, word: u64) -> bool {
        match self {
            Isa::Scalar(v) => v.page_repeats(page, word),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(v) => v.page_repeats(page, word),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(v) => v.page_repeats(page, word),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(v) => v.page_repeats(page, word),
        }
    }

    /// Writes the LZ4 block of `page` to `out`, which has room for the longest, and returns its
    /// length.
    pub(crate) fn encode_lz4(self, page: &PageBytes, out: &mut [u8], table: &mut Table) -> usize {
        match self {
            Isa::Scalar(v) => v.encode_lz4(page, out, table),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(v) => v.encode_lz4(page, out, table),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(v) => v.encode_lz4(page, out, table),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(v) => v.encode_lz4(page, out, table),
        }
    }

    /// Fills `page` with `word` (native byte order).
    pub(crate) fn fill_page(self, page: &mut PageBytes, word: u64) {
        match self {
            Isa::Scalar(v) => v.fill_page(page, word),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(v) => v.fill_page(page, word),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(v) => v.fill_page(page, word),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(v) => v.fill_page(page, word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;

    #[test]
    fn every_backend_here_finds_one_changed_bit_anywhere() {
        for isa in SimdBackend::ALL.into_iter().filter_map(Isa::new) {
            for word in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
                let mut page = [0; PAGE_SIZE];
                isa.fill_page(&mut page, word);
                assert!(page.as_chunks().0.iter().all(|w| *w == word.to_ne_bytes()));
                assert!(isa.page_repeats(&page, word), "{isa:?}");
                assert!(!isa.page_repeats(&page, word ^ 1 << 40), "{isa:?}");
                for at in 0..PAGE_SIZE {
                    page[at] ^= 1 << (at % 8);
                    assert!(!isa.page_repeats(&page, word), "{isa:?} at {at}");
                    page[at] ^= 1 << (at % 8);
                }
            }
        }
    }

    #[test]
    fn a_forced_backend_is_that_backend_or_nothing() {
        for backend in SimdBackend::ALL {
            match Isa::new(backend) {
                Some(isa) => assert_eq!(isa.backend(), backend),
                None => assert!(!backend.is_available()),
            }
        }
    }

    #[test]
    fn lowering_goes_down_the_list_and_never_up() {
        let rank = |b| SimdBackend::ALL.iter().position(|a| *a == b);
        for backend in SimdBackend::ALL {
            assert!(rank(Isa::at_most(backend).backend()) >= rank(backend));
        }
        assert_eq!(
            Isa::at_most(SimdBackend::Scalar).backend(),
            SimdBackend::Scalar
        );
        assert!(detect_backend().is_available());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn detection_follows_the_cpu() {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt");
        assert_eq!(SimdBackend::Avx2.is_available(), avx2);
        assert!(!SimdBackend::Neon.is_available());
        if avx2 {
            assert_ne!(detect_backend(), SimdBackend::Scalar);
        }
    }
}
