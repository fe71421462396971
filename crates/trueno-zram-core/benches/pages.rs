//! `cargo bench -p trueno-zram-core [-- OPTIONS] [FILES]`: our codecs beside others, on pages of real
//! programs, on one thread.
//!
//! FILES hold pages, one behind the other, as they are or compressed by `zstd` (`*.zst`). Without
//! any, the large corpus is taken where it is (`$TRUENO_CORPUS`, else `../shared/corpus` beside the
//! repository), else the sample in `tests/data`.
//!
//! ```text
//! --pages N     of each file, evenly chosen runs of 16 neighbours       1024
//!               (from every second run: dictionaries learn from the others)
//! --rounds N    of which the median counts                              9
//! --fastest     of each batch the fastest round counts, on a machine that does other work
//! --csv FILE    the record                         target/bench/pages.csv
//! --again       besides, what a page costs over and over: no branch is a surprise then
//! ```
//!
//! Codecs take turns on batches of 256 pages, so that whatever else the machine does meets all of
//! them, each round beginning with another one. Pages that repeat one word are kept apart: no codec
//! is needed for them. A page that does not shrink counts as a page. All have room for the longest
//! block; with less, ours make it elsewhere and copy it, and liblz4 may end early.

use lz4_sys as lz4;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;
use trueno_zram_core::codec::same::{fill_page_word, page_same_filled};
use trueno_zram_core::codec::zstd::{Dictionary, Zstd};
use trueno_zram_core::{
    Algorithm, Codec, Compressor, CompressorBuilder, PAGE_SIZE, Page, PageBytes, Scratch,
    SimdBackend,
};

// Of liblz4; `lz4_sys` does not declare them.
#[allow(non_snake_case)]
unsafe extern "C" {
    fn LZ4_versionString() -> *const c_char;
    fn LZ4_sizeofState() -> c_int;
    fn LZ4_sizeofStateHC() -> c_int;
    fn LZ4_initStream(state: *mut c_void, bytes: usize) -> *mut c_void;
    fn LZ4_initStreamHC(state: *mut c_void, bytes: usize) -> *mut c_void;
    fn LZ4_compress_fast_extState_fastReset(
        state: *mut c_void,
        from: *const c_char,
        to: *mut c_char,
        bytes: c_int,
        room: c_int,
        acceleration: c_int,
    ) -> c_int;
    fn LZ4_compress_HC_extStateHC_fastReset(
        state: *mut c_void,
        from: *const c_char,
        to: *mut c_char,
        bytes: c_int,
        room: c_int,
        level: c_int,
    ) -> c_int;
}

const BATCH: usize = 256;
const BLOCK_MAX: usize = 2 * PAGE_SIZE;
/// Neighbours that are taken or left together.
const RUN: usize = 16;

fn main() {
    if let Err(message) = run() {
        eprintln!("error: {message}");
        std::process::exit(2);
    }
}

struct Options {
    pages: usize,
    rounds: usize,
    csv: PathBuf,
    again: bool,
    fastest: bool,
    files: Vec<PathBuf>,
}

fn options() -> Result<Options, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut options = Options {
        pages: 1024,
        rounds: 9,
        csv: root.join("target/bench/pages.csv"),
        again: false,
        fastest: false,
        files: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |value: String| match value.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("`{value}` is not a number above 0")),
        };
        match &*argument {
            "--pages" => options.pages = number(value()?)?,
            "--rounds" => options.rounds = number(value()?)?,
            "--csv" => options.csv = value()?.into(),
            "--again" => options.again = true,
            "--fastest" => options.fastest = true,
            flag if flag.starts_with('-') => {
                return Err(format!(
                    "no option {flag}; there are --pages, --rounds, --csv, --again, --fastest"
                ));
            }
            file => options.files.push(file.into()),
        }
    }
    if options.files.is_empty() {
        let large =
            std::env::var_os("TRUENO_CORPUS").map_or(root.join("../shared/corpus"), PathBuf::from);
        let entries = std::fs::read_dir(large).into_iter().flatten().flatten();
        options.files = entries.map(|entry| entry.path()).collect();
        options
            .files
            .retain(|path| path.to_string_lossy().ends_with(".pages.zst"));
        options.files.sort();
    }
    if options.files.is_empty() {
        options.files.push(root.join("tests/data/pages.zst"));
    }
    Ok(options)
}

