//! The names of the algorithms: what a user chooses, and how it is spelled.

#![forbid(unsafe_code)]

use crate::codec::zstd::{Zstd, ZstdAtPrice};
use std::fmt;
use std::str::FromStr;

/// How pages are compressed.
///
/// The spelling, for the command line and everywhere else a name is read or printed:
///
/// | value | read | printed |
/// |---|---|---|
/// | `None` | `none` | `none` |
/// | `SameFill` | `same-fill` | `same-fill` |
/// | `Lz4` | `lz4` | `lz4` |
/// | `Lz4Hc` | `lz4hc` | `lz4hc` |
/// | `Zstd { level: 3 }` | `zstd`, `zstd3`, `zstd(level=3)` | `zstd3` |
/// | `Zstd { level: -5 }` | `zstd(level=-5)` | `zstd(level=-5)` |
/// | `ZstdAtPrice { price: 24 }` | `zstd(price=24)` | `zstd(price=24)` |
/// | `Adaptive` | `adaptive` | `adaptive` |
///
/// `zstd` alone means level 3, which is what libzstd calls its default and what the kernel's zram
/// uses when it is told nothing else.
///
/// ```
/// use trueno_zram_core::Algorithm;
///
/// assert_eq!("zstd1".parse(), Ok(Algorithm::Zstd1));
/// assert_eq!("zstd(level=-5)".parse(), Ok(Algorithm::Zstd { level: -5 }));
/// let cheap = match "zstd3".parse()? {
///     Algorithm::Lz4 | Algorithm::Zstd1 => true,
///     _ => false,
/// };
/// assert!(!cheap);
/// # Ok::<(), trueno_zram_core::ParseAlgorithmError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// Pages are kept as they are, same-filled ones too.
    None,
    /// Only pages that repeat one 64-bit word are made small; the others are kept as they are.
    SameFill,
    /// LZ4, the standard block format: the fastest to restore.
    Lz4,
    /// LZ4's slow and thorough search: smaller blocks, but for pages of a few symbols at random;
    /// restored as fast as those of `Lz4` or faster.
    Lz4Hc,
    /// Zstandard: smaller blocks for more time.
    Zstd {
        /// The compression level, −7 to −1 or 1 to 22.
        level: i32,
    },
    /// Zstandard where a byte of memory is worth so much time: nothing is done for a block that
    /// saves less. See [`codec::zstd::ZstdAtPrice`](ZstdAtPrice).
    ZstdAtPrice {
        /// Nanoseconds per byte, from 1 to 10 000.
        price: u32,
    },
    /// A choice page by page. It is made by a [`Selector`](crate::Selector) above the codecs: here
    /// it is [`Error::Unsupported`](crate::Error::Unsupported).
    Adaptive,
}

impl Algorithm {
    /// Zstandard at level 1.
    #[allow(non_upper_case_globals)] // Spelled and used like a variant, in values and patterns.
    pub const Zstd1: Algorithm = Algorithm::Zstd { level: 1 };

    /// Zstandard at level 3, which `zstd` alone means.
    #[allow(non_upper_case_globals)] // See above.
    pub const Zstd3: Algorithm = Algorithm::Zstd { level: 3 };

    /// The names that have a codec, for messages. `none` works without one.
    pub const CODECS: &str = "same-fill, lz4, lz4hc, zstd, zstd1 to zstd22, \
        zstd(level=-7) to zstd(level=-1), zstd(price=1) to zstd(price=10000)";
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Algorithm::None => f.pad("none"),
            Algorithm::SameFill => f.pad("same-fill"),
            Algorithm::Lz4 => f.pad("lz4"),
            Algorithm::Lz4Hc => f.pad("lz4hc"),
            Algorithm::Zstd { level } if *level > 0 => f.pad(&format!("zstd{level}")),
            Algorithm::Zstd { level } => f.pad(&format!("zstd(level={level})")),
            Algorithm::ZstdAtPrice { price } => f.pad(&format!("zstd(price={price})")),
            Algorithm::Adaptive => f.pad("adaptive"),
        }
    }
}

impl FromStr for Algorithm {
    type Err = ParseAlgorithmError;

