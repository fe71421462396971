//! Trains the selector's model from the corpus, and says how far it is from the best possible.
//!
//! `cargo run --release -p xtask -- train` writes the tables (`crates/trueno-zram-adaptive/src/tables.rs`)
//! and their card (`docs/selector-card.md`).

mod boost;
mod measure;
mod regret;

use crate::{process, workspace};
use anyhow::{Context as _, Result, ensure};
use boost::Sample;
use measure::{MEASURED, PageFigures};
use std::fmt::Write as _;
use std::process::Command;
use trueno_zram_adaptive::model::{
    BYTES_UNIT, CANDIDATES, DEPTH, Model, NS_UNIT, OUTPUTS, Prediction, Tree,
};
use trueno_zram_adaptive::{Features, entropy, features};

#[derive(clap::Args)]
pub struct Args {
    /// Measure all pages again, which takes minutes, in place of the figures kept in target/train
    #[arg(long)]
    measure: bool,
    /// Write nothing; print how far each policy is from the best possible
    #[arg(long)]
    regret: bool,
    /// Write nothing; print what each feature is worth
    #[arg(long)]
    ablate: bool,
}

/// One page, with all that is known of it.
pub struct Page {
    pub features: Features,
    pub noise: bool,
    pub entropy: f64,
    pub figures: PageFigures,
}

/// One program's pages.
pub struct Set {
    pub name: String,
    pub pages: Vec<Page>,
}

/// The `train` task.
pub fn run(args: &Args) -> Result<()> {
    let programs = measure::corpus()?;
    let (figures, name) = measure::figures(&programs, args.measure)?;
    let of_page = |(page, figures): (&trueno_zram_core::Page, PageFigures)| Page {
        features: Features::of(page),
        noise: Features::unless_noise(page).is_none(),
        entropy: entropy(&page[..]),
        figures,
    };
    let sets: Vec<Set> = programs
        .iter()
        .zip(figures)
        .map(|(program, figures)| Set {
            name: program.name.clone(),
            pages: program.pages.iter().zip(figures).map(of_page).collect(),
        })
        .collect();
    if args.ablate {
        return ablate(&sets);
    }
    let table = regret::table(&sets, |_| true);
    print!("{table}");
    if args.regret {
        return Ok(());
    }
    let all: Vec<&Page> = sets.iter().flat_map(|set| &set.pages).collect();
    let (base, trees) = boost::train(&samples(&all), |_| true);
    let raw_ns = all.iter().map(|page| page.figures[0].ns()).sum::<f64>() / all.len() as f64;
    let model = Model {
        base,
        trees: &trees,
        raw_ns: raw_ns.round() as u32,
    };
    let source = workspace::root().join("crates/trueno-zram-adaptive/src/tables.rs");
    process::write_atomic(&source, tables(&model, name).as_bytes())?;
    process::run(
        Command::new("rustfmt")
            .args(["--edition", "2024"])
            .arg(&source),
    )?;
    let card = workspace::root().join("docs/selector-card.md");
    process::write_atomic(&card, card_of(&sets, &model, name, &table)?.as_bytes())?;
    println!("wrote {} and {}", source.display(), card.display());
    Ok(())
}

/// The place of each candidate among what is measured.
fn places() -> [usize; CANDIDATES.len()] {
    let place = |candidate| MEASURED.iter().position(|measured| *measured == candidate);
    CANDIDATES.map(|candidate| place(candidate).expect("candidates are measured"))
}

/// Longer times are taken for accidents of the measurement, in nanoseconds.
const NS_MAX: f64 = 60_000.0;

fn samples(pages: &[&Page]) -> Vec<Sample> {
    let places = places();
    let sample = |page: &&Page| Sample {
        features: page.features.0,
        outputs: std::array::from_fn(|o| {
            let figures = &page.figures[places[o / 2]];
            match o % 2 {
                0 => f64::from(figures.bytes) / BYTES_UNIT,
                _ => figures.ns().min(NS_MAX) / NS_UNIT,
            }
        }),
    };
    pages.iter().map(sample).collect()
}