/// The pages of one program.
struct Program {
    name: String,
    /// Those that no word fills.
    pages: Vec<Page>,
    /// Pages to learn from, from runs that are not among those.
    samples: Vec<Page>,
    same: usize,
}

fn load(path: &Path, wanted: usize) -> Result<Program, String> {
    let context = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut bytes = std::fs::read(path).map_err(context)?;
    if path.extension().is_some_and(|ending| ending == "zst") {
        bytes = unpack(&bytes).ok_or_else(|| format!("{} is not a zstd file", path.display()))?;
    }
    let all: Vec<&PageBytes> = bytes.as_chunks().0.iter().collect();
    let (same, rest): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|page| page_same_filled(page).is_some());
    if rest.is_empty() {
        return Err(format!("no page to compress in {}", path.display()));
    }
    let runs: Vec<&[&PageBytes]> = rest.chunks(RUN).collect();
    // Every second run may be measured; dictionaries learn from the others.
    let pairs: Vec<&[&[&PageBytes]]> = runs.chunks_exact(2).collect();
    let count = pairs.len().min(wanted.div_ceil(RUN));
    let chosen = |half: usize| -> Vec<Page> {
        let runs = (0..count).map(|i| pairs[i * pairs.len() / count][half]);
        let pages = runs.flat_map(|run| run.iter()).take(wanted);
        pages.map(|page| Page(**page)).collect()
    };
    if count == 0 {
        return Err(format!(
            "fewer than {} pages in {}",
            2 * RUN,
            path.display()
        ));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Program {
        name: name.split('.').next().unwrap_or_default().to_owned(),
        pages: chosen(0),
        samples: chosen(1),
        same: same.len(),
    })
}

/// The content of a `.zst` file.
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = zstd_safe::DCtx::create();
    // A window of any size, as `zstd --long` makes them.
    let window = zstd_safe::DParameter::WindowLogMax(31);
    decoder.set_parameter(window).ok()?;
    let mut input = zstd_safe::InBuffer::around(packed);
    let (mut bytes, mut part) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let mut output = zstd_safe::OutBuffer::around(&mut part[..]);
        let missing = decoder.decompress_stream(&mut output, &mut input).ok()?;
        let done = output.as_slice();
        bytes.extend_from_slice(done);
        if input.pos() == packed.len() && (missing == 0 || done.is_empty()) {
            return (missing == 0).then_some(bytes);
        }
    }
}

/// One that compresses and restores; blocks have at most [`BLOCK_MAX`] bytes.
trait Contestant {
    fn name(&self) -> &str;
    /// Looks at other pages of the program before its own turn, if it learns from pages.
    fn learn(&mut self, _samples: &[Page]) {}
    fn compress(&mut self, page: &PageBytes, out: &mut [u8]) -> usize;
    fn restore(&mut self, block: &[u8], page: &mut PageBytes);
}

struct Ours {
    name: String,
    compressor: Compressor,
    scratch: Scratch,
}

impl Ours {
    fn boxed(name: &str, algorithm: Algorithm) -> Box<dyn Contestant> {
        let builder = Compressor::builder().algorithm(algorithm);
        Ours::built(name.to_owned(), builder)
    }

    fn built(name: String, builder: CompressorBuilder) -> Box<dyn Contestant> {
        let compressor = builder.build().expect("this can be built here");
        let mut scratch = Scratch::new();
        compressor.prepare(&mut scratch);
        Box::new(Ours {
            name,
            compressor,
            scratch,
        })
    }
}

impl Contestant for Ours {
    fn name(&self) -> &str {
        &self.name
    }
    fn compress(&mut self, page: &PageBytes, out: &mut [u8]) -> usize {
        self.compressor
            .compress_into(page, out, &mut self.scratch)
            .expect("it fits into two pages")
    }
    fn restore(&mut self, block: &[u8], page: &mut PageBytes) {
        self.compressor
            .decompress_into(block, page, &mut self.scratch)
            .expect("our own block");
    }
}

/// With a dictionary of 64 KiB that is learnt from pages of the same program, which are not among
/// those measured.
struct WithDictionary {
    name: &'static str,
    level: i32,
    codec: Option<std::sync::Arc<dyn Codec>>,
    scratch: Scratch,
}

impl WithDictionary {
    fn boxed(name: &'static str, level: i32) -> Box<dyn Contestant> {
        Box::new(WithDictionary {
            name,
            level,
            codec: None,
            scratch: Scratch::new(),
        })
    }
}

