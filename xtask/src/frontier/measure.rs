//! What each policy makes of the pages: each has a store of its own, and they take turns.

use super::curve::Point;
use super::workload::Random;
use anyhow::{Context as _, Result, ensure};
use std::sync::Arc;
use std::time::Duration;
use trueno_ublk::daemon::policy::Policy;
use trueno_ublk::daemon::sys;
use trueno_zram_core::{PAGE_SIZE, Page};
use trueno_zram_store::{Memory, Store, Worker};

/// Pages of a turn: some milliseconds, so that whatever else the machine does meets all policies alike,
/// and enough for the caches to hold what the policy needs beside the pages.
pub const TURN: usize = 512;

/// Bytes of page table for a page.
const ENTRY_BYTES: f64 = 8.0;

/// What a policy took, in the median of the rounds.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Time to write a page and to read it once, and its memory.
    pub point: Point,
    /// The shortest and the longest of the rounds. What all policies have in common in a round, which
    /// is how fast the machine was in it, is taken out of all times.
    pub us_range: [f64; 2],
    /// Of the time, reading.
    pub read_us: f64,
    /// Pages of a hundred that are kept as they are.
    pub raw_percent: f64,
}

/// One policy and its store.
struct Contestant {
    name: String,
    worker: Worker,
    /// Of each round.
    write: Vec<Duration>,
    read: Vec<Duration>,
}

/// Writes `pages` with each of `policies` and reads them back, `rounds` times.
///
/// A store is filled before the first round, so that memory comes from the system in none, and each
/// round replaces all pages, as happens to a device that is in use.
pub fn measure(pages: &[Page], policies: &[Policy], rounds: usize) -> Result<Vec<Figures>> {
    let mut contestants = policies
        .iter()
        .map(|policy| contestant(policy, pages))
        .collect::<Result<Vec<_>>>()?;
    let mut random = Random::new();
    // Who comes after whom changes, since each leaves the caches to the next one.
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    for round in 0..rounds {
        for one in &mut contestants {
            one.write.push(Duration::ZERO);
            one.read.push(Duration::ZERO);
        }
        for turn in [Contestant::write, Contestant::read] {
            for (number, pages) in pages.chunks(TURN).enumerate() {
                random.shuffle(&mut order);
                for at in &order {
                    turn(&mut contestants[*at], (number * TURN) as u64, pages)?;
                }
            }
        }
        println!("round {} of {rounds}", round + 1);
    }
    // Behind the rounds, like the times: adaptive learns.
    let figures: Vec<_> = contestants.iter().map(|one| memory(one, pages)).collect();
    let slow = slowness(&contestants, rounds);
    let finish = |(one, [bytes, raw_percent]): (Contestant, [f64; 2])| {
        let us =
            |(time, slow): (Duration, &f64)| time.as_secs_f64() * 1e6 / pages.len() as f64 / slow;
        let read: Vec<f64> = one.read.iter().copied().zip(&slow).map(us).collect();
        let write = one.write.iter().copied().zip(&slow).map(us);
        let both = sorted(write.zip(&read).map(|(write, read)| write + read).collect());
        Figures {
            point: Point {
                us: both[rounds / 2],
                bytes,
            },
            us_range: [both[0], both[rounds - 1]],
            read_us: sorted(read)[rounds / 2],
            raw_percent,
        }
    };
    Ok(contestants.into_iter().zip(figures).map(finish).collect())
}

/// How much longer each round took than the median round, all policies together: that is the machine,
/// and leaves what is between the policies.
fn slowness(contestants: &[Contestant], rounds: usize) -> Vec<f64> {
    let took = |round: usize| {
        let all = contestants.iter();
        all.map(|one| (one.write[round] + one.read[round]).as_secs_f64())
            .sum::<f64>()
    };
    let median = sorted((0..rounds).map(took).collect())[rounds / 2];
    (0..rounds).map(|round| took(round) / median).collect()
}

fn sorted(mut times: Vec<f64>) -> Vec<f64> {
    times.sort_by(f64::total_cmp);
    times
}

