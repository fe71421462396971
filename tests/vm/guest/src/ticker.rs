//! A locked observer: how long does a machine under memory pressure keep its programs waiting?
//!
//! One thread sleeps 100 ms at a time and notes the longest delay. One maps and touches 1 MiB at a
//! time, like any program that wants memory. One reads `/proc/vmstat` each second: while the hog
//! runs and once swapping has begun, swap I/O must go on. A live-locked server is in state R, which
//! no detector of the kernel reports; a counter that stands still does.
//!
//! After start nothing here allocates on the heap. SIGTERM ends it with one line of key=value.

use crate::args::Args;
use crate::sys::{self, Mapping};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);
const ALLOCATION: usize = 1 << 20;
const PAUSE: Duration = Duration::from_millis(500);
const STACK: usize = 128 << 10;
/// A line is printed after so many seconds.
const LINE_SECONDS: u32 = 10;

static GAP_MS: AtomicU64 = AtomicU64::new(0);
static ALLOCATION_MAX_MS: AtomicU64 = AtomicU64::new(0);
static ALLOCATION_SUM_MS: AtomicU64 = AtomicU64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// When the allocation that is under way began, in ms; 0 when none is.
static ALLOCATION_SINCE_MS: AtomicU64 = AtomicU64::new(0);
static IDLE_MAX_MS: AtomicU64 = AtomicU64::new(0);
static STALLS: AtomicU64 = AtomicU64::new(0);
static SWAPPED_IN: AtomicU64 = AtomicU64::new(0);
static SWAPPED_OUT: AtomicU64 = AtomicU64::new(0);
static OOM_KILLS: AtomicU64 = AtomicU64::new(0);

/// The `ticker` task.
pub fn run(mut args: Args) -> Result<u8, String> {
    let load: Option<i32> = args.option("while")?;
    let idle = Duration::from_secs(args.or("idle", 10)?);
    let gap_limit_ms: u64 = args.or("max-gap", 1000)?;
    let allocation_limit_ms: u64 = args.or("max-alloc", u64::MAX)?;
    args.done()?;

    std::fs::write("/proc/self/oom_score_adj", "-1000")
        .map_err(|error| format!("cannot write oom_score_adj: {error}"))?;
    let load = match load {
        Some(pid) => Some(sys::pidfd(pid).map_err(|error| format!("process {pid}: {error}"))?),
        None => None,
    };
    let watch = Watch::new(load, idle).map_err(|error| format!("cannot watch: {error}"))?;
    let signals = sys::block_end_signals();
    start("sleeper", sleeper)?;
    start("allocator", allocator)?;
    start("watch", move || watch.run())?;
    // The threads' stacks are mapped and first touched by now.
    std::thread::sleep(3 * TICK);
    sys::lock_all().map_err(|error| format!("cannot lock memory: {error}"))?;

    signals.wait();
    let (gap, longest) = (GAP_MS.load(Relaxed), ALLOCATION_MAX_MS.load(Relaxed));
    let stalls = STALLS.load(Relaxed);
    let good = gap < gap_limit_ms && longest <= allocation_limit_ms && stalls == 0;
    let mut line = Line::new();
    let _ = writeln!(
        line,
        "ticker result={} gap_ms={gap} alloc_max_ms={longest} alloc_mean_ms={} allocs={} \
         stalls={stalls} idle_max_ms={} pswpin={} pswpout={} oom_kills={}",
        if good { "ok" } else { "bad" },
        ALLOCATION_SUM_MS.load(Relaxed) / ALLOCATIONS.load(Relaxed).max(1),
        ALLOCATIONS.load(Relaxed),
        IDLE_MAX_MS.load(Relaxed),
        SWAPPED_IN.load(Relaxed),
        SWAPPED_OUT.load(Relaxed),
        OOM_KILLS.load(Relaxed),
    );
    line.say();
    sys::exit_now(i32::from(!good))
}