    fn from_str(word: &str) -> Result<Algorithm, ParseAlgorithmError> {
        match word {
            "none" => Some(Algorithm::None),
            "same-fill" => Some(Algorithm::SameFill),
            "lz4" => Some(Algorithm::Lz4),
            "lz4hc" => Some(Algorithm::Lz4Hc),
            "zstd" => Some(Algorithm::Zstd3),
            "adaptive" => Some(Algorithm::Adaptive),
            _ => zstd_level(word)
                .map(|level| Algorithm::Zstd { level })
                .or_else(|| zstd_price(word).map(|price| Algorithm::ZstdAtPrice { price })),
        }
        .ok_or_else(|| ParseAlgorithmError {
            word: word.to_owned(),
        })
    }
}

/// The level in `zstd<level>` or `zstd(level=<level>)`, if it is one.
fn zstd_level(word: &str) -> Option<i32> {
    let rest = word.strip_prefix("zstd")?;
    let level = match rest.strip_prefix("(level=") {
        Some(rest) => rest.strip_suffix(')')?.parse().ok()?,
        // Digits only: `zstd-5` and `zstd+5` are not names.
        None if rest.bytes().all(|b| b.is_ascii_digit()) => rest.parse().ok()?,
        None => return None,
    };
    Zstd::new(level).is_ok().then_some(level)
}

/// The price in `zstd(price=<price>)`, if it is one.
fn zstd_price(word: &str) -> Option<u32> {
    let digits = word.strip_prefix("zstd(price=")?.strip_suffix(')')?;
    // Digits only, as for levels.
    let price = digits.bytes().all(|b| b.is_ascii_digit());
    let price = price.then(|| digits.parse().ok())??;
    ZstdAtPrice::new(price).is_ok().then_some(price)
}

/// A word that names no algorithm. Its message gives the word and those that are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseAlgorithmError {
    word: String,
}

impl fmt::Display for ParseAlgorithmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown algorithm '{}': use one of none, {}",
            self.word,
            Algorithm::CODECS
        )
    }
}

impl std::error::Error for ParseAlgorithmError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_is_read_back_as_printed() {
        let mut all = vec![
            Algorithm::None,
            Algorithm::SameFill,
            Algorithm::Lz4,
            Algorithm::Lz4Hc,
            Algorithm::Adaptive,
        ];
        all.extend(
            Zstd::LEVELS
                .filter(|level| *level != 0)
                .map(|level| Algorithm::Zstd { level }),
        );
        all.extend(ZstdAtPrice::PRICES.map(|price| Algorithm::ZstdAtPrice { price }));
        for algorithm in all {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        }
    }

    #[test]
    fn zstd_has_three_spellings() {
        for word in ["zstd", "zstd3", "zstd(level=3)"] {
            assert_eq!(word.parse(), Ok(Algorithm::Zstd3), "{word}");
        }
    }

    #[test]
    fn a_bad_word_is_named_together_with_the_known_ones() {
        for word in [
            "",
            "lzo",
            "LZ4",
            "zstd0",
            "zstd23",
            "zstd-5",
            "zstd+1",
            "zstd(level=-8)",
            "zstd(level=)",
            "zstd(level=1",
            "zstd 1",
            "zstd99999999999",
            "zstd(price=0)",
            "zstd(price=10001)",
            "zstd(price=+1)",
            "zstd(price=)",
            "zstd(price=24",
        ] {
            let message = word.parse::<Algorithm>().unwrap_err().to_string();
            assert!(message.contains(&format!("'{word}'")), "{message}");
            assert!(
                message.contains("lz4") && message.contains("zstd1"),
                "{message}"
            );
        }
    }

    #[test]
    fn the_list_of_known_names_gives_the_real_ranges() {
        let levels = Zstd::LEVELS;
        assert!(Algorithm::CODECS.contains(&format!("zstd{}", levels.end())));
        assert!(Algorithm::CODECS.contains(&format!("zstd(level={})", levels.start())));
        for price in [ZstdAtPrice::PRICES.start(), ZstdAtPrice::PRICES.end()] {
            assert!(Algorithm::CODECS.contains(&format!("zstd(price={price})")));
        }
    }
}
