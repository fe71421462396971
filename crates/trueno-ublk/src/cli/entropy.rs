//! `entropy`: how noisy pages are, and where the entropy policy should draw its line.

use super::{Failure, Sample, output};
use crate::sample::Sources;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use trueno_zram_adaptive::{EntropyLevel, entropy};
use trueno_zram_cli::table::{Align, Table};
use trueno_zram_core::samefill::page_same_filled;
use trueno_zram_core::{Algorithm, CompressorBuilder, PAGE_SIZE, PageBytes, Scratch};
use trueno_zram_store::BLOCK_MAX;

/// Show how noisy the pages of files, block devices or processes are
///
/// Entropy counts how evenly a page's byte values occur: 0 bits per byte is one value only, 8 is noise,
/// which no codec makes smaller. The entropy policy keeps pages above its threshold as they are,
/// without trying.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or block devices
    #[arg(
        value_name = "PATH",
        required_unless_present = "pid",
        value_parser = NonEmptyStringValueParser::new()
    )]
    paths: Vec<String>,
    /// A process, by its number; may be given several times
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    #[command(flatten)]
    sample: Sample,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What the entropy policy does with pages of a band.
pub fn route(band: EntropyLevel) -> &'static str {
    match band {
        EntropyLevel::VeryLow | EntropyLevel::Low => "batch",
        EntropyLevel::Medium | EntropyLevel::High => "simd",
        EntropyLevel::VeryHigh => "skip",
    }
}

/// What pages may lose in size, as a share of what is stored, when a threshold skips them.
const LOSS_MAX: f64 = 0.01;

/// Thresholds that may be recommended, in tenths of a bit.
const THRESHOLDS: std::ops::RangeInclusive<u32> = 50..=80;

/// What `--json` prints.
#[derive(Debug, PartialEq, Serialize)]
struct Report {
    /// Pages there are.
    pages: u64,
    /// Pages that were looked at.
    sampled_pages: u64,
    /// Those of them that are one repeated word, which no policy ever sees; not in the rest.
    same_pages: u64,
    bands: Vec<Band>,
    /// Mean entropy, in bits per byte.
    average_bits: Option<f64>,
    /// The threshold that skips the most pages that LZ4 does not make small enough for a store to keep
    /// them compressed, while the others above it would cost at most 1 % of what is stored.
    recommended_threshold: f64,
    /// What that threshold would skip.
    skipped_pages: u64,
    /// Bytes that it would cost.
    lost_bytes: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Band {
    from_bits: f64,
    to_bits: f64,
    route: &'static str,
    pages: u64,
    /// Bytes of these pages, LZ4 where that is smaller.
    lz4_bytes: u64,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let mut sources = Sources::default();
    for path in &args.paths {
        sources.add_path(&PathBuf::from(path))?;
    }
    for pid in &args.pid {
        sources.add_process(*pid)?;
    }
    let report = look(sources.pages(), &sources.take(args.sample.pages)?)?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&describe(&report))?;
    }
    Ok(())
}

/// Looks at `pages`, a sample `of` so many.
fn look(of: u64, pages: &[PageBytes]) -> anyhow::Result<Report> {
    let compressor = CompressorBuilder::new().algorithm(Algorithm::Lz4).build()?;
    let mut scratch = Scratch::new();
    // What is larger a store keeps as it is.
    let mut block = [0; BLOCK_MAX];
    let mut seen: Vec<(f64, u64)> = Vec::with_capacity(pages.len());
    for page in pages {
        if page_same_filled(page).is_none() {
            let bytes = compressor.compress_into(page, &mut block, &mut scratch);
            seen.push((entropy(page), bytes.unwrap_or(PAGE_SIZE) as u64));
        }
    }
    let bands = EntropyLevel::ALL.iter().map(|band| {
        let inside = seen
            .iter()
            .filter(|(bits, _)| EntropyLevel::of(*bits) == *band);
        Band {
            from_bits: band.bits().start,
            to_bits: band.bits().end,
            route: route(*band),
            pages: inside.clone().count() as u64,
            lz4_bytes: inside.map(|(_, bytes)| bytes).sum(),
        }
    });
    let bands: Vec<Band> = bands.collect();
    let (threshold, skipped_pages, lost_bytes) = recommend(&seen);
    let sum: f64 = seen.iter().map(|(bits, _)| bits).sum();
    Ok(Report {
        pages: of,
        sampled_pages: pages.len() as u64,
        same_pages: (pages.len() - seen.len()) as u64,
        bands,
        average_bits: (!seen.is_empty()).then(|| sum / seen.len() as f64),
        recommended_threshold: threshold,
        skipped_pages,
        lost_bytes,
    })
}

