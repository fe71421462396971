//! What a store promises, one claim a test.

mod common;

use common::Random;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use trueno_zram_core::codec::lz4::Lz4;
use trueno_zram_core::codec::zstd::{Dictionary, Zstd};
use trueno_zram_core::{
    Algorithm, Choice, Outcome, PAGE_SIZE, Page, PageBytes, Selector, codec_for,
};
use trueno_zram_store::{
    Config, CreateError, Growth, Memory, Met, ReadError, Store, Worker, WriteError,
};

fn store(config: Config) -> Arc<Store> {
    let memory = Memory::anonymous(config.memory_bytes().unwrap()).unwrap();
    Arc::new(Store::create(config, memory).unwrap())
}

fn noise(seed: u64) -> Page {
    let mut page = Page::ZERO;
    Random::new(seed).bytes(&mut page[..]);
    page
}

#[test]
fn same_filled_pages_take_no_memory_unless_their_word_is_odd() {
    let store = store(Config::new(1 << 20, Arc::new(Lz4::new())));
    let mut worker = store.worker();
    let mut back = Page::ZERO;
    let words = [0, 1, u64::MAX, 0x5a5a_5a5a_5a5a_5a5a, 0x7123_4567_89ab_cdef];
    for (index, word) in words.into_iter().enumerate() {
        let mut page = Page::ZERO;
        page.as_chunks_mut::<8>().0.fill(word.to_ne_bytes());
        worker.write(index as u64, &page).unwrap();
        worker.read(index as u64, &mut back).unwrap();
        assert_eq!(page, back);
        let used = store.stats().mem_used_total;
        assert_eq!(
            used > 0,
            word == 0x7123_4567_89ab_cdef,
            "word {word:x}: {used} bytes"
        );
    }
    let stats = store.stats();
    assert_eq!(
        (stats.pages_stored, stats.same_pages, stats.zero_pages),
        (5, 5, 1)
    );
    assert_eq!((stats.compr_data_size, stats.huge_pages), (0, 0));
}

#[test]
fn a_selector_that_learns_is_told_what_codecs_make_of_pages() {
    #[derive(Default)]
    struct Pupil(Mutex<Vec<(u8, Vec<Outcome>)>>);
    impl Selector for Pupil {
        fn select(&self, _page: &PageBytes) -> Choice {
            Choice::Codec(0)
        }
        fn learns(&self) -> usize {
            2
        }
        fn observe(&self, page: &PageBytes, outcomes: &[Outcome]) {
            self.0.lock().unwrap().push((page[0], outcomes.to_vec()));
        }
    }
    let codec = |algorithm| codec_for(algorithm).unwrap().unwrap();
    let pupil = Arc::new(Pupil::default());
    let mut config = Config::new(1 << 20, codec(Algorithm::Lz4));
    config.codecs.push(codec(Algorithm::Zstd1));
    config.codecs.push(codec(Algorithm::Zstd3));
    config.selector = pupil.clone();
    let mut worker = store(config).worker();
    for number in 0..=128u8 {
        let mut page = Page::ZERO;
        match number {
            64 => page.fill(number),
            _ => page[..2].copy_from_slice(&[number, 1]),
        }
        worker.write(u64::from(number), &page).unwrap();
    }
    let mut back = Page::ZERO;
    worker.read(128, &mut back).unwrap();
    assert_eq!(back[..3], [128, 1, 0]);
    let told = pupil.0.lock().unwrap();
    // The page between them is one repeated byte, for which there is nothing to choose.
    let pages: Vec<u8> = told.iter().map(|(first, _)| *first).collect();
    assert_eq!(pages, [0, 128]);
    for (_, outcomes) in told.iter() {
        assert_eq!(outcomes.len(), 2);
        for outcome in outcomes {
            assert!((1..100).contains(&outcome.bytes), "{outcome:?}");
            assert!((1..u32::MAX).contains(&outcome.ns), "{outcome:?}");
        }
    }
}

