//! A store is a map from page numbers to pages: random operations against a plain map.
//!
//! A failed run names its seed; `STORE_MODEL_SEED=n` repeats it, `STORE_MODEL_SEEDS=n` runs more.

mod common;

use common::Random;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use trueno_zram_core::codec::lz4::Lz4;
use trueno_zram_core::{Choice, Codec, PAGE_SIZE, Page, PageBytes, Selector};
use trueno_zram_store::{ClassStats, Config, Growth, Memory, Stats, Store, Worker, WriteError};

/// Skips some pages, so that huge pages arise from both reasons.
struct SomeRaw;

impl Selector for SomeRaw {
    fn select(&self, page: &PageBytes) -> Choice {
        if page[17].is_multiple_of(8) {
            Choice::Raw
        } else {
            Choice::Codec(0)
        }
    }
}

fn config(random: &mut Random, pages: u64) -> Config {
    let codec: Arc<dyn Codec> = Arc::new(Lz4::new());
    let mut config = Config::new(pages * PAGE_SIZE as u64, codec);
    config.selector = Arc::new(SomeRaw);
    config.growth = match random.below(4) {
        0 => Growth::Reserve(1 << 20),
        1 => Growth::Populated,
        _ => Growth::OnDemand,
    };
    if random.below(3) == 0 {
        config.mem_limit = Some((1 << 20) + random.below(1 << 20));
    }
    config
}

fn make(config: Config, file: bool) -> Arc<Store> {
    if file {
        return make_in(&tempfile::tempfile_in("/dev/shm").unwrap(), config);
    }
    let memory = Memory::anonymous(config.memory_bytes().unwrap());
    Arc::new(Store::create(config, memory.unwrap()).unwrap())
}

fn make_in(file: &File, config: Config) -> Arc<Store> {
    let bytes = config.memory_bytes().unwrap();
    let memory = Memory::from_file(file.try_clone().unwrap(), bytes);
    Arc::new(Store::create(config, memory.unwrap()).unwrap())
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("STORE_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STORE_MODEL_SEEDS").unwrap_or(default),
    }
}

/// A page: zeros, one small word, one word that fits no entry, noise, or anything from nearly empty
/// to nearly noise.
fn any_page(random: &mut Random) -> Page {
    let mut page = Page::ZERO;
    match random.below(10) {
        0 => {}
        1 => page.fill(random.next() as u8),
        2 => {
            let word = random.next();
            page.as_chunks_mut::<8>().0.fill(word.to_ne_bytes());
        }
        3 => random.bytes(&mut page[..]),
        _ => {
            let noise = random.below(PAGE_SIZE as u64) as usize;
            page.fill(b'a' + random.below(20) as u8);
            random.bytes(&mut page[..noise]);
        }
    }
    page
}

/// Some writes may fail when there is a limit or a reserve; then nothing has changed.
fn may_fail(store: &Store, error: WriteError) -> bool {
    let stats: Stats = store.stats();
    match error {
        WriteError::Limit => stats.mem_limit > 0,
        WriteError::NoMemory => stats.reserve_target > 0,
        _ => false,
    }
}

/// One random operation on the pages `base..base + pages`, of which this thread is the only writer.
fn step(
    random: &mut Random,
    worker: &mut Worker,
    model: &mut BTreeMap<u64, Page>,
    base: u64,
    pages: u64,
) -> Result<(), String> {
    let index = base + random.below(pages);
    let before = model.get(&index).cloned().unwrap_or_default();
    let (result, after) = match random.below(16) {
        0..6 => {
            let page = any_page(random);
            (worker.write(index, &page), page)
        }
        6..8 => {
            let offset = random.below(PAGE_SIZE as u64) as usize;
            let len = 1 + random.below((PAGE_SIZE - offset) as u64) as usize;
            let mut bytes = vec![0; len];
            random.bytes(&mut bytes);
            let mut page = before;
            page[offset..offset + len].copy_from_slice(&bytes);
            (worker.write_part(index, offset, &bytes), page)
        }
        8 => {
            let offset = random.below(PAGE_SIZE as u64) as usize;
            let len = random.below((PAGE_SIZE - offset) as u64) as usize;
            let mut page = before;
            page[offset..offset + len].fill(0);
            (worker.zero_part(index, offset, len), page)
        }
        9..11 => {
            let count = random.below((base + pages - index).min(40) + 1);
            worker
                .discard(index, count)
                .map_err(|error| format!("discard: {error}"))?;
            for page in index..index + count {
                model.remove(&page);
            }
            return Ok(());
        }
        _ => {
            let mut page = Page::ZERO;
            worker
                .read(index, &mut page)
                .map_err(|error| format!("read {index}: {error}"))?;
            return if page == before {
                Ok(())
            } else {
                Err(format!("page {index} differs"))
            };
        }
    };
    match result {
        Ok(()) => drop(model.insert(index, after)),
        Err(error) if may_fail(worker.store(), error) => {}
        Err(error) => return Err(format!("write {index}: {error}")),
    }
    Ok(())
}