/// A policy with its store, that has taken all pages once and given them back.
fn contestant(policy: &Policy, pages: &[Page]) -> Result<Contestant> {
    let config = policy.store_config((pages.len() * PAGE_SIZE) as u64)?;
    let memory = Memory::anonymous(config.memory_bytes()?).context("no memory for a store")?;
    let store = Arc::new(Store::create(config, memory)?);
    let mut one = Contestant {
        name: policy.asked().to_string(),
        worker: store.worker(),
        write: vec![Duration::ZERO],
        read: vec![Duration::ZERO],
    };
    one.write(0, pages)?;
    one.read(0, pages)?;
    one.write.clear();
    one.read.clear();
    Ok(one)
}

/// Bytes of memory for a page, and how many in a hundred are kept as they are.
///
/// It is `mem_used_total` and the page table of a store so large that its slabs are full: in one of
/// some thousand pages those that are not make a difference that is as large as one between policies.
fn memory(one: &Contestant, pages: &[Page]) -> [f64; 2] {
    let store = one.worker.store();
    let stats = store.stats();
    let classes = store.classes().into_iter().filter(|class| class.slots > 0);
    let objects: f64 = classes
        .map(|class| class.objects as f64 * class.frames as f64 / class.slots as f64)
        .sum();
    let frames = objects + stats.huge_pages as f64;
    let count = pages.len() as f64;
    let bytes = frames * PAGE_SIZE as f64 / count + ENTRY_BYTES;
    [bytes, 100.0 * stats.huge_pages as f64 / count]
}

impl Contestant {
    /// Writes pages from place `first` on, and adds the time to that of the round.
    fn write(&mut self, first: u64, pages: &[Page]) -> Result<()> {
        let begin = sys::thread_time()?;
        for (index, page) in (first..).zip(pages) {
            self.worker.write(index, page)?;
        }
        let took = sys::thread_time()? - begin;
        *self.write.last_mut().expect("a round has begun") += took;
        Ok(())
    }

    /// Reads them, adds the time, and then looks whether they are what was written.
    fn read(&mut self, first: u64, pages: &[Page]) -> Result<()> {
        let mut page = Page::boxed();
        let indices = first..first + pages.len() as u64;
        let begin = sys::thread_time()?;
        for index in indices.clone() {
            self.worker.read(index, &mut page)?;
        }
        let took = sys::thread_time()? - begin;
        *self.read.last_mut().expect("a round has begun") += took;
        for (index, written) in indices.zip(pages) {
            self.worker.read(index, &mut page)?;
            ensure!(
                *page == *written,
                "{} gave page {index} back with other bytes: that must not be",
                self.name
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_a_large_store() {
        let lz4 = Policy::new("lz4", None, None).unwrap();
        let page = |number: usize| {
            let words = format!("line {number} of a log that says the same again and again\n");
            Page(std::array::from_fn(|at| words.as_bytes()[at % words.len()]))
        };
        let many: Vec<Page> = (0..16384).map(page).collect();
        let store = contestant(&lz4, &many).unwrap();
        let stats = store.worker.store().stats();
        let whole = (stats.mem_used_total + stats.table_bytes) as f64 / many.len() as f64;
        let few: Vec<Page> = many.iter().step_by(100).cloned().collect();
        for pages in [&many, &few] {
            let [bytes, raw_percent] = memory(&contestant(&lz4, pages).unwrap(), pages);
            assert!((bytes / whole - 1.0).abs() < 0.05, "{bytes} for {whole}");
            assert_eq!(raw_percent, 0.0);
        }
    }

    #[test]
    fn a_round_in_which_all_are_slow_says_so() {
        let times = |times: [u64; 3]| times.map(Duration::from_millis).to_vec();
        let one = |write, read| Contestant {
            write: times(write),
            read: times(read),
            ..contestant(&Policy::new("lz4", None, None).unwrap(), &[Page::ZERO]).unwrap()
        };
        let all = [one([10, 20, 5], [4, 8, 2]), one([90, 180, 45], [6, 12, 3])];
        assert_eq!(slowness(&all, 3), [1.0, 2.0, 0.5]);
    }
}