impl Contestant for WithDictionary {
    fn name(&self) -> &str {
        self.name
    }
    fn learn(&mut self, samples: &[Page]) {
        let samples = samples.iter().map(|page| &**page);
        let dictionary = Dictionary::train(samples, 64 * 1024).expect("enough pages");
        let zstd = Zstd::new(self.level).expect("a level");
        let codec = zstd.with_dictionary(std::sync::Arc::new(dictionary));
        self.scratch = Scratch::new();
        codec.prepare(&mut self.scratch);
        self.codec = Some(std::sync::Arc::new(codec));
    }
    fn compress(&mut self, page: &PageBytes, out: &mut [u8]) -> usize {
        let codec = self.codec.as_ref().expect("it has learnt");
        codec
            .compress(page, out, &mut self.scratch)
            .expect("it fits into two pages")
    }
    fn restore(&mut self, block: &[u8], page: &mut PageBytes) {
        let codec = self.codec.as_ref().expect("it has learnt");
        codec
            .decompress(block, page, &mut self.scratch)
            .expect("our own block");
    }
}

struct Memcpy;

impl Contestant for Memcpy {
    fn name(&self) -> &str {
        "memcpy"
    }
    fn compress(&mut self, page: &PageBytes, out: &mut [u8]) -> usize {
        out[..PAGE_SIZE].copy_from_slice(page);
        PAGE_SIZE
    }
    fn restore(&mut self, block: &[u8], page: &mut PageBytes) {
        page.copy_from_slice(block);
    }
}

/// The reference implementation, as most people call it, or its thorough search at this level.
struct Lz4C {
    name: &'static str,
    thorough: Option<i32>,
    state: Box<[u64]>,
}

impl Lz4C {
    /// The fast encoder, or the thorough one at a level.
    fn boxed(name: &'static str, thorough: Option<i32>) -> Box<dyn Contestant> {
        // SAFETY: both functions only compute.
        let bytes = unsafe { LZ4_sizeofState().max(LZ4_sizeofStateHC()) } as usize;
        let mut state = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        // SAFETY: the state is as long as is said, and aligned to 8.
        let made = unsafe {
            match thorough {
                None => LZ4_initStream(state.as_mut_ptr().cast(), bytes),
                Some(_) => LZ4_initStreamHC(state.as_mut_ptr().cast(), bytes),
            }
        };
        assert!(!made.is_null());
        Box::new(Lz4C {
            name,
            thorough,
            state,
        })
    }
}

impl Contestant for Lz4C {
    fn name(&self) -> &str {
        self.name
    }
    fn compress(&mut self, page: &PageBytes, out: &mut [u8]) -> usize {
        let (from, to) = (page.as_ptr().cast(), out.as_mut_ptr().cast());
        let (bytes, room) = (PAGE_SIZE as i32, out.len() as i32);
        let state = self.state.as_mut_ptr().cast();
        // SAFETY: both buffers are as long as is said, and the state was made for this encoder.
        let length = unsafe {
            match self.thorough {
                None => LZ4_compress_fast_extState_fastReset(state, from, to, bytes, room, 1),
                Some(level) => {
                    LZ4_compress_HC_extStateHC_fastReset(state, from, to, bytes, room, level)
                }
            }
        };
        usize::try_from(length).expect("two pages are enough")
    }
    fn restore(&mut self, block: &[u8], page: &mut PageBytes) {
        // SAFETY: both buffers are as long as is said.
        let length = unsafe {
            lz4::LZ4_decompress_safe(
                block.as_ptr().cast(),
                page.as_mut_ptr().cast(),
                block.len() as i32,
                PAGE_SIZE as i32,
            )
        };
        assert_eq!(length, PAGE_SIZE as i32);
    }
}

/// Its decoder here is the safe one: our tests need it, and Cargo builds one of the two.
struct Lz4Flex(lz4_flex::block::CompressTable);

impl Contestant for Lz4Flex {
    fn name(&self) -> &str {
        "lz4_flex"
    }
    fn compress(&mut self, page: &PageBytes, out: &mut [u8]) -> usize {
        lz4_flex::block::compress_into_with_table(page, out, &mut self.0)
            .expect("two pages are enough")
    }
    fn restore(&mut self, block: &[u8], page: &mut PageBytes) {
        lz4_flex::block::decompress_into(block, page).expect("its own block");
    }
}

/// libzstd through its plain interface, with contexts that are used again.
struct ZstdC {
    name: &'static str,
    level: i32,
    encoder: zstd_safe::CCtx<'static>,
    decoder: zstd_safe::DCtx<'static>,
}

