//! Checks all pages of the store while others use it, at a bounded rate.
//!
//! ```text
//! scrub ──> thread: step of a MiB ─ its share of a second ─ next step … ──> done, or stopped
//! scrub_state, stat ──> how far it is         scrub_stop, the device's end ──> stopped within a step
//! ```
//! A scrub belongs to no client and to no control thread: one starts it, anyone may look, and only
//! who ends it waits, for a step. There is one at a time.
//!
//! Its thread is not on the way of pages, and is an ordinary one. It keeps a page's entry locked for
//! the time of a copy, as a read does; all memory that it touches meanwhile is present before.
#![forbid(unsafe_code)]

use super::sys;
use crate::control::protocol::{Scrub, ScrubPhase};
use anyhow::{Context as _, bail, ensure};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use trueno_zram_core::PAGE_SIZE;
use trueno_zram_store::Store;

/// The slowest: a page a second.
pub const RATE_MIN: u64 = PAGE_SIZE as u64;

/// Pages that are checked at once: some milliseconds, within which it ends when it is told to.
const STEP_PAGES: u64 = 256;

/// Damaged pages that are named, in the answer and in the log. Of the others there is the number.
const NAMED: usize = 16;

const STACK_BYTES: usize = 256 << 10;

/// How deep the stack is made present: far deeper than a copy under a lock goes.
const STACK_TOUCHED: usize = 64 << 10;

/// The scrubs of one device. Dropping it ends one that is under way, and lets none begin.
#[derive(Debug)]
pub(super) struct Scrubs(Arc<Job>);

/// What control threads see of them.
#[derive(Debug)]
pub(super) struct Job {
    /// Our number of the device.
    id: u32,
    state: Mutex<State>,
    /// Told when it is to stop, and when it has ended.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The one under way, or the last one.
    scrub: Option<Scrub>,
    thread: Option<JoinHandle<()>>,
    stop: bool,
    /// Whether the device ends: none may begin.
    closed: bool,
}

impl State {
    fn running(&self) -> Option<&Scrub> {
        let scrub = self.scrub.as_ref();
        scrub.filter(|scrub| scrub.phase == ScrubPhase::Running)
    }

    /// The one under way, by its own thread.
    fn own(&mut self) -> &mut Scrub {
        self.scrub.as_mut().expect("it was noted when it began")
    }
}

