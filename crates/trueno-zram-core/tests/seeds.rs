//! What must hold for every input holds for those that are kept in `fuzz/seeds`, which are corner
//! cases and all for which it once did not hold, and for some that are made here.

mod guarded;
mod properties;
mod random;

use random::Random;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use trueno_zram_core::{Algorithm, PAGE_SIZE, Scratch, codec_for};

/// What lies in a directory of `fuzz/`.
fn list(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let entries = fuzz.join(directory).read_dir().unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_kept_input_has_every_property() {
    let inputs = list("seeds");
    assert!(inputs.len() > 20, "{} inputs", inputs.len());
    for file in inputs {
        let input = std::fs::read(&file).unwrap();
        for (name, _) in properties::ALL {
            // Shown if it fails.
            println!("{name} {}", file.display());
            properties::check(name, &input);
        }
    }
}

#[test]
fn every_property_is_a_fuzz_target() {
    let targets: BTreeSet<_> = list("fuzz_targets")
        .iter()
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        targets,
        properties::ALL.map(|(name, _)| name.to_owned()).into()
    );
}

#[test]
fn made_inputs_have_every_property() {
    let mut random = Random(1);
    let mut scratch = Scratch::new();
    let mut out = [0; 2 * PAGE_SIZE];
    for round in 0..400 {
        let mut program = vec![0; 1 + random.below(60)];
        program.fill_with(|| random.byte());
        for (name, _) in properties::ALL {
            println!("{name} {program:?}");
            properties::check(name, &program);
        }

        let page = properties::page_of(&program);
        for algorithm in [Algorithm::Lz4, Algorithm::Zstd1] {
            let codec = codec_for(algorithm).unwrap().unwrap();
            let length = codec.compress(&page, &mut out, &mut scratch).unwrap();
            for damage in 0..8 {
                let mut block = out[..length].to_vec();
                for _ in 0..damage {
                    block[random.below(length)] = random.byte();
                }
                for name in ["decode_any", "lz4_blocks", "zstd_blocks"] {
                    println!("{name} round {round}, {algorithm}, damage {damage}");
                    properties::check(name, &block);
                }
            }
        }
    }
}
