//! Trains the selector's model, and says how far it is from the best possible.
//!
//! `cargo run --release -p xtask -- train` writes the tables (`crates/trueno-zram-adaptive/src/tables.rs`)
//! and their card (`docs/selector-card.md`) from `tests/data/selector.zst`.

mod cells;
mod data;
pub mod measure;
mod regret;

use crate::{process, workspace};
use anyhow::{Context as _, Result, ensure};
use cells::{Sample, Tables};
use data::{Data, Page, Set};
use measure::{MEASURED, ROUNDS};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use trueno_zram_adaptive::model::{CANDIDATES, Model, QUESTIONS, Question};
use trueno_zram_adaptive::{EntropySelector, Favour, Features, ModelSelector, entropy, features};
use trueno_zram_core::Choice;

#[derive(clap::Args)]
pub struct Args {
    /// First measure the pages in this directory (NAME.pages or NAME.pages.zst, one file a program) in
    /// place of those the tables were made from; $TRUENO_CORPUS if no directory is given
    #[arg(long, value_name = "DIRECTORY", num_args = 0..=1)]
    measure: Option<Option<PathBuf>>,
    /// First measure the pages in this directory in place of those that only show how well it does
    #[arg(long, value_name = "DIRECTORY")]
    unseen: Option<PathBuf>,
}

/// The three words.
const FAVOURS: [Favour; 3] = [Favour::Speed, Favour::Balanced, Favour::Memory];

/// The `train` task.
pub fn run(args: &Args) -> Result<()> {
    let corpus = match &args.measure {
        Some(None) => {
            let corpus = std::env::var_os("TRUENO_CORPUS").map(PathBuf::from);
            Some(corpus.context("--measure needs a directory of pages, or TRUENO_CORPUS")?)
        }
        Some(directory) => directory.clone(),
        None => None,
    };
    let mut data = match &corpus {
        Some(directory) => {
            let mut data = Data::default();
            measure(&mut data, directory, true)?;
            data
        }
        None => Data::read()?,
    };
    if let Some(directory) = &args.unseen {
        data.sets.retain(|set| set.seen);
        measure(&mut data, directory, false)?;
    }
    if corpus.is_some() || args.unseen.is_some() {
        data.write()?;
        // As it is kept, and as the next one will read it.
        data = Data::read()?;
    }
    let seen: Vec<&Set> = data.sets.iter().filter(|set| set.seen).collect();
    ensure!(!seen.is_empty(), "there are no pages to train from");
    let tables = train(&seen);
    let card = card_of(&data, &tables)?;
    print!("{card}");
    let source = workspace::root().join("crates/trueno-zram-adaptive/src/tables.rs");
    process::write_atomic(&source, source_of(&tables).as_bytes())?;
    process::run(
        Command::new("rustfmt")
            .args(["--edition", "2024"])
            .arg(&source),
    )?;
    let path = workspace::root().join("docs/selector-card.md");
    process::write_atomic(&path, card.as_bytes())
}

/// Measures the programs in `directory`.
fn measure(data: &mut Data, directory: &Path, seen: bool) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "times would be those of a debug build: cargo run --release -p xtask -- train"
    );
    let by_model = ModelSelector::new(Favour::Balanced, &CANDIDATES).expect("they are known");
    let by_entropy = EntropySelector::new(EntropySelector::SKIP_ABOVE, Choice::Codec(0));
    let programs = measure::programs(directory)?;
    let mut sums = [0.0; 2];
    for program in &programs {
        println!("measuring {}: {} pages", program.name, program.pages.len());
        sums[0] += measure::choosing_ns(&program.pages, ROUNDS, &by_model);
        sums[1] += measure::choosing_ns(&program.pages, ROUNDS, &by_entropy);
        let figures = measure::measure(&program.pages, ROUNDS)?;
        let pages = program.pages.iter().zip(figures);
        data.sets.push(Set {
            name: program.name.clone(),
            seen,
            pages: pages
                .map(|(page, figures)| Page {
                    features: Features::of(page),
                    entropy: entropy(&page[..]),
                    figures,
                })
                .collect(),
        });
    }
    if seen {
        // Tenths are more than is known.
        data.choosing_ns = sums.map(|sum| (10.0 * sum / programs.len() as f64).round() / 10.0);
    }
    Ok(())
}

