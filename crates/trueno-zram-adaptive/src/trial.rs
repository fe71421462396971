//! Tries codecs on a page, to tell a selector what they really take.

#![forbid(unsafe_code)]

use crate::model::Prediction;
use crate::selector::ModelSelector;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use trueno_zram_core::{Codec, PAGE_SIZE, Page, PageBytes, Scratch};

/// How often each codec is run on a page; the fastest counts, since a thread may be interrupted.
const ROUNDS: usize = 2;

/// Codecs and what they need to be tried. Nothing is allocated once it is made.
pub struct Trial {
    codecs: Vec<Arc<dyn Codec>>,
    outcomes: Vec<Prediction>,
    scratch: Scratch,
    block: Vec<u8>,
    page: Box<Page>,
}

impl Trial {
    /// For these codecs, in the order that the selector knows them. A block of more than `block_max`
    /// bytes counts as a page, which is what a store keeps in its place.
    ///
    /// # Panics
    /// If `block_max` is more than a page.
    pub fn new(codecs: &[Arc<dyn Codec>], block_max: usize) -> Trial {
        assert!(block_max <= PAGE_SIZE, "a block is no longer than a page");
        let mut scratch = Scratch::new();
        codecs.iter().for_each(|codec| codec.prepare(&mut scratch));
        Trial {
            codecs: codecs.to_vec(),
            outcomes: Vec::with_capacity(codecs.len()),
            scratch,
            // Not zeros: those might be memory that the kernel has yet to hand out.
            block: vec![0xff; block_max],
            page: Box::new(Page([0xff; PAGE_SIZE])),
        }
    }

    /// What each codec makes of `page`, in their order. It takes some ten microseconds for each.
    pub fn run(&mut self, page: &PageBytes) -> &[Prediction] {
        self.outcomes.clear();
        for codec in &self.codecs {
            let mut best = Prediction {
                bytes: PAGE_SIZE as u32,
                ns: u32::MAX,
            };
            for _ in 0..ROUNDS {
                let begin = Instant::now();
                let length = codec.compress(black_box(page), &mut self.block, &mut self.scratch);
                match length {
                    Some(length) => {
                        best.bytes = length as u32;
                        let block = black_box(&self.block[..length]);
                        let restored = codec.decompress(block, &mut self.page, &mut self.scratch);
                        debug_assert!(restored.is_ok() && *page == **self.page);
                    }
                    // It is copied, and copied back.
                    None => {
                        **self.page = *page;
                        black_box(&mut self.page);
                    }
                }
                let ns = begin.elapsed().as_nanos();
                best.ns = best.ns.min(u32::try_from(ns).unwrap_or(u32::MAX));
            }
            self.outcomes.push(best);
        }
        &self.outcomes
    }

    /// Tries all codecs on `page`, and tells `selector`.
    ///
    /// # Panics
    /// If `selector` was made for another number of codecs.
    pub fn teach(&mut self, page: &PageBytes, selector: &ModelSelector) {
        selector.observe(page, self.run(page));
    }
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trial")
            .field("codecs", &self.codecs.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CANDIDATES;
    use crate::selector::Favour;
    use trueno_zram_core::codec_for;

    fn codecs() -> Vec<Arc<dyn Codec>> {
        let codec = |algorithm| codec_for(algorithm).unwrap().unwrap();
        CANDIDATES.map(codec).to_vec()
    }

    #[test]
    fn every_codec_is_tried() {
        let text: PageBytes = std::array::from_fn(|i| b"a page of words, "[i * i % 17]);
        let mut seed = 1u64;
        let noise: PageBytes = std::array::from_fn(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        });
        let mut trial = Trial::new(&codecs(), 3832);
        for (page, small) in [(text, true), (noise, false), (text, true)] {
            let outcomes = trial.run(&page);
            assert_eq!(outcomes.len(), CANDIDATES.len());
            for outcome in outcomes {
                assert_eq!(outcome.bytes < PAGE_SIZE as u32, small, "{outcome}");
                assert!(outcome.ns > 0 && outcome.ns < u32::MAX, "{outcome}");
            }
        }
    }

    #[test]
    fn a_selector_is_taught_this_machine() {
        let page: PageBytes = std::array::from_fn(|i| b"a page of words, "[i * i % 17]);
        let selector = ModelSelector::new(Favour::Balanced, &CANDIDATES).unwrap();
        let mut trial = Trial::new(&codecs(), 3832);
        trial.teach(&page, &selector);
        let factors = (0..CANDIDATES.len()).map(|at| selector.correction().factors(at));
        assert!(factors.flatten().any(|factor| factor != 1.0));
    }
}
