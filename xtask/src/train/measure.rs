//! What each algorithm makes of each page of the corpus, and how long it takes.

use crate::{packages, process};
use anyhow::{Context as _, Result, bail, ensure};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use trueno_zram_core::{
    Algorithm, Codec, PAGE_SIZE, Page, PageBytes, Scratch, Selector, codec_for,
    samefill::page_same_filled,
};

/// All that is measured; the first one is a copy of the page. Higher levels of Zstandard take three
/// times as long as level 3 for 4 % fewer bytes.
pub const MEASURED: [Algorithm; 11] = [
    Algorithm::None,
    Algorithm::Lz4,
    Algorithm::Lz4Hc,
    Algorithm::Zstd { level: -5 },
    Algorithm::Zstd { level: -1 },
    Algorithm::Zstd { level: 1 },
    Algorithm::Zstd { level: 2 },
    Algorithm::Zstd { level: 3 },
    Algorithm::ZstdAtPrice { price: 8 },
    Algorithm::ZstdAtPrice { price: 24 },
    Algorithm::ZstdAtPrice { price: 64 },
];

/// The longest block that the store keeps: its largest size class less the object's header.
pub const BLOCK_MAX: usize = 3832;

/// Of which the fastest of each page and algorithm counts: the machine may do other work.
pub const ROUNDS: usize = 12;

/// Pages that are measured in turns.
const BATCH: usize = 256;

/// What one algorithm makes of one page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Bytes of the block; a page where it is longer than is worth keeping.
    pub bytes: u32,
    /// Nanoseconds to compress the page and to restore it once.
    pub ns: u32,
}

impl Figures {
    /// The cost at a price in ns per byte.
    pub fn cost(&self, price: f64) -> f64 {
        f64::from(self.ns) + price * f64::from(self.bytes)
    }
}

/// What all algorithms make of one page.
pub type PageFigures = [Figures; MEASURED.len()];

/// The pages of one program, those that repeat one word left out.
pub struct Program {
    pub name: String,
    pub pages: Vec<Page>,
}

/// The programs whose pages lie in a directory, one file each: `NAME.pages` or `NAME.pages.zst`.
pub fn programs(directory: &Path) -> Result<Vec<Program>> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let is_sample = |name: &str| name.ends_with(".pages") || name.ends_with(".pages.zst");
    files.retain(|path| is_sample(&path.to_string_lossy()));
    files.sort();
    ensure!(
        !files.is_empty(),
        "no *.pages and no *.pages.zst in {}",
        directory.display()
    );
    files.iter().map(|path| program(path)).collect()
}

/// The program whose pages lie in this file.
pub fn program(path: &Path) -> Result<Program> {
    let bytes = if path.extension().is_some_and(|extension| extension == "zst") {
        packages::ensure(&["zstd"])?;
        process::output(Command::new("zstd").args(["-dqc", "--long=31"]).arg(path))?
    } else {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
    };
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
        let mut figures = vec![[[u32::MAX; 3]; MEASURED.len()]; batch.len()];
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
                    f[0] = length as u32;
                    f[1] = f[1].min(ns.saturating_sub(clock));
                }
                let slots = arena.chunks_exact(PAGE_SIZE);
                for ((page, slot), f) in batch.iter().zip(slots).zip(&mut figures) {
                    let f = &mut f[which];
                    let begin = Instant::now();
                    match codec {
                        Some(codec) if f[0] < PAGE_SIZE as u32 => codec.decompress(
                            black_box(&slot[..f[0] as usize]),
                            &mut out,
                            &mut scratch,
                        )?,
                        _ => out.copy_from_slice(black_box(slot)),
                    }
                    let ns = begin.elapsed().as_nanos() as u32;
                    f[2] = f[2].min(ns.saturating_sub(clock));
                    if round == 0 && *out != *page {
                        bail!("{} does not restore a page", MEASURED[which]);
                    }
                }
            }
        }
        let of_page = |page: &[[u32; 3]; MEASURED.len()]| {
            page.map(|[bytes, compress, restore]| Figures {
                bytes,
                ns: compress + restore,
            })
        };
        all.extend(figures.iter().map(of_page));
    }
    Ok(all)
}

/// Nanoseconds that a selector takes for a page, in the mean: the fastest of the rounds of each batch.
pub fn choosing_ns(pages: &[Page], rounds: usize, selector: &dyn Selector) -> f64 {
    let mut sum = 0.0;
    for batch in pages.chunks(BATCH) {
        let round = |_| {
            let begin = Instant::now();
            for page in batch {
                black_box(selector.select(black_box(page)));
            }
            begin.elapsed().as_nanos() as f64
        };
        sum += (0..rounds).map(round).fold(f64::INFINITY, f64::min);
    }
    sum / pages.len() as f64
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
