//! Predicts the size of a page's block and the time it takes, for each candidate.
//!
//! The model is a sum of *oblivious trees*: all nodes of one level ask the same question, whether a
//! feature is above a threshold. So a tree is six comparisons, whose answers are the bits of an index,
//! and a row of numbers at that index, one for each output:
//!
//! ```text
//! index = Σ (feature[i] > threshold[i]) << i       for each of the tree's tests
//! sums += leaves[index]                            bytes and time of each candidate
//! ```
//! All numbers are integers, so that the same page gives the same prediction everywhere. The tables
//! (`tables.rs`) are written by `xtask train`.

#![forbid(unsafe_code)]

use crate::features::{self, Features};
use crate::tables;
use std::fmt;
use trueno_zram_core::{Algorithm, PAGE_SIZE};

/// What a page can be compressed with, in the order of the tables. Keeping it as it is comes beside
/// them and needs no model.
pub const CANDIDATES: [Algorithm; COUNT] = [
    Algorithm::Lz4,
    Algorithm::Zstd { level: -1 },
    Algorithm::Zstd1,
    Algorithm::Zstd3,
];

pub(crate) const COUNT: usize = 4;

/// Tests of a tree.
pub const DEPTH: usize = 6;
/// Numbers in a leaf: bytes and time of each candidate.
pub const OUTPUTS: usize = 2 * COUNT;
/// The unit of bytes in the tables is a quarter of a byte.
pub const BYTES_UNIT: f64 = 0.25;
/// The unit of time in the tables is 4 ns.
pub const NS_UNIT: f64 = 4.0;

/// One tree of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Feature and threshold, for each bit of the index.
    pub tests: [(u8, u8); DEPTH],
    /// What each index adds: bytes and time of the first candidate, of the second, and so on.
    pub leaves: [[i16; OUTPUTS]; 1 << DEPTH],
}

/// A model: what it predicts before any tree is asked, and the trees. [`Model::default`] is the one
/// that this crate comes with.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The mean of all pages.
    pub base: [i32; OUTPUTS],
    /// The trees.
    pub trees: &'a [Tree],
    /// Time of keeping a page as it is, and of reading it, in nanoseconds.
    pub raw_ns: u32,
}

/// What one candidate is expected to make of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// Bytes of the block; at most a page.
    pub bytes: u32,
    /// Nanoseconds to compress the page and to restore it once, on the machine of the training.
    pub ns: u32,
}

impl Model<'_> {
    /// What to expect of each of [`CANDIDATES`].
    pub fn predict(&self, features: &Features) -> [Prediction; COUNT] {
        // So many that a number of a feature can be cut to a place without a test.
        let mut values = [0; 16];
        values[..features::COUNT].copy_from_slice(&features.0);
        let mut sums = self.base;
        for tree in self.trees {
            let mut index = 0;
            for (level, (feature, threshold)) in tree.tests.iter().enumerate() {
                let value = values[usize::from(*feature) % 16];
                index |= usize::from(value > *threshold) << level;
            }
            for (sum, value) in sums.iter_mut().zip(&tree.leaves[index]) {
                *sum += i32::from(*value);
            }
        }
        std::array::from_fn(|i| Prediction {
            bytes: (sums[2 * i] >> 2).clamp(1, PAGE_SIZE as i32) as u32,
            ns: (sums[2 * i + 1] << 2).max(100) as u32,
        })
    }

    /// What to expect of keeping the page as it is.
    pub fn raw(&self) -> Prediction {
        Prediction {
            bytes: PAGE_SIZE as u32,
            ns: self.raw_ns,
        }
    }
}

/// The model that this crate comes with; `docs/selector.md` is its card.
impl Default for Model<'static> {
    fn default() -> Model<'static> {
        Model {
            base: tables::BASE,
            trees: &tables::TREES,
            raw_ns: tables::RAW_NS,
        }
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {} ns", self.bytes, self.ns)
    }
}
