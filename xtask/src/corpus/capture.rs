//! Samples the pages of running programs that the kernel would swap out. A frame that several
//! processes map is taken once.
//!
//! Pages are drawn in runs of 16 neighbours, so that a reader can study neighbours together, and
//! same-filled pages stay at their natural rate. The processes are stopped while they are read.

use crate::process;
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use trueno_zram_cli::process_memory::{Frames, ProcessMemory};

const PAGE: usize = 4096;
/// Pages that stay together in a sample.
const RUN: usize = 16;

#[derive(clap::Args)]
pub struct Args {
    /// A process to sample; may be given several times
    #[arg(long = "pid", required = true)]
    pids: Vec<u32>,
    /// Where the pages go
    #[arg(long)]
    out: PathBuf,
    /// How many pages to take, if the processes have so many
    #[arg(long, default_value_t = 256)]
    pages: usize,
    /// Add to the file instead of replacing it
    #[arg(long)]
    append: bool,
    /// Chooses the runs; the same seed on the same memory gives the same sample
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave out runs in which this text occurs
    #[arg(long = "without", value_name = "TEXT")]
    without: Vec<String>,
}

/// The `capture` task.
pub fn run(args: &Args) -> Result<()> {
    let stopped: Vec<Stopped> = args
        .pids
        .iter()
        .map(|pid| Stopped::new(*pid))
        .collect::<Result<_>>()?;
    let mut taken = Frames::default();
    let mut runs: Vec<(Rc<ProcessMemory>, Vec<u64>)> = Vec::new();
    for pid in &args.pids {
        let memory = Rc::new(ProcessMemory::open(*pid)?);
        let pages: Vec<u64> = memory.swappable(&mut taken)?.iter().collect();
        runs.extend(
            pages
                .chunks_exact(RUN)
                .map(|run| (memory.clone(), run.to_vec())),
        );
    }
    let of = runs.len() * RUN;
    let mut random = args.seed | 1;
    let mut data = Vec::new();
    let mut left_out = 0;
    // Draw without replacement; the order in the file is the order of the draw.
    while data.len() < args.pages * PAGE && !runs.is_empty() {
        // xorshift64 (Marsaglia 2003).
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let (memory, addresses) = runs.swap_remove((random >> 16) as usize % runs.len());
        let mut run = vec![0; RUN * PAGE];
        for (page, address) in run.chunks_exact_mut(PAGE).zip(&addresses) {
            memory
                .read(*address, page)
                .with_context(|| format!("cannot read {address:#x} of {memory:?}"))?;
        }
        if args
            .without
            .iter()
            .any(|text| contains(&run, text.as_bytes()))
        {
            left_out += 1;
        } else {
            data.extend_from_slice(&run);
        }
    }
    drop(stopped);
    println!(
        "{} of {of} pages; {left_out} runs left out; {}",
        data.len() / PAGE,
        describe(&data)
    );
    if args.append {
        let mut whole = std::fs::read(&args.out).unwrap_or_default();
        whole.extend_from_slice(&data);
        data = whole;
    }
    process::write_atomic(&args.out, &data)
}

/// Pages, same-filled pages, and the LZ4 ratio of the others.
pub fn describe(data: &[u8]) -> String {
    let mut same = 0;
    let (mut raw, mut compressed) = (0, 0);
    for page in data.chunks_exact(PAGE) {
        if page.chunks_exact(8).all(|word| *word == page[..8]) {
            same += 1;
        } else {
            raw += PAGE;
            // A page that does not get smaller is kept as it is.
            compressed += lz4_flex::block::compress(page).len().min(PAGE);
        }
    }
    let ratio = raw as f64 / compressed.max(1) as f64;
    let pages = data.len() / PAGE;
    format!("{pages} pages, {same} same-filled, LZ4 ratio of the others {ratio:.2}")
}

fn contains(data: &[u8], text: &[u8]) -> bool {
    !text.is_empty() && data.windows(text.len()).any(|window| window == text)
}

/// A process that is stopped while this lives.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Result<Self> {
        signal("STOP", pid).with_context(|| format!("cannot stop process {pid}"))?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Nothing can be done for a process that is gone.
        let _ = signal("CONT", self.0);
    }
}

fn signal(name: &str, pid: u32) -> Result<()> {
    process::output(
        Command::new("kill")
            .arg(format!("-{name}"))
            .arg(pid.to_string()),
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_described_by_what_is_in_it() {
        let mut data = vec![7u8; 2 * PAGE];
        data[PAGE..].copy_from_slice(&[b'a'; PAGE]);
        data[PAGE] = b'b';
        let text = describe(&data);
        assert!(
            text.starts_with("2 pages, 1 same-filled, LZ4 ratio of the others "),
            "{text}"
        );
    }

    #[test]
    fn text_is_found_anywhere_in_a_run() {
        assert!(contains(b"a secret b", b"secret"));
        assert!(!contains(b"a secre", b"secret"));
        assert!(!contains(b"anything", b""));
    }
}
