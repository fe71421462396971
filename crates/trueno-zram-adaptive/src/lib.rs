//! Decides how a page is compressed: by measured cost, and it says why.
//!
//! ```text
//! page ── features ── cell ── bytes and time of each candidate ── price ── the cheapest
//!         5 numbers    of 144         (· what trials on real pages say)
//! ```
//! - [`ModelSelector`]: the `adaptive` policy, for a store that has several codecs.
//! - [`EntropySelector`]: the `entropy` policy, two thresholds of Shannon entropy.
//! - [`AdaptiveCompressor`]: the friendly way, any bytes in and a value out.
//! - [`PageClassifier`], [`BatchClassifier`]: what a page is, and where a batch of them is compressed
//!   best; [`BatchEngine`] is the cost of an engine that works on many pages at once.
//!
//! `docs/selector.md` has the figures: how far from the best possible each policy is.
//!
//! ```
//! use trueno_zram_adaptive::AdaptiveCompressor;
//! use trueno_zram_core::{Algorithm, PAGE_SIZE};
//!
//! let compressor = AdaptiveCompressor::new();
//! let result = compressor.compress_adaptive(&[7u8; PAGE_SIZE])?;
//! assert_eq!(result.algorithm_used, Algorithm::SameFill);
//! assert_eq!(result.data.len(), 8);
//! assert_eq!(compressor.decompress(&result.data)?, [7u8; PAGE_SIZE]);
//! # Ok::<(), trueno_zram_core::Error>(())
//! ```

mod classifier;
mod compressor;
mod correction;
mod engine;
mod entropy;
pub mod features;
pub mod model;
mod rules;
mod selector;
mod tables;

pub use classifier::{BatchClassifier, BatchReport, ComputeBackend, PageClassifier};
pub use compressor::{Adaptive, AdaptiveCompressor};
pub use correction::Correction;
pub use engine::BatchEngine;
pub use entropy::{EntropyLevel, SAMPLE_BYTES, entropy, entropy_sampled};
pub use features::Features;
pub use model::{Model, Prediction};
pub use rules::EntropySelector;
pub use selector::{Explanation, Favour, ModelSelector, ParseFavourError, UnknownCandidate};
