//! What a page is, and where a batch of pages is compressed best.

#![forbid(unsafe_code)]

use crate::engine::BatchEngine;
use crate::entropy::{EntropyLevel, entropy};
use crate::features::Features;
use crate::model::{CANDIDATES, Model, Prediction};
use crate::selector::{Favour, ModelSelector};
use std::fmt;
use trueno_zram_core::samefill::page_same_filled;
use trueno_zram_core::{Algorithm, Choice, PAGE_SIZE, PageBytes, Selector, SimdBackend};

/// Says of a page which algorithm fits it.
///
/// ```
/// use trueno_zram_adaptive::PageClassifier;
/// use trueno_zram_core::{Algorithm, PAGE_SIZE};
///
/// let classifier = PageClassifier::new();
/// assert_eq!(classifier.classify(&[0; PAGE_SIZE]), Algorithm::SameFill);
/// ```
#[derive(Debug)]
pub struct PageClassifier {
    selector: ModelSelector,
}

impl PageClassifier {
    /// By [`Favour::Balanced`].
    pub fn new() -> PageClassifier {
        PageClassifier::favouring(Favour::default())
    }

    /// By this price.
    pub fn favouring(favour: Favour) -> PageClassifier {
        let selector = ModelSelector::new(favour, &CANDIDATES);
        PageClassifier {
            selector: selector.expect("all candidates are candidates"),
        }
    }

    /// [`Algorithm::SameFill`] for a page that repeats one word, [`Algorithm::None`] for one that is
    /// best kept as it is, else the candidate that is expected to cost least.
    pub fn classify(&self, page: &PageBytes) -> Algorithm {
        if page_same_filled(page).is_some() {
            return Algorithm::SameFill;
        }
        match self.selector.select(page) {
            Choice::Raw => Algorithm::None,
            Choice::Codec(place) => CANDIDATES[usize::from(place)],
        }
    }

    /// The band of the page's entropy.
    pub fn level(&self, page: &PageBytes) -> EntropyLevel {
        EntropyLevel::of(entropy(page))
    }
}

impl Default for PageClassifier {
    fn default() -> PageClassifier {
        PageClassifier::new()
    }
}

/// What compresses a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ComputeBackend {
    /// This CPU, without vector instructions.
    Scalar,
    /// This CPU, with the best vector instructions it has.
    Simd,
    /// An engine for batches.
    Gpu,
}

impl fmt::Display for ComputeBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ComputeBackend::Scalar => "scalar",
            ComputeBackend::Simd => "simd",
            ComputeBackend::Gpu => "gpu",
        })
    }
}

/// Decides where batches of pages are compressed, by the measured cost of an engine.
///
/// Without an engine's figures nothing goes to one: a GPU that nobody has measured is no reason to
/// use it. Single pages and same-filled pages never go there.
///
/// ```
/// use trueno_zram_adaptive::{BatchClassifier, BatchEngine, ComputeBackend};
///
/// let cpu = BatchClassifier::new();
/// assert_ne!(cpu.select_backend(1_000_000), ComputeBackend::Gpu);
///
/// let engine = BatchEngine {
///     launch_ns: 20_000.0,
///     up_ns_per_byte: 0.05,
///     down_ns_per_byte: 0.05,
///     wave_pages: 1000,
///     wave_ns: 50_000.0,
/// };
/// let both = BatchClassifier::new().engine(engine);
/// assert_ne!(both.select_backend(1), ComputeBackend::Gpu);
/// assert_eq!(both.select_backend(100_000), ComputeBackend::Gpu);
/// assert_ne!(both.with_gpu(false).select_backend(100_000), ComputeBackend::Gpu);
/// ```
#[derive(Clone, Debug)]
pub struct BatchClassifier {
    gpu: bool,
    simd: bool,
    engine: Option<BatchEngine>,
    cpu_ns: f64,
    threads: usize,
}

impl BatchClassifier {
    /// One thread of this CPU with its vector instructions, and no engine.
    pub fn new() -> BatchClassifier {
        BatchClassifier {
            gpu: true,
            simd: trueno_zram_core::detect_backend() != SimdBackend::Scalar,
            engine: None,
            cpu_ns: f64::from(mean_lz4().ns),
            threads: 1,
        }
    }

    /// Whether an engine may be used; it is, if its figures are given and it is the faster.
    pub fn with_gpu(mut self, allowed: bool) -> BatchClassifier {
        self.gpu = allowed;
        self
    }

    /// Whether vector instructions are used on the CPU. Where it has none there are none to use.
    pub fn with_simd(mut self, allowed: bool) -> BatchClassifier {
        self.simd = allowed && trueno_zram_core::detect_backend() != SimdBackend::Scalar;
        self
    }

    /// An engine, with figures measured on this machine ([`BatchEngine::calibrate`]).
    pub fn engine(mut self, engine: BatchEngine) -> BatchClassifier {
        self.engine = Some(engine);
        self
    }

    /// What a page takes on one thread of this CPU, in nanoseconds, and how many threads there are
    /// for the batch. Before this it is one thread, at the speed of LZ4 on the machine of the
    /// training.
    pub fn cpu(mut self, ns_per_page: f64, threads: usize) -> BatchClassifier {
        self.cpu_ns = ns_per_page;
        self.threads = threads.max(1);
        self
    }

    /// Where a batch of so many pages, none of them same-filled, is done first. Blocks are taken
    /// to be as long as LZ4's are in the mean.
    pub fn select_backend(&self, batch_pages: usize) -> ComputeBackend {
        self.backend(batch_pages, mean_lz4().bytes as usize)
    }

