//! The crash model: what another process finds when this one is stopped between any two of its
//! writes to the memory that outlives it.
//!
//! A copy of the store's file is what a killed process would have left: each test takes one before
//! every such write, attaches to it as the next process would, and looks at all pages, counts and
//! slots. Two writers of one page are run in every order in which their writes can fall.

#[path = "../tests/common/mod.rs"]
mod common;

use self::common::Random;
use crate::step::hooks::{self, Kind};
use crate::{AttachError, Config, Growth, Memory, Store, Worker, WriteError};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use trueno_zram_core::codec::lz4::Lz4;
use trueno_zram_core::{PAGE_SIZE, Page};

const PAGES: u64 = 64;

fn config(growth: Growth) -> Config {
    let mut config = Config::new(PAGES * PAGE_SIZE as u64, Arc::new(Lz4::new()));
    config.growth = growth;
    config
}

/// A reserve for one seed in three.
fn growth(seed: u64) -> Growth {
    match seed % 3 {
        0 => Growth::Reserve(256 << 10),
        _ => Growth::OnDemand,
    }
}

fn file() -> File {
    tempfile::tempfile_in("/dev/shm").unwrap()
}

fn create(file: &File, config: Config) -> Arc<Store> {
    let bytes = config.memory_bytes().unwrap();
    let memory = Memory::from_file(file.try_clone().unwrap(), bytes).unwrap();
    Arc::new(Store::create(config, memory).unwrap())
}

fn attach(file: &File, config: Config) -> Arc<Store> {
    let memory = Memory::attach(file.try_clone().unwrap()).unwrap();
    Arc::new(Store::attach(config, memory).unwrap())
}

/// What `from` holds at this moment, in a file of its own.
fn copy(from: &File) -> File {
    let to = file();
    let len = from.metadata().unwrap().len();
    to.set_len(len).unwrap();
    let mapped = Memory::attach(from.try_clone().unwrap()).unwrap();
    let mut bytes = [0; PAGE_SIZE];
    mapped
        .resident(0..len as usize, |page, present| {
            if present {
                let at = (page * PAGE_SIZE) as u64;
                from.read_exact_at(&mut bytes, at).unwrap();
                to.write_all_at(&bytes, at).unwrap();
            }
        })
        .unwrap();
    to
}

/// A page with `noise` bytes that cannot be compressed.
fn page(seed: u64, noise: usize) -> Box<Page> {
    let mut page = Page::boxed();
    Random::new(seed).bytes(&mut page[..noise]);
    page
}

/// Zeros, a same-filled page, one that cannot be compressed, or anything between.
fn any_page(random: &mut Random) -> Box<Page> {
    let seed = random.below(1 << 40);
    match random.below(8) {
        0 => Page::boxed(),
        1 => {
            let mut page = Page::boxed();
            page.fill(seed as u8);
            page
        }
        2 => page(seed, PAGE_SIZE),
        _ => page(seed, random.below(PAGE_SIZE as u64) as usize),
    }
}

/// What each page may hold: one value, or two while it is being changed. Absent is zeros.
#[derive(Clone, Default)]
struct Expected(BTreeMap<u64, Vec<Box<Page>>>);

impl Expected {
    fn get(&self, index: u64) -> Box<Page> {
        let found = self.0.get(&index);
        found.map_or_else(Page::boxed, |pages| pages[0].clone())
    }

    fn set(&mut self, index: u64, page: Box<Page>) {
        self.0.insert(index, vec![page]);
    }

    fn may_be(&mut self, index: u64, page: Box<Page>) {
        let old = self.get(index);
        self.0.entry(index).or_insert(vec![old]).push(page);
    }

    /// Attaches to a copy of `file` and compares everything.
    fn verify(&self, file: &File, what: &str) {
        let left = copy(file);
        let store = attach(&left, config(Growth::OnDemand));
        store.check().unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(store.stats().damaged_objects, 0, "{what}");
        let mut worker = store.worker();
        let mut back = Page::boxed();
        for index in 0..PAGES {
            worker
                .read(index, &mut back)
                .unwrap_or_else(|error| panic!("{what}: page {index}: {error}"));
            let right = match self.0.get(&index) {
                Some(pages) => pages.contains(&back),
                None => *back == Page::ZERO,
            };
            assert!(right, "{what}: page {index} is neither old nor new");
        }
        // And it goes on: everything can be overwritten, and all memory comes back.
        worker.write(0, &page(1, 2000)).unwrap();
        worker.discard(0, PAGES).unwrap();
        drop(worker);
        store.check().unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(store.stats().mem_used_total, 0, "{what}");
    }
}