impl ZstdC {
    fn boxed(name: &'static str, level: i32) -> Box<dyn Contestant> {
        let (encoder, decoder) = (zstd_safe::CCtx::create(), zstd_safe::DCtx::create());
        Box::new(ZstdC {
            name,
            level,
            encoder,
            decoder,
        })
    }
}

impl Contestant for ZstdC {
    fn name(&self) -> &str {
        self.name
    }
    fn compress(&mut self, page: &PageBytes, out: &mut [u8]) -> usize {
        self.encoder
            .compress(out, page, self.level)
            .expect("two pages are enough")
    }
    fn restore(&mut self, block: &[u8], page: &mut PageBytes) {
        self.decoder
            .decompress(&mut page[..], block)
            .expect("its own frame");
    }
}

struct Snappy(snap::raw::Encoder, snap::raw::Decoder);

impl Contestant for Snappy {
    fn name(&self) -> &str {
        "snappy"
    }
    fn compress(&mut self, page: &PageBytes, out: &mut [u8]) -> usize {
        self.0.compress(page, out).expect("two pages are enough")
    }
    fn restore(&mut self, block: &[u8], page: &mut PageBytes) {
        self.1.decompress(block, page).expect("its own block");
    }
}

fn contestants() -> Vec<Box<dyn Contestant>> {
    let mut all: Vec<Box<dyn Contestant>> = vec![
        Box::new(Memcpy),
        Lz4C::boxed("lz4 C", None),
        Box::new(Lz4Flex(lz4_flex::block::CompressTable::small())),
        Ours::boxed("lz4 ours", Algorithm::Lz4),
        Box::new(Snappy(snap::raw::Encoder::new(), snap::raw::Decoder::new())),
        Lz4C::boxed("lz4hc C", Some(9)),
        Ours::boxed("lz4hc ours", Algorithm::Lz4Hc),
        ZstdC::boxed("zstd-1 C", -1),
        Ours::boxed("zstd(price=8)", Algorithm::ZstdAtPrice { price: 8 }),
        ZstdC::boxed("zstd1 C", 1),
        Ours::boxed("zstd1 ours", Algorithm::Zstd1),
        Ours::boxed("zstd(price=24)", Algorithm::ZstdAtPrice { price: 24 }),
        ZstdC::boxed("zstd3 C", 3),
        Ours::boxed("zstd3 ours", Algorithm::Zstd3),
        Ours::boxed("zstd(price=64)", Algorithm::ZstdAtPrice { price: 64 }),
        WithDictionary::boxed("zstd1 dict", 1),
    ];
    // LZ4 on lesser backends, each behind a codec that does something else: the same search on the
    // same pages right before would have taught the CPU what comes.
    let lesser = SimdBackend::ALL.into_iter().filter(|b| b.is_available());
    let places = ["snappy", "zstd1 ours", "zstd3 ours"];
    for (backend, place) in lesser.skip(1).zip(places) {
        let builder = Compressor::builder().backend(backend);
        let at = all.iter().position(|one| one.name() == place);
        let one = Ours::built(format!("lz4 {backend}"), builder);
        all.insert(at.map_or(all.len(), |at| at + 1), one);
    }
    all
}

/// Sums over some pages.
#[derive(Clone, Copy, Default)]
struct Figures {
    pages: usize,
    bytes: usize,
    /// Nanoseconds.
    compress: f64,
    restore: f64,
}