/// Whether the figures add up.
fn adds_up(store: &Store, model: &BTreeMap<u64, Page>) -> Result<(), String> {
    let (stats, classes) = (store.stats(), store.classes());
    let sum = |figure: fn(&ClassStats) -> u64| classes.iter().map(figure).sum::<u64>();
    let claims = [
        // Zeros in a page that was never written store nothing.
        stats.pages_stored <= model.len() as u64,
        stats.orig_data_size == stats.pages_stored * PAGE_SIZE as u64,
        stats.pages_stored == stats.same_pages + stats.compressed_pages + stats.huge_pages,
        stats.same_pages >= stats.zero_pages,
        // Beside compressed pages, same-filled ones of a word that fits in no entry.
        (stats.compressed_pages..=stats.compressed_pages + stats.same_pages)
            .contains(&stats.objects),
        stats.objects == sum(|class| class.objects),
        stats.mem_used_total == (sum(|class| class.frames) + stats.huge_pages) * PAGE_SIZE as u64,
        stats.compr_data_size
            <= sum(|class| class.objects * class.slot_bytes) + stats.huge_pages * PAGE_SIZE as u64,
        stats.mem_used_max >= stats.mem_used_total,
        classes.iter().all(|class| class.objects <= class.slots),
        classes.is_sorted_by_key(|class| class.slot_bytes),
    ];
    match claims.iter().position(|holds| !holds) {
        Some(claim) => Err(format!("claim {claim}: {stats:?}, {classes:?}")),
        None => Ok(()),
    }
}

fn verify(worker: &mut Worker, model: &BTreeMap<u64, Page>, pages: std::ops::Range<u64>) {
    let mut page = Page::ZERO;
    for index in pages {
        worker.read(index, &mut page).unwrap();
        assert!(
            page == model.get(&index).cloned().unwrap_or_default(),
            "page {index} differs"
        );
    }
}

#[test]
fn random_operations_match_a_map() {
    for seed in seeds(2000) {
        let mut random = Random::new(seed);
        let pages = 1 + random.below(1500);
        let store = make(config(&mut random, pages), seed % 4 == 0);
        let mut worker = store.worker();
        let mut model = BTreeMap::new();
        for number in 0..300 {
            if let Err(what) = step(&mut random, &mut worker, &mut model, 0, pages) {
                panic!("seed {seed}, operation {number}: {what}");
            }
            if random.below(4) == 0 {
                store.maintain().unwrap();
            }
            if random.below(50) == 0 {
                store.compact();
            }
            if number % 4 == 0
                && let Err(what) = adds_up(&store, &model)
            {
                panic!("seed {seed}, operation {number}: {what}");
            }
        }
        store
            .check()
            .unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        verify(&mut worker, &model, 0..pages);
        worker.discard(0, pages).unwrap();
        drop(worker);
        store
            .check()
            .unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        let stats = store.stats();
        assert_eq!(
            (stats.pages_stored, stats.mem_used_total),
            (0, 0),
            "seed {seed}"
        );
    }
}

/// One process after the other goes on with a store, each with another configuration.
#[test]
fn a_store_that_is_attached_again_and_again_matches_a_map() {
    for seed in seeds(200) {
        let mut random = Random::new(seed ^ 0xa77a);
        let pages = 1 + random.below(1500);
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let mut store = make_in(&file, config(&mut random, pages));
        let mut model = BTreeMap::new();
        for round in 0..6 {
            let mut worker = store.worker();
            for number in 0..100 {
                if let Err(what) = step(&mut random, &mut worker, &mut model, 0, pages) {
                    panic!("seed {seed}, round {round}, operation {number}: {what}");
                }
                if random.below(4) == 0 {
                    store.maintain().unwrap();
                }
            }
            if random.below(2) == 0 {
                store.compact();
            }
            let before = store.stats();
            drop((worker, store));
            let memory = Memory::attach(file.try_clone().unwrap()).unwrap();
            store = Arc::new(Store::attach(config(&mut random, pages), memory).unwrap());
            store
                .check()
                .unwrap_or_else(|what| panic!("seed {seed}, round {round}: {what}"));
            let after = store.stats();
            assert_eq!(
                (after.pages_stored, after.same_pages, after.compr_data_size),
                (
                    before.pages_stored,
                    before.same_pages,
                    before.compr_data_size
                ),
                "seed {seed}"
            );
            assert!(after.mem_used_total <= before.mem_used_total, "seed {seed}");
            verify(&mut store.worker(), &model, 0..pages);
        }
        store.worker().discard(0, pages).unwrap();
        assert_eq!(store.stats().mem_used_total, 0, "seed {seed}");
    }
}