/// One random operation; `expected` says before what it may change, and afterwards what it did.
fn operate(random: &mut Random, worker: &mut Worker, expected: &RefCell<Expected>) {
    let index = random.below(PAGES);
    let (result, new) = match random.below(8) {
        0..4 => {
            let new = any_page(random);
            expected.borrow_mut().may_be(index, new.clone());
            (worker.write(index, &new), new)
        }
        4 => {
            let mut new = expected.borrow().get(index);
            let bytes = [random.below(256) as u8; 700];
            new[512..1212].copy_from_slice(&bytes);
            expected.borrow_mut().may_be(index, new.clone());
            (worker.write_part(index, 512, &bytes), new)
        }
        5 => {
            let count = random.below(12).min(PAGES - index);
            for index in index..index + count {
                expected.borrow_mut().may_be(index, Page::boxed());
            }
            worker.discard(index, count).unwrap();
            for index in index..index + count {
                expected.borrow_mut().set(index, Page::boxed());
            }
            return;
        }
        6 => {
            worker.store().compact();
            return;
        }
        _ => {
            // Refused, it does nothing.
            let _ = worker.store().maintain();
            return;
        }
    };
    let old = expected.borrow().get(index);
    match result {
        Ok(()) => expected.borrow_mut().set(index, new),
        Err(WriteError::NoMemory) => expected.borrow_mut().set(index, old),
        Err(error) => panic!("write {index}: {error}"),
    }
}

#[test]
fn stopped_before_any_write_a_store_is_whole_and_every_page_old_or_new() {
    let mut steps = 0;
    for seed in 0..3 {
        let mut random = Random::new(seed);
        let growth = growth(seed);
        let file = file();
        let store = create(&file, config(growth));
        let mut worker = store.worker();
        let expected = Rc::new(RefCell::new(Expected::default()));
        let count = Rc::new(RefCell::new(0));
        for number in 0..60 {
            let (file, expected_then, counted) =
                (file.try_clone().unwrap(), expected.clone(), count.clone());
            hooks::set(move |_| {
                *counted.borrow_mut() += 1;
                let what = format!("seed {seed}, operation {number}, step {}", counted.borrow());
                expected_then.borrow().verify(&file, &what);
            });
            operate(&mut random, &mut worker, &expected);
            hooks::clear();
        }
        expected
            .borrow()
            .verify(&file, &format!("seed {seed}, the end"));
        steps += *count.borrow();
    }
    assert!(steps > 400, "only {steps} steps were seen");
}

#[test]
fn stopped_while_it_attaches_it_can_be_attached_again() {
    let file = file();
    let store = create(&file, config(Growth::OnDemand));
    let mut worker = store.worker();
    let mut random = Random::new(77);
    let expected = Rc::new(RefCell::new(Expected::default()));
    for _ in 0..150 {
        operate(&mut random, &mut worker, &expected);
    }
    // A kill in the middle of a write, with entry locked and frames taken.
    let left = Rc::new(RefCell::new(Vec::new()));
    let (from, kept) = (file.try_clone().unwrap(), left.clone());
    hooks::set(move |_| kept.borrow_mut().push(copy(&from)));
    for index in 0..4 {
        let old = expected.borrow().get(index);
        worker.write_part(index, 0, &old[..1000]).unwrap();
    }
    hooks::clear();
    let steps = Rc::new(RefCell::new(0));
    for file in left.take() {
        let (from, expected, counted) =
            (file.try_clone().unwrap(), expected.clone(), steps.clone());
        hooks::set(move |_| {
            *counted.borrow_mut() += 1;
            if *counted.borrow() % 7 == 0 {
                expected.borrow().verify(&from, "attaching");
            }
        });
        drop(attach(&file, config(Growth::OnDemand)));
        hooks::clear();
    }
    assert!(*steps.borrow() > 100);
}

