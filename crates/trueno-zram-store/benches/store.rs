//! `cargo bench -p trueno-zram-store [-- FILE.pages.zst …]`: how much memory a store takes for real
//! pages, and what it costs in time beside the bare codec.
//!
//! Pages come from the files named, else from the large corpus (`$TRUENO_CORPUS`, else
//! `../shared/corpus` beside the repository), else from the sample in `tests/data`. Memory is
//! counted whole: frames, page table, slabs and what else is known of them. Times are medians of
//! rounds in which every contestant has its turn.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use trueno_zram_core::codec::lz4::Lz4;
use trueno_zram_core::codec::same::page_same_filled;
use trueno_zram_core::{Codec, PAGE_SIZE, Page, Scratch};
use trueno_zram_store::{Config, Memory, Stats, Store, Worker};

const ROUNDS: usize = 9;

/// Pages a round of a contestant.
const BATCH: usize = 2048;

/// Bytes of pages in the store that is attached to.
const ATTACHED: u64 = 10 << 30;

fn main() {
    let files = files();
    let pages: Vec<Page> = files.iter().flat_map(|file| load(file)).collect();
    println!(
        "{} pages of {} files, {} same-filled; {}",
        pages.len(),
        files.len(),
        pages
            .iter()
            .filter(|p| page_same_filled(p).is_some())
            .count(),
        cpu()
    );
    if std::env::var("TIME").is_ok() {
        time(&pages);
        return;
    }
    memory(&pages);
    time(&pages);
    threads(&pages);
    attach(&pages);
}

fn store(pages: u64) -> Arc<Store> {
    let config = Config::new(pages * PAGE_SIZE as u64, Arc::new(Lz4::new()));
    let memory = Memory::anonymous(config.memory_bytes().unwrap()).unwrap();
    Arc::new(Store::create(config, memory).unwrap())
}

/// All that the store takes for what it keeps.
fn taken(stats: &Stats) -> u64 {
    stats.mem_used_total + stats.table_bytes + stats.overhead_bytes
}

fn memory(pages: &[Page]) {
    println!(
        "\nmemory                      compressed      taken   ratio  (objects  table  slabs)"
    );
    let line = |what: &str, stats: &Stats| {
        let part = |bytes: u64| bytes as f64 / stats.compr_data_size as f64;
        println!(
            "{what:26} {:11} {:10}  {:6.4}  ({:.4} {:.4} {:.4})",
            stats.compr_data_size,
            taken(stats),
            part(taken(stats)),
            part(stats.mem_used_total),
            part(stats.table_bytes),
            part(stats.overhead_bytes),
        );
    };
    let count = pages.len() as u64;
    let store = store(count);
    let mut worker = store.worker();
    for (index, page) in (0..).zip(pages) {
        worker.write(index, page).unwrap();
    }
    line("filled, one thread", &store.stats());
    let mut random = 1u64;
    let mut below = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    for index in 0..count {
        if below(2) == 0 {
            worker.discard(index, 1).unwrap();
        }
    }
    line("a random half freed", &store.stats());
    let start = Instant::now();
    store.compact();
    let seconds = start.elapsed().as_secs_f64();
    line("compacted", &store.stats());
    println!("compaction took {:.1} ms", seconds * 1e3);
    for _ in 0..4 * count {
        let index = below(count);
        worker.write(index, &pages[below(count) as usize]).unwrap();
    }
    line("overwritten at random", &store.stats());
    store.compact();
    line("compacted", &store.stats());
    worker.discard(0, count).unwrap();
    let stats = store.stats();
    println!(
        "discarded: {} bytes taken, {} kept ready",
        taken(&stats),
        stats.reserve_bytes
    );
}

/// What a contestant does with a batch of numbered pages.
type Run<'a> = &'a mut dyn FnMut(&[(u64, &Page)]);

