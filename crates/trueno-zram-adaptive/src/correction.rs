//! How far predictions are off on this machine, and for what it keeps.
//!
//! Bytes and time of each candidate have a factor: what a candidate took in the last pages that were
//! tried, divided by what was expected of it there. Of sums, not of single pages, so that a page of a few
//! bytes counts for little. A trial that was disturbed counts for no more than the bounds.

#![forbid(unsafe_code)]

use crate::model::{COUNT, Model, Prediction};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use trueno_zram_core::{Outcome, PAGE_SIZE};

/// What a model expects counts as much as so many trials.
const BEFORE: f64 = 8.0;
/// Once there were so many, each trial weighs a part in so many less than the next one. With fewer the
/// factors follow single pages, and choices get worse than without any.
const MEMORY: f64 = 64.0;
/// Factors are between one by this, and this.
const BOUND: f64 = 4.0;
const ONE: f64 = 65536.0;

/// Factors on what is expected of each candidate, learnt from trials on real pages.
#[derive(Debug)]
pub struct Correction {
    /// Of bytes and time, in 1/65536.
    factors: [[AtomicU32; 2]; COUNT],
    sums: Mutex<[[Sum; 2]; COUNT]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    actual: f64,
    expected: f64,
    /// How many trials are in it.
    trials: f64,
}

impl Correction {
    /// No correction yet: as if the last pages had been as `model` expects of all pages.
    pub(crate) fn new(model: &Model<'_>) -> Correction {
        let sum = |value: u32| Sum {
            actual: BEFORE * f64::from(value),
            expected: BEFORE * f64::from(value),
            trials: BEFORE,
        };
        Correction {
            factors: std::array::from_fn(|_| [const { AtomicU32::new(ONE as u32) }; 2]),
            sums: Mutex::new(model.mean().map(|mean| [sum(mean.bytes), sum(mean.ns)])),
        }
    }

    /// The factors on bytes and time of one of [`CANDIDATES`](crate::model::CANDIDATES), by its place
    /// there: between 1/4 and 4.
    ///
    /// # Panics
    /// If there is no such candidate.
    pub fn factors(&self, candidate: usize) -> [f64; 2] {
        let factor = |f: &AtomicU32| f64::from(f.load(Ordering::Relaxed)) / ONE;
        self.factors[candidate].each_ref().map(factor)
    }

    pub(crate) fn apply(&self, candidate: usize, expected: Prediction) -> Prediction {
        let [bytes, ns] = self.factors(candidate);
        Prediction {
            bytes: ((f64::from(expected.bytes) * bytes) as u32).min(PAGE_SIZE as u32),
            ns: (f64::from(expected.ns) * ns) as u32,
        }
    }

    /// Moves the factors by what each candidate was expected to take for a page, and took, where it was
    /// tried.
    pub(crate) fn learn(&self, expected: &[Prediction; COUNT], actual: &[Option<Outcome>; COUNT]) {
        // Who stores pages waits for nobody: if another thread is at it, one trial does not count.
        let Ok(mut sums) = self.sums.try_lock() else {
            return;
        };
        let all = sums.iter_mut().zip(&self.factors);
        for ((sums, factors), (expected, actual)) in all.zip(expected.iter().zip(actual)) {
            let Some(actual) = actual else { continue };
            let values = [(expected.bytes, actual.bytes), (expected.ns, actual.ns)];
            for ((sum, factor), (expected, actual)) in sums.iter_mut().zip(factors).zip(values) {
                let expected = f64::from(expected.max(1));
                let actual = f64::from(actual).clamp(expected / BOUND, expected * BOUND);
                let kept = 1.0 - 1.0 / MEMORY;
                let kept = if sum.trials < MEMORY { 1.0 } else { kept };
                sum.actual = kept * sum.actual + actual;
                sum.expected = kept * sum.expected + expected;
                sum.trials = kept * sum.trials + 1.0;
                factor.store((ONE * sum.actual / sum.expected) as u32, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(bytes: u32, ns: u32) -> [Prediction; COUNT] {
        [Prediction { bytes, ns }; COUNT]
    }

    fn all(bytes: u32, ns: u32) -> [Option<Outcome>; COUNT] {
        [Some(Outcome { bytes, ns }); COUNT]
    }

    #[test]
    fn factors_follow_what_happened_and_no_further_than_their_bounds() {
        let correction = Correction::new(&Model::default());
        let expected = page(1000, 5000);
        for _ in 0..1000 {
            let mut seen = all(1100, 5000);
            seen[1] = None;
            correction.learn(&expected, &seen);
        }
        let [bytes, ns] = correction.factors(0);
        assert!((bytes - 1.1).abs() < 0.001, "{bytes}");
        assert!((ns - 1.0).abs() < 0.001, "{ns}");
        assert_eq!(correction.factors(1), [1.0; 2]);
        assert_eq!(correction.apply(0, expected[0]).bytes, 1099);
        for (seen, bound) in [(0, 1.0 / BOUND), (u32::MAX, BOUND)] {
            for _ in 0..2000 {
                correction.learn(&expected, &all(seen, seen));
            }
            let factors = correction.factors(0);
            assert!(
                factors.iter().all(|f| (f / bound - 1.0).abs() < 0.001),
                "{factors:?}"
            );
        }
        assert!(correction.apply(0, page(4000, 1)[0]).bytes <= PAGE_SIZE as u32);
    }
}
