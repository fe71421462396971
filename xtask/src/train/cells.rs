//! Divides pages into cells by questions, and says what to expect in each.
//!
//! Questions are taken one after the other: each time the one that explains most of what a wrong
//! choice costs, and of how small pages get. What a cell says is the mean of its pages, drawn towards that
//! of the cell it was a part of before the last question; and a program counts for no more than so many
//! pages of a cell, since the next program is not one of these. Sums are taken in the order of the pages,
//! so the same data gives the same tables.

use trueno_zram_adaptive::features::COUNT as FEATURES;
use trueno_zram_adaptive::model::{CANDIDATES, Model, QUESTIONS, Question};

const COUNT: usize = CANDIDATES.len();
/// Bytes and nanoseconds of each candidate.
const OUTPUTS: usize = 2 * COUNT;

/// Pages like the cell before the last question that each cell is imagined to have.
const BEFORE: f64 = 100.0;
/// A program of `n` pages in a cell counts for `n · PROGRAM / (n + PROGRAM)`.
const PROGRAM: f64 = 30.0;
/// Pages of no error that a cell is imagined to have while a question is looked for.
const SPLIT: f64 = 20.0;
/// A wrong choice for a page counts for no more than this part of what the mean page costs, or keeping
/// pages as they are would be all that questions are about.
const WRONG_MAX: f64 = 0.1;
/// How much it counts beside that how small LZ4 makes a page, as a part of one.
const SIZE: f64 = 0.3;
/// Features are from 0 to 64.
const VALUES: usize = 65;

/// One page: its program, its features, and bytes and nanoseconds of each candidate.
pub struct Sample {
    pub program: usize,
    pub features: [u8; FEATURES],
    pub outputs: [[f64; 2]; COUNT],
    /// Of keeping it.
    pub raw_ns: f64,
}

/// The tables of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Tables {
    pub questions: [Question; QUESTIONS],
    pub cells: Vec<[[u16; 2]; COUNT]>,
    pub raw_ns: u32,
    pub mean: [[u16; 2]; COUNT],
}

impl Tables {
    pub fn model(&self) -> Model<'_> {
        Model {
            questions: &self.questions,
            cells: &self.cells,
            raw_ns: self.raw_ns,
            mean: self.mean,
        }
    }
}

/// A feature and a threshold.
type Test = (usize, usize);

/// The tables for these pages; `prices` in ns per byte are those that questions are looked for.
pub fn train(samples: &[Sample], prices: &[f64]) -> Tables {
    let tests = tests(samples, prices);
    let values = values(samples, &tests);
    let thresholds = |feature| {
        let of = tests.iter().filter(move |test| test.0 == feature);
        of.map(|test| test.1)
    };
    // The step of a feature is how many cells those before it make.
    let mut steps = [1; FEATURES];
    for feature in 1..FEATURES {
        steps[feature] = steps[feature - 1] * (1 + thresholds(feature - 1).count());
    }
    let last = FEATURES - 1;
    let cells = steps[last] * (1 + thresholds(last).count());
    let cell = |cell: usize| {
        // How many thresholds of each feature are passed in this cell, the lowest first.
        let passed = |test: &Test| {
            let level = cell / steps[test.0] % (1 + thresholds(test.0).count());
            thresholds(test.0).filter(|t| *t < test.1).count() < level
        };
        let answers = tests.iter().enumerate();
        let answers = answers
            .map(|(at, test)| usize::from(passed(test)) << at)
            .sum::<usize>();
        rounded(&values[answers])
    };
    let mean =
        |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / samples.len() as f64;
    Tables {
        questions: std::array::from_fn(|at| Question {
            feature: tests[at].0 as u8,
            above: tests[at].1 as u8,
            step: steps[tests[at].0] as u16,
        }),
        cells: (0..cells).map(cell).collect(),
        raw_ns: mean(&|sample| sample.raw_ns).round() as u32,
        mean: rounded(&std::array::from_fn(|o| {
            mean(&|sample| sample.outputs[o / 2][o % 2])
        })),
    }
}

fn rounded(values: &[f64; OUTPUTS]) -> [[u16; 2]; COUNT] {
    std::array::from_fn(|at| [values[2 * at], values[2 * at + 1]].map(|v| v.round() as u16))
}