#[test]
fn pages_of_two_dictionaries_are_read_each_with_its_own() {
    struct Second;
    impl Selector for Second {
        fn select(&self, page: &PageBytes) -> Choice {
            Choice::Codec(page[0] - b'0')
        }
    }
    let page = |kind: usize, seed: usize| {
        let mut page = Page::ZERO;
        for (i, line) in page.chunks_exact_mut(32).enumerate() {
            let text = format!(
                "{kind} line {} of {}",
                (seed * 31 + i) % 211,
                7919 + i * seed
            );
            line[..text.len()].copy_from_slice(text.as_bytes());
        }
        page
    };
    let codec = |kind| {
        let samples: Vec<Page> = (0..200).map(|seed| page(kind, seed)).collect();
        let dictionary = Dictionary::train(samples.iter().map(|page| &**page), 8192).unwrap();
        Arc::new(Zstd::new(1).unwrap().with_dictionary(Arc::new(dictionary)))
    };
    let mut config = Config::new(1 << 20, codec(0));
    config.codecs.push(codec(1));
    config.selector = Arc::new(Second);
    let store = store(config);
    let mut worker = store.worker();
    for index in 0..40 {
        worker
            .write(index, &page(index as usize % 2, 300 + index as usize))
            .unwrap();
    }
    let mut back = Page::ZERO;
    for index in 0..40 {
        worker.read(index, &mut back).unwrap();
        assert_eq!(back, page(index as usize % 2, 300 + index as usize));
    }
}

#[test]
fn a_huge_page_takes_a_page() {
    let store = store(Config::new(16 << 20, Arc::new(Lz4::new())));
    let mut worker = store.worker();
    for index in 0..1024 {
        worker.write(index, &noise(index)).unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.huge_pages, stats.huge_pages_since), (1024, 1024));
    assert_eq!(
        (stats.compr_data_size, stats.mem_used_total),
        (4 << 20, 4 << 20)
    );
}

#[test]
fn at_the_limit_writes_fail_and_everything_else_goes_on() {
    let mut config = Config::new(64 << 20, Arc::new(Lz4::new()));
    config.mem_limit = Some(2 << 20);
    let store = store(config);
    let mut worker = store.worker();
    let mut full = 0;
    while worker.write(full, &noise(full)).is_ok() {
        full += 1;
    }
    assert_eq!(full, 512, "2 MiB hold 512 huge pages");
    assert_eq!(worker.write(full, &noise(full)), Err(WriteError::Limit));
    let mut page = Page::ZERO;
    for index in 0..full {
        worker.read(index, &mut page).unwrap();
        assert_eq!(page, noise(index));
    }
    worker.write(3, &Page::ZERO).unwrap();
    worker.write(full, &noise(full)).unwrap();
    worker.discard(0, 100).unwrap();
    for index in 0..99 {
        worker.write(index, &noise(index)).unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.failed_writes, stats.failed_limit), (2, 2));
    assert_eq!(stats.pages_written, 512 + 2 + 99, "failed writes are none");
    assert!(stats.mem_used_max <= stats.mem_limit);
    store.set_mem_limit(Some(3 << 20)).unwrap();
    worker.write(1000, &noise(1)).unwrap();
    assert!(matches!(
        store.set_mem_limit(Some(4095)),
        Err(CreateError::MemLimit(4095))
    ));
    drop(worker);
    store.check().unwrap();
}

#[test]
fn a_failed_overwrite_keeps_the_old_page() {
    let mut config = Config::new(64 << 20, Arc::new(Lz4::new()));
    config.mem_limit = Some(1 << 20);
    let store = store(config);
    let mut worker = store.worker();
    worker.write(0, &Page([7; PAGE_SIZE])).unwrap();
    let mut index = 1;
    while worker.write(index, &noise(index)).is_ok() {
        index += 1;
    }
    assert_eq!(worker.write(0, &noise(0)), Err(WriteError::Limit));
    assert_eq!(
        worker.write_part(0, 8, &noise(0)[..1000]),
        Err(WriteError::Limit)
    );
    let mut page = Page::ZERO;
    worker.read(0, &mut page).unwrap();
    assert_eq!(page, Page([7; PAGE_SIZE]));
}

#[test]
fn an_empty_reserve_fails_at_once_and_maintenance_fills_it() {
    let mut config = Config::new(64 << 20, Arc::new(Lz4::new()));
    config.growth = Growth::Reserve(1 << 20);
    let store = store(config);
    let stats = store.stats();
    assert_eq!(
        (stats.reserve_bytes, stats.reserve_target),
        (1 << 20, 1 << 20)
    );
    let mut worker = store.worker();
    let mut index = 0;
    while worker.write(index, &noise(index)).is_ok() {
        index += 1;
    }
    assert_eq!(index, 256);
    assert_eq!(store.stats().failed_memory, 1);
    while store.maintain().unwrap() {}
    assert_eq!(store.stats().reserve_bytes, 1 << 20);
    worker.write(index, &noise(index)).unwrap();
    assert_eq!(store.stats().reserve_min, 0);
}