    /// The smallest batch that goes to the engine.
    pub fn gpu_from(&self) -> Option<usize> {
        let engine = self.engine.filter(|_| self.gpu)?;
        engine.break_even(self.cpu_ns / self.threads as f64, mean_lz4().bytes as usize)
    }

    fn backend(&self, pages: usize, block: usize) -> ComputeBackend {
        let cpu_ns = pages as f64 * self.cpu_ns / self.threads as f64;
        match self.engine {
            Some(engine) if self.gpu && pages > 1 && engine.time(pages, block) < cpu_ns => {
                ComputeBackend::Gpu
            }
            _ if self.simd => ComputeBackend::Simd,
            _ => ComputeBackend::Scalar,
        }
    }

    /// Looks at the pages of a batch: what they are, and where those are done best that are not
    /// same-filled. Does not allocate.
    pub fn classify_batch<P: AsRef<[u8]>>(&self, pages: &[P]) -> BatchReport {
        let mut report = BatchReport {
            pages: pages.len(),
            same_filled: 0,
            levels: [0; 5],
            block_bytes: 0,
            backend: self.backend(0, 0),
        };
        let model = Model::default();
        let mut bytes = 0u64;
        for page in pages {
            let mut whole = [0; PAGE_SIZE];
            let length = page.as_ref().len().min(PAGE_SIZE);
            whole[..length].copy_from_slice(&page.as_ref()[..length]);
            if page_same_filled(&whole).is_some() {
                report.same_filled += 1;
                continue;
            }
            report.levels[EntropyLevel::of(entropy(&whole)) as usize] += 1;
            bytes += u64::from(model.predict(model.cell(&Features::of(&whole)))[0].bytes);
        }
        let others = pages.len() - report.same_filled;
        report.block_bytes = bytes.checked_div(others as u64).unwrap_or(0) as usize;
        report.backend = self.backend(others, report.block_bytes);
        report
    }
}

impl Default for BatchClassifier {
    fn default() -> BatchClassifier {
        BatchClassifier::new()
    }
}

/// What LZ4 makes of the mean page of the training.
fn mean_lz4() -> Prediction {
    Model::default().mean()[0]
}

/// What [`BatchClassifier::classify_batch`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchReport {
    /// Pages of the batch.
    pub pages: usize,
    /// Those that repeat one word; they are done where they are.
    pub same_filled: usize,
    /// The others by their entropy, in the order of [`EntropyLevel::ALL`].
    pub levels: [usize; 5],
    /// Expected bytes of an LZ4 block of the others, in the mean.
    pub block_bytes: usize,
    /// Where the others are done first.
    pub backend: ComputeBackend,
}

#[cfg(test)]
mod tests {
    use super::*;
    use trueno_zram_core::Page;

    const ENGINE: BatchEngine = BatchEngine {
        launch_ns: 20_000.0,
        up_ns_per_byte: 0.05,
        down_ns_per_byte: 0.05,
        wave_pages: 1000,
        wave_ns: 50_000.0,
    };

    #[test]
    fn same_filled_pages_do_not_count_for_the_engine() {
        let batch = BatchClassifier::new().engine(ENGINE).cpu(4000.0, 1);
        let report = batch.classify_batch(&vec![Page([3; PAGE_SIZE]); 5000]);
        assert_eq!(
            (report.pages, report.same_filled, report.levels),
            (5000, 5000, [0; 5])
        );
        assert_ne!(report.backend, ComputeBackend::Gpu);
        let other: PageBytes = std::array::from_fn(|at| (at % 7 * at / 64) as u8);
        let report = batch.classify_batch(&vec![other; 5000]);
        assert_eq!(
            (report.same_filled, report.levels.iter().sum::<usize>()),
            (0, 5000)
        );
        assert_eq!(report.backend, ComputeBackend::Gpu);
        assert_eq!(batch.classify_batch::<Page>(&[]).block_bytes, 0);
    }

    #[test]
    fn a_batch_goes_where_it_takes_less_time() {
        let batch = BatchClassifier::new().engine(ENGINE).cpu(4000.0, 1);
        let from = batch.gpu_from().unwrap();
        assert_eq!(batch.select_backend(from), ComputeBackend::Gpu);
        assert_ne!(batch.select_backend(from - 1), ComputeBackend::Gpu);
        for pages in [0, 1] {
            let slow = batch.clone().cpu(1e12, 1);
            assert_ne!(slow.select_backend(pages), ComputeBackend::Gpu);
        }
        let many = batch.clone().cpu(4000.0, 64);
        assert!(many.gpu_from().is_none_or(|more| more > from));
        assert_eq!(batch.clone().with_gpu(false).gpu_from(), None);
        let scalar = BatchClassifier::new().with_simd(false);
        assert_eq!(scalar.select_backend(10), ComputeBackend::Scalar);
        assert_eq!(BatchClassifier::new().gpu_from(), None);
    }

    #[test]
    fn noise_stays_and_text_does_not() {
        let mut seed = 7u64;
        let noise: PageBytes = std::array::from_fn(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        });
        let classifier = PageClassifier::new();
        assert_eq!(classifier.classify(&noise), Algorithm::None);
        assert_eq!(classifier.level(&noise), EntropyLevel::VeryHigh);
        let text: PageBytes = std::array::from_fn(|at| b"a line of text\n"[at * 5 % 15]);
        for favour in [Favour::Speed, Favour::Balanced, Favour::Memory] {
            let of_text = PageClassifier::favouring(favour).classify(&text);
            assert!(CANDIDATES.contains(&of_text), "{of_text}");
        }
    }
}