/// Models that each know all programs but one, in the order of those.
pub fn left_out(
    sets: &[Set],
    allowed: impl Fn(usize) -> bool + Copy,
) -> Vec<([i32; OUTPUTS], Vec<Tree>)> {
    let without = |out: usize| {
        let others = sets.iter().enumerate().filter(|(at, _)| *at != out);
        let pages: Vec<&Page> = others.flat_map(|(_, set)| &set.pages).collect();
        boost::train(&samples(&pages), allowed)
    };
    (0..sets.len()).map(without).collect()
}

/// Prints the regret with one feature less.
fn ablate(sets: &[Set]) -> Result<()> {
    println!("regret of the model in per cent on programs left out, without one feature");
    println!(
        "{:16} {:>8} {:>8} {:>8}",
        "without", "speed", "balanced", "memory"
    );
    for out in std::iter::once(None).chain((0..features::COUNT).map(Some)) {
        let regret = regret::of_model(sets, |feature| Some(feature) != out);
        let name = out.map_or("none", |out| features::NAMES[out]);
        println!(
            "{name:16} {:8.2} {:8.2} {:8.2}",
            regret[0], regret[1], regret[2]
        );
    }
    Ok(())
}

/// The tables as a Rust file.
fn tables(model: &Model<'_>, name: u64) -> String {
    let mut text = format!(
        "//! The tables of the model: written by \
         `cargo run --release -p xtask -- train`, not by hand.\n\
         //! `docs/selector-card.md` says from what, and how well they predict.\n\
         //!\n//! Measured figures: {name:016x}.\n\n#![forbid(unsafe_code)]\n\n\
         use crate::model::{{OUTPUTS, Tree}};\n\n\
         /// Nanoseconds to keep a page as it is and to read it.\n\
         pub(crate) const RAW_NS: u32 = {};\n\n\
         /// What is predicted before any tree is asked.\n\
         pub(crate) const BASE: [i32; OUTPUTS] = {:?};\n\n\
         /// The trees.\n#[rustfmt::skip]\npub(crate) static TREES: [Tree; {}] = [\n",
        model.raw_ns,
        model.base,
        model.trees.len()
    );
    for tree in model.trees {
        let _ = writeln!(
            text,
            "    Tree {{\n        tests: {:?},\n        leaves: [",
            tree.tests
        );
        for leaf in &tree.leaves {
            let _ = writeln!(text, "            {leaf:?},");
        }
        text.push_str("        ],\n    },\n");
    }
    text + "];\n"
}

/// Mean errors of predictions, as parts of the mean: bytes and time of each candidate.
fn errors(
    pages: &[&Page],
    predict: impl Fn(&Page) -> [Prediction; CANDIDATES.len()],
) -> Vec<[f64; 2]> {
    let places = places();
    let mut sums = vec![[0.0; 4]; places.len()];
    for page in pages {
        let predicted = predict(page);
        for ((sums, place), predicted) in sums.iter_mut().zip(places).zip(predicted) {
            let figures = &page.figures[place];
            let (bytes, ns) = (f64::from(figures.bytes), figures.ns().min(NS_MAX));
            sums[0] += (f64::from(predicted.bytes) - bytes).abs();
            sums[1] += bytes;
            sums[2] += (f64::from(predicted.ns) - ns).abs();
            sums[3] += ns;
        }
    }
    let relative = |s: &[f64; 4]| [s[0] / s[1], s[2] / s[3]];
    sums.iter().map(relative).collect()
}