/// The threshold of [`Report::recommended_threshold`] for pages of this entropy and size, what it skips
/// and what it loses. Of thresholds that are equally good the highest.
fn recommend(seen: &[(f64, u64)]) -> (f64, u64, u64) {
    let stored: u64 = seen.iter().map(|(_, bytes)| bytes).sum();
    let mut best = (8.0, 0, 0);
    let mut most = 0;
    for tenths in THRESHOLDS.rev() {
        let threshold = f64::from(tenths) / 10.0;
        let above = seen.iter().filter(|(bits, _)| *bits > threshold);
        let lost: u64 = above
            .clone()
            .map(|(_, bytes)| PAGE_SIZE as u64 - bytes)
            .sum();
        if lost as f64 > LOSS_MAX * stored as f64 {
            break;
        }
        let in_vain = above
            .clone()
            .filter(|(_, bytes)| *bytes == PAGE_SIZE as u64);
        let in_vain = in_vain.count();
        if in_vain > most {
            most = in_vain;
            best = (threshold, above.count() as u64, lost);
        }
    }
    best
}

fn describe(report: &Report) -> String {
    let Report {
        pages,
        sampled_pages,
        same_pages,
        recommended_threshold,
        skipped_pages,
        lost_bytes,
        ..
    } = report;
    let mut text = format!(
        "{sampled_pages} of {pages} pages looked at; {same_pages} are same-filled, the others:\n"
    );
    let others = (sampled_pages - same_pages).max(1) as f64;
    let mut table = Table::new(&[
        ("BITS/BYTE", Align::Left),
        ("PAGES", Align::Right),
        ("SHARE", Align::Right),
        ("LZ4 RATIO", Align::Right),
        ("ROUTE", Align::Left),
    ]);
    for band in &report.bands {
        let ratio = (band.pages * PAGE_SIZE as u64) as f64 / band.lz4_bytes.max(1) as f64;
        table.row(vec![
            format!("{}-{}", band.from_bits, band.to_bits),
            band.pages.to_string(),
            format!("{:.1}%", 100.0 * band.pages as f64 / others),
            if band.pages == 0 {
                "-".to_string()
            } else {
                format!("{ratio:.2}")
            },
            band.route.to_string(),
        ]);
    }
    text.push_str(&table.render(true));
    if let Some(average) = report.average_bits {
        // A string takes everything.
        let _ = writeln!(text, "average: {average:.2} bits per byte");
    }
    let _ = if *skipped_pages == 0 {
        writeln!(
            text,
            "recommended threshold: none, since there is nothing to skip"
        )
    } else {
        writeln!(
            text,
            "recommended threshold: {recommended_threshold:.1}, which skips {skipped_pages} pages \
             and makes the stored data {lost_bytes} bytes larger"
        )
    };
    text.push_str(
        "routes of the entropy policy: batch and simd compress, skip keeps the page as it is\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_skips_what_is_in_vain_and_not_what_pays() {
        let page = PAGE_SIZE as u64;
        // Noise above 7.9, and text that is better compressed.
        let mut seen = vec![(7.95, page); 100];
        seen.extend(vec![(5.0, 2000); 100]);
        let (threshold, skipped, lost) = recommend(&seen);
        assert!((7.8..=7.9).contains(&threshold), "{threshold}");
        assert_eq!((skipped, lost), (100, 0));
        // Packed pages just below that LZ4 makes smaller keep the line above them.
        seen.extend(vec![(7.85, 3500); 100]);
        assert_eq!(recommend(&seen), (7.9, 100, 0));
        // Where nothing is in vain, nothing is skipped.
        assert_eq!(recommend(&[(7.99, 3000), (1.0, 100)]), (8.0, 0, 0));
        assert_eq!(recommend(&[]), (8.0, 0, 0));
    }

    #[test]
    fn pages_fall_into_bands() {
        let mut pages = vec![[7; PAGE_SIZE], [0; PAGE_SIZE]];
        // 1, 3, 5, 6.5 and 8 bits: so many values, equally often.
        for distinct in [2, 8, 32, 90, 256] {
            pages.push(std::array::from_fn(|at| {
                (((at * 0x9e37_79b1) >> 7) % distinct) as u8
            }));
        }
        let report = look(70, &pages).unwrap();
        assert_eq!(
            (report.pages, report.sampled_pages, report.same_pages),
            (70, 7, 2)
        );
        let counts: Vec<u64> = report.bands.iter().map(|band| band.pages).collect();
        assert_eq!(counts, [1, 1, 1, 1, 1], "{report:?}");
        assert!(describe(&report).contains("7-8"));
    }
}
