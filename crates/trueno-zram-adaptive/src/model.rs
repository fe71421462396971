//! Predicts the size of a page's block and the time it takes, for each candidate.
//!
//! Ten questions, each whether a feature is above a threshold, divide all pages into *cells*. The
//! questions about one feature have one step, so that the answers count how far up it is, and all
//! together they are the cell's number:
//!
//! ```text
//! cell = Σ step of each question that is answered with yes
//! cells[cell] = bytes and time of each candidate
//! ```
//! All numbers are integers, so that the same page gives the same prediction everywhere. The tables
//! (`tables.rs`) are written by `xtask train`. Since a cell says all that is known of a page, a selector
//! works out once what it chooses in each of them.

#![forbid(unsafe_code)]

use crate::features::{COUNT as FEATURES, Features};
use crate::tables;
use std::fmt;
use trueno_zram_core::{Algorithm, PAGE_SIZE};

/// What a page can be compressed with, in the order of the tables. Keeping it as it is comes beside
/// them and needs no model.
pub const CANDIDATES: [Algorithm; COUNT] = [
    Algorithm::Lz4,
    Algorithm::ZstdAtPrice { price: 8 },
    Algorithm::ZstdAtPrice { price: 24 },
    Algorithm::ZstdAtPrice { price: 64 },
    Algorithm::Zstd3,
];

pub(crate) const COUNT: usize = 5;

/// Questions of a model.
pub const QUESTIONS: usize = 10;

/// Is this feature above `above`? Yes adds `step` to the number of the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The place in [`Features`].
    pub feature: u8,
    /// The threshold.
    pub above: u8,
    /// What yes adds.
    pub step: u16,
}

/// A model. [`Model::default`] is the one that this crate comes with.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// What is asked.
    pub questions: &'a [Question; QUESTIONS],
    /// Bytes and nanoseconds of each candidate, in every cell.
    pub cells: &'a [[[u16; 2]; COUNT]],
    /// Time of keeping a page as it is, and of reading it, in nanoseconds.
    pub raw_ns: u32,
    /// Bytes and nanoseconds of each candidate in the mean of all pages of the training.
    pub mean: [[u16; 2]; COUNT],
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
    /// The cell of a page.
    #[inline]
    pub fn cell(&self, features: &Features) -> usize {
        let mut cell = 0;
        for question in self.questions {
            let value = features.0[usize::from(question.feature) % FEATURES];
            cell += usize::from(value > question.above) * usize::from(question.step);
        }
        cell
    }

    /// What to expect of each of [`CANDIDATES`] in a cell.
    ///
    /// # Panics
    /// If there is no such cell.
    pub fn predict(&self, cell: usize) -> [Prediction; COUNT] {
        self.cells[cell].map(prediction)
    }

    /// What to expect of each of them in the mean of all pages.
    pub fn mean(&self) -> [Prediction; COUNT] {
        self.mean.map(prediction)
    }

    /// What to expect of keeping the page as it is.
    pub fn raw(&self) -> Prediction {
        Prediction {
            bytes: PAGE_SIZE as u32,
            ns: self.raw_ns,
        }
    }
}

fn prediction([bytes, ns]: [u16; 2]) -> Prediction {
    Prediction {
        bytes: u32::from(bytes).clamp(1, PAGE_SIZE as u32),
        ns: ns.into(),
    }
}

/// The model that this crate comes with; `docs/selector-card.md` is its card.
impl Default for Model<'static> {
    fn default() -> Model<'static> {
        Model {
            questions: &tables::ASKED,
            cells: &tables::CELLS,
            raw_ns: tables::RAW_NS,
            mean: tables::MEAN,
        }
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {} ns", self.bytes, self.ns)
    }
}
