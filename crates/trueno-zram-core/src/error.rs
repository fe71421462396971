//! Why a page could not be compressed or restored.

#![forbid(unsafe_code)]

use crate::codec::zstd::{Zstd, ZstdAtPrice};
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
    /// Zstandard is not made for such a price, in nanoseconds per byte.
    Price(u32),
    /// The block was made with a dictionary that is not at hand; both by their ids.
    Dictionary {
        /// The dictionary of the block.
        block: u32,
        /// The one that was given, if any.
        given: Option<u32>,
    },
    /// The bytes are no Zstandard dictionary.
    NotADictionary,
    /// A dictionary cannot be learnt from so little.
    Samples {
        /// How many pages there were.
        pages: usize,
        /// The bytes that the dictionary was to have.
        size: usize,
    },
    /// A dictionary was given for an algorithm that takes none.
    TakesNoDictionary(Algorithm),
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
            Error::Price(price) => write!(
                f,
                "a price of {price} ns per byte is out of range: use {} to {}",
                ZstdAtPrice::PRICES.start(),
                ZstdAtPrice::PRICES.end()
            ),
            Error::Dictionary { block, given } => {
                write!(f, "the block was made with dictionary {block:07x} and ")?;
                match given {
                    Some(id) if id == block => {
                        f.write_str("another at hand has that id too: keep only one of them loaded")
                    }
                    Some(id) => write!(f, "the one at hand is {id:07x}: load the other"),
                    None => f.write_str("none is at hand: load it"),
                }
            }
            Error::NotADictionary => f.write_str(
                "these bytes are no zstd dictionary: give a file that training has written",
            ),
            Error::Samples { size, .. } if *size < 256 => write!(
                f,
                "a dictionary of {size} bytes is too small: ask for 256 or more"
            ),
            Error::Samples { pages, size } => write!(
                f,
                "{pages} pages are too few for a dictionary of {size} bytes: give more of them, or \
                 ask for a smaller one"
            ),
            Error::TakesNoDictionary(algorithm) => write!(
                f,
                "algorithm '{algorithm}' takes no dictionary: use one with a zstd level"
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