/// Memory, hole punches and everything else that the system can refuse is refused now and then, at
/// every place where it is asked for. Exactly the requests that needed it fail, and change nothing.
#[test]
fn what_the_system_refuses_fails_that_request_alone() {
    let mut failed = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let growth = growth(seed);
        let file = file();
        let store = create(&file, config(growth));
        let mut worker = store.worker();
        let expected = RefCell::new(Expected::default());
        let mut refusing = Random::new(seed + 1000);
        hooks::refuse(move || refusing.below(3) == 0);
        for _ in 0..200 {
            operate(&mut random, &mut worker, &expected);
        }
        failed += store.stats().failed_memory;
        drop((worker, store));
        // Who attaches is refused, or has everything.
        let store = loop {
            let memory = Memory::attach(file.try_clone().unwrap()).unwrap();
            match Store::attach(config(growth), memory) {
                Ok(attached) => break Arc::new(attached),
                Err(error) => assert!(matches!(error, AttachError::Os(_)), "{error}"),
            }
        };
        let mut worker = store.worker();
        for _ in 0..50 {
            operate(&mut random, &mut worker, &expected);
        }
        hooks::clear();
        failed += store.stats().failed_memory;
        expected.borrow().verify(&file, &format!("seed {seed}"));
        store.check().unwrap();
        worker.discard(0, PAGES).unwrap();
        drop(worker);
        store.check().unwrap();
        assert_eq!(store.stats().mem_used_total, 0);
    }
    assert!(failed > 100, "{failed} writes were refused");
}

/// Runs two threads so that one of them runs at a time, and changes between them as `plan` says.
struct Schedule {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    turn: usize,
    ended: [bool; 2],
    /// Whether to go over to the other thread, at each point where that can be; beyond it: no.
    plan: Vec<bool>,
    /// What was done at each point.
    done: Vec<bool>,
}

impl Schedule {
    fn new(plan: Vec<bool>) -> Arc<Schedule> {
        Arc::new(Schedule {
            state: Mutex::new(State {
                plan,
                ..State::default()
            }),
            changed: Condvar::new(),
        })
    }

    /// Waits until it is this thread's turn.
    fn wait(&self, thread: usize) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.turn != thread));
    }

    fn point(&self, thread: usize, kind: Kind, new: impl FnOnce(&[bool])) {
        let other = 1 - thread;
        {
            let mut state = self.state.lock().unwrap();
            let replayed = state.done.len() < state.plan.len();
            if !replayed {
                new(&state.done);
            }
            if kind == Kind::Locked || state.ended[other] {
                return;
            }
            let over = match kind {
                Kind::Waits => true,
                _ => {
                    let over = replayed && state.plan[state.done.len()];
                    state.done.push(over);
                    over
                }
            };
            if !over {
                return;
            }
            state.turn = other;
        }
        self.changed.notify_all();
        self.wait(thread);
    }
}

/// Leaves the other thread alone when this one ends, be it by a panic.
struct End<'a>(&'a Schedule, usize);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap();
        state.ended[self.1] = true;
        state.turn = 1 - self.1;
        self.0.changed.notify_all();
    }
}

type Program = fn(&mut Worker);

/// Runs both programs in every order of their writes with at most so many `changes` from a thread
/// that could go on to the other, each time on a store made by `start`, and
/// after each write checks what a kill would leave: page 0 is one of `possible`, page 1 as at the
/// start. Returns the number of orders.
fn every_order(
    start: Program,
    programs: [Program; 2],
    changes: usize,
    possible: &[Box<Page>],
) -> usize {
    let mut plan = Vec::new();
    let mut orders = 0;
    loop {
        let file = file();
        let store = create(&file, config(Growth::OnDemand));
        let mut worker = store.worker();
        start(&mut worker);
        let mut expected = Expected::default();
        let mut back = Page::boxed();
        for index in 1..PAGES {
            worker.read(index, &mut back).unwrap();
            expected.set(index, back.clone());
        }
        expected.0.insert(0, possible.to_vec());
        drop(worker);
        let schedule = Schedule::new(plan);
        std::thread::scope(|scope| {
            for (thread, program) in programs.into_iter().enumerate() {
                let (store, schedule) = (store.clone(), schedule.clone());
                let (file, expected) = (file.try_clone().unwrap(), expected.clone());
                scope.spawn(move || {
                    let mut worker = store.worker();
                    let hooked = schedule.clone();
                    schedule.wait(thread);
                    let _end = End(&schedule, thread);
                    hooks::set(move |kind| {
                        hooked.point(thread, kind, |done| {
                            expected.verify(&file, &format!("order {done:?}"));
                        });
                    });
                    program(&mut worker);
                    hooks::clear();
                });
            }
        });
        store.check().unwrap();
        expected.verify(&file, "the end");
        orders += 1;
        // The next order: the last point at which the thread went on, changed.
        plan = std::mem::take(&mut schedule.state.lock().unwrap().done);
        loop {
            while plan.last() == Some(&true) {
                plan.pop();
            }
            match plan.last_mut() {
                Some(last) => *last = true,
                None => return orders,
            }
            if plan.iter().filter(|over| **over).count() <= changes {
                break;
            }
        }
    }
}

/// As many changes as there are points.
const ALL: usize = usize::MAX;

fn old() -> Box<Page> {
    page(10, 1500)
}