#[test]
fn an_empty_reserve_is_used_up_before_a_write_fails() {
    let mut config = Config::new(64 << 20, Arc::new(Lz4::new()));
    config.growth = Growth::Reserve(1 << 20);
    let store = store(config);
    let mut worker = store.worker();
    // Each size class wants a slab of its own, and there are fewer slabs than classes.
    let page = |index: u64| {
        let mut page = Page::ZERO;
        let random = 200 + (index * 1_237 % 3_400) as usize;
        page[..random].copy_from_slice(&noise(index)[..random]);
        page
    };
    let mut index = 0;
    while worker.write(index, &page(index)).is_ok() {
        index += 1;
    }
    let stored = store.stats().compr_data_size;
    assert!(stored > 700 << 10, "{stored} bytes of a MiB are used");
    while store.maintain().unwrap() {}
    store.compact();
    let mut back = Page::ZERO;
    for index in 0..index {
        worker.read(index, &mut back).unwrap();
        assert_eq!(back, page(index));
    }
    worker.discard(0, index).unwrap();
    drop(worker);
    store.check().unwrap();
    assert_eq!(store.stats().mem_used_total, 0);
}

#[test]
fn memory_above_the_reserve_goes_back_to_the_system() {
    let mut config = Config::new(64 << 20, Arc::new(Lz4::new()));
    config.growth = Growth::Reserve(1 << 20);
    let store = store(config);
    let mut worker = store.worker();
    for index in 0..4096 {
        worker.write(index, &noise(index)).unwrap();
        store.maintain().unwrap();
    }
    worker.discard(0, 4096).unwrap();
    while store.maintain().unwrap() {}
    let stats = store.stats();
    assert_eq!(stats.mem_used_total, 0);
    assert!(stats.reserve_bytes <= 3 << 20, "{}", stats.reserve_bytes);
    store.check().unwrap();
}

#[test]
fn a_discarded_store_gives_its_memory_back() {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let blocks = |file: &std::fs::File| {
        use std::os::unix::fs::MetadataExt;
        file.metadata().unwrap().blocks() * 512
    };
    let config = Config::new(1 << 40, Arc::new(Lz4::new()));
    let memory =
        Memory::from_file(file.try_clone().unwrap(), config.memory_bytes().unwrap()).unwrap();
    let store = Arc::new(Store::create(config, memory).unwrap());
    let mut worker = store.worker();
    worker.discard(0, store.pages()).unwrap();
    let mut page = Page::ZERO;
    for index in (0..store.pages()).step_by(100_003) {
        worker.read(index, &mut page).unwrap();
    }
    assert_eq!(
        blocks(&file),
        PAGE_SIZE as u64,
        "looking at an untouched TiB costs nothing"
    );
    for index in 0..8192 {
        worker.write(index * 7, &noise(index)).unwrap();
    }
    assert!(blocks(&file) >= 32 << 20);
    worker.discard(0, store.pages()).unwrap();
    drop(worker);
    assert!(blocks(&file) <= 3 << 20, "{} bytes are left", blocks(&file));
}

#[test]
fn a_flipped_bit_is_an_error_and_never_a_wrong_page() {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let config = Config::new(1 << 20, Arc::new(Lz4::new()));
    let bytes = config.memory_bytes().unwrap();
    let start = config.arena_offset().unwrap();
    let memory = Memory::from_file(file.try_clone().unwrap(), bytes).unwrap();
    let store = Arc::new(Store::create(config, memory).unwrap());
    let mut worker = store.worker();
    let mut random = Random::new(5);
    let mut page = Page::ZERO;
    page.fill(b'x');
    random.bytes(&mut page[..900]);
    let pages = [page, noise(1)];
    for (index, page) in pages.iter().enumerate() {
        worker.write(index as u64, page).unwrap();
    }
    // The first two frames: the slab of the first page's object, and the second page.
    let mut arena = vec![0; 2 * PAGE_SIZE];
    file.read_exact_at(&mut arena, start).unwrap();
    let used: Vec<usize> = (0..arena.len()).filter(|at| arena[*at] != 0).collect();
    let mut back = Page::ZERO;
    let mut found = 0;
    for _ in 0..3000 {
        let at = used[random.below(used.len() as u64) as usize];
        let bit = 1 << random.below(8);
        file.write_all_at(&[arena[at] ^ bit], start + at as u64)
            .unwrap();
        for (index, page) in pages.iter().enumerate() {
            match worker.read(index as u64, &mut back) {
                Ok(()) => assert!(back == *page, "byte {at}: wrong bytes"),
                Err(error) => {
                    assert_eq!(error, ReadError::Corrupt);
                    found += 1;
                }
            }
        }
        file.write_all_at(&[arena[at]], start + at as u64).unwrap();
    }
    assert_eq!(found, 3000, "every bit counts");
    let stats = store.stats();
    assert_eq!((stats.damaged_objects, stats.failed_reads), (3000, 3000));
    assert_eq!(
        stats.pages_read, 3000,
        "of two pages, one was read each time"
    );
}

