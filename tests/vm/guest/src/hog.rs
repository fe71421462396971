//! Fills more memory than there is with pages of real programs, and verifies every one of them.
//!
//! A page is a copy of a sample page with its key (process, generation, index) stamped in at two
//! places, so that no two pages are equal and what each must hold follows from its index and one
//! byte of generation. Each pass verifies all pages, in sequential or in random order by turns, and
//! rewrites a quarter of them with a new generation.
//!
//! The workers are children; the parent holds nothing, so it survives to say what became of them.
//! Exit status: 0 all right, 1 a page was wrong, 3 a worker was killed and no page was wrong.

use crate::args::Args;
use crate::pattern::{Random, Shuffle, mix};
use crate::sys::{self, Ended, Fork, Mapping};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const PAGE: usize = 4096;
const PAGES_PER_MB: usize = 256;
/// Where the key's complement goes: a second place, so that half a page cannot be of another key.
const SECOND: usize = PAGE / 2;
/// How many wrong pages are described, each by a line.
const SHOWN: u64 = 5;

/// Sample pages of a poor load: so many random bytes, the rest words of eight letters.
const POOR_RANDOM_BYTES: usize = 2200;
const POOR_PAGES: usize = 256;

/// Counters that workers share with the parent, a row for each worker.
const ROW: usize = 4;
const FILL_MS: usize = 0;
const BAD: usize = 1;
const WORST_US: usize = 2;
const VERIFIED: usize = 3;
const WORKERS_MAX: usize = 64;

/// The `hog` task.
pub fn run(mut args: Args) -> Result<u8, String> {
    let megabytes: usize = args.option("mb")?.ok_or("--mb is missing")?;
    let passes: u32 = args.or("passes", 2)?;
    let workers: usize = args.or("procs", 1)?;
    let poor = args.flag("poor")?;
    let file: Option<String> = args.option("pages")?;
    args.done()?;
    if workers == 0 || workers > WORKERS_MAX || passes > u32::from(u8::MAX) {
        return Err(format!(
            "--procs is 1 to {WORKERS_MAX}, --passes at most 255"
        ));
    }
    let sample = match (file, poor) {
        (Some(file), false) => read_sample(&file)?,
        (None, true) => poor_sample()?,
        _ => return Err("either --pages FILE or --poor".into()),
    };
    // What every page is copied from must not itself wait for the swap device.
    sample
        .lock()
        .map_err(|error| format!("cannot lock the sample: {error}"))?;
    let shared = Mapping::shared(WORKERS_MAX * ROW * 8).map_err(|error| error.to_string())?;
    let counters: &[AtomicU64; WORKERS_MAX * ROW] = shared.counters();

    let pages = megabytes * PAGES_PER_MB / workers;
    let start = sys::now();
    let mut children = Vec::new();
    for worker in 0..workers {
        match sys::fork().map_err(|error| format!("cannot fork: {error}"))? {
            Fork::Parent(pid) => children.push(pid),
            Fork::Child => {
                // If memory does run out, it should be a worker that goes.
                std::fs::write("/proc/self/oom_score_adj", "500").ok();
                let row = &counters[worker * ROW..(worker + 1) * ROW];
                let done = work(worker as u64, pages, passes, sample.bytes(), row);
                let status = match done {
                    Ok(()) => i32::from(row[BAD].load(Relaxed) > 0),
                    Err(error) => {
                        println!("hog {worker} failed: {error}");
                        2
                    }
                };
                sys::exit_now(status);
            }
        }
    }
    let (mut killed, mut failed) = (0, 0);
    for pid in children {
        match sys::wait(pid).map_err(|error| error.to_string())? {
            Ended::Killed => killed += 1,
            Ended::Exit(0 | 1) => {}
            Ended::Exit(_) => failed += 1,
        }
    }
    let column =
        |which: usize| (0..workers).map(move |row| counters[row * ROW + which].load(Relaxed));
    let bad: u64 = column(BAD).sum();
    println!(
        "hog mb={megabytes} procs={workers} passes={passes} bad={bad} killed={killed} \
         failed={failed} verified={} fill_ms={} total_ms={} worst_ms={}",
        column(VERIFIED).sum::<u64>(),
        column(FILL_MS).max().unwrap_or(0),
        (sys::now() - start).as_millis(),
        column(WORST_US).max().unwrap_or(0) / 1000,
    );
    Ok(match (bad, failed, killed) {
        (0, 0, 0) => 0,
        (0, 0, _) => 3,
        (0, _, _) => 2,
        _ => 1,
    })
}

fn read_sample(file: &str) -> Result<Mapping, String> {
    let data = std::fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let bytes = data.len() / PAGE * PAGE;
    if bytes == 0 {
        return Err(format!("{file} holds no page"));
    }
    let mut sample = Mapping::private(bytes).map_err(|error| error.to_string())?;
    sample.bytes_mut().copy_from_slice(&data[..bytes]);
    Ok(sample)
}

