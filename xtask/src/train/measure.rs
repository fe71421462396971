//! What each algorithm makes of each page of the corpus, and how long it takes: measured once, and kept,
//! so that training gives the same tables from the same file.
//!
//! `target/train/measured.bin` has twelve bytes for each page and algorithm, pages in the order of the
//! corpus, algorithms in the order of [`MEASURED`]: bytes, nanoseconds to compress, nanoseconds to
//! restore, 32 bits each, little endian.

use crate::{packages, process, workspace};
use anyhow::{Context as _, Result, bail, ensure};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use trueno_zram_core::{
    Algorithm, Codec, PAGE_SIZE, Page, PageBytes, Scratch, codec_for, samefill::page_same_filled,
};

/// All that is measured; the first one is a copy of the page. Higher levels of Zstandard take three
/// times as long as level 3 for 4 % fewer bytes.
pub const MEASURED: [Algorithm; 8] = [
    Algorithm::None,
    Algorithm::Lz4,
    Algorithm::Lz4Hc,
    Algorithm::Zstd { level: -5 },
    Algorithm::Zstd { level: -1 },
    Algorithm::Zstd { level: 1 },
    Algorithm::Zstd { level: 2 },
    Algorithm::Zstd { level: 3 },
];

/// The longest block that the store keeps: its largest size class less the object's header.
pub const BLOCK_MAX: usize = 3832;

/// Of which the fastest of each page and algorithm counts: the machine may do other work.
pub const ROUNDS: usize = 12;

/// Pages that are measured in turns.
const BATCH: usize = 256;

/// What one candidate makes of one page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Bytes of the block; a page where it is longer than is worth keeping.
    pub bytes: u32,
    pub compress_ns: u32,
    pub restore_ns: u32,
}

impl Figures {
    /// Time to compress the page and to restore it once.
    pub fn ns(&self) -> f64 {
        f64::from(self.compress_ns) + f64::from(self.restore_ns)
    }

    /// The cost at a price in ns per byte.
    pub fn cost(&self, price: f64) -> f64 {
        self.ns() + price * f64::from(self.bytes)
    }
}

/// What all algorithms make of one page.
pub type PageFigures = [Figures; MEASURED.len()];

/// The pages of one program, those that repeat one word left out.
pub struct Program {
    pub name: String,
    pub pages: Vec<Page>,
}