/// The questions, in the order in which they were found.
fn tests(samples: &[Sample], prices: &[f64]) -> Vec<Test> {
    let wrong = wrong(samples, prices);
    let width = wrong[0].len();
    let mut cell_of = vec![0usize; samples.len()];
    let mut tests: Vec<Test> = Vec::new();
    while tests.len() < QUESTIONS {
        // What answers occur, numbered anew.
        let mut known: Vec<usize> = cell_of.clone();
        known.sort_unstable();
        known.dedup();
        for cell in &mut cell_of {
            *cell = known.binary_search(cell).expect("it is one of them");
        }
        let mut best = (f64::NEG_INFINITY, (0, 0));
        for feature in 0..FEATURES {
            let gains = gains(samples, &wrong, width, &cell_of, known.len(), feature);
            for (above, gain) in gains.into_iter().enumerate() {
                if gain > best.0 && !tests.contains(&(feature, above)) {
                    best = (gain, (feature, above));
                }
            }
        }
        let (feature, above) = best.1;
        for (sample, cell) in samples.iter().zip(&mut cell_of) {
            *cell = 2 * *cell + usize::from(usize::from(sample.features[feature]) > above);
        }
        tests.push(best.1);
    }
    tests
}

/// For each page what each choice costs beyond the best one, at each price: a part of what the mean
/// page costs, and less what that choice costs in the mean. And how small the page gets.
fn wrong(samples: &[Sample], prices: &[f64]) -> Vec<Vec<f64>> {
    let mut all = vec![Vec::new(); samples.len()];
    for price in prices {
        let costs = |sample: &Sample| -> Vec<f64> {
            let raw = sample.raw_ns + price * trueno_zram_core::PAGE_SIZE as f64;
            let others = sample.outputs.iter().map(|[bytes, ns]| ns + price * bytes);
            std::iter::once(raw).chain(others).collect()
        };
        let costs: Vec<Vec<f64>> = samples.iter().map(costs).collect();
        let best = |costs: &Vec<f64>| costs.iter().copied().fold(f64::INFINITY, f64::min);
        let mean = costs.iter().map(best).sum::<f64>() / samples.len() as f64;
        for (wrong, costs) in all.iter_mut().zip(&costs) {
            let best = best(costs);
            wrong.extend(
                costs
                    .iter()
                    .map(|cost| ((cost - best) / mean).min(WRONG_MAX)),
            );
        }
    }
    // With codecs that are nearly as good as each other no wrong choice costs much, and a model that
    // only knew that would say nothing of sizes.
    for (wrong, sample) in all.iter_mut().zip(samples) {
        wrong.push(SIZE * sample.outputs[0][0] / trueno_zram_core::PAGE_SIZE as f64);
    }
    for o in 0..all[0].len() {
        let mean = all.iter().map(|wrong| wrong[o]).sum::<f64>() / samples.len() as f64;
        all.iter_mut().for_each(|wrong| wrong[o] -= mean);
    }
    all
}

/// How much of the squares of `wrong` goes if all cells ask for `feature`, for each threshold.
fn gains(
    samples: &[Sample],
    wrong: &[Vec<f64>],
    width: usize,
    cell_of: &[usize],
    cells: usize,
    feature: usize,
) -> [f64; VALUES - 1] {
    let row = width + 1;
    let mut sums = vec![0.0; cells * VALUES * row];
    for ((sample, wrong), cell) in samples.iter().zip(wrong).zip(cell_of) {
        let at = (cell * VALUES + usize::from(sample.features[feature])) * row;
        let sums = &mut sums[at..at + row];
        sums.iter_mut().zip(wrong).for_each(|(sum, w)| *sum += w);
        sums[width] += 1.0;
    }
    let explained = |sums: &[f64]| {
        let squares: f64 = sums[..width].iter().map(|sum| sum * sum).sum();
        squares / (sums[width] + SPLIT)
    };
    let mut gains = [0.0; VALUES - 1];
    for of_cell in sums.chunks_exact(VALUES * row) {
        let mut above = vec![0.0; row];
        for value in of_cell.chunks_exact(row) {
            above.iter_mut().zip(value).for_each(|(a, v)| *a += v);
        }
        let mut below = vec![0.0; row];
        for (value, gain) in of_cell.chunks_exact(row).zip(&mut gains) {
            below.iter_mut().zip(value).for_each(|(b, v)| *b += v);
            above.iter_mut().zip(value).for_each(|(a, v)| *a -= v);
            *gain += explained(&below) + explained(&above);
        }
    }
    gains
}