/// Pages of which about 54 % is random.
fn poor_sample() -> Result<Mapping, String> {
    let mut sample = Mapping::private(POOR_PAGES * PAGE).map_err(|error| error.to_string())?;
    let mut random = Random::new(1);
    for page in sample.bytes_mut().chunks_exact_mut(PAGE) {
        let (noise, rest) = page.split_at_mut(POOR_RANDOM_BYTES);
        noise.fill_with(|| random.next() as u8);
        for (i, byte) in rest.iter_mut().enumerate() {
            *byte = b"toiampwb"[(i / 8) % 8];
        }
    }
    Ok(sample)
}

/// What the pages of one worker hold.
struct Content<'a> {
    worker: u64,
    sample: &'a [u8],
}

impl Content<'_> {
    fn key(&self, index: usize, generation: u8) -> u64 {
        self.worker << 56 | u64::from(generation) << 48 | index as u64
    }

    /// The sample page under a key.
    fn page(&self, key: u64) -> &[u8] {
        let at = mix(key) as usize % (self.sample.len() / PAGE) * PAGE;
        &self.sample[at..at + PAGE]
    }

    fn put(&self, page: &mut [u8], key: u64) {
        page.copy_from_slice(self.page(key));
        page[..8].copy_from_slice(&key.to_le_bytes());
        page[SECOND..SECOND + 8].copy_from_slice(&(!key).to_le_bytes());
    }

    fn holds(&self, page: &[u8], key: u64) -> bool {
        let expected = self.page(key);
        page[..8] == key.to_le_bytes()
            && page[SECOND..SECOND + 8] == (!key).to_le_bytes()
            && page[8..SECOND] == expected[8..SECOND]
            && page[SECOND + 8..] == expected[SECOND + 8..]
    }
}

fn work(
    worker: u64,
    pages: usize,
    passes: u32,
    sample: &[u8],
    row: &[AtomicU64],
) -> Result<(), std::io::Error> {
    let content = Content { worker, sample };
    let mut memory = Mapping::private(pages * PAGE)?;
    let memory = memory.bytes_mut();
    let mut generations = vec![0u8; pages];

    let start = sys::now();
    let mut worst = Duration::ZERO;
    for (index, page) in memory.chunks_exact_mut(PAGE).enumerate() {
        let before = sys::now();
        content.put(page, content.key(index, 0));
        worst = worst.max(sys::now() - before);
    }
    row[FILL_MS].store((sys::now() - start).as_millis() as u64, Relaxed);
    println!("hog {worker} fill {}", timing(start, worst));
    row[WORST_US].fetch_max(worst.as_micros() as u64, Relaxed);

    for pass in 0..passes {
        let start = sys::now();
        let mut worst = Duration::ZERO;
        let random = pass % 2 == 1;
        let shuffle = Shuffle::new(pages as u64, u64::from(pass) << 8 | worker);
        for step in 0..pages {
            let index = if random {
                shuffle.at(step as u64) as usize
            } else {
                step
            };
            let page = &mut memory[index * PAGE..][..PAGE];
            let before = sys::now();
            let key = content.key(index, generations[index]);
            if !content.holds(page, key) && row[BAD].fetch_add(1, Relaxed) < SHOWN {
                complain(page, key);
            }
            row[VERIFIED].fetch_add(1, Relaxed);
            if mix(key ^ u64::from(pass) << 40).is_multiple_of(4) {
                generations[index] += 1;
                content.put(page, content.key(index, generations[index]));
            }
            worst = worst.max(sys::now() - before);
        }
        row[WORST_US].fetch_max(worst.as_micros() as u64, Relaxed);
        let order = if random { "random" } else { "sequential" };
        let bad = row[BAD].load(Relaxed);
        println!(
            "hog {worker} pass={pass} order={order} bad={bad} {}",
            timing(start, worst)
        );
    }
    Ok(())
}

fn timing(start: Duration, worst: Duration) -> String {
    format!(
        "ms={} worst_ms={}",
        (sys::now() - start).as_millis(),
        worst.as_millis()
    )
}

fn complain(page: &[u8], key: u64) {
    let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"));
    let (first, second) = (word(0), word(SECOND));
    println!("hog wrong page: key {key:#018x}, found {first:#018x} and {second:#018x}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_by_its_key_and_by_every_byte() {
        let sample = poor_sample().unwrap();
        let content = Content {
            worker: 3,
            sample: sample.bytes(),
        };
        let key = content.key(77, 2);
        let mut page = vec![0; PAGE];
        content.put(&mut page, key);
        assert!(content.holds(&page, key));
        assert!(!content.holds(&page, content.key(77, 3)));
        for at in [0, 8, SECOND - 1, SECOND, SECOND + 8, PAGE - 1] {
            page[at] ^= 1;
            assert!(!content.holds(&page, key), "byte {at}");
            page[at] ^= 1;
        }
    }

    #[test]
    fn a_worker_verifies_what_it_filled_and_rewrote() {
        let sample = poor_sample().unwrap();
        let row = [const { AtomicU64::new(0) }; ROW];
        work(0, 500, 3, sample.bytes(), &row).unwrap();
        assert_eq!(row[BAD].load(Relaxed), 0);
        assert_eq!(row[VERIFIED].load(Relaxed), 1500);
    }
}