/// The pages that `verify` calls damaged, and how many hold data.
fn verified(worker: &mut Worker) -> (Vec<u64>, u64) {
    let (mut damaged, pages) = (Vec::new(), worker.store().pages());
    let holding = worker.verify(0..pages, |page| damaged.push(page)).unwrap();
    (damaged, holding)
}

#[test]
fn verify_names_the_damaged_pages_and_those_alone() {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let config = Config::new(64 << 20, Arc::new(Lz4::new()));
    let bytes = config.memory_bytes().unwrap();
    let arena = config.arena_offset().unwrap();
    let memory = Memory::from_file(file.try_clone().unwrap(), bytes).unwrap();
    let store = Arc::new(Store::create(config, memory).unwrap());
    let mut worker = store.worker();
    // In three pages of the table: an object, a huge page, one word in the entry, one in an object.
    worker.write(700, &page_with_noise(1, 900)).unwrap();
    worker.write(3, &noise(2)).unwrap();
    let mut same = Page::ZERO;
    same.fill(7);
    worker.write(4000, &same).unwrap();
    let word = 0x7123_4567_89ab_cdef_u64;
    same.as_chunks_mut::<8>().0.fill(word.to_ne_bytes());
    worker.write(4001, &same).unwrap();
    assert_eq!(verified(&mut worker), (Vec::new(), 4));

    // A frame each, in the order of the writes: what is in it, and which page's it is.
    let mut frame = vec![0; PAGE_SIZE];
    let mut found = 0;
    for (number, page) in [700, 3, 4001].into_iter().enumerate() {
        let start = arena + (number * PAGE_SIZE) as u64;
        file.read_exact_at(&mut frame, start).unwrap();
        for at in (0..PAGE_SIZE).filter(|at| frame[*at] != 0) {
            let bit = 1 << (at % 8);
            file.write_all_at(&[frame[at] ^ bit], start + at as u64)
                .unwrap();
            assert_eq!(verified(&mut worker), (vec![page], 4), "byte {at}");
            file.write_all_at(&[frame[at]], start + at as u64).unwrap();
            found += 1;
        }
    }
    assert!(found > 4000, "only {found} bytes were tried");
    assert_eq!(verified(&mut worker), (Vec::new(), 4));

    // An entry that no program of ours writes, in the second page of the table.
    let entry = PAGE_SIZE as u64 + 700 * 8;
    let mut bits = [0; 8];
    file.read_exact_at(&mut bits, entry).unwrap();
    let flipped = u64::from_ne_bytes(bits) ^ (1 << 60);
    file.write_all_at(&flipped.to_ne_bytes(), entry).unwrap();
    for _ in 0..2 {
        assert_eq!(verified(&mut worker), (vec![700], 4));
    }
    file.write_all_at(&bits, entry).unwrap();

    let stats = store.stats();
    assert_eq!(stats.damaged_objects, found + 2, "once each time");
    assert_eq!((stats.pages_read, stats.failed_reads), (0, 0));
    let pages = store.pages();
    assert_eq!(
        worker.verify(pages..pages + 1, |_| {}),
        Err(ReadError::OutOfRange)
    );
    drop(worker);
    store.check().unwrap();
}

#[test]
fn whoever_meets_a_damaged_object_leaves_a_note() {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let config = Config::new(1 << 20, Arc::new(Lz4::new()));
    let bytes = config.memory_bytes().unwrap();
    let arena = config.arena_offset().unwrap();
    let memory = Memory::from_file(file.try_clone().unwrap(), bytes).unwrap();
    let store = Arc::new(Store::create(config, memory).unwrap());
    let mut worker = store.worker();
    let mut back = Page::ZERO;
    worker.write(5, &page_with_noise(1, 900)).unwrap();
    worker.read(5, &mut back).unwrap();
    worker.write_part(5, 0, &[1]).unwrap();
    worker.write(5, &page_with_noise(1, 900)).unwrap();
    let mut notes = Vec::new();
    assert_eq!(store.damage_since(0, |note| notes.push(note)), 0);

    // Every object's header, wherever page 5 lies now.
    file.write_all_at(&[0xff; PAGE_SIZE], arena).unwrap();
    assert_eq!(verified(&mut worker).0, [5]);
    assert!(worker.read(5, &mut back).is_err());
    assert!(worker.write_part(5, 0, &[1]).is_err());
    worker.write(5, &noise(1)).unwrap();
    worker.read(5, &mut back).unwrap();
    assert_eq!(store.damage_since(0, |note| notes.push(note)), 3);
    assert!(notes.iter().all(|note| note.page == 5), "{notes:?}");
    let met: Vec<Met> = notes.iter().map(|note| note.met).collect();
    assert_eq!(met, [Met::Reading, Met::Changing, Met::Replacing]);
    assert_eq!(store.stats().damaged_objects, 4);
}