/// Median nanoseconds a page of each run over batches of `pages`, in turns.
fn turns(pages: &[Page], runs: &mut [Run<'_>]) -> Vec<f64> {
    let indexed: Vec<(u64, &Page)> = (0..).zip(pages).collect();
    let mut times = vec![Vec::new(); runs.len()];
    for _ in 0..ROUNDS {
        for batch in indexed.chunks(BATCH) {
            for (run, times) in runs.iter_mut().zip(&mut times) {
                let start = Instant::now();
                run(batch);
                times.push(start.elapsed().as_nanos() as f64 / batch.len() as f64);
            }
        }
    }
    // The mean over the batches of each one's median over the rounds.
    let batches = indexed.len().div_ceil(BATCH);
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mean = |times: &Vec<f64>| {
        let each =
            (0..batches).map(|b| median(times.iter().skip(b).step_by(batches).copied().collect()));
        each.sum::<f64>() / batches as f64
    };
    times.iter().map(mean).collect()
}

fn time(pages: &[Page]) {
    let pages: Vec<Page> = pages
        .iter()
        .filter(|page| page_same_filled(page).is_none())
        .cloned()
        .collect();
    let codec = Lz4::new();
    let (mut first, mut second) = (Scratch::new(), Scratch::new());
    let blocks: Vec<Vec<u8>> = pages
        .iter()
        .map(|page| {
            let mut out = [0; PAGE_SIZE];
            let length = codec.compress(page, &mut out, &mut first).unwrap_or(0);
            out[..length].to_vec()
        })
        .collect();
    let store = store(pages.len() as u64);
    let (mut writer, mut reader, mut ahead) = (store.worker(), store.worker(), store.worker());
    for (index, page) in (0..).zip(&pages) {
        writer.write(index, page).unwrap();
    }
    // As much memory as the store takes, so that both write to memory that is in no cache.
    let mut kept = vec![1u8; store.stats().mem_used_total as usize + PAGE_SIZE];
    let mut at = 0;
    let mut out = Box::new([0; PAGE_SIZE]);
    let mut back = Page::boxed();
    let (mut read, mut next) = (Page::boxed(), Page::boxed());
    let times = turns(
        &pages,
        &mut [
            // Codec and copy, writing.
            &mut |batch| {
                for (_, page) in batch {
                    let length = codec.compress(page, &mut out[..3832], &mut first);
                    let block = length.map_or(&page[..], |length| &out[..length]);
                    if at + block.len() > kept.len() {
                        at = 0;
                    }
                    kept[at..at + block.len()].copy_from_slice(block);
                    at += block.len();
                }
            },
            // Store, writing.
            &mut |batch| {
                for (index, page) in batch {
                    writer.write(*index, page).unwrap();
                }
            },
            // Codec and copy, reading.
            &mut |batch| {
                for (index, page) in batch {
                    let block = &blocks[*index as usize];
                    if block.is_empty() {
                        back.copy_from_slice(&page[..]);
                    } else {
                        let copy = &mut [0; PAGE_SIZE][..block.len()];
                        copy.copy_from_slice(block);
                        codec.decompress(copy, &mut back, &mut second).unwrap();
                    }
                }
            },
            // Store, reading.
            &mut |batch| {
                for (index, _) in batch {
                    reader.read(*index, &mut read).unwrap();
                }
            },
            // Store, reading, with the next page known, as in a request for many.
            &mut |batch| {
                for (index, _) in batch {
                    ahead.expect(*index + 1);
                    ahead.read(*index, &mut next).unwrap();
                }
            },
        ],
    );
    println!("\ntime                 codec and copy    store   ratio");
    let [write, stored, read, loaded, expected] = times[..] else {
        unreachable!("as many as there are runs")
    };
    for (what, bare, store) in [
        ("writing", write, stored),
        ("reading", read, loaded),
        ("reading, next known", read, expected),
    ] {
        println!(
            "{what:20} {bare:11.0} ns {store:5.0} ns  {:6.3}",
            store / bare
        );
    }
}

/// Pages a second of `count` threads that each write and read random pages of the whole store.
fn rate(store: &Arc<Store>, pages: &[Page], count: u64) -> f64 {
    const OPERATIONS: u64 = 40_000;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..count {
            scope.spawn(move || {
                let mut worker: Worker = store.worker();
                let mut back = Page::boxed();
                let mut random = 77 + thread;
                for number in 0..OPERATIONS {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let index = random % pages.len() as u64;
                    if number % 2 == 0 {
                        worker.write(index, &pages[index as usize]).unwrap();
                    } else {
                        worker.read(index, &mut back).unwrap();
                    }
                }
            });
        }
    });
    (count * OPERATIONS) as f64 / start.elapsed().as_secs_f64()
}

