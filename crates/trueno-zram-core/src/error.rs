//! Why a page could not be compressed or restored.

#![forbid(unsafe_code)]

use crate::codec::zstd::Zstd;
use crate::{Algorithm, SimdBackend};

/// Why a page could not be compressed or restored. Small and `Copy`: it travels through I/O paths
/// that must not allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The block is not valid in its format, or does not restore exactly one page.
    Corrupt,
    /// This algorithm has a name but no codec in this crate.
    Unsupported(Algorithm),
    /// Zstandard has no such level, or it makes no sense for pages.
    Level(i32),
    /// This CPU lacks the instruction set that was asked for.
    Backend(SimdBackend),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Corrupt => f.write_str("the compressed block is damaged"),
            Error::Unsupported(algorithm) => write!(
                f,
                "algorithm '{algorithm}' has no page codec: use one of none, {}",
                Algorithm::CODECS
            ),
            Error::Level(level) => write!(
                f,
                "zstd level {level} is out of range: use {} to -1 or 1 to {}",
                Zstd::LEVELS.start(),
                Zstd::LEVELS.end()
            ),
            Error::Backend(backend) => {
                write!(f, "this CPU has no {backend}: use one of ")?;
                let mut separator = "";
                for present in SimdBackend::ALL.into_iter().filter(|b| b.is_available()) {
                    write!(f, "{separator}{present}")?;
                    separator = ", ";
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {}
