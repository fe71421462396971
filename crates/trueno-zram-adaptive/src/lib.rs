//! Decides how a page is compressed. Today: by its entropy.
//!
//! ```
//! use trueno_zram_adaptive::{EntropySelector, entropy};
//! use trueno_zram_core::{Choice, Page, Selector};
//!
//! let mut page = Page::ZERO;
//! page[..2048].fill(1);
//! assert_eq!(entropy(&page[..]), 1.0);
//!
//! let selector = EntropySelector::new(7.0, Choice::Codec(0));
//! assert_eq!(selector.select(&page), Choice::Codec(0));
//! ```
#![forbid(unsafe_code)]

mod entropy;
mod rules;

pub use entropy::entropy;
pub use rules::EntropySelector;
