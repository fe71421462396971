//! The header of a system test: comment lines `# key: value` on top of its script.
//!
//! ```text
//! # claim: not one stale byte is read back            always there, once
//! # tier: short | medium | long                       short
//! # timeout: seconds                                  120
//! # tools: programs of this machine                   none
//! # pages: yes                                        the page sample is wanted
//! for guests only:
//! # kernels: of 6.1, 6.12 and 7.x                    6.12 7.x
//! # mem: MiB, one guest for each                      512
//! # cpus: count                                       2
//! # bins: trueno-ublk vm-guest trueno-zram            trueno-ublk vm-guest
//! # modules: loaded before the script starts          ublk_drv zram
//! # args: NAME=VALUE is exported, else an argument    none
//! # append: words for the kernel's command line       none
//! ```

use crate::kernel::Series;
use anyhow::{Context as _, Result, anyhow, bail};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long a test takes; a run includes the tiers below its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    Short,
    Medium,
    Long,
}

impl Tier {
    const ALL: [Self; 3] = [Self::Short, Self::Medium, Self::Long];
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "short",
            Self::Medium => "medium",
            Self::Long => "long",
        })
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.to_string() == text)
            .ok_or_else(|| format!("unknown tier `{text}`; there are short, medium and long"))
    }
}

/// What a script says about itself.
#[derive(Debug)]
pub struct Header {
    pub claim: String,
    pub tier: Tier,
    pub timeout: Duration,
    pub tools: Vec<String>,
    pub pages: bool,
    pub kernels: Vec<Series>,
    pub memory_mib: Vec<u32>,
    pub cpus: u32,
    pub bins: Vec<String>,
    pub modules: Vec<String>,
    pub arguments: Vec<String>,
    pub append: String,
}

impl Header {
    pub fn parse(text: &str) -> Result<Self> {
        let list = |value: &str| {
            value
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let mut header = Self {
            claim: String::new(),
            tier: Tier::Short,
            timeout: Duration::from_secs(120),
            tools: Vec::new(),
            pages: false,
            kernels: Series::USUAL.to_vec(),
            memory_mib: vec![512],
            cpus: 2,
            bins: list("trueno-ublk vm-guest"),
            modules: list("ublk_drv zram"),
            arguments: Vec::new(),
            append: String::new(),
        };
        for line in text.lines().skip_while(|line| line.starts_with("#!")) {
            let Some(comment) = line.strip_prefix('#') else {
                break;
            };
            // Anything that is not `word: value` is an ordinary comment.
            let Some((key, value)) = comment.trim().split_once(": ") else {
                continue;
            };
            let value = value.trim();
            let bad = || format!("`{key}: {value}`");
            match key {
                "claim" => value.clone_into(&mut header.claim),
                "tier" => header.tier = value.parse().map_err(|error: String| anyhow!(error))?,
                "timeout" => {
                    header.timeout = Duration::from_secs(value.parse().with_context(bad)?);
                }
                "tools" => header.tools = list(value),
                "pages" => header.pages = value == "yes",
                "kernels" => {
                    header.kernels = value
                        .split_whitespace()
                        .map(|word| word.parse().map_err(|error: String| anyhow!(error)))
                        .collect::<Result<_>>()?;
                }
                "mem" => {
                    header.memory_mib = value
                        .split_whitespace()
                        .map(|word| word.parse().with_context(bad))
                        .collect::<Result<_>>()?;
                }
                "cpus" => header.cpus = value.parse().with_context(bad)?,
                "bins" => header.bins = list(value),
                "modules" => header.modules = list(value),
                "args" => header.arguments = list(value),
                "append" => value.clone_into(&mut header.append),
                _ if !key.contains(' ') => bail!("unknown key {}", bad()),
                _ => {}
            }
        }
        if header.claim.is_empty() {
            bail!("a test needs a line `# claim: …`");
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_and_the_rest_has_defaults() {
        let text = "#!/bin/sh\n# claim: it lives: really\n# kernels: 7.x\n# mem: 256 1024\n\
                    # tier: medium\n# An ordinary comment: with a colon.\n. /test/lib.sh\n\
                    # tier: long\n";
        let header = Header::parse(text).unwrap();
        assert_eq!(header.claim, "it lives: really");
        assert_eq!(header.kernels, [Series::V7]);
        assert_eq!(header.memory_mib, [256, 1024]);
        assert_eq!(header.tier, Tier::Medium);
        assert_eq!(header.timeout, Duration::from_secs(120));
    }

    #[test]
    fn mistakes_in_a_header_are_errors() {
        for text in [
            "# tier: short\n",
            "# claim: x\n# kernel: 7.x\n",
            "# claim: x\n# mem: lots\n",
        ] {
            assert!(Header::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tiers_are_ordered_by_length() {
        assert!(Tier::Short < Tier::Medium && Tier::Medium < Tier::Long);
    }
}
