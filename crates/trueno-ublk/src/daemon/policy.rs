//! How a device compresses its pages: by one algorithm, or by a policy that looks at each page.
//!
//! | asked for | codecs | which for a page |
//! |---|---|---|
//! | `--algorithm NAME` | that one | always it |
//! | with `--entropy-routing BITS` | that one | it, or none above so many bits per byte |
//! | `--algorithm adaptive` | all [`CANDIDATES`] | what costs least at the price of `--favour` |
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use trueno_zram_adaptive::model::CANDIDATES;
use trueno_zram_adaptive::{EntropySelector, Favour, ModelSelector, ParseFavourError};
use trueno_zram_core::{Algorithm, Choice, Codec, Selector, codec_for};
use trueno_zram_store::Config;

/// What decides how pages are compressed. What was written by an earlier version has an algorithm only,
/// or names no codecs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The algorithm's name, as [`Algorithm`] prints it.
    pub algorithm: String,
    /// With `adaptive`: what it favours, as [`Favour`] prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub favour: Option<String>,
    /// Thousandths of a bit per byte above which pages are kept as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy_millibits: Option<u32>,
    /// With `adaptive`: the codecs that pages may have been compressed with, which need not be those that
    /// this version would choose among.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codecs: Vec<String>,
}

/// The codecs of `adaptive` where a device's plan does not name them, as it did not at first.
const CODECS_AT_FIRST: [&str; 4] = ["lz4", "zstd(level=-1)", "zstd1", "zstd3"];

/// A policy in the words that the command line takes for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// `--algorithm`.
    pub algorithm: String,
    /// `--favour`; with `adaptive` only.
    #[serde(default)]
    pub favour: Option<String>,
    /// `--entropy-routing`, where that is used.
    #[serde(default)]
    pub entropy_bits: Option<f64>,
}

/// Why there is no such policy.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PolicyError {
    /// No algorithm of that name, or none that a device can use.
    Algorithm(String),
    /// A codec of a device that an other version made.
    Codec(String),
    /// No preference and no price.
    Favour(ParseFavourError),
    /// A preference where nothing is chosen.
    FavourOfOne(String),
    /// A threshold that no page is above, or every one.
    Entropy(f64),
    /// Two policies at once.
    Two,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::Algorithm(name) => write!(
                f,
                "algorithm {name:?} is not possible for a device: use one of adaptive, {}",
                Algorithm::CODECS
            ),
            PolicyError::Codec(name) => write!(
                f,
                "the device may hold pages that were compressed by {name:?}, which this version of \
                 trueno-ublk does not know: go on with it by the version that made it"
            ),
            PolicyError::Favour(error) => error.fmt(f),
            PolicyError::FavourOfOne(name) => write!(
                f,
                "--favour is for --algorithm adaptive, and this is {name}: give that algorithm, or \
                 leave --favour out"
            ),
            PolicyError::Entropy(bits) => write!(
                f,
                "an entropy threshold of {bits} bits per byte is not possible: give 0.001 to 7.999"
            ),
            PolicyError::Two => f.write_str(
                "--algorithm adaptive looks at each page itself: leave --entropy-routing out",
            ),
        }
    }
}

impl std::error::Error for PolicyError {}

impl Policy {
    /// Checks what was asked for; `entropy` is a threshold in bits per byte.
    pub fn new(
        algorithm: &str,
        favour: Option<&str>,
        entropy: Option<f64>,
    ) -> Result<Policy, PolicyError> {
        let found: Algorithm = algorithm
            .parse()
            .map_err(|_| PolicyError::Algorithm(algorithm.to_string()))?;
        let adaptive = found == Algorithm::Adaptive;
        if let (Some(_), false) = (favour, adaptive) {
            return Err(PolicyError::FavourOfOne(found.to_string()));
        }
        if entropy.is_some() && adaptive {
            return Err(PolicyError::Two);
        }
        let millibits = |bits: f64| match (bits * 1000.0).round() {
            thousandths @ 1.0..8000.0 => Ok(thousandths as u32),
            _ => Err(PolicyError::Entropy(bits)),
        };
        let favoured = || favour.unwrap_or("balanced").parse::<Favour>();
        let policy = Policy {
            algorithm: found.to_string(),
            favour: match adaptive {
                true => Some(favoured().map_err(PolicyError::Favour)?.to_string()),
                false => None,
            },
            entropy_millibits: entropy.map(millibits).transpose()?,
            codecs: match adaptive {
                true => CANDIDATES.map(|candidate| candidate.to_string()).to_vec(),
                false => Vec::new(),
            },
        };
        policy.codecs()?;
        Ok(policy)
    }

    /// Names of the codecs, by the places that choices have: those that can be chosen come first.
    pub fn names(&self) -> Vec<String> {
        if self.favour.is_none() {
            return vec![self.algorithm.clone()];
        }
        let candidates = CANDIDATES.map(|candidate| candidate.to_string());
        let others = match self.codecs.is_empty() {
            true => CODECS_AT_FIRST.map(str::to_string).to_vec(),
            false => self.codecs.clone(),
        };
        let others = others.into_iter().filter(|name| !candidates.contains(name));
        candidates.iter().cloned().chain(others).collect()
    }

    /// How one would ask for it.
    pub fn asked(&self) -> Asked {
        Asked {
            algorithm: self.algorithm.clone(),
            favour: self.favour.clone(),
            entropy_bits: self.entropy_millibits.map(bits),
        }
    }