/// Start a thread with a small stack: all of it will be locked.
fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new()
        .name(name.into())
        .stack_size(STACK);
    thread
        .spawn(work)
        .map(drop)
        .map_err(|error| format!("cannot start thread {name}: {error}"))
}

/// Notes how much longer than asked each sleep was.
fn sleeper() {
    let mut before = sys::now();
    loop {
        std::thread::sleep(TICK);
        let now = sys::now();
        GAP_MS.fetch_max(
            (now - before).saturating_sub(TICK).as_millis() as u64,
            Relaxed,
        );
        before = now;
    }
}

/// Wants memory again and again.
fn allocator() {
    loop {
        std::thread::sleep(PAUSE);
        let start = sys::now();
        ALLOCATION_SINCE_MS.store(start.as_millis() as u64, Relaxed);
        if let Ok(mut memory) = Mapping::private(ALLOCATION) {
            for page in memory.bytes_mut().chunks_exact_mut(4096) {
                page[0] = std::hint::black_box(1);
            }
        }
        ALLOCATION_SINCE_MS.store(0, Relaxed);
        let ms = (sys::now() - start).as_millis() as u64;
        ALLOCATION_MAX_MS.fetch_max(ms, Relaxed);
        ALLOCATION_SUM_MS.fetch_add(ms, Relaxed);
        ALLOCATIONS.fetch_add(1, Relaxed);
    }
}

/// Watches the swap counters.
struct Watch {
    vmstat: File,
    meminfo: File,
    sysrq: Option<File>,
    /// The process whose end ends the demand for progress.
    load: Option<OwnedFd>,
    idle: Duration,
}

impl Watch {
    fn new(load: Option<OwnedFd>, idle: Duration) -> io::Result<Self> {
        Ok(Self {
            vmstat: File::open("/proc/vmstat")?,
            meminfo: File::open("/proc/meminfo")?,
            sysrq: File::options().write(true).open("/proc/sysrq-trigger").ok(),
            load,
            idle,
        })
    }

    fn run(&self) {
        let mut buffer = [0; 16384];
        let begin = sys::now();
        let mut progress = Progress::new(begin, self.idle);
        let (mut line_in, mut line_out) = (0, 0);
        let mut seconds = 0;
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let length = sys::read_at_start(&self.vmstat, &mut buffer);
            let vmstat = &buffer[..length];
            let (swapped_in, swapped_out) = (value(vmstat, "pswpin"), value(vmstat, "pswpout"));
            SWAPPED_IN.store(swapped_in, Relaxed);
            SWAPPED_OUT.store(swapped_out, Relaxed);
            OOM_KILLS.store(value(vmstat, "oom_kill"), Relaxed);

            let now = sys::now();
            let wanted = self.load.as_ref().is_some_and(|load| !sys::has_ended(load));
            let stalled = progress.step(now, swapped_in + swapped_out, wanted);
            IDLE_MAX_MS.fetch_max(progress.longest.as_millis() as u64, Relaxed);
            if stalled && STALLS.fetch_add(1, Relaxed) == 0 {
                sys::say(b"ticker: swap I/O stands still; what the kernel is doing follows\n");
                self.ask_kernel();
            }
            seconds += 1;
            if seconds % LINE_SECONDS == 0 {
                let length = sys::read_at_start(&self.meminfo, &mut buffer);
                let (din, dout) = (swapped_in - line_in, swapped_out - line_out);
                (line_in, line_out) = (swapped_in, swapped_out);
                tick((now - begin).as_secs(), din, dout, &buffer[..length]);
            }
        }
    }

    /// Have the kernel log its blocked tasks, its memory and the stacks of what runs.
    fn ask_kernel(&self) {
        use std::io::Write as _;
        if let Some(mut sysrq) = self.sysrq.as_ref() {
            for command in [b"w", b"m", b"l"] {
                // Nothing to be done where the kernel does not allow it.
                let _ = sysrq.write(command);
            }
        }
    }
}