/// The place of each candidate among what is measured.
fn places() -> [usize; CANDIDATES.len()] {
    let place = |candidate| MEASURED.iter().position(|measured| *measured == candidate);
    CANDIDATES.map(|candidate| place(candidate).expect("candidates are measured"))
}

/// Longer times are taken for accidents of the measurement, in nanoseconds.
const NS_MAX: f64 = 60_000.0;

/// The tables for these programs.
fn train(sets: &[&Set]) -> Tables {
    let places = places();
    let sample = |program: usize, page: &Page| Sample {
        program,
        features: page.features.0,
        outputs: places.map(|place| {
            let figures = page.figures[place];
            [f64::from(figures.bytes), f64::from(figures.ns).min(NS_MAX)]
        }),
        raw_ns: f64::from(page.figures[0].ns),
    };
    let sets = sets.iter().enumerate();
    let samples: Vec<Sample> = sets
        .flat_map(|(program, set)| set.pages.iter().map(move |page| sample(program, page)))
        .collect();
    cells::train(&samples, &FAVOURS.map(Favour::price))
}

/// The tables as a Rust file.
fn source_of(tables: &Tables) -> String {
    let mut text = format!(
        "//! The tables of the model: written by \
         `cargo run --release -p xtask -- train`, not by hand.\n\
         //! `docs/selector-card.md` says from what, and how well they predict.\n\n\
         #![forbid(unsafe_code)]\n\n\
         use crate::model::{{COUNT, QUESTIONS, Question}};\n\n\
         /// Nanoseconds to keep a page as it is and to read it.\n\
         pub(crate) const RAW_NS: u32 = {};\n\n\
         /// Bytes and nanoseconds of each candidate in the mean of all pages.\n\
         pub(crate) const MEAN: [[u16; 2]; COUNT] = {:?};\n\n\
         /// In the order in which they were found.\n\
         pub(crate) static ASKED: [Question; QUESTIONS] = [\n",
        tables.raw_ns, tables.mean,
    );
    for Question {
        feature,
        above,
        step,
    } in &tables.questions
    {
        let _ = writeln!(
            text,
            "    Question {{ feature: {feature}, above: {above}, step: {step} }}, // {}",
            features::NAMES[usize::from(*feature)]
        );
    }
    let _ = write!(
        text,
        "];\n\n/// Bytes and nanoseconds of each candidate.\n#[rustfmt::skip]\n\
         pub(crate) static CELLS: [[[u16; 2]; COUNT]; {}] = [\n",
        tables.cells.len()
    );
    for cell in &tables.cells {
        let _ = writeln!(text, "    {cell:?},");
    }
    text + "];\n"
}

/// Mean errors of predictions, as parts of the mean: bytes and time of each candidate.
fn errors(pages: &[Page], model: &Model<'_>) -> [[f64; 2]; CANDIDATES.len()] {
    let mut sums = [[0.0; 4]; CANDIDATES.len()];
    let places = places();
    for page in pages {
        let predicted = model.predict(model.cell(&page.features));
        for ((sums, place), predicted) in sums.iter_mut().zip(places).zip(predicted) {
            let figures = &page.figures[place];
            let (bytes, ns) = (f64::from(figures.bytes), f64::from(figures.ns).min(NS_MAX));
            sums[0] += (f64::from(predicted.bytes) - bytes).abs();
            sums[1] += bytes;
            sums[2] += (f64::from(predicted.ns) - ns).abs();
            sums[3] += ns;
        }
    }
    sums.map(|s| [s[0] / s[1], s[2] / s[3]])
}

