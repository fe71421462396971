//! The friendly door: any bytes in, a value out, the algorithm chosen by what the bytes are.

#![forbid(unsafe_code)]

use crate::model::{CANDIDATES, COUNT};
use crate::selector::{Favour, ModelSelector};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use trueno_zram_core::samefill::page_same_filled;
use trueno_zram_core::{
    Algorithm, Codec, Compressed, Compressor, Error, Outcome, PAGE_SIZE, Page, PageBytes, Restored,
    Scratch, Selector, codec_for, is_trial, try_codecs,
};

/// Compresses each piece of data with what the model expects to cost least.
///
/// Same-filled pages never reach the model. For data of any other length than a page one algorithm
/// is chosen for all of it, by the sum of the expected costs of its pages.
///
/// ```
/// use trueno_zram_adaptive::{AdaptiveCompressor, Favour};
/// use trueno_zram_core::Algorithm;
///
/// let text = b"one page of a program's memory, and another one, ".repeat(200);
/// let compressor = AdaptiveCompressor::new().favour(Favour::Memory);
/// let result = compressor.compress_adaptive(&text)?;
/// assert_ne!(result.algorithm_used, Algorithm::None);
/// assert!(result.data.len() < text.len() / 10);
/// assert_eq!(compressor.decompress(&result.data)?, text);
/// # Ok::<(), trueno_zram_core::Error>(())
/// ```
#[derive(Debug)]
pub struct AdaptiveCompressor {
    selector: ModelSelector,
    raw: Compressor,
    same: Compressor,
    candidates: [Compressor; COUNT],
    /// Pages compressed by themselves.
    count: AtomicU64,
    trial: Mutex<Trial>,
}

/// What it takes to try all candidates on a page.
struct Trial {
    codecs: [Arc<dyn Codec>; COUNT],
    scratch: Scratch,
    block: Box<Page>,
    restored: Box<Page>,
}

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trial").finish_non_exhaustive()
    }
}

/// What [`AdaptiveCompressor::compress_adaptive`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// [`Algorithm::SameFill`] where all pages repeat one word each, [`Algorithm::None`] where the
    /// data stays as it is, else what it was compressed with.
    pub algorithm_used: Algorithm,
    /// The compressed data.
    pub data: Compressed,
}

impl AdaptiveCompressor {
    /// With all candidates, and [`Favour::Balanced`].
    pub fn new() -> AdaptiveCompressor {
        let codec = |algorithm| codec_for(algorithm).ok().flatten();
        let codecs = CANDIDATES.map(|algorithm| codec(algorithm).expect("a candidate is a codec"));
        let mut scratch = Scratch::new();
        codecs.iter().for_each(|codec| codec.prepare(&mut scratch));
        AdaptiveCompressor {
            selector: with_all(Favour::default()),
            raw: Compressor::new(Algorithm::None),
            same: Compressor::new(Algorithm::SameFill),
            candidates: CANDIDATES.map(Compressor::new),
            count: AtomicU64::new(0),
            trial: Mutex::new(Trial {
                codecs,
                scratch,
                block: Page::boxed(),
                restored: Page::boxed(),
            }),
        }
    }

    /// Chooses by this price instead. What was learnt from outcomes begins anew.
    pub fn favour(mut self, favour: Favour) -> AdaptiveCompressor {
        self.selector = with_all(favour);
        self
    }

    /// The selector, to be asked for its reasons.
    pub fn selector(&self) -> &ModelSelector {
        &self.selector
    }

    /// Compresses a page, or bytes of any length; the last page of those is taken as if zeros
    /// followed. Of pages compressed by themselves some, one in 64 and later one in 4096, are tried with
    /// all candidates, from which the selector learns what they take here.
    ///
    /// # Errors
    /// Those of [`Compressor::compress`], none of which these algorithms meet.
    pub fn compress_adaptive<D: AsRef<[u8]> + ?Sized>(&self, data: &D) -> Result<Adaptive, Error> {
        let data = data.as_ref();
        let mut pages = 0;
        let mut costs = [0.0; COUNT + 1];
        for chunk in data.chunks(PAGE_SIZE) {
            let mut page = [0; PAGE_SIZE];
            page[..chunk.len()].copy_from_slice(chunk);
            if page_same_filled(&page).is_none() {
                pages += 1;
                let of_page = self.selector.costs(&page);
                costs
                    .iter_mut()
                    .zip(of_page)
                    .for_each(|(sum, cost)| *sum += cost);
            }
        }
        let cheapest = (0..=COUNT).min_by(|a, b| costs[*a].total_cmp(&costs[*b]));
        let chosen = match cheapest {
            _ if data.is_empty() => &self.raw,
            _ if pages == 0 => &self.same,
            Some(0) | None => &self.raw,
            Some(at) => &self.candidates[at - 1],
        };
        let compressed = chosen.compress(data)?;
        if let Ok(page) = <&PageBytes>::try_from(data)
            && pages == 1
            && is_trial(self.count.fetch_add(1, Ordering::Relaxed))
        {
            self.try_all(page);
        }
        Ok(Adaptive {
            algorithm_used: compressed.algorithm(),
            data: compressed,
        })
    }

    /// Tries all candidates on `page`, if nobody else is at it.
    fn try_all(&self, page: &PageBytes) {
        let Ok(mut trial) = self.trial.try_lock() else {
            return;
        };
        let Trial {
            codecs,
            scratch,
            block,
            restored,
        } = &mut *trial;
        let mut outcomes = [Outcome::default(); COUNT];
        try_codecs(
            codecs,
            page,
            &mut block[..],
            restored,
            scratch,
            &mut outcomes,
        );
        self.selector.observe(page, &outcomes);
    }

    /// Restores what [`compress_adaptive`](AdaptiveCompressor::compress_adaptive) gave, or any
    /// [`Compressor`] without a dictionary.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bytes are damaged.
    pub fn decompress(&self, data: &Compressed) -> Result<Restored, Error> {
        self.raw.decompress(data)
    }
}

fn with_all(favour: Favour) -> ModelSelector {
    ModelSelector::new(favour, &CANDIDATES).expect("all candidates are candidates")
}

impl Default for AdaptiveCompressor {
    fn default() -> AdaptiveCompressor {
        AdaptiveCompressor::new()
    }
}
