//! `explain` is about the page that it names, of a file or of a process.

use std::process::Command;
use trueno_zram_core::{Algorithm, CompressorBuilder};
use trueno_zram_store::BLOCK_MAX;

fn explain(arguments: &str) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_trueno-ublk"))
        .args(["explain", "--json"])
        .args(arguments.split_ascii_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_explanation_is_that_of_the_page_it_names() {
    let program = std::fs::read("/proc/self/exe").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    std::fs::write(&path, &program).unwrap();
    let number = 10
        + program[10 * 4096..]
            .chunks_exact(4096)
            .position(|page| page[..8] != page[8..16])
            .unwrap();
    let page = &program[number * 4096..][..4096];
    let of_file = explain(&format!("{} --page {number}", path.display()));
    assert_eq!(of_file["page"], number);
    assert_eq!(of_file["choice"]["favour"], "balanced");
    let lz4 = &of_file["choice"]["alternatives"][1];
    let compressor = CompressorBuilder::new().algorithm(Algorithm::Lz4).build();
    let true_bytes = compressor.unwrap().compress(page).unwrap().len();
    assert_eq!(lz4["algorithm"], "lz4");
    assert!(lz4["bytes"] == true_bytes || true_bytes > BLOCK_MAX && lz4["bytes"] == 4096);

    // The same bytes in a process: this one, where they begin at an address of our own.
    let mut memory = vec![0u8; 3 * 4096];
    let at = memory.as_ptr().align_offset(4096);
    memory[at..][..4096].copy_from_slice(page);
    let address = memory.as_ptr() as usize + at;
    let us = std::process::id();
    let found = explain(&format!("--pid {us} --address {:x}", address + 9));
    assert_eq!(found["address"], address);
    assert_eq!(found["looks"], of_file["looks"]);
    let bytes = |report: &serde_json::Value| {
        let all = report["choice"]["alternatives"].as_array().unwrap().iter();
        all.map(|one| one["bytes"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(&found), bytes(&of_file));
    drop(memory);
}