/// The mean of that over sets, each with its model, in per cent.
fn mean_errors<'a>(
    sets: impl Iterator<Item = (&'a Set, Model<'a>)>,
) -> [[f64; 2]; CANDIDATES.len()] {
    let all: Vec<_> = sets
        .map(|(set, model)| errors(&set.pages, &model))
        .collect();
    std::array::from_fn(|at| {
        [0, 1].map(|of| {
            100.0 * all.iter().map(|errors| errors[at][of]).sum::<f64>() / all.len().max(1) as f64
        })
    })
}

/// The model card.
fn card_of(data: &Data, tables: &Tables) -> Result<String> {
    let names = |seen: bool| {
        let sets = data.sets.iter().filter(|set| set.seen == seen);
        let names = sets.map(|set| format!("{} ({} pages)", set.name, set.pages.len()));
        names.collect::<Vec<_>>().join(", ")
    };
    let models = regret::left_out(data);
    let with = |seen: bool| {
        let sets = data.sets.iter().zip(models.iter().copied());
        sets.filter(move |(set, _)| set.seen == seen)
    };
    let known = mean_errors(with(true).map(|(set, _)| (set, tables.model())));
    let left_out = mean_errors(with(true));
    let unseen = mean_errors(with(false));
    let mut text = format!(
        "# Card of the selector's model\n\nWritten by `cargo run --release -p xtask -- train`; \
         [selector.md](selector.md) explains the words.\n\n\
         - **Trained on**: {}; same-filled pages left out.\n\
         - **Not trained on**: {}.\n\
         - **Times**: of each page and algorithm the fastest of {ROUNDS} rounds, one thread, on \
         one machine (AMD EPYC, AVX-512) that does other work.\n\
         - **Tables**: {QUESTIONS} questions about {} features, {} cells, {} bytes.\n\
         - **To repeat**: the command above gives the same tables and this card from \
         `tests/data/selector.zst`. `--measure DIRECTORY` makes that file anew, whose sizes are \
         the same for the same pages and whose times differ.\n\n\
         Mean absolute error of the predictions in per cent, bytes and time, the mean of the \
         programs. *left out*: by a model that knows all other programs.\n\n\
         | | known | | left out | | not trained on | |\n|---|---|---|---|---|---|---|\n",
        names(true),
        names(false),
        features::COUNT,
        tables.cells.len(),
        std::mem::size_of_val(&tables.cells[..]),
    );
    for (at, candidate) in CANDIDATES.iter().enumerate() {
        let [[a, b], [c, d], [e, f]] = [known[at], left_out[at], unseen[at]];
        let _ = writeln!(
            text,
            "| {candidate} | {a:.1} | {b:.1} | {c:.1} | {d:.1} | {e:.1} | {f:.1} |"
        );
    }
    let _ = write!(text, "\n## Regret\n{}", regret::tables(data, &models));
    let _ = write!(text, "\n## Features\n{}", regret::features(data));
    let _ = write!(
        text,
        "\n## Correction\n{}",
        regret::correction(data, &models)
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_measured() {
        assert_eq!(places().map(|place| MEASURED[place]), CANDIDATES);
        let page = trueno_zram_core::Page([1; 4096]);
        let figures = measure::measure(&[page], 1).unwrap();
        assert_eq!(figures[0][0].bytes, 4096);
        assert!(figures[0][1].bytes < 100);
    }

    #[test]
    fn the_tables_in_the_tree_are_those_of_the_data() {
        let data = Data::read().unwrap();
        let seen: Vec<&Set> = data.sets.iter().filter(|set| set.seen).collect();
        let tables = train(&seen);
        let shipped = Model::default();
        assert_eq!(&tables.questions, shipped.questions);
        assert_eq!(tables.cells, shipped.cells);
        assert_eq!((tables.raw_ns, tables.mean), (shipped.raw_ns, shipped.mean));
    }
}
