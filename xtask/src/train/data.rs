//! `tests/data/selector.zst`: what training needs to know of each page, without the page.
//!
//! It is part of the repository, so that anyone can train, and gets the same tables. Unpacked it is:
//!
//! ```text
//! one line of text for each program:   seen|unseen NAME PAGES, and an empty line
//! one line with the nanoseconds a page of choosing by the model, and by exact entropy
//! columns over all pages:  each feature, a byte; entropy in 1/30 bits, a byte;
//!                          of each algorithm of MEASURED bytes and time, low byte and high byte apart
//! ```
//! Times have five bits after the leading one, so they are off by one part in 64 at most; two
//! measurements differ by more.

use super::measure::{Figures, MEASURED, PageFigures};
use crate::{packages, process, workspace};
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::process::Command;
use trueno_zram_adaptive::Features;
use trueno_zram_adaptive::features::COUNT as FEATURES;

/// One page.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub features: Features,
    /// In bits per byte.
    pub entropy: f64,
    pub figures: PageFigures,
}

/// One program's pages.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    pub name: String,
    /// Whether the tables are made from it; else it only shows how well they do.
    pub seen: bool,
    pub pages: Vec<Page>,
}

/// All that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Data {
    pub sets: Vec<Set>,
    /// Nanoseconds a page of choosing by the model, and by exact entropy.
    pub choosing_ns: [f64; 2],
}

const ENTROPY_UNIT: f64 = 30.0;

fn path() -> PathBuf {
    workspace::root().join("tests/data/selector.zst")
}

impl Data {
    /// The file of the repository.
    pub fn read() -> Result<Data> {
        packages::ensure(&["zstd"])?;
        let bytes = process::output(Command::new("zstd").arg("-dqc").arg(path()))?;
        unpack(&bytes).with_context(|| format!("{} is damaged", path().display()))
    }

    /// Replaces the file.
    pub fn write(&self) -> Result<()> {
        packages::ensure(&["zstd"])?;
        let raw = workspace::target().join("selector.raw");
        process::write_atomic(&raw, &self.pack())?;
        let packed = process::output(Command::new("zstd").args(["-19", "-qc"]).arg(&raw))?;
        std::fs::remove_file(&raw)?;
        process::write_atomic(&path(), &packed)
    }

    fn pack(&self) -> Vec<u8> {
        let mut bytes = String::new();
        for set in &self.sets {
            let word = if set.seen { "seen" } else { "unseen" };
            bytes += &format!("{word} {} {}\n", set.name, set.pages.len());
        }
        bytes += &format!("\n{} {}\n", self.choosing_ns[0], self.choosing_ns[1]);
        let mut bytes = bytes.into_bytes();
        let pages = || self.sets.iter().flat_map(|set| &set.pages);
        for feature in 0..FEATURES {
            bytes.extend(pages().map(|page| page.features.0[feature]));
        }
        bytes.extend(pages().map(|page| (page.entropy * ENTROPY_UNIT).round() as u8));
        for which in 0..MEASURED.len() {
            for of in [|f: Figures| f.bytes as u16, |f: Figures| short(f.ns)] {
                for byte in 0..2 {
                    bytes.extend(pages().map(|page| of(page.figures[which]).to_le_bytes()[byte]));
                }
            }
        }
        bytes
    }
}

fn unpack(mut bytes: &[u8]) -> Option<Data> {
    let mut line = || {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = bytes.split_at(end);
        bytes = &rest[1..];
        std::str::from_utf8(line).ok()
    };
    let mut data = Data::default();
    let mut lengths = Vec::new();
    loop {
        let words: Vec<&str> = line()?.split(' ').collect();
        let [word, name, length] = words[..] else {
            break;
        };
        data.sets.push(Set {
            name: name.to_owned(),
            seen: word == "seen",
            pages: Vec::new(),
        });
        lengths.push(length.parse::<usize>().ok()?);
    }
    let (model, by_entropy) = line()?.split_once(' ')?;
    data.choosing_ns = [model.parse().ok()?, by_entropy.parse().ok()?];
    let pages: usize = lengths.iter().sum();
    let columns: Vec<&[u8]> = bytes.chunks_exact(pages.max(1)).collect();
    if bytes.len() != pages * (FEATURES + 1 + 4 * MEASURED.len()) {
        return None;
    }
    let page = |at: usize| Page {
        features: Features(std::array::from_fn(|feature| columns[feature][at])),
        entropy: f64::from(columns[FEATURES][at]) / ENTROPY_UNIT,
        figures: std::array::from_fn(|which| {
            let first = FEATURES + 1 + 4 * which;
            let number = |column: usize| {
                u16::from_le_bytes([columns[first + column][at], columns[first + column + 1][at]])
            };
            Figures {
                bytes: number(0).into(),
                ns: long(number(2)),
            }
        }),
    };
    let mut begin = 0;
    for (set, length) in data.sets.iter_mut().zip(lengths) {
        set.pages = (begin..begin + length).map(page).collect();
        begin += length;
    }
    Some(data)
}

/// Bits of a time after the leading one.
const BITS: u32 = 5;

/// A time in sixteen bits: how far its leading one is up, and the [`BITS`] behind it.
fn short(ns: u32) -> u16 {
    if ns < 1 << BITS {
        return ns as u16;
    }
    // Half of the last place more, to round.
    let ns = ns.saturating_add(1 << (ns.ilog2() - BITS) >> 1);
    let places = ns.ilog2() - BITS;
    ((places << BITS) + (ns >> places)) as u16
}

/// The time that [`short`] stands for.
fn long(short: u16) -> u32 {
    let short = u32::from(short);
    if short < 1 << BITS {
        return short;
    }
    let places = (short >> BITS) - 1;
    (short - (places << BITS)) << places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_kept_to_one_part_in_64() {
        for ns in (0..5000).chain([60_000, 123_456, 1 << 30]) {
            let kept = long(short(ns));
            assert!(kept.abs_diff(ns) <= ns / 64, "{kept} for {ns}");
            assert_eq!(long(short(kept)), kept, "{ns}");
        }
    }

    #[test]
    fn what_is_packed_comes_back() {
        let figures = std::array::from_fn(|i| Figures {
            bytes: 300 * i as u32,
            ns: long(short(999 * i as u32)),
        });
        let page = Page {
            features: Features(std::array::from_fn(|i| 9 * i as u8)),
            entropy: 7.5,
            figures,
        };
        let set = |name: &str, seen, pages| Set {
            name: name.into(),
            seen,
            pages: vec![page.clone(); pages],
        };
        let data = Data {
            sets: vec![set("one", true, 3), set("two", false, 2)],
            choosing_ns: [31.5, 900.0],
        };
        assert_eq!(unpack(&data.pack()), Some(data.clone()));
        assert_eq!(unpack(&data.pack()[..60]), None);
    }
}