#[test]
fn verify_takes_no_page_that_is_being_changed_for_damaged() {
    const PAGES: u64 = 24;
    let store = store(Config::new(1 << 20, Arc::new(Lz4::new())));
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut rounds, mut held) = (0, 0);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let mut worker = store.worker();
                let mut random = Random::new(thread);
                while !done.load(Relaxed) {
                    let index = random.below(PAGES);
                    match random.below(8) {
                        0 => worker.discard(index, 1).unwrap(),
                        1 => drop(store.compact()),
                        2 => worker.write_part(index, 100, &[1; 700]).unwrap(),
                        3 => worker.write(index, &noise(random.next())).unwrap(),
                        _ => {
                            let bytes = 100 + random.below(3000) as usize;
                            let page = page_with_noise(random.next(), bytes);
                            worker.write(index, &page).unwrap();
                        }
                    }
                }
            });
        }
        let mut worker = store.worker();
        let begin = std::time::Instant::now();
        while begin.elapsed() < std::time::Duration::from_millis(1500) {
            let (damaged, holding) = verified(&mut worker);
            if !damaged.is_empty() {
                done.store(true, Relaxed);
                panic!("pages {damaged:?} in round {rounds}");
            }
            rounds += 1;
            held += holding;
        }
        done.store(true, Relaxed);
    });
    assert!(
        rounds > 50 && held > rounds,
        "{held} pages, {rounds} rounds"
    );
    assert_eq!(store.stats().damaged_objects, 0);
    store.check().unwrap();
}

#[test]
fn pages_beyond_the_end_are_refused_and_counted() {
    let store = store(Config::new(1 << 20, Arc::new(Lz4::new())));
    let mut worker = store.worker();
    let mut page = Page::ZERO;
    assert_eq!(worker.read(256, &mut page), Err(ReadError::OutOfRange));
    assert_eq!(worker.write(256, &page), Err(WriteError::OutOfRange));
    assert_eq!(
        worker.write_part(u64::MAX, 0, &[1]),
        Err(WriteError::OutOfRange)
    );
    assert_eq!(worker.zero_part(256, 0, 1), Err(WriteError::OutOfRange));
    assert_eq!(worker.discard(255, 2), Err(WriteError::OutOfRange));
    assert_eq!(worker.discard(1, u64::MAX), Err(WriteError::OutOfRange));
    let stats = store.stats();
    assert_eq!(stats.invalid_io, 6);
    assert_eq!((stats.failed_reads, stats.failed_writes), (0, 0));
    assert_eq!((stats.pages_read, stats.pages_written), (0, 0));
}

/// What stays of many pages lies in slabs that are nearly empty, until compaction moves it together.
#[test]
fn compaction_gives_the_memory_of_sparse_slabs_back() {
    let mut config = Config::new(256 << 20, Arc::new(Lz4::new()));
    config.mem_limit = Some(64 << 20);
    let store = store(config);
    let mut worker = store.worker();
    let mut random = Random::new(9);
    let page = |index: u64| {
        let mut page = Page([b'c'; PAGE_SIZE]);
        let noise = 100 + (index * 7919 % 2000) as usize;
        Random::new(index).bytes(&mut page[..noise]);
        page
    };
    for index in 0..20_000 {
        worker.write(index, &page(index)).unwrap();
    }
    let full = store.stats();
    let kept: Vec<u64> = (0..20_000).filter(|_| random.below(20) == 0).collect();
    for index in 0..20_000 {
        if kept.binary_search(&index).is_err() {
            worker.discard(index, 1).unwrap();
        }
    }
    let sparse = store.stats();
    assert!(
        sparse.mem_used_total > full.mem_used_total / 2,
        "not sparse: {sparse:?}"
    );
    let freed = store.compact();
    store.check().unwrap();
    let dense = store.stats();
    assert_eq!(sparse.mem_used_total - dense.mem_used_total, freed);
    assert_eq!(dense.pages_compacted * PAGE_SIZE as u64, freed);
    // In each class one page may be partly filled, and 8 bytes of 4096 are what slots round up by.
    assert!(
        dense.mem_used_total < dense.compr_data_size * 11 / 10 + (80 << 12),
        "{dense:?}"
    );
    let mut back = Page::ZERO;
    for index in kept {
        worker.read(index, &mut back).unwrap();
        assert!(back == page(index), "page {index}");
    }
    worker.discard(0, 20_000).unwrap();
    assert_eq!(store.stats().mem_used_total, 0);
}