fn tick(seconds: u64, swapped_in: u64, swapped_out: u64, meminfo: &[u8]) {
    let mut line = Line::new();
    let since = ALLOCATION_SINCE_MS.load(Relaxed);
    let waiting = if since == 0 {
        0
    } else {
        (sys::now().as_millis() as u64).saturating_sub(since)
    };
    let _ = writeln!(
        line,
        "tick s={seconds} pswpin={swapped_in} pswpout={swapped_out} free_mb={} available_mb={} \
         swapfree_mb={} gap_ms={} alloc_max_ms={} alloc_now_ms={waiting}",
        value(meminfo, "MemFree:") / 1024,
        value(meminfo, "MemAvailable:") / 1024,
        value(meminfo, "SwapFree:") / 1024,
        GAP_MS.load(Relaxed),
        ALLOCATION_MAX_MS.load(Relaxed),
    );
    line.say();
}

/// Tells when a counter that should move has stood still for too long.
struct Progress {
    idle: Duration,
    /// The longest that it has stood still while it should have moved.
    longest: Duration,
    count: u64,
    moved: Duration,
    begun: bool,
}

impl Progress {
    fn new(now: Duration, idle: Duration) -> Self {
        Self {
            idle,
            longest: Duration::ZERO,
            count: 0,
            moved: now,
            begun: false,
        }
    }

    /// True when a whole idle time has gone by without movement; then the time starts anew.
    fn step(&mut self, now: Duration, count: u64, wanted: bool) -> bool {
        // What was swapped before this began to look is no progress.
        let first = self.count == 0;
        if count != self.count || !wanted {
            self.begun |= !first;
            self.count = count;
            self.moved = now;
            return false;
        }
        if !self.begun {
            self.moved = now;
            return false;
        }
        let still = now - self.moved;
        self.longest = self.longest.max(still);
        if still >= self.idle {
            self.moved = now;
            return true;
        }
        false
    }
}

/// The number after `key` at the start of a line, or 0.
fn value(text: &[u8], key: &str) -> u64 {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(key.as_bytes()))
        .filter(|rest| rest.starts_with(b" "))
        .map(|rest| {
            let digits = rest.iter().skip_while(|byte| **byte == b' ');
            let digits = digits.take_while(|byte| byte.is_ascii_digit());
            digits.fold(0, |value, digit| value * 10 + u64::from(digit - b'0'))
        })
        .next()
        .unwrap_or(0)
}

/// A line of text in memory that is there from the start.
struct Line {
    text: [u8; 512],
    length: usize,
}

impl Line {
    fn new() -> Self {
        Self {
            text: [0; 512],
            length: 0,
        }
    }

    fn say(&self) {
        sys::say(&self.text[..self.length]);
    }
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = self.text.get_mut(self.length..self.length + text.len());
        room.ok_or(std::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_whole_key() {
        let text = b"pswpin 12\npswpin_x 99\nnr_free 3\nMemFree:      2048 kB\n";
        assert_eq!(value(text, "pswpin"), 12);
        assert_eq!(value(text, "nr_free"), 3);
        assert_eq!(value(text, "MemFree:"), 2048);
        assert_eq!(value(text, "absent"), 0);
    }

    #[test]
    fn standing_still_counts_once_swapping_has_begun_and_while_it_is_wanted() {
        let s = Duration::from_secs;
        let mut progress = Progress::new(s(0), s(10));
        assert!(
            !(1..50).any(|t| progress.step(s(t), 0, true)),
            "no swapping yet"
        );
        assert!(!progress.step(s(50), 100, true));
        assert!(!progress.step(s(51), 200, true));
        assert!(!progress.step(s(60), 200, true));
        assert!(progress.step(s(61), 200, true));
        assert!(!progress.step(s(62), 200, true), "the time starts anew");
        assert!(!progress.step(s(90), 200, false), "the load has ended");
        assert_eq!(progress.longest, s(10));
    }
}
