//! Time against memory: what each fixed codec and each policy makes of the same pages in a store like a
//! device's, and whether choosing for each page is worth more than one codec for all.
//!
//! `cargo run --release -p xtask -- frontier` writes `docs/frontier.md` and `docs/frontier.svg`.

mod curve;
mod measure;
mod plot;
mod report;
mod workload;

use crate::{process, workspace};
use anyhow::{Context as _, Result, ensure};
use measure::Figures;
use std::path::PathBuf;
use trueno_ublk::daemon::policy::Policy;
use workload::Workload;

/// Measure every policy on the same pages, and draw time against memory
///
/// The pages of programs, in runs of 16 neighbours and a random order, and noise among them are
/// written to a store like a device's and read back, by each codec and each policy in turn. `cargo xtask
/// corpus capture` makes files of the pages of your own programs.
#[derive(clap::Args)]
pub struct Args {
    /// Files of pages, or directories of NAME.pages and NAME.pages.zst, a program each; if none is
    /// given $TRUENO_CORPUS, else the sample in tests/data
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How many pages of programs to take, in equal parts; 21 stores hold them at once
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 8192,
        value_parser = clap::value_parser!(u32).range(16..=1 << 17)
    )]
    pages: u32,
    /// How many pages of a hundred are noise: compressed files and random bytes, half of it each
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(0..=90)
    )]
    noise: u32,
    /// How often all of it is measured; the median counts
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 21,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    rounds: u32,
    /// Where frontier.md and frontier.svg go [default: docs of this repository]
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// What kind of policy it is, which is how it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One codec for all pages.
    Fixed,
    /// One codec, and none for noise.
    Entropy,
    /// Chosen for each page.
    Adaptive,
}

/// The codecs.
const FIXED: [&str; 9] = [
    "lz4",
    "zstd(level=-5)",
    "zstd(level=-1)",
    "zstd1",
    "zstd2",
    "zstd3",
    "zstd(price=8)",
    "zstd(price=24)",
    "zstd(price=64)",
];

/// Bits per byte above which the entropy policy keeps a page: the default of `create`.
const ENTROPY: f64 = trueno_zram_adaptive::EntropySelector::SKIP_ABOVE;

/// What adaptive is to favour: the three words, and prices between and beside them.
const FAVOURS: [&str; 11] = [
    "4", "6", "speed", "12", "16", "20", "balanced", "32", "48", "memory", "128",
];

/// A policy and what came of it.
struct Row {
    kind: Kind,
    /// As `trueno-ublk` prints it.
    name: String,
    /// Short, for the plot.
    label: String,
    figures: Figures,
}

/// The `frontier` task.
pub fn run(args: &Args) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "times would be those of a debug build: cargo run --release -p xtask -- frontier"
    );
    let out = match &args.out {
        Some(out) => out.clone(),
        None => workspace::root().join("docs"),
    };
    // Before minutes of measurement, not after them.
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let workload = Workload::new(&args.paths, args.pages as usize, args.noise)?;
    let policies = policies()?;
    let measured: Vec<Policy> = policies
        .iter()
        .map(|(_, policy, _)| policy.clone())
        .collect();
    let figures = measure::measure(&workload.pages, &measured, args.rounds as usize)?;
    let rows: Vec<Row> = policies
        .into_iter()
        .zip(figures)
        .map(|((kind, policy, label), figures)| Row {
            kind,
            name: policy.asked().to_string(),
            label,
            figures,
        })
        .collect();
    let text = report::write(args, &workload, &rows);
    print!("{text}");
    process::write_atomic(&out.join("frontier.md"), text.as_bytes())?;
    process::write_atomic(&out.join("frontier.svg"), plot::draw(&rows).as_bytes())
}

/// All policies, with what the plot calls them.
fn policies() -> Result<Vec<(Kind, Policy, String)>> {
    let mut all = Vec::new();
    for name in FIXED {
        all.push((Kind::Fixed, Policy::new(name, None, None)?, name.to_owned()));
    }
    let entropy = Policy::new("lz4", None, Some(ENTROPY))?;
    let label = entropy.asked().to_string();
    all.push((Kind::Entropy, entropy, label));
    for favour in FAVOURS {
        let policy = Policy::new("adaptive", Some(favour), None)?;
        let price = favour.parse::<trueno_zram_adaptive::Favour>()?.price();
        let label = match favour.parse::<f64>() {
            Ok(_) => favour.to_owned(),
            Err(_) => format!("{price} ({favour})"),
        };
        all.push((Kind::Adaptive, policy, label));
    }
    Ok(all)
}

/// The codecs among the rows.
fn fixed(rows: &[Row]) -> Vec<&Row> {
    rows.iter().filter(|row| row.kind == Kind::Fixed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use trueno_zram_core::Page;

    #[test]
    fn every_policy_is_one_that_a_device_takes_and_keeps_the_pages() {
        let page = |number: usize| {
            let words = format!("line {number} of a log that says the same again and again\n");
            Page(std::array::from_fn(|at| words.as_bytes()[at % words.len()]))
        };
        let pages: Vec<Page> = (0..40).map(page).collect();
        let policies: Vec<Policy> = policies()
            .unwrap()
            .into_iter()
            .map(|(_, policy, _)| policy)
            .collect();
        let figures = measure::measure(&pages, &policies, 3).unwrap();
        assert_eq!(figures.len(), FIXED.len() + 1 + FAVOURS.len());
        for figures in figures {
            let [least, most] = figures.us_range;
            assert!(0.0 < least && least <= figures.point.us && figures.point.us <= most);
            assert!(figures.read_us < most && figures.raw_percent == 0.0);
            assert!(
                figures.point.bytes > 8.0 && figures.point.bytes < 4096.0,
                "{figures:?}"
            );
        }
    }
}