fn page_with_noise(seed: u64, noise: usize) -> Page {
    let mut page = Page([b'x'; PAGE_SIZE]);
    Random::new(seed).bytes(&mut page[..noise]);
    page
}

/// Fragmentation at its worst: of each slab little is left, and every new page needs a slot of
/// another class.
#[test]
fn without_a_limit_no_order_of_writes_runs_out_of_room() {
    let store = store(Config::new(64 << 20, Arc::new(Lz4::new())));
    let mut worker = store.worker();
    let pages = store.pages();
    for index in 0..pages {
        worker.write(index, &page_with_noise(index, 1300)).unwrap();
    }
    let mut order: Vec<u64> = (0..pages).collect();
    let mut random = Random::new(7);
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    for index in order {
        worker.write(index, &noise(index)).unwrap();
    }
}

/// One live page at a time, of every size there is: slabs in which nothing is left must not stand
/// in the way of the next, be it under a limit, with a reserve, or with many workers.
#[test]
fn empty_slabs_of_other_classes_are_given_up_when_memory_is_short() {
    let cycle = |worker: &mut trueno_zram_store::Worker| {
        for noise in (16..3900).step_by(8) {
            worker
                .write(0, &page_with_noise(noise as u64, noise))
                .unwrap();
        }
        worker.write(0, &Page::ZERO).unwrap();
    };
    let mut limited = Config::new(64 << 20, Arc::new(Lz4::new()));
    limited.mem_limit = Some(1 << 20);
    cycle(&mut store(limited).worker());
    let mut reserved = Config::new(64 << 20, Arc::new(Lz4::new()));
    reserved.growth = Growth::Reserve(1 << 20);
    cycle(&mut store(reserved).worker());
    let small = store(Config::new(1 << 20, Arc::new(Lz4::new())));
    let mut workers: Vec<_> = (0..8).map(|_| small.worker()).collect();
    workers.iter_mut().for_each(cycle);
}

/// Every bit of a table entry flipped in turn: reading the page is right or an error, and
/// overwriting it harms no other page; nor does attaching first.
#[test]
fn a_damaged_entry_harms_no_other_page() {
    use std::os::unix::fs::FileExt;
    for bit in 0..63 {
        for (noise, attached) in [
            (1300, false),
            (PAGE_SIZE, false),
            (1300, true),
            (PAGE_SIZE, true),
        ] {
            let file = tempfile::tempfile_in("/dev/shm").unwrap();
            let config = Config::new(1 << 20, Arc::new(Lz4::new()));
            let bytes = config.memory_bytes().unwrap();
            let memory = Memory::from_file(file.try_clone().unwrap(), bytes).unwrap();
            let mut store = Arc::new(Store::create(config.clone(), memory).unwrap());
            let mut worker = store.worker();
            for index in 0..20 {
                worker.write(index, &page_with_noise(index, noise)).unwrap();
            }
            // A slab beside the huge pages.
            worker.write(20, &page_with_noise(20, 1300)).unwrap();
            let at = 4096 + 8 * 3;
            let mut entry = [0; 8];
            file.read_exact_at(&mut entry, at).unwrap();
            let flipped = u64::from_ne_bytes(entry) ^ (1 << bit);
            file.write_all_at(&flipped.to_ne_bytes(), at).unwrap();
            if attached {
                drop((worker, store));
                let memory = Memory::attach(file.try_clone().unwrap()).unwrap();
                store = Arc::new(Store::attach(config, memory).unwrap());
                worker = store.worker();
            }
            let mut back = Page::ZERO;
            let read = worker.read(3, &mut back);
            assert!(
                read.is_err() || back == page_with_noise(3, noise),
                "bit {bit}"
            );
            worker.write(3, &Page::ZERO).unwrap();
            for index in 30..60 {
                worker.write(index, &page_with_noise(index, noise)).unwrap();
            }
            for index in (0..20).filter(|index| *index != 3) {
                worker.read(index, &mut back).unwrap();
                assert!(
                    back == page_with_noise(index, noise),
                    "bit {bit}, page {index}"
                );
            }
            worker.read(20, &mut back).unwrap();
            assert!(back == page_with_noise(20, 1300), "bit {bit}");
        }
    }
}

