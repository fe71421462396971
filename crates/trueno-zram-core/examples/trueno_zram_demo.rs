//! A tour of the library: what becomes of pages of several kinds, and back.
//!
//! `trueno_zram_demo [ALGORITHM]`, by default `zstd1`. The pages are generated.

#[path = "../tests/pages/mod.rs"]
mod pages;

use std::error::Error;
use std::process::ExitCode;
use trueno_zram_core::{Algorithm, CompressorBuilder, PAGE_SIZE};

fn main() -> ExitCode {
    match tour() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trueno_zram_demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tour() -> Result<(), Box<dyn Error>> {
    let algorithm = std::env::args()
        .nth(1)
        .map_or(Ok(Algorithm::Zstd1), |word| word.parse())?;
    let compressor = CompressorBuilder::new().algorithm(algorithm).build()?;
    println!(
        "algorithm {}, backend {}",
        compressor.algorithm(),
        compressor.backend()
    );

    println!("\n{:24} {:>10}   stored as", "generated page", "bytes");
    let (mut same, mut before, mut after) = (0, 0, 0);
    for (kind, page) in pages::one_of_each(1) {
        let compressed = compressor.compress(&page)?;
        assert_eq!(compressor.decompress(&compressed)?, page);
        println!(
            "{kind:24} {:>10}   {}",
            compressed.len(),
            compressed.algorithm()
        );
        if compressed.algorithm() == Algorithm::SameFill {
            same += 1;
        } else {
            before += PAGE_SIZE;
            after += compressed.len();
        }
    }
    println!("\nall restored byte for byte; {same} same-filled pages, and the others together");
    println!(
        "{before} bytes before, {after} after: {:.2} to 1",
        before as f64 / after as f64
    );

    let text = include_str!("trueno_zram_demo.rs");
    let compressed = compressor.compress(text)?;
    assert_eq!(compressor.decompress(&compressed)?, *text.as_bytes());
    println!(
        "the source of this program: {} bytes before, {} after",
        text.len(),
        compressed.len()
    );
    Ok(())
}