impl Scrubs {
    /// For device `id`.
    pub fn new(id: u32) -> Scrubs {
        Scrubs(Arc::new(Job {
            id,
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// For those who answer requests.
    pub fn job(&self) -> Arc<Job> {
        self.0.clone()
    }
}

impl Drop for Scrubs {
    fn drop(&mut self) {
        let thread = {
            let mut state = self.0.lock();
            state.closed = true;
            state.stop = true;
            state.thread.take()
        };
        self.0.changed.notify_all();
        if let Some(thread) = thread {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The scrub under way, or the last one.
    pub fn last(&self) -> Option<Scrub> {
        self.lock().scrub.clone()
    }

    /// Begins to check all pages of `store`, `rate` bytes of them a second at most.
    pub fn begin(self: &Arc<Job>, store: Arc<Store>, rate: u64) -> anyhow::Result<Scrub> {
        ensure!(
            rate >= RATE_MIN,
            "{rate} bytes a second are too few: {RATE_MIN} or more, a page a second"
        );
        let mut state = self.lock();
        ensure!(!state.closed, "the device is being removed");
        if let Some(scrub) = state.running() {
            bail!(
                "a scrub of device {id} is under way, {} of {} bytes passed: wait for its end, or \
                 `trueno-ublk scrub {id} --stop`",
                scrub.position,
                store.size(),
                id = self.id
            );
        }
        if let Some(ended) = state.thread.take() {
            // It has said its last; one that panicked has ended too.
            let _ = ended.join();
        }
        let scrub = Scrub {
            number: state.scrub.as_ref().map_or(0, |last| last.number) + 1,
            phase: ScrubPhase::Running,
            rate,
            position: 0,
            pages_checked: 0,
            pages_damaged: 0,
            damaged: Vec::with_capacity(NAMED),
            elapsed_ms: 0,
        };
        let job = self.clone();
        let thread = std::thread::Builder::new()
            .name("scrub".to_string())
            .stack_size(STACK_BYTES)
            .spawn(move || job.run(&store, rate));
        state.thread = Some(thread.context("cannot start a thread")?);
        state.stop = false;
        state.scrub = Some(scrub.clone());
        Ok(scrub)
    }

    /// Ends the scrub under way.
    pub fn stop(&self) -> anyhow::Result<Scrub> {
        let mut state = self.lock();
        let Some(number) = state.running().map(|scrub| scrub.number) else {
            bail!("no scrub of device {} is under way", self.id);
        };
        state.stop = true;
        self.changed.notify_all();
        let under_way = |state: &mut State| state.running().is_some_and(|s| s.number == number);
        let state = self.changed.wait_while(state, under_way);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        state.scrub.clone().context("there was none")
    }

    fn run(&self, store: &Arc<Store>, rate: u64) {
        sys::touch_stack::<STACK_TOUCHED>();
        tracing::info!("scrub: checks all pages, at most {rate} bytes of them a second");
        let begin = Instant::now();
        let mut worker = store.worker();
        let mut found = Vec::with_capacity(STEP_PAGES as usize);
        let (mut next, pages) = (0, store.pages());
        let mut due = begin;
        let phase = loop {
            if next == pages {
                break ScrubPhase::Done;
            }
            let end = (next + STEP_PAGES).min(pages);
            found.clear();
            let checked = worker
                .verify(next..end, |page| found.push(page))
                .expect("these pages are the store's");
            next = end;
            let named = self.note(next, checked, &found, begin);
            for page in &found[..named] {
                tracing::warn!(
                    "scrub: page {page} (byte {}) is damaged: it cannot be read until it is \
                     written anew or discarded",
                    page * PAGE_SIZE as u64
                );
            }
            due = due.max(Instant::now()) + share(checked, rate);
            if self.told_to_stop_until(due) {
                break ScrubPhase::Stopped;
            }
        };
        self.note(next, 0, &[], begin);
        // In the log before anyone hears of it.
        if let Some(scrub) = self.last() {
            let how = if next == pages { "done" } else { "stopped" };
            tracing::info!("scrub: {how}: {scrub}");
        }
        self.lock().own().phase = phase;
        self.changed.notify_all();
    }

    /// Notes what a step has found; returns how many of these pages are among the first, which are
    /// named.
    fn note(&self, next: u64, checked: u64, found: &[u64], begin: Instant) -> usize {
        let mut state = self.lock();
        let scrub = state.own();
        scrub.position = next * PAGE_SIZE as u64;
        scrub.pages_checked += checked;
        scrub.pages_damaged += found.len() as u64;
        scrub.elapsed_ms = begin.elapsed().as_millis() as u64;
        let named = found.len().min(NAMED - scrub.damaged.len());
        let offsets = found[..named].iter().map(|page| page * PAGE_SIZE as u64);
        scrub.damaged.extend(offsets);
        named
    }

    /// Waits until `due`, or until it is to stop; whether it is.
    fn told_to_stop_until(&self, due: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if state.stop || left.is_zero() {
                return state.stop;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The time that so many pages may take at least.
fn share(pages: u64, rate: u64) -> Duration {
    let nanoseconds = u128::from(pages) * PAGE_SIZE as u128 * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(nanoseconds as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::damage::tests::store_in_file;
    use std::os::unix::fs::FileExt as _;
    use trueno_zram_core::Page;

    /// A store of `pages` compressed pages, of which the first in the arena is damaged if wished.
    fn store(pages: u64, damaged: bool) -> Arc<Store> {
        let (store, file, arena) = store_in_file(1 << 30);
        let mut worker = store.worker();
        let mut page = Page::boxed();
        for index in 0..pages {
            page[..8].copy_from_slice(&(index + 1).to_ne_bytes());
            worker.write(index, &page).unwrap();
        }
        if damaged {
            file.write_all_at(&[0xff; 8], arena).unwrap();
        }
        store
    }

    fn wait(job: &Job) -> Scrub {
        let begin = Instant::now();
        while job.lock().running().is_some() {
            assert!(begin.elapsed() < Duration::from_secs(20), "it goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
        job.last().unwrap()
    }

    #[test]
    fn it_finds_what_is_damaged_and_says_how_much_it_checked() {
        let scrubs = Scrubs::new(0);
        let job = scrubs.job();
        assert_eq!(job.last(), None);
        for number in 1..=2 {
            job.begin(store(1000, true), 1 << 40).unwrap();
            let scrub = wait(&job);
            assert_eq!(
                (scrub.number, scrub.phase, scrub.position),
                (number, ScrubPhase::Done, 1 << 30)
            );
            assert_eq!((scrub.pages_checked, scrub.pages_damaged), (1000, 1));
            assert_eq!(scrub.damaged, [0]);
        }
    }

    #[test]
    fn it_keeps_to_its_rate() {
        let scrubs = Scrubs::new(0);
        let job = scrubs.job();
        // Three MiB, the last share of which it waits for too.
        job.begin(store(768, false), 6 << 20).unwrap();
        let scrub = wait(&job);
        assert_eq!(scrub.pages_checked, 768);
        assert!(
            (500..5000).contains(&scrub.elapsed_ms),
            "{} ms",
            scrub.elapsed_ms
        );
    }

    #[test]
    fn one_at_a_time_and_it_ends_when_told_to() {
        let scrubs = Scrubs::new(7);
        let job = scrubs.job();
        let store = store(1000, false);
        assert!(job.begin(store.clone(), RATE_MIN - 1).is_err());
        assert!(job.stop().is_err());
        // A page a second.
        job.begin(store.clone(), RATE_MIN).unwrap();
        let refused = job.begin(store.clone(), RATE_MIN).unwrap_err().to_string();
        assert!(refused.contains("scrub 7 --stop"), "{refused}");
        let begin = Instant::now();
        assert_eq!(job.stop().unwrap().phase, ScrubPhase::Stopped);
        let error = job.stop().unwrap_err().to_string();
        assert!(error.contains("no scrub of device 7"), "{error}");
        job.begin(store.clone(), RATE_MIN).unwrap();
        drop(scrubs);
        assert!(begin.elapsed() < Duration::from_secs(5), "somebody waited");
        assert_eq!(Arc::strong_count(&store), 1, "it still has the store");
        assert!(job.begin(store, RATE_MIN).is_err(), "the device has ended");
    }
}