/// Many slabs that compaction left with all of their pages full. At the limit a page that is
/// discarded makes room for another one, in whichever slab it was.
#[test]
fn at_the_limit_what_is_freed_in_any_slab_is_found() {
    const PAGES: u64 = 24 * 90;
    let store = store(Config::new(64 << 20, Arc::new(Lz4::new())));
    let mut worker = store.worker();
    for index in 0..PAGES {
        worker.write(index, &page_with_noise(index, 1300)).unwrap();
    }
    for index in (0..PAGES).filter(|index| index % 5 < 2) {
        worker.discard(index, 1).unwrap();
    }
    store.compact();
    let limit = store.stats().mem_used_total;
    store.set_mem_limit(Some(limit)).unwrap();
    // What is left of free slots in pages that are there already.
    let mut index = PAGES;
    while worker.write(index, &page_with_noise(index, 1300)).is_ok() {
        index += 1;
    }
    for index in (2..PAGES).step_by(35) {
        worker.discard(index, 1).unwrap();
        worker
            .write(PAGES + index, &page_with_noise(index, 1300))
            .unwrap_or_else(|error| panic!("page {index}: {error}"));
    }
}

/// What is left of many objects of one class is moved together, while one entry in three has a
/// flipped bit. Nothing that is whole may suffer.
#[test]
fn compaction_leaves_damaged_entries_alone() {
    use std::os::unix::fs::FileExt;
    for bit in 0..63 {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let config = Config::new(4 << 20, Arc::new(Lz4::new()));
        let bytes = config.memory_bytes().unwrap();
        let memory = Memory::from_file(file.try_clone().unwrap(), bytes).unwrap();
        let store = Arc::new(Store::create(config, memory).unwrap());
        let mut worker = store.worker();
        for index in 0..900 {
            worker.write(index, &page_with_noise(index, 1300)).unwrap();
        }
        for index in (0..900).filter(|index| index % 5 != 0) {
            worker.discard(index, 1).unwrap();
        }
        for index in (0..900).step_by(15) {
            let at = 4096 + 8 * index;
            let mut entry = [0; 8];
            file.read_exact_at(&mut entry, at).unwrap();
            let flipped = u64::from_ne_bytes(entry) ^ (1 << bit);
            file.write_all_at(&flipped.to_ne_bytes(), at).unwrap();
        }
        store.compact();
        let mut back = Page::boxed();
        for index in (0..900).step_by(5).filter(|index| index % 15 != 0) {
            worker.read(index, &mut back).unwrap();
            let whole = *back == page_with_noise(index, 1300);
            assert!(whole, "bit {bit}, page {index}");
        }
    }
}

/// Every byte of the superblock flipped in turn, and what else may be wrong: refused, never guessed at.
#[test]
fn what_is_no_store_or_another_one_is_not_attached() {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let config = || Config::new(1 << 20, Arc::new(Lz4::new()));
    let memory =
        Memory::from_file(file.try_clone().unwrap(), config().memory_bytes().unwrap()).unwrap();
    let store = Arc::new(Store::create(config(), memory).unwrap());
    store.worker().write(3, &page_with_noise(3, 1300)).unwrap();
    drop(store);
    let attach = |config: Config| {
        let memory = Memory::attach(file.try_clone().unwrap()).unwrap();
        Store::attach(config, memory).map(Arc::new)
    };
    let refused = |what: &str| {
        let error = attach(config()).expect_err(what).to_string();
        assert!(error.contains(what), "{error:?} lacks {what:?}");
    };
    let mut superblock = [0; 40];
    file.read_exact_at(&mut superblock, 0).unwrap();
    for (at, byte) in superblock.into_iter().enumerate() {
        for bit in [1, 0x10] {
            file.write_all_at(&[byte ^ bit], at as u64).unwrap();
            refused(match at {
                0..8 => "no store",
                8..12 => "of format",
                _ => "damaged",
            });
        }
        file.write_all_at(&[byte], at as u64).unwrap();
    }
    // More slabs and frames in use than there are, or others than there were.
    for at in [40, 48] {
        let mut used = [0; 8];
        file.read_exact_at(&mut used, at).unwrap();
        file.write_all_at(&[0xff; 8], at).unwrap();
        refused("damaged");
        for byte in 0..8 {
            let mut flipped = used;
            flipped[byte] ^= 1;
            file.write_all_at(&flipped, at).unwrap();
            refused("damaged");
        }
        file.write_all_at(&used, at).unwrap();
    }
    let error = attach(Config::new(2 << 20, Arc::new(Lz4::new()))).unwrap_err();
    assert!(error.to_string().contains("address space"), "{error}");
    let error = attach(Config::new(1 << 19, Arc::new(Lz4::new()))).unwrap_err();
    assert!(error.to_string().contains("1048576"), "{error}");
    let memory = Memory::attach(file.try_clone().unwrap()).unwrap();
    let error = Store::create(config(), memory).unwrap_err();
    assert!(error.to_string().contains("holds something"), "{error}");
    let mut back = Page::ZERO;
    let store = attach(config()).unwrap();
    store.worker().read(3, &mut back).unwrap();
    assert!(back == page_with_noise(3, 1300), "nothing was changed");
}