impl Figures {
    fn ratio(&self) -> f64 {
        (self.pages * PAGE_SIZE) as f64 / self.bytes as f64
    }
    fn per_page(&self, nanoseconds: f64) -> f64 {
        nanoseconds / self.pages as f64
    }
    fn add(&mut self, other: &Figures) {
        self.pages += other.pages;
        self.bytes += other.bytes;
        self.compress += other.compress;
        self.restore += other.restore;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// All contestants on the pages of one program.
fn measure(program: &Program, all: &mut [Box<dyn Contestant>], options: &Options) -> Vec<Figures> {
    let (pages, rounds) = (&program.pages, options.rounds);
    let mut blocks = vec![Vec::new(); all.len()];
    let mut out = vec![0; BLOCK_MAX];
    let mut page = Page::boxed();
    for (one, blocks) in all.iter_mut().zip(&mut blocks) {
        one.learn(&program.samples);
        for original in pages {
            let length = one.compress(original, &mut out);
            let block = out[..length].to_vec();
            one.restore(&block, &mut page);
            assert!(*page == *original, "{} restores another page", one.name());
            blocks.push(block);
        }
    }
    // By contestant, direction and batch, of each round.
    let batches = pages.len().div_ceil(BATCH);
    let mut times = vec![[(); 2].map(|()| vec![Vec::new(); batches]); all.len()];
    for round in 0..rounds {
        for (batch, start) in (0..pages.len()).step_by(BATCH).enumerate() {
            let range = start..(start + BATCH).min(pages.len());
            for turn in 0..all.len() {
                let who = (turn + round) % all.len();
                let one = &mut all[who];
                let begin = Instant::now();
                for page in &pages[range.clone()] {
                    black_box(one.compress(black_box(page), &mut out));
                }
                times[who][0][batch].push(begin.elapsed().as_nanos() as f64);
                let begin = Instant::now();
                for block in &blocks[who][range.clone()] {
                    one.restore(black_box(block), &mut page);
                    black_box(&page);
                }
                times[who][1][batch].push(begin.elapsed().as_nanos() as f64);
            }
        }
    }
    let sum = |batches: Vec<Vec<f64>>| -> f64 {
        if options.fastest {
            let fastest = |rounds: &Vec<f64>| rounds.iter().copied().fold(f64::MAX, f64::min);
            return batches.iter().map(fastest).sum();
        }
        median(
            (0..rounds)
                .map(|round| batches.iter().map(|batch| batch[round]).sum())
                .collect(),
        )
    };
    let figures = blocks
        .iter()
        .zip(times)
        .map(|(blocks, [compress, restore])| Figures {
            pages: pages.len(),
            bytes: blocks.iter().map(|block| block.len().min(PAGE_SIZE)).sum(),
            compress: sum(compress),
            restore: sum(restore),
        });
    figures.collect()
}

fn print(title: &str, all: &[Box<dyn Contestant>], figures: &[Figures]) {
    println!("\n{title}");
    println!(
        "{:12} {:>6}  {:>9} {:>7} {:>6}  {:>9} {:>7} {:>6}",
        "", "ratio", "comp ns", "MB/s", "/C", "decomp ns", "MB/s", "/C"
    );
    for (one, f) in all.iter().zip(figures) {
        let family = one.name().split([' ', '_']).next().unwrap_or_default();
        let rival = all
            .iter()
            .position(|other| other.name() == format!("{family} C"));
        let beside = |of: fn(&Figures) -> f64| match rival {
            Some(rival) => format!("{:.2}", of(&figures[rival]) / of(f)),
            None => String::new(),
        };
        let speed = |ns: f64| PAGE_SIZE as f64 * 1000.0 / f.per_page(ns);
        println!(
            "{:12} {:6.3}  {:9.0} {:7.0} {:>6}  {:9.0} {:7.0} {:>6}",
            one.name(),
            f.ratio(),
            f.per_page(f.compress),
            speed(f.compress),
            beside(|f| f.compress),
            f.per_page(f.restore),
            speed(f.restore),
            beside(|f| f.restore),
        );
    }
}

/// What a page costs when it is compressed and restored over and over.
fn again(programs: &[Program], all: &mut [Box<dyn Contestant>]) {
    const EVERY: usize = 16;
    let pages = || {
        programs
            .iter()
            .flat_map(|one| one.pages.iter().step_by(EVERY))
    };
    println!("\na page over and over, ns: compress, decompress");
    let (mut out, mut page) = (vec![0; BLOCK_MAX], Page::boxed());
    for one in all {
        let (mut compress, mut restore) = (0.0, 0.0);
        for original in pages() {
            let mut best = [f64::MAX; 2];
            for _ in 0..30 {
                let begin = Instant::now();
                let mut length = 0;
                for _ in 0..4 {
                    length = one.compress(black_box(original), &mut out);
                }
                best[0] = best[0].min(begin.elapsed().as_nanos() as f64 / 4.0);
                let begin = Instant::now();
                for _ in 0..4 {
                    one.restore(black_box(&out[..length]), &mut page);
                }
                best[1] = best[1].min(begin.elapsed().as_nanos() as f64 / 4.0);
            }
            compress += best[0];
            restore += best[1];
        }
        let count = pages().count() as f64;
        println!(
            "{:12} {:6.0} {:6.0}",
            one.name(),
            compress / count,
            restore / count
        );
    }
}

/// What detecting and filling of same-filled pages costs, beside reading and setting memory in plain
/// Rust, which is compiled for any CPU of this architecture.
fn same_filled(programs: &[Program], rounds: usize) {
    let each = BATCH.div_ceil(programs.len());
    let ordinary = programs
        .iter()
        .flat_map(|program| program.pages.iter().take(each));
    let ordinary: Vec<&Page> = ordinary.collect();
    // Half a MiB: from the second cache level, as pages of a request come.
    let filled: Vec<Page> = (0..BATCH / 2).map(|i| Page([i as u8; PAGE_SIZE])).collect();
    let mut page = Page::boxed();
    let mut time = |count: usize, pass: &mut dyn FnMut(&mut Page)| {
        let rounds = (0..rounds.max(3) * 10).map(|_| {
            let begin = Instant::now();
            pass(&mut page);
            begin.elapsed().as_nanos() as f64 / count as f64
        });
        median(rounds.collect())
    };
    let detect_ordinary = time(ordinary.len(), &mut |_| {
        for page in &ordinary {
            black_box(page_same_filled(black_box(page)));
        }
    });
    let detect_filled = time(filled.len(), &mut |_| {
        for page in &filled {
            black_box(page_same_filled(black_box(page)));
        }
    });
    let read = time(filled.len(), &mut |_| {
        for page in &filled {
            let words = black_box(page).as_chunks::<8>().0.iter();
            black_box(words.fold(0, |or, word| or | u64::from_ne_bytes(*word)));
        }
    });
    let fill = time(BATCH, &mut |page| {
        (0..BATCH).for_each(|i| {
            fill_page_word(page, black_box(i as u64));
            black_box(&page);
        });
    });
    let set = time(BATCH, &mut |page| {
        (0..BATCH).for_each(|i| {
            page.fill(black_box(i as u8));
            black_box(&page);
        });
    });
    println!("\nsame-filled pages, ns a page");
    println!(
        "detect: {detect_ordinary:.1} on ordinary pages, {detect_filled:.1} on same-filled ones"
    );
    println!("reading a page: {read:.1}");
    println!("fill: {fill:.1}; memset of a page: {set:.1}");
}

fn field(file: &str, key: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with(key))
        .unwrap_or_default();
    line.split(':').nth(1).unwrap_or_default().trim().to_owned()
}

fn run() -> Result<(), String> {
    let options = options()?;
    let programs = options.files.iter().map(|path| load(path, options.pages));
    let programs = programs.collect::<Result<Vec<_>, _>>()?;
    let cpu = field("/proc/cpuinfo", "model name");
    // SAFETY: it returns a string that lives as long as the program.
    let versions = unsafe {
        let lz4 = CStr::from_ptr(LZ4_versionString()).to_string_lossy();
        format!("lz4 {lz4} zstd {}", zstd_safe::version_string())
    };
    let backend = trueno_zram_core::detect_backend();
    println!(
        "{cpu}, {backend:?}; ours {}, {versions}; one thread, median of {} rounds",
        env!("CARGO_PKG_VERSION"),
        options.rounds
    );
    println!("/C: how many times as fast as the C library");

    let mut all = contestants();
    let mut csv = String::from(
        "cpu,backend,ours,rivals,file,same_filled,codec,pages,ratio,compress_ns,decompress_ns\n",
    );
    let mut total = vec![Figures::default(); all.len()];
    for (program, path) in programs.iter().zip(&options.files) {
        let figures = measure(program, &mut all, &options);
        let title = format!(
            "{}: {} pages ({} same-filled ones left out)",
            program.name,
            program.pages.len(),
            program.same
        );
        print(&title, &all, &figures);
        for ((one, f), total) in all.iter().zip(&figures).zip(&mut total) {
            total.add(f);
            let _ = writeln!(
                csv,
                "{cpu},{backend:?},{},{versions},{},{},{},{},{:.4},{:.1},{:.1}",
                env!("CARGO_PKG_VERSION"),
                path.display(),
                program.same,
                one.name(),
                f.pages,
                f.ratio(),
                f.per_page(f.compress),
                f.per_page(f.restore),
            );
        }
    }
    print(&format!("all: {} pages", total[0].pages), &all, &total);
    same_filled(&programs, options.rounds);
    if options.again {
        again(&programs, &mut all);
    }

    if let Some(directory) = options.csv.parent() {
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
    }
    std::fs::write(&options.csv, csv)
        .map_err(|error| format!("cannot write {}: {error}", options.csv.display()))?;
    println!("\nrecord: {}", options.csv.display());
    Ok(())
}
