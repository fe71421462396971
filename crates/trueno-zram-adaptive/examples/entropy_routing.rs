//! `cargo run --release --example entropy_routing`: where the pages of programs go, by entropy and by
//! cost, and what that makes of them.

#[path = "../tests/sample/mod.rs"]
mod sample;

use trueno_zram_adaptive::model::CANDIDATES;
use trueno_zram_adaptive::{
    AdaptiveCompressor, EntropyLevel, EntropySelector, Favour, ModelSelector, PageClassifier,
};
use trueno_zram_core::{Algorithm, Choice, Error, PAGE_SIZE, Selector};

fn main() -> Result<(), Error> {
    let pages = sample::pages();
    let classifier = PageClassifier::new();
    println!("{} pages of five programs\n", pages.len());
    println!("bits per byte   pages   the entropy policy");
    for level in EntropyLevel::ALL {
        let count = pages
            .iter()
            .filter(|page| classifier.level(page) == level)
            .count();
        let route = match level.bits() {
            bits if bits.end <= EntropySelector::LOW_BELOW => {
                "batches, where an engine for them pays"
            }
            bits if bits.end <= EntropySelector::SKIP_ABOVE => "compressed at once",
            _ => "kept as it is",
        };
        println!("{level:13} {count:7}   {route}");
    }

    println!(
        "\nfavouring        kept raw {}  ratio",
        CANDIDATES.map(|a| format!("{a:>15}")).join("")
    );
    for favour in [Favour::Speed, Favour::Balanced, Favour::Memory] {
        let compressor = AdaptiveCompressor::new().favour(favour);
        let (mut used, mut bytes) = ([0; CANDIDATES.len() + 1], 0);
        for page in &pages {
            let result = compressor.compress_adaptive(page)?;
            let at = CANDIDATES.iter().position(|c| *c == result.algorithm_used);
            used[at.map_or(0, |at| at + 1)] += 1;
            bytes += result.data.len();
        }
        let ratio = (pages.len() * PAGE_SIZE) as f64 / bytes as f64;
        let used = used.map(|count| format!("{count:>15}")).join("");
        println!("{favour:10} {used}  {ratio:.3}");
    }

    let two = [Algorithm::Lz4, Algorithm::Zstd1];
    let selector = ModelSelector::new(Favour::Balanced, &two).expect("both are known");
    let page = pages
        .iter()
        .find(|page| selector.select(page) == Choice::Codec(1));
    if let Some(page) = page {
        println!(
            "\nwhy one page goes to zstd1 and not to lz4:\n{}",
            selector.explain(page)
        );
    }
    Ok(())
}