/// The corpus: `$TRUENO_CORPUS`, else `../shared/corpus` beside the repository.
pub fn corpus() -> Result<Vec<Program>> {
    let directory = std::env::var_os("TRUENO_CORPUS")
        .map_or_else(|| workspace::root().join("../shared/corpus"), PathBuf::from);
    let entries = std::fs::read_dir(&directory)
        .with_context(|| format!("cannot read {}: set TRUENO_CORPUS", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(".pages.zst"));
    files.sort();
    ensure!(
        !files.is_empty(),
        "no *.pages.zst in {}",
        directory.display()
    );
    files.iter().map(|path| program(path)).collect()
}

fn program(path: &Path) -> Result<Program> {
    packages::ensure(&["zstd"])?;
    let bytes = process::output(Command::new("zstd").args(["-dqc", "--long=31"]).arg(path))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let pages: &[PageBytes] = bytes.as_chunks().0;
    Ok(Program {
        name: name.split('.').next().unwrap_or_default().to_owned(),
        pages: pages
            .iter()
            .filter(|page| page_same_filled(page).is_none())
            .map(|page| Page(*page))
            .collect(),
    })
}

/// The figures of all pages of `programs`: those kept, or measured now if there are none or `anew`.
/// With them a number that names the file.
pub fn figures(programs: &[Program], anew: bool) -> Result<(Vec<Vec<PageFigures>>, u64)> {
    let path = workspace::target().join("train/measured.bin");
    if anew || !path.exists() {
        ensure!(
            !cfg!(debug_assertions),
            "times would be those of a debug build: cargo run --release -p xtask -- train"
        );
        let mut bytes = Vec::new();
        for program in programs {
            println!("measuring {}: {} pages", program.name, program.pages.len());
            for figures in measure(&program.pages, ROUNDS)?.iter().flatten() {
                for number in [figures.bytes, figures.compress_ns, figures.restore_ns] {
                    bytes.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
        std::fs::create_dir_all(workspace::target().join("train"))?;
        process::write_atomic(&path, &bytes)?;
    }
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let pages: usize = programs.iter().map(|program| program.pages.len()).sum();
    ensure!(
        bytes.len() == pages * MEASURED.len() * 12,
        "{} is not of this corpus: measure again with --measure",
        path.display()
    );
    let mut numbers = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|n| u32::from_le_bytes(*n));
    let mut next = || numbers.next().expect("the length was checked");
    let mut page = || {
        std::array::from_fn(|_| Figures {
            bytes: next(),
            compress_ns: next(),
            restore_ns: next(),
        })
    };
    let of = |program: &Program| (0..program.pages.len()).map(|_| page()).collect();
    let all = programs.iter().map(of).collect();
    // Fowler, Noll and Vo's hash, 64 bits, FNV-1a.
    let name = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Ok((all, name))
}

/// Measures all pages, in `rounds` of which the fastest of each page and candidate counts.
pub fn measure(pages: &[Page], rounds: usize) -> Result<Vec<PageFigures>> {
    let codecs = MEASURED.map(|algorithm| codec_for(algorithm).expect("all of them are codecs"));
    let mut scratch = Scratch::new();
    for codec in codecs.iter().flatten() {
        codec.prepare(&mut scratch);
    }
    let clock = clock_ns();
    let mut all = Vec::with_capacity(pages.len());
    let mut arena = vec![0xffu8; BATCH * PAGE_SIZE];
    let mut out = Page::boxed();
    for batch in pages.chunks(BATCH) {
        let unknown = Figures {
            bytes: 0,
            compress_ns: u32::MAX,
            restore_ns: u32::MAX,
        };
        let mut figures = vec![[unknown; MEASURED.len()]; batch.len()];
        for round in 0..rounds {
            for turn in 0..codecs.len() {
                let which = (round + turn) % codecs.len();
                let codec = codecs[which].as_deref();
                let slots = arena.chunks_exact_mut(PAGE_SIZE);
                for ((page, slot), f) in batch.iter().zip(slots).zip(&mut figures) {
                    let f = &mut f[which];
                    let begin = Instant::now();
                    let length = compress(codec, black_box(page), slot, &mut scratch);
                    let ns = begin.elapsed().as_nanos() as u32;
                    f.compress_ns = f.compress_ns.min(ns.saturating_sub(clock));
                    f.bytes = length as u32;
                }
                let slots = arena.chunks_exact(PAGE_SIZE);
                for ((page, slot), f) in batch.iter().zip(slots).zip(&mut figures) {
                    let f = &mut f[which];
                    let begin = Instant::now();
                    match codec {
                        Some(codec) if f.bytes < PAGE_SIZE as u32 => codec.decompress(
                            black_box(&slot[..f.bytes as usize]),
                            &mut out,
                            &mut scratch,
                        )?,
                        _ => out.copy_from_slice(black_box(slot)),
                    }
                    let ns = begin.elapsed().as_nanos() as u32;
                    f.restore_ns = f.restore_ns.min(ns.saturating_sub(clock));
                    if round == 0 && *out != *page {
                        bail!("{} does not restore a page", MEASURED[which]);
                    }
                }
            }
        }
        all.extend(figures);
    }
    Ok(all)
}

/// As a store does it: a page whose block is too long is kept as it is.
fn compress(
    codec: Option<&dyn Codec>,
    page: &PageBytes,
    slot: &mut [u8],
    scratch: &mut Scratch,
) -> usize {
    match codec.and_then(|codec| codec.compress(page, &mut slot[..BLOCK_MAX], scratch)) {
        Some(length) => length,
        None => {
            slot.copy_from_slice(page);
            PAGE_SIZE
        }
    }
}

/// What reading the clock twice takes.
fn clock_ns() -> u32 {
    let between = || {
        let begin = Instant::now();
        begin.elapsed().as_nanos() as u32
    };
    (0..10_000).map(|_| between()).min().unwrap_or(0)
}
