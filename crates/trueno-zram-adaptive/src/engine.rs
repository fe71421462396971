//! What a batch costs on an engine that works on many pages at once and lies behind a bus.
//!
//! ```text
//! time(pages, block) = launch + pages · (4096 · up + block · down) + ⌈pages / wave⌉ · time of a wave
//! ```
//! `launch` is paid once however few pages there are; `up` and `down` are the bus, per byte; a *wave* is
//! as many pages as the engine holds at a time. It generalises the old rule that the transfer has to
//! be a fifth of the work: what has to be less is the whole time, beside what the CPU takes.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;
use trueno_zram_core::PAGE_SIZE;

/// The cost of an engine for batches, such as a GPU.
///
/// ```
/// use trueno_zram_adaptive::BatchEngine;
///
/// let engine = BatchEngine {
///     launch_ns: 20_000.0,
///     up_ns_per_byte: 0.05,
///     down_ns_per_byte: 0.05,
///     wave_pages: 1000,
///     wave_ns: 50_000.0,
/// };
/// // One page waits for launch and a whole wave.
/// assert!(engine.time(1, 1400) > 70_000.0);
/// let from = engine.break_even(4000.0, 1400).expect("it pays some day");
/// assert!(engine.time(from, 1400) < 4000.0 * from as f64);
/// println!("{engine}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchEngine {
    /// Nanoseconds from the call to the first byte moved, and from the last one to the answer.
    pub launch_ns: f64,
    /// Nanoseconds per byte to the engine.
    pub up_ns_per_byte: f64,
    /// Nanoseconds per byte back.
    pub down_ns_per_byte: f64,
    /// Pages that are worked on at the same time; at least 1.
    pub wave_pages: usize,
    /// Nanoseconds of a wave, full or not.
    pub wave_ns: f64,
}

impl BatchEngine {
    /// The largest batch that [`break_even`](BatchEngine::break_even) considers: 1 GiB.
    pub const PAGES_MAX: usize = 1 << 18;

    /// Nanoseconds for a batch whose blocks have `block` bytes in the mean.
    pub fn time(&self, pages: usize, block: usize) -> f64 {
        if pages == 0 {
            return 0.0;
        }
        let bus = PAGE_SIZE as f64 * self.up_ns_per_byte + block as f64 * self.down_ns_per_byte;
        let waves = pages.div_ceil(self.wave_pages.max(1));
        self.launch_ns + pages as f64 * bus + waves as f64 * self.wave_ns
    }

    /// The smallest batch of two pages or more that takes less time here than on a CPU that needs
    /// `cpu_ns` for each page; `None` if there is none up to [`PAGES_MAX`](BatchEngine::PAGES_MAX).
    pub fn break_even(&self, cpu_ns: f64, block: usize) -> Option<usize> {
        (2..=BatchEngine::PAGES_MAX).find(|pages| self.time(*pages, block) < *pages as f64 * cpu_ns)
    }

    /// Fits the model to an engine by running batches on it. `run(pages, block)` moves so many pages
    /// there, works on them, moves `block` bytes for each of them back, and says how long it took.
    /// What it did to be ready (contexts, buffers) is no part of it.
    ///
    /// Batches of 1 page, `wave_pages` and twice and four times as many are run, `rounds` times, of
    /// which the fastest counts; `wave_pages` is for the caller to know, from the engine's properties.
    /// Up and down are taken to cost the same per byte.
    ///
    /// # Panics
    /// If `rounds` or `wave_pages` is 0.
    pub fn calibrate(
        wave_pages: usize,
        rounds: usize,
        mut run: impl FnMut(usize, usize) -> Duration,
    ) -> BatchEngine {
        assert!(
            rounds > 0 && wave_pages > 0,
            "a measurement needs a round and a page"
        );
        let mut fastest = |pages: usize, block: usize| {
            let times = (0..rounds).map(|_| run(pages, block).as_nanos() as f64);
            times.fold(f64::INFINITY, f64::min)
        };
        let (two, four) = (2 * wave_pages, 4 * wave_pages);
        // Nothing but the bytes back differs, then nothing but two waves and their bytes, then all
        // that is left is the launch.
        let [short, long] = [0, PAGE_SIZE].map(|block| fastest(four, block));
        let per_byte = ((long - short) / (four * PAGE_SIZE) as f64).max(0.0);
        let bus = |pages: usize| (pages * PAGE_SIZE) as f64 * per_byte;
        let wave_ns = ((short - fastest(two, 0) - bus(two)) / 2.0).max(0.0);
        let launch_ns = (fastest(1, 0) - bus(1) - wave_ns).max(0.0);
        BatchEngine {
            launch_ns,
            up_ns_per_byte: per_byte,
            down_ns_per_byte: per_byte,
            wave_pages,
            wave_ns,
        }
    }
}

impl fmt::Display for BatchEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "launch {:.0} ns, up {:.4} and down {:.4} ns per byte, waves of {} pages in {:.0} ns",
            self.launch_ns,
            self.up_ns_per_byte,
            self.down_ns_per_byte,
            self.wave_pages,
            self.wave_ns
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGINE: BatchEngine = BatchEngine {
        launch_ns: 15_000.0,
        up_ns_per_byte: 0.05,
        down_ns_per_byte: 0.05,
        wave_pages: 512,
        wave_ns: 80_000.0,
    };

    #[test]
    fn calibration_finds_the_engine_that_was_measured() {
        let mut slow = 0;
        let found = BatchEngine::calibrate(512, 3, |pages, block| {
            slow += 1;
            let extra = if slow % 3 == 1 { 7000.0 } else { 0.0 };
            Duration::from_nanos((ENGINE.time(pages, block) + extra) as u64)
        });
        assert_eq!(found.wave_pages, 512);
        for (found, real) in [
            (found.launch_ns, ENGINE.launch_ns),
            (found.up_ns_per_byte, ENGINE.up_ns_per_byte),
            (found.wave_ns, ENGINE.wave_ns),
        ] {
            assert!((found / real - 1.0).abs() < 0.01, "{found} for {real}");
        }
    }

    #[test]
    fn break_even_is_where_it_begins_to_pay() {
        let from = ENGINE.break_even(4000.0, 1400).unwrap();
        let pays = |pages| ENGINE.time(pages, 1400) < pages as f64 * 4000.0;
        assert!(pays(from) && !pays(from - 1));
        assert_eq!(ENGINE.break_even(100.0, 1400), None);
        assert_eq!(ENGINE.time(0, 1400), 0.0);
    }

    #[test]
    fn a_second_wave_is_paid_whole() {
        let step = ENGINE.time(513, 0) - ENGINE.time(512, 0);
        assert!(step > ENGINE.wave_ns);
    }
}
