//! LZ4 beside Zstandard at several levels: bytes and time for each page.
//!
//! The pages are generated, so the table shows how the codecs differ from kind to kind; it says
//! nothing about the memory of a real program. Same-filled pages are left out: they reach no codec.

#[path = "../tests/pages/mod.rs"]
mod pages;

use std::time::{Duration, Instant};
use trueno_zram_core::{Algorithm, Compressor, Error, PAGE_SIZE, Page, Scratch};

const PAGES: u64 = 500;

fn main() -> Result<(), Error> {
    println!("{PAGES} generated pages of each kind, one thread, the best of 3 runs; 'ratio' is");
    println!("bytes before / after, where a page that does not get smaller stays raw; times are");
    println!("for one page\n");
    println!(
        "{:24} {:14} {:>6} {:>14} {:>14}",
        "kind", "algorithm", "ratio", "compress", "restore"
    );

    let all: Vec<_> = (0..PAGES).flat_map(pages::one_of_each).collect();
    for kind in [
        "sparse",
        "records",
        "text",
        "half text, half random",
        "random",
    ] {
        let pages: Vec<&Page> = all
            .iter()
            .filter(|(k, _)| *k == kind)
            .map(|(_, p)| p)
            .collect();
        for algorithm in [
            Algorithm::Lz4,
            Algorithm::Zstd { level: -5 },
            Algorithm::Zstd1,
            Algorithm::Zstd3,
        ] {
            let runs = (0..3)
                .map(|_| run(algorithm, &pages))
                .collect::<Result<Vec<_>, _>>()?;
            let best = |time: fn(&Run) -> Duration| {
                let shortest = runs.iter().map(time).min().unwrap_or_default();
                shortest.as_secs_f64() * 1e6 / pages.len() as f64
            };
            let (compress, restore) = (best(|run| run.compress), best(|run| run.restore));
            let ratio = (pages.len() * PAGE_SIZE) as f64 / runs[0].bytes as f64;
            println!(
                "{kind:24} {algorithm:14} {ratio:>6.2} {compress:>11.2} µs {restore:>11.2} µs"
            );
        }
    }
    Ok(())
}

struct Run {
    bytes: usize,
    compress: Duration,
    restore: Duration,
}

/// Compresses all pages, then restores and compares them.
fn run(algorithm: Algorithm, pages: &[&Page]) -> Result<Run, Error> {
    let (compressor, mut scratch) = (Compressor::new(algorithm), Scratch::new());
    compressor.prepare(&mut scratch);
    let mut blocks = vec![([0; PAGE_SIZE - 1], None); pages.len()];

    let start = Instant::now();
    for (page, (block, length)) in pages.iter().zip(&mut blocks) {
        *length = compressor.compress_into(page, block, &mut scratch);
    }
    let compress = start.elapsed();

    let (mut restored, mut restore) = (Page::ZERO, Duration::ZERO);
    for (page, (block, length)) in pages.iter().zip(&blocks) {
        let start = Instant::now();
        match length {
            Some(length) => {
                compressor.decompress_into(&block[..*length], &mut restored, &mut scratch)?;
            }
            None => *restored = ***page,
        }
        restore += start.elapsed();
        assert!(restored == **page, "{algorithm} gave back another page");
    }
    let bytes = blocks
        .iter()
        .map(|(_, length)| length.unwrap_or(PAGE_SIZE))
        .sum();
    Ok(Run {
        bytes,
        compress,
        restore,
    })
}
