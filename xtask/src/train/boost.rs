//! Gradient boosting of oblivious trees, on squared errors of all outputs at once.
//!
//! Squared errors make a leaf the mean of its pages, and the choice with the lowest expected cost is the
//! one with the lowest mean. Sums are taken in the order of the pages, so the same data gives the
//! same tables.

use trueno_zram_adaptive::features::COUNT as FEATURES;
use trueno_zram_adaptive::model::{DEPTH, OUTPUTS, Tree};

/// Trees of a model. More of them gain nothing on programs left out.
pub const TREES: usize = 24;
/// How much of what is left a tree takes.
const RATE: f64 = 0.25;
/// Pages of no error that each leaf is imagined to have, so that a leaf of few pages says little.
const LEAF_WEIGHT: f64 = 400.0;
/// The same while a question is looked for.
const SPLIT_WEIGHT: f64 = 20.0;
/// Thresholds that are tried are 3, 7, 11 and so on.
const BINS: usize = 64;

/// One page's features, and its outputs in the units of the tables.
pub struct Sample {
    pub features: [u8; FEATURES],
    pub outputs: [f64; OUTPUTS],
}

/// Sums over outputs, and a count behind them.
type Sums = [f64; OUTPUTS + 1];

/// What the model begins with, and its trees. Only `allowed` features are asked for.
pub fn train(samples: &[Sample], allowed: impl Fn(usize) -> bool) -> ([i32; OUTPUTS], Vec<Tree>) {
    let mean = |o: usize| samples.iter().map(|s| s.outputs[o]).sum::<f64>() / samples.len() as f64;
    let base: [i32; OUTPUTS] = std::array::from_fn(|o| mean(o).round() as i32);
    let from_base = |s: &Sample| std::array::from_fn(|o| s.outputs[o] - f64::from(base[o]));
    let mut left: Vec<[f64; OUTPUTS]> = samples.iter().map(from_base).collect();
    let features: Vec<usize> = (0..FEATURES).filter(|f| allowed(*f)).collect();
    let mut trees = Vec::new();
    for _ in 0..TREES {
        let mut leaf_of = vec![0u8; samples.len()];
        let mut tests = [(0, 0); DEPTH];
        for (level, test) in tests.iter_mut().enumerate() {
            let gains = features.iter().flat_map(|feature| {
                let gains = gains(samples, &left, &leaf_of, 1 << level, *feature);
                let tested = gains.into_iter().enumerate();
                tested.map(|(bin, gain)| (gain, *feature as u8, (4 * bin + 3) as u8))
            });
            // Of equals the last.
            let best = gains.max_by(|a, b| a.0.total_cmp(&b.0)).expect("a feature");
            *test = (best.1, best.2);
            for (sample, leaf) in samples.iter().zip(&mut leaf_of) {
                let above = sample.features[usize::from(test.0)] > test.1;
                *leaf |= u8::from(above) << level;
            }
        }
        let mut sums = [Sums::default(); 1 << DEPTH];
        for (left, leaf) in left.iter().zip(&leaf_of) {
            add(&mut sums[usize::from(*leaf)], left);
        }
        let leaves = sums.map(|sums| {
            std::array::from_fn(|o| {
                let value = RATE * sums[o] / (sums[OUTPUTS] + LEAF_WEIGHT);
                value.round().clamp(i16::MIN.into(), i16::MAX.into()) as i16
            })
        });
        for (left, leaf) in left.iter_mut().zip(&leaf_of) {
            for (left, value) in left.iter_mut().zip(&leaves[usize::from(*leaf)]) {
                *left -= f64::from(*value);
            }
        }
        trees.push(Tree { tests, leaves });
    }
    (base, trees)
}

fn add(sums: &mut Sums, outputs: &[f64; OUTPUTS]) {
    for (sum, output) in sums.iter_mut().zip(outputs) {
        *sum += output;
    }
    sums[OUTPUTS] += 1.0;
}

/// How much of the squared errors goes if all leaves ask for `feature`, for each threshold.
fn gains(
    samples: &[Sample],
    left: &[[f64; OUTPUTS]],
    leaf_of: &[u8],
    leaves: usize,
    feature: usize,
) -> [f64; BINS - 1] {
    let mut cells = vec![[Sums::default(); BINS]; leaves];
    for ((sample, left), leaf) in samples.iter().zip(left).zip(leaf_of) {
        let bin = usize::from(sample.features[feature]) / (256 / BINS);
        add(&mut cells[usize::from(*leaf)][bin], left);
    }
    let explained = |sums: &Sums| {
        let squares: f64 = sums[..OUTPUTS].iter().map(|sum| sum * sum).sum();
        squares / (sums[OUTPUTS] + SPLIT_WEIGHT)
    };
    let mut gains = [0.0; BINS - 1];
    for bins in cells {
        let mut above = Sums::default();
        for bin in &bins {
            above.iter_mut().zip(bin).for_each(|(a, b)| *a += b);
        }
        let mut below = Sums::default();
        for (bin, gain) in bins.iter().zip(&mut gains) {
            below.iter_mut().zip(bin).for_each(|(a, b)| *a += b);
            above.iter_mut().zip(bin).for_each(|(a, b)| *a -= b);
            *gain += explained(&below) + explained(&above);
        }
    }
    gains
}