/// One bit is flipped in the table or in the map of a slab between two processes. The next one is
/// refused, or reads every page right but those that the bit belongs to, and harms none.
#[test]
fn a_bit_that_was_flipped_between_two_processes_costs_only_its_pages() {
    use std::os::unix::fs::FileExt;
    let config = || Config::new(1 << 20, Arc::new(Lz4::new()));
    let start = config().arena_offset().unwrap() as usize;
    let page = |index: u64| match index % 3 {
        0 => noise(index),
        1 => page_with_noise(index, 1300),
        _ => page_with_noise(index, 500 + index as usize * 30),
    };
    let (mut attached, mut lost) = (0, 0);
    let mut random = Random::new(31);
    for _ in 0..400 {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let memory =
            Memory::from_file(file.try_clone().unwrap(), config().memory_bytes().unwrap()).unwrap();
        let store = Arc::new(Store::create(config(), memory).unwrap());
        let mut worker = store.worker();
        for index in 0..60 {
            worker.write(index, &page(index)).unwrap();
        }
        drop((worker, store));
        let mut bytes = vec![0; start];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let used: Vec<usize> = (40..start).filter(|at| bytes[*at] != 0).collect();
        let at = used[random.below(used.len() as u64) as usize];
        file.write_all_at(&[bytes[at] ^ 1 << random.below(8)], at as u64)
            .unwrap();
        let memory = Memory::attach(file.try_clone().unwrap()).unwrap();
        let Ok(store) = Store::attach(config(), memory).map(Arc::new) else {
            continue;
        };
        attached += 1;
        let mut worker = store.worker();
        let mut back = Page::ZERO;
        for index in 60..100 {
            worker.write(index, &page(index)).unwrap();
        }
        store.compact();
        for index in 0..100 {
            // The entry of this very page may say anything about it: that it is empty, too.
            let own = at >= 4096 && (at - 4096) / 8 == index as usize;
            match worker.read(index, &mut back) {
                Ok(()) => assert!(back == page(index) || own, "byte {at}, page {index}"),
                Err(error) => {
                    assert_eq!(error, ReadError::Corrupt, "byte {at}, page {index}");
                    assert!(index < 60, "byte {at}, page {index}");
                    lost += 1;
                }
            }
        }
    }
    assert!(
        attached > 200 && lost > 100,
        "{attached} attached, {lost} lost"
    );
}

/// What another process does after somebody has prepared to go on with its store is seen. Shown to
/// this process, the memory is used without a fault, and is no more than there was.
#[test]
fn a_store_is_prepared_while_it_is_used() {
    use std::os::linux::fs::MetadataExt;
    const PAGES: u64 = 16_000;
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let config = || Config::new(64 << 20, Arc::new(Lz4::new()));
    let memory =
        Memory::from_file(file.try_clone().unwrap(), config().memory_bytes().unwrap()).unwrap();
    let store = Arc::new(Store::create(config(), memory).unwrap());
    let prepared =
        Store::prepare(config(), Memory::attach(file.try_clone().unwrap()).unwrap()).unwrap();
    let mut worker = store.worker();
    for index in 0..PAGES {
        worker.write(index, &page_with_noise(index, 1300)).unwrap();
    }
    for index in (0..PAGES).step_by(3) {
        worker.discard(index, 1).unwrap();
    }
    drop((worker, store));

    let store = Arc::new(prepared.attach().unwrap());
    let blocks = file.metadata().unwrap().st_blocks();
    store.show_memory().unwrap();
    assert_eq!(file.metadata().unwrap().st_blocks(), blocks);
    let mut worker = store.worker();
    let mut back = Page::boxed();
    worker.read(0, &mut back).unwrap();
    let faults = || {
        // SAFETY: zeros are a value of this structure of integers, which the call fills.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to that structure.
        let rc = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
        assert_eq!(rc, 0);
        usage.ru_minflt + usage.ru_majflt
    };
    let before = faults();
    for index in 0..PAGES {
        worker.read(index, &mut back).unwrap();
        if index % 3 == 0 {
            assert!(back.iter().all(|byte| *byte == 0), "page {index}");
        } else {
            assert!(*back == page_with_noise(index, 1300), "page {index}");
        }
    }
    // Of its own the test may have some; with one for sixteen pages there would be hundreds.
    let faults = faults() - before;
    assert!(faults < 100, "{faults} page faults");
}