fn threads(pages: &[Page]) {
    let store = store(pages.len() as u64);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    rate(&store, pages, 1);
    for _ in 0..ROUNDS {
        one.push(rate(&store, pages, 1));
        two.push(rate(&store, pages, 2));
    }
    one.sort_by(f64::total_cmp);
    two.sort_by(f64::total_cmp);
    let (one, two) = (one[ROUNDS / 2], two[ROUNDS / 2]);
    println!(
        "\nthreads, half writing, half reading at random: {:.0} and {:.0} pages/s, {:.2} times",
        one,
        two,
        two / one
    );
}

/// How long another process needs to go on with a large store.
fn attach(pages: &[Page]) {
    let room = available();
    let count = (ATTACHED / PAGE_SIZE as u64).min(room / 2 / 1600);
    let config = || Config::new(count * PAGE_SIZE as u64, Arc::new(Lz4::new()));
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let bytes = config().memory_bytes().unwrap();
    let memory = Memory::from_file(file.try_clone().unwrap(), bytes).unwrap();
    let store = Arc::new(Store::create(config(), memory).unwrap());
    let mut worker = store.worker();
    for (index, page) in (0..count).zip(pages.iter().cycle()) {
        worker.write(index, page).unwrap();
    }
    let before = store.stats();
    drop((worker, store));
    let mut times: Vec<f64> = (0..3)
        .map(|_| {
            let start = Instant::now();
            let memory = Memory::attach(file.try_clone().unwrap()).unwrap();
            let store = Store::attach(config(), memory).unwrap();
            let seconds = start.elapsed().as_secs_f64();
            assert_eq!(store.stats().compr_data_size, before.compr_data_size);
            seconds
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "attaching to {count} pages, {} MB compressed: {:.0} ms",
        before.compr_data_size / 1_000_000,
        times[1] * 1e3
    );
}

fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(1 << 20)
        * 1024
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split(": ").nth(1));
    name.unwrap_or("an unknown CPU").to_owned()
}

fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let named: Vec<PathBuf> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .map(PathBuf::from)
        .collect();
    if !named.is_empty() {
        return named;
    }
    let large =
        std::env::var_os("TRUENO_CORPUS").map_or(root.join("../shared/corpus"), PathBuf::from);
    let entries = std::fs::read_dir(large).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(".pages.zst"))
        .collect();
    found.sort();
    if found.is_empty() {
        found.push(root.join("tests/data/pages.zst"));
    }
    found
}

fn load(path: &Path) -> Vec<Page> {
    let packed = std::fs::read(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let mut decoder = zstd_safe::DCtx::create();
    decoder
        .set_parameter(zstd_safe::DParameter::WindowLogMax(31))
        .unwrap();
    let mut input = zstd_safe::InBuffer::around(&packed);
    let (mut bytes, mut part) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let mut output = zstd_safe::OutBuffer::around(&mut part[..]);
        let missing = decoder.decompress_stream(&mut output, &mut input);
        let missing = missing.unwrap_or_else(|_| panic!("{} is no zstd file", path.display()));
        bytes.extend_from_slice(output.as_slice());
        if missing == 0 {
            return bytes.as_chunks().0.iter().map(|page| Page(*page)).collect();
        }
    }
}