fn start(worker: &mut Worker) {
    worker.write(0, &old()).unwrap();
    worker.write(1, &page(11, 1500)).unwrap();
}

#[test]
fn two_writers_of_one_page_in_every_order() {
    let orders = every_order(
        start,
        [
            |worker| worker.write(0, &page(20, 1500)).unwrap(),
            |worker| worker.write(0, &page(21, PAGE_SIZE)).unwrap(),
        ],
        ALL,
        &[old(), page(20, 1500), page(21, PAGE_SIZE)],
    );
    println!("{orders} orders");
    assert!(orders > 20, "{orders}");
}

#[test]
fn a_writer_and_a_discard_in_every_order() {
    let orders = every_order(
        start,
        [
            |worker| worker.write(0, &page(20, 1500)).unwrap(),
            |worker| worker.discard(0, 1).unwrap(),
        ],
        ALL,
        &[old(), page(20, 1500), Page::boxed()],
    );
    println!("{orders} orders");
    assert!(orders > 10, "{orders}");
}

#[test]
fn two_partial_writers_in_every_order_lose_nothing() {
    let with = |parts: &[usize]| {
        let mut page = old();
        for part in parts {
            page[part * 512..(part + 1) * 512].fill(*part as u8 + 1);
        }
        page
    };
    let orders = every_order(
        start,
        [
            |worker| worker.write_part(0, 0, &[1; 512]).unwrap(),
            |worker| worker.write_part(0, 512, &[2; 512]).unwrap(),
        ],
        ALL,
        &[with(&[]), with(&[0]), with(&[1]), with(&[0, 1])],
    );
    println!("{orders} orders");
    assert!(orders > 10, "{orders}");
}

#[test]
fn compaction_does_not_wait_for_an_entry_whose_holder_waits_for_compaction() {
    // A partial write holds the entry of its page, and where it finds no memory it waits for
    // the compactor. Here the entry of every page is held.
    let store = create(&file(), config(Growth::OnDemand));
    let mut worker = store.worker();
    for index in 0..PAGES {
        worker.write(index, &page(index, 1500)).unwrap();
    }
    worker.discard(0, PAGES - 4).unwrap();
    let held: Vec<_> = (PAGES - 4..PAGES)
        .map(|page| crate::table::lock(store.word(page)))
        .collect();
    let (ended, end) = std::sync::mpsc::channel();
    let compacting = store.clone();
    std::thread::spawn(move || {
        compacting.compact();
        ended.send(()).unwrap();
    });
    let result = end.recv_timeout(std::time::Duration::from_secs(10));
    drop(held);
    result.expect("compaction ends");
    assert!(store.compact() > 0, "and moves them when they are free");
    drop(worker);
    store.check().unwrap();
}

/// Page 0's object lies last in a slab of three pages, the rest of which was freed.
fn start_sparse(worker: &mut Worker) {
    for index in 2..10 {
        worker.write(index, &page(index, 1500)).unwrap();
    }
    start(worker);
    worker.discard(2, 8).unwrap();
}

fn compaction(worker: &mut Worker) {
    let store = worker.store().clone();
    let mut compactor = store.compactor.lock().unwrap();
    for index in 0..store.pool.slab_count() {
        store.compact_slab(&mut compactor, index, true);
    }
}

/// A write of page 0 with so many bytes of noise.
fn writer<const NOISE: usize>(worker: &mut Worker) {
    worker.write(0, &page(20, NOISE)).unwrap();
}

#[test]
fn a_writer_and_compaction_in_every_order_of_three_changes() {
    // Of a larger class, so that the writer leaves the slab to compaction.
    let programs = [writer::<2500>, compaction];
    let orders = every_order(start_sparse, programs, 3, &[old(), page(20, 2500)]);
    println!("{orders} orders");
    assert!(orders > 20, "{orders}");
}

/// Between reading an object's header and locking the entry that it names, compaction may be
/// overtaken by a writer, whose object lies elsewhere and would fit where the old one was: of the
/// same class in another slab, or of a smaller class. It must not be taken for the old one.
#[test]
fn compaction_moves_nothing_that_was_replaced_after_it_read_the_header() {
    // Compaction comes first: it has the slab when the writer looks for one.
    let same = [compaction, writer::<1500>];
    let smaller = [compaction, writer::<1000>];
    let orders = [
        every_order(start_sparse, same, 2, &[old(), page(20, 1500)]),
        every_order(start_sparse, smaller, 2, &[old(), page(20, 1000)]),
    ];
    println!("{orders:?} orders");
    assert!(orders.iter().all(|orders| *orders > 20), "{orders:?}");
}