/// The model card.
fn card_of(sets: &[Set], model: &Model<'_>, name: u64, table: &str) -> Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = info.lines().find(|line| line.starts_with("model name"));
    let cpu = cpu
        .and_then(|line| line.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let date = process::text(Command::new("date").args(["-u", "+%Y-%m-%d"]))
        .context("cannot tell the date")?;
    let all: Vec<&Page> = sets.iter().flat_map(|set| &set.pages).collect();
    ensure!(!all.is_empty(), "the corpus has no pages");
    let names: Vec<String> = sets
        .iter()
        .map(|set| format!("{} ({} pages)", set.name, set.pages.len()))
        .collect();
    let known = errors(&all, |page| model.predict(&page.features));
    let others = left_out(sets, |_| true);
    let mut unknown = vec![[0.0; 2]; CANDIDATES.len()];
    for (set, (base, trees)) in sets.iter().zip(&others) {
        let pages: Vec<&Page> = set.pages.iter().collect();
        let model = Model {
            base: *base,
            trees,
            raw_ns: model.raw_ns,
        };
        for (sum, of) in unknown
            .iter_mut()
            .zip(errors(&pages, |page| model.predict(&page.features)))
        {
            sum[0] += of[0] / sets.len() as f64;
            sum[1] += of[1] / sets.len() as f64;
        }
    }
    let mut text = format!(
        "# Card of the selector's model\n\nWritten by `cargo run --release -p xtask -- train`; \
         [selector.md](selector.md) explains the words.\n\n\
         - **Data**: {}; same-filled pages left out. Measured figures {name:016x}.\n\
         - **Times**: {cpu}, {}, one thread, on a machine that does other work; \
         of each page and algorithm the fastest of {} rounds.\n\
         - **Trained**: {}. {} trees of {DEPTH} questions each, {} features, {} bytes of tables.\n\
         - **To repeat**: the command above gives the same tables from the same figures \
         (`target/train/measured.bin`); `--measure` makes new figures, \
         whose sizes are the same and whose times differ.\n\n\
         Mean absolute error of the predictions, in per cent of the mean. \
         *left out*: a model that knows all other programs, mean of eight.\n\n\
         | | bytes | time | bytes, left out | time, left out |\n|---|---|---|---|---|\n",
        names.join(", "),
        trueno_zram_core::detect_backend(),
        measure::ROUNDS,
        date.trim(),
        model.trees.len(),
        features::COUNT,
        std::mem::size_of_val(model.trees),
    );
    for ((candidate, known), unknown) in CANDIDATES.iter().zip(known).zip(unknown) {
        let [a, b, c, d] = [known[0], known[1], unknown[0], unknown[1]].map(|e| 100.0 * e);
        let _ = writeln!(text, "| {candidate} | {a:.1} | {b:.1} | {c:.1} | {d:.1} |");
    }
    let _ = write!(text, "\n## Regret\n{table}");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_gives_the_same_tables_and_learns_what_can_be_known() {
        let sample = |i: usize| {
            let value = (i * 37 % 256) as u8;
            Sample {
                features: std::array::from_fn(|f| if f == 3 { value } else { (i * f) as u8 }),
                outputs: std::array::from_fn(|o| {
                    if value > 100 {
                        4000.0
                    } else {
                        400.0 + o as f64
                    }
                }),
            }
        };
        let samples: Vec<Sample> = (0..20_000).map(sample).collect();
        let (base, trees) = boost::train(&samples, |_| true);
        assert_eq!((base, &trees), (boost::train(&samples, |_| true).0, &trees));
        let model = Model {
            base,
            trees: &trees,
            raw_ns: 1,
        };
        for sample in samples.iter().take(500) {
            let predicted = model.predict(&Features(sample.features))[0];
            let real = sample.outputs[0] * BYTES_UNIT;
            // The two values are 900 apart; leaves of few pages stay between them.
            assert!(
                (f64::from(predicted.bytes) - real).abs() < 300.0,
                "{predicted} for {real}"
            );
        }
    }

    #[test]
    fn a_candidate_is_measured() {
        assert_eq!(places().map(|place| MEASURED[place]), CANDIDATES);
        let page = [1; 4096];
        let page = trueno_zram_core::Page(page);
        let figures = measure::measure(&[page], 1).unwrap();
        assert_eq!(figures[0][0].bytes, 4096);
        assert!(figures[0][1].bytes < 100);
    }
}