/// What to expect for each set of answers, a bit for each question.
fn values(samples: &[Sample], tests: &[Test]) -> Vec<[f64; OUTPUTS]> {
    let programs = 1 + samples
        .iter()
        .map(|sample| sample.program)
        .max()
        .unwrap_or(0);
    let answers = |sample: &Sample| {
        let answers = tests.iter().enumerate();
        let yes = |test: &Test| usize::from(sample.features[test.0]) > test.1;
        answers
            .map(|(at, test)| usize::from(yes(test)) << at)
            .sum::<usize>()
    };
    let answers: Vec<usize> = samples.iter().map(answers).collect();
    let mut values = vec![[0.0; OUTPUTS]];
    for asked in 0..=tests.len() {
        let mut sums = vec![[0.0; OUTPUTS + 1]; programs << asked];
        for (sample, answers) in samples.iter().zip(&answers) {
            let cell = answers & ((1 << asked) - 1);
            let sums = &mut sums[cell * programs + sample.program];
            let outputs = sample.outputs.as_flattened();
            sums.iter_mut().zip(outputs).for_each(|(sum, o)| *sum += o);
            sums[OUTPUTS] += 1.0;
        }
        let cell = |(cell, of_cell): (usize, &[[f64; OUTPUTS + 1]])| {
            let (before, pages) = match asked {
                0 => (values[0], 0.0),
                _ => (values[cell % values.len()], BEFORE),
            };
            let mut mean = before.map(|value| value * pages);
            let mut weights = pages;
            for sums in of_cell {
                let weight = PROGRAM / (sums[OUTPUTS] + PROGRAM);
                mean.iter_mut()
                    .zip(sums)
                    .for_each(|(m, sum)| *m += weight * sum);
                weights += weight * sums[OUTPUTS];
            }
            mean.map(|sum| sum / weights)
        };
        values = sums.chunks_exact(programs).enumerate().map(cell).collect();
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use trueno_zram_adaptive::Features;

    /// Pages of two kinds, told apart by whether one feature is above 40; the others say nothing. The
    /// second candidate takes longer, and pays for one kind only.
    fn samples() -> Vec<Sample> {
        let sample = |i: usize| {
            let value = (i * 37 % VALUES) as u8;
            let bytes = |o| match (value > 40, o) {
                (false, _) => 300.0,
                (true, 0) => 3000.0,
                (true, _) => 2000.0,
            };
            Sample {
                program: i % 7,
                features: std::array::from_fn(|f| match f {
                    2 => value,
                    f => (i * (f + 3) / 7 % VALUES) as u8,
                }),
                outputs: std::array::from_fn(|o| [bytes(o), 5000.0 + 2000.0 * o as f64]),
                raw_ns: 300.0,
            }
        };
        (0..65 * 7 * 40).map(sample).collect()
    }

    #[test]
    fn training_twice_gives_the_same_tables() {
        assert_eq!(train(&samples(), &[8.0]), train(&samples(), &[8.0]));
    }

    #[test]
    fn what_one_question_tells_is_learnt_but_for_the_pages_imagined() {
        let tables = train(&samples(), &[8.0, 24.0]);
        let first = tables.questions[0];
        assert_eq!((first.feature, first.above), (2, 40));
        // Each of the seven programs has 24 · 40 pages in one cell and 41 · 40 in the other. The cell
        // is drawn towards the mean of all, 300 + 2700 · 24/65 = 1297, by the pages imagined, and that
        // is 1703 away at most. A later question draws a cell towards the one before, whose difference
        // is no larger. One more for rounding.
        let weight = 7.0 * 960.0 * PROGRAM / (960.0 + PROGRAM);
        let bound = 1.0 + 1703.0 * BEFORE / (BEFORE + weight);
        for sample in samples().iter().step_by(41) {
            let cell = tables.model().cell(&Features(sample.features));
            let found = f64::from(tables.model().predict(cell)[0].bytes);
            let real = sample.outputs[0][0];
            assert!((found - real).abs() <= bound, "{found} for {real}");
        }
    }
}