    /// The store of `size` bytes that compresses so.
    pub fn store_config(&self, size: u64) -> Result<Config, PolicyError> {
        let mut codecs = self.codecs()?.into_iter();
        let first = codecs.next();
        let first = first.ok_or_else(|| PolicyError::Algorithm(self.algorithm.clone()))?;
        let mut config = Config::new(size, first);
        config.codecs.extend(codecs);
        if let Some(selector) = self.selector()? {
            config.selector = selector;
        }
        Ok(config)
    }

    /// `none` has no codec and is refused: a device always recognises same-filled pages, and
    /// `same-fill` is the name for compressing nothing else.
    fn codecs(&self) -> Result<Vec<Arc<dyn Codec>>, PolicyError> {
        let codec = |name: &String| {
            let algorithm = name.parse::<Algorithm>().ok()?;
            codec_for(algorithm).ok()?
        };
        let names = self.names();
        let codecs = names.iter().map(|name| {
            codec(name).ok_or_else(|| match self.favour {
                Some(_) => PolicyError::Codec(name.clone()),
                None => PolicyError::Algorithm(name.clone()),
            })
        });
        codecs.collect()
    }

    fn selector(&self) -> Result<Option<Arc<dyn Selector>>, PolicyError> {
        if let Some(favour) = &self.favour {
            let favour = favour.parse().map_err(PolicyError::Favour)?;
            // They are the first of the names.
            let selector = ModelSelector::new(favour, &CANDIDATES)
                .map_err(|unknown| PolicyError::Codec(unknown.0.to_string()))?;
            return Ok(Some(Arc::new(selector)));
        }
        Ok(self.entropy_millibits.map(|millibits| {
            Arc::new(EntropySelector::new(bits(millibits), Choice::Codec(0))) as Arc<dyn Selector>
        }))
    }
}

/// Bits that so many thousandths are.
fn bits(millibits: u32) -> f64 {
    f64::from(millibits) / 1000.0
}

/// One word, for a column: `lz4`, `lz4+entropy(7)`, `adaptive(balanced)`.
impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.algorithm)?;
        if let Some(favour) = &self.favour {
            write!(f, "({favour})")?;
        }
        if let Some(bits) = self.entropy_bits {
            write!(f, "+entropy({bits})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_what_it_is_called() {
        let shown = |algorithm, favour, entropy| {
            Policy::new(algorithm, favour, entropy).map(|policy| policy.asked().to_string())
        };
        assert_eq!(shown("lz4", None, None).unwrap(), "lz4");
        assert_eq!(shown("zstd", None, Some(7.0)).unwrap(), "zstd3+entropy(7)");
        assert_eq!(shown("adaptive", None, None).unwrap(), "adaptive(balanced)");
        assert_eq!(
            shown("adaptive", Some("12.5"), None).unwrap(),
            "adaptive(12.5)"
        );
        for (wrong, word) in [
            (shown("none", None, None), "\"none\""),
            (shown("lz4", Some("speed"), None), "--favour"),
            (shown("adaptive", Some("cheap"), None), "'cheap'"),
            (shown("adaptive", None, Some(7.0)), "--entropy-routing"),
            (shown("lz4", None, Some(0.0)), "0 bits"),
            (shown("lz4", None, Some(8.1)), "8.1 bits"),
            (shown("lz4", None, Some(f64::NAN)), "NaN bits"),
        ] {
            let sentence = wrong.unwrap_err().to_string();
            assert!(sentence.contains(word), "{sentence}");
        }
    }

    #[test]
    fn the_algorithms_that_a_refusal_offers_are_accepted_and_named_once() {
        for wrong in ["none", "lzma", ""] {
            let message = Policy::new(wrong, None, None).unwrap_err().to_string();
            assert_eq!(message.matches("algorithm").count(), 1, "{message}");
            assert_eq!(message.matches("use one of").count(), 1, "{message}");
            let (_, offered) = message.split_once("use one of ").unwrap();
            for name in offered.split(", ").flat_map(|names| names.split(" to ")) {
                let accepted = Policy::new(name, None, None);
                assert!(accepted.is_ok(), "{name}: {accepted:?}");
            }
        }
    }

    #[test]
    fn what_is_shown_can_be_asked_for() {
        for (algorithm, favour, entropy) in [
            ("zstd", None, Some(6.5)),
            ("adaptive", None, None),
            ("adaptive", Some("12.5"), None),
        ] {
            let policy = Policy::new(algorithm, favour, entropy).unwrap();
            let Asked {
                algorithm,
                favour,
                entropy_bits,
            } = policy.asked();
            let again = Policy::new(&algorithm, favour.as_deref(), entropy_bits);
            assert_eq!(again, Ok(policy));
        }
    }

    #[test]
    fn a_codec_that_is_chosen_no_longer_is_still_there_to_read() {
        let mut policy = Policy::new("adaptive", None, None).unwrap();
        policy.codecs = ["lz4hc", "zstd3", "zstd(level=7)", "lz4"]
            .map(str::to_string)
            .to_vec();
        let candidates = CANDIDATES.map(|candidate| candidate.to_string());
        let names = policy.names();
        assert_eq!(names[..candidates.len()], candidates);
        assert_eq!(names[candidates.len()..], ["lz4hc", "zstd(level=7)"]);
        let config = policy.store_config(4096).unwrap();
        assert_eq!(config.codecs.len(), candidates.len() + 2);
        // Nothing is learnt of what cannot be chosen.
        assert_eq!(config.selector.learns(), candidates.len());
        policy.codecs.push("lzma".to_string());
        let refused = policy.store_config(4096).err().unwrap().to_string();
        assert!(refused.contains("\"lzma\""), "{refused}");
        assert!(refused.contains("the version that made it"), "{refused}");
    }
}
