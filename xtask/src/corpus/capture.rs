//! Samples the pages of running programs that the kernel would swap out.
//!
//! A page is taken when it is present, and anonymous: heap, stacks, anonymous mappings and private
//! copies of file mappings. `/proc/PID/pagemap` tells (Documentation/admin-guide/mm/pagemap.rst):
//! bit 63 present, bit 61 file page or shared anonymous, low 55 bits the frame. A frame that several
//! processes map is taken once, and what `/proc/kpageflags` calls the zero page or unevictable never.
//!
//! Pages are drawn in runs of 16 neighbours, so that a reader can study neighbours together, and
//! same-filled pages stay at their natural rate. The processes are stopped while they are read.

use crate::process;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

const PAGE: usize = 4096;
/// Pages that stay together in a sample.
const RUN: usize = 16;

const PRESENT: u64 = 1 << 63;
const FILE_OR_SHARED: u64 = 1 << 61;
const FRAME: u64 = (1 << 55) - 1;
/// Bits of `/proc/kpageflags` (include/uapi/linux/kernel-page-flags.h).
const SWAPBACKED: u64 = 1 << 14;
const UNEVICTABLE: u64 = 1 << 18;
const ZERO_PAGE: u64 = 1 << 24;

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
    let mut taken = BTreeSet::new();
    let mut runs: Vec<(u32, Vec<u64>)> = Vec::new();
    for pid in &args.pids {
        let pages = candidates(*pid, &mut taken)?;
        runs.extend(pages.chunks_exact(RUN).map(|run| (*pid, run.to_vec())));
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
        let (pid, addresses) = runs.swap_remove((random >> 16) as usize % runs.len());
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let mut run = vec![0; RUN * PAGE];
        for (page, address) in run.chunks_exact_mut(PAGE).zip(&addresses) {
            memory
                .read_exact_at(page, *address)
                .with_context(|| format!("cannot read {address:#x} of process {pid}"))?;
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

/// The addresses of a process's pages to take, in address order.
fn candidates(pid: u32, taken: &mut BTreeSet<u64>) -> Result<Vec<u64>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))
        .with_context(|| format!("no process {pid}"))?;
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let flags = File::open("/proc/kpageflags").context("cannot read /proc/kpageflags; be root")?;
    let mut found = Vec::new();
    for (start, end) in maps.lines().filter_map(private_range) {
        let mut entries = vec![0; ((end - start) / PAGE as u64) as usize * 8];
        if pagemap
            .read_exact_at(&mut entries, start / PAGE as u64 * 8)
            .is_err()
        {
            continue; // A mapping without entries, such as [vvar].
        }
        for (i, entry) in entries.chunks_exact(8).enumerate() {
            let entry = word(entry);
            if entry & PRESENT == 0 || entry & FILE_OR_SHARED != 0 {
                continue;
            }
            let frame = entry & FRAME;
            if frame == 0 {
                bail!("no frame numbers in /proc/{pid}/pagemap; be root");
            }
            let mut of_frame = [0; 8];
            flags.read_exact_at(&mut of_frame, frame * 8)?;
            let of_frame = word(&of_frame);
            let swappable = of_frame & SWAPBACKED != 0 && of_frame & (UNEVICTABLE | ZERO_PAGE) == 0;
            if swappable && taken.insert(frame) {
                found.push(start + (i * PAGE) as u64);
            }
        }
    }
    Ok(found)
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The addresses of a line of `/proc/PID/maps` that is private memory of the program.
fn private_range(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let name = words.nth(3).unwrap_or_default();
    let pseudo = ["[vvar]", "[vdso]", "[vsyscall]", "[vvar_vclock]"].contains(&name);
    let range = (
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    );
    (permissions.ends_with('p') && !pseudo).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_memory_is_sampled() {
        let line = "7f00-7f02 rw-p 00000000 00:00 0    [heap]";
        assert_eq!(private_range(line), Some((0x7f00, 0x7f02)));
        assert_eq!(
            private_range("7f00-7f02 rw-s 00000000 00:05 9 /dev/shm/x"),
            None
        );
        assert_eq!(
            private_range("7f00-7f02 r--p 00000000 00:00 0 [vvar]"),
            None
        );
    }

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