/// Each thread owns a part of the pages and checks them against a map; all of them also write and
/// read a common part, in which a page must always be one that somebody wrote as a whole.
#[test]
fn threads_keep_to_the_map_and_never_see_half_a_page() {
    for seed in seeds(300) {
        let mut random = Random::new(seed ^ 0x7ead);
        let (threads, own, common) = (2 + random.below(3), 200, 8);
        let pages = threads * own + common;
        let store = make(config(&mut random, pages), seed % 4 == 0);
        let bad = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (store, bad) = (&store, &bad);
                scope.spawn(move || {
                    let mut random = Random::new(seed << 8 | thread);
                    let mut worker = store.worker();
                    let mut model = BTreeMap::new();
                    let base = thread * own;
                    for number in 0..300 {
                        if let Err(what) = step(&mut random, &mut worker, &mut model, base, own) {
                            panic!("seed {seed}, thread {thread}, operation {number}: {what}");
                        }
                        let page = threads * own + random.below(common);
                        bad.fetch_add(
                            shared_step(&mut random, &mut worker, page),
                            Ordering::Relaxed,
                        );
                        if thread == 0 {
                            store.maintain().unwrap();
                            store.compact();
                        }
                    }
                    verify(&mut worker, &model, base..base + own);
                });
            }
        });
        assert_eq!(bad.load(Ordering::Relaxed), 0, "seed {seed}");
        store
            .check()
            .unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        let mut worker = store.worker();
        worker.discard(0, pages).unwrap();
        drop(worker);
        store
            .check()
            .unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert_eq!(store.stats().mem_used_total, 0, "seed {seed}");
    }
}

/// A page in the common part is noise made from its first word, or zeros. Returns the number of
/// pages seen that are neither.
fn shared_step(random: &mut Random, worker: &mut Worker, index: u64) -> u64 {
    let made_from = |word: u64| {
        let mut page = Page::ZERO;
        let noise = (word % PAGE_SIZE as u64) as usize;
        Random::new(word).bytes(&mut page[..noise.max(8)]);
        page[..8].copy_from_slice(&word.to_ne_bytes());
        page
    };
    match random.below(8) {
        0..3 => {
            let page = made_from(random.next() | 1);
            match worker.write(index, &page) {
                Ok(()) => 0,
                Err(error) => !may_fail(worker.store(), error) as u64,
            }
        }
        3 => worker.discard(index, 1).is_err() as u64,
        _ => {
            let mut page = Page::ZERO;
            worker.read(index, &mut page).unwrap();
            let word = u64::from_ne_bytes(page[..8].try_into().unwrap());
            (page
                != if word == 0 {
                    Page::ZERO
                } else {
                    made_from(word)
                }) as u64
        }
    }
}

/// Two threads change different sectors of one page; no change may be lost.
#[test]
fn partial_writes_to_one_page_lose_nothing() {
    let store = make(Config::new(1 << 20, Arc::new(Lz4::new())), false);
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let store = &store;
            scope.spawn(move || {
                let mut worker = store.worker();
                let mut page = Page::ZERO;
                for round in 1..2000u32 {
                    let bytes = [round as u8 ^ thread as u8; 512];
                    worker.write_part(3, thread * 512, &bytes).unwrap();
                    worker.read(3, &mut page).unwrap();
                    assert_eq!(
                        &page[thread * 512..(thread + 1) * 512],
                        &bytes,
                        "round {round}"
                    );
                }
            });
        }
    });
    store.check().unwrap();
}

/// Two threads fill and thin out their pages, all of nearly one size, so that sparse slabs arise
/// all the time, while a third moves objects together.
#[test]
fn compaction_beside_writers_moves_every_object_right() {
    let stop = std::sync::atomic::AtomicBool::new(false);
    for seed in seeds(6) {
        let store = make(Config::new(64 << 20, Arc::new(Lz4::new())), seed % 2 == 0);
        stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2u64)
                .map(|thread| {
                    let store = &store;
                    scope.spawn(move || {
                        let mut random = Random::new(seed << 8 | thread);
                        let mut worker = store.worker();
                        let mut model = BTreeMap::new();
                        let base = thread * 2000;
                        for _ in 0..8 {
                            for index in base..base + 2000 {
                                let mut page = Page([b'n'; PAGE_SIZE]);
                                let noise = 1000 + random.below(40) as usize;
                                random.bytes(&mut page[..noise]);
                                worker.write(index, &page).unwrap();
                                model.insert(index, page);
                            }
                            for index in base..base + 2000 {
                                if random.below(5) > 0 {
                                    worker.discard(index, 1).unwrap();
                                    model.remove(&index);
                                }
                            }
                            verify(&mut worker, &model, base..base + 2000);
                        }
                    })
                })
                .collect();
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    store.compact();
                }
            });
            for writer in writers {
                writer.join().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        store
            .check()
            .unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        assert!(
            store.stats().pages_compacted > 100,
            "seed {seed}: nothing was moved"
        );
    }
}
