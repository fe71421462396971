//! What lets this process serve swap while the machine has no memory, and proof that it holds.
//!
//! | measure | without it |
//! |---|---|
//! | IO_FLUSHER | an allocation of ours would wait for reclaim, which waits for us |
//! | out-of-memory score −1000 | the kernel would kill the process that holds everyone's pages |
//! | all memory locked, and what comes later | a page of ours could lie on our own device |
//! | no core dump | our death would wait for a dump of the store, and everyone for our death |
//! | locked memory not moved (`compaction.rs`) | short faults, while the kernel makes room |
//! | SCHED_FIFO on I/O and maintenance threads | they could neither run nor use the last free pages |
//!
//! Every measure is read back when it is taken, and again whenever someone asks ([`Guard::report`]).
#![forbid(unsafe_code)]

use super::{compaction, heap, sys};
use crate::transport::{IoThread, ThreadHooks};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::linux::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// How deep an I/O thread's stack is made present. Codecs keep their tables elsewhere.
const STACK_TOUCHED: usize = 256 << 10;

/// The heap that is kept for the threads that may use it while memory is short: what the control
/// socket's answers need, many times over.
const HEAP_KEPT: usize = 1 << 20;

const OOM_SCORE_FILE: &str = "/proc/self/oom_score_adj";
const OOM_SCORE: i32 = -1000;

/// What the measures are, as read back now. The object `hardening` of `stat --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether the process was set up to serve swap.
    pub swap_mode: bool,
    /// Memory that is there and stays there: `Locked` of `smaps_rollup`. (`VmLck` counts address
    /// space, that of the store which is still to come included.) None where the kernel does not
    /// tell (no CONFIG_PROC_PAGE_MONITOR).
    pub locked_bytes: Option<u64>,
    /// `VmRSS` of the process: memory that is there.
    pub resident_bytes: u64,
    /// `oom_score_adj` of the process.
    pub oom_score_adj: i32,
    /// Whether the kernel may move locked memory about, and so make I/O threads fault; absent
    /// where it never does.
    pub locked_memory_moves: Option<bool>,
    /// The main thread, and those on the way of pages.
    pub threads: Vec<ThreadReport>,
    /// Page faults of the threads that serve I/O.
    pub queue_thread_faults: Vec<FaultReport>,
    /// How often a thread that serves I/O used the heap; none where that is not watched for, which
    /// is on the loop transport.
    pub heap_uses_on_io_threads: Option<u64>,
    /// Bytes of memory ready for the next objects.
    pub reserve_bytes: u64,
    /// Bytes that should be ready.
    pub reserve_target: u64,
    /// The fewest bytes that ever were.
    pub reserve_lowest: u64,
    /// Bytes of the transport's I/O buffers.
    pub buffer_bytes: u64,
    /// Bytes of page table in use.
    pub table_bytes: u64,
}

/// The measures on one thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadReport {
    /// Its name.
    pub name: String,
    /// Its id.
    pub tid: i32,
    /// Whether IO_FLUSHER was set when the thread read it back.
    pub io_flusher: bool,
    /// Its scheduling class now: `fifo`, `other`, …
    pub scheduling: String,
    /// Its real-time priority now.
    pub priority: i32,
}

/// Page faults of one thread, when the device was ready and now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultReport {
    /// The thread's name.
    pub name: String,
    /// Its id.
    pub tid: i32,
    /// Faults without I/O at the start.
    pub minor_at_start: u64,
    /// Faults without I/O now.
    pub minor: u64,
    /// Faults with I/O at the start.
    pub major_at_start: u64,
    /// Faults with I/O now.
    pub major: u64,
}

/// What a hardened thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Serves requests.
    Io,
    /// Has memory ready for those that do.
    Maintenance,
}

impl Duty {
    /// Real-time priority. Threads of equal priority do not interrupt each other: I/O threads that
    /// keep all CPUs busy would use the reserve up while maintenance waits for one of them.
    fn priority(self) -> i32 {
        match self {
            Duty::Io => 1,
            Duty::Maintenance => 2,
        }
    }
}

/// Faults of a thread: without and with I/O.
type Faults = (u64, u64);

/// The measures of this process: takes them, and reads them back.
#[derive(Debug)]
pub struct Guard {
    swap: bool,
    /// Whether a use of the heap by an I/O thread is watched for.
    heap_guarded: bool,
    /// Whether this process only stands by yet. Its preparations may wait for memory, for which
    /// other pages may have to go to the device that another process serves: as an IO_FLUSHER it
    /// would get none, and as a real-time thread keep a CPU busy looking for it.
    standing: AtomicBool,
    /// Threads by id, and whether IO_FLUSHER was read back there.
    threads: Mutex<Vec<(i32, bool)>>,
    faults_at_start: Mutex<HashMap<i32, Faults>>,
}

impl Guard {
    /// Takes the measures that concern the process and its main thread. Without `swap` they are
    /// wished for, and missing ones are logged; with it they are conditions.
    pub fn new(swap: bool, heap_guarded: bool) -> anyhow::Result<Arc<Guard>> {
        let guard = Guard {
            swap,
            heap_guarded,
            standing: AtomicBool::new(false),
            threads: Mutex::new(Vec::new()),
            faults_at_start: Mutex::new(HashMap::new()),
        };
        guard.require(set_io_flusher())?;
        guard.require(set_oom_score())?;
        if swap {
            sys::forbid_core_dump().context("cannot forbid core dumps")?;
        }
        guard.note_main();
        Ok(Arc::new(guard))
    }

    /// Takes those measures that a standby can do with; the others come with the
    /// [succession](Guard::enter_succession).
    pub fn standing(heap_guarded: bool) -> anyhow::Result<Arc<Guard>> {
        let guard = Guard {
            swap: true,
            heap_guarded,
            standing: AtomicBool::new(true),
            threads: Mutex::new(Vec::new()),
            faults_at_start: Mutex::new(HashMap::new()),
        };
        // Whoever started us has it.
        sys::clear_io_flusher().context("cannot clear IO_FLUSHER")?;
        set_oom_score()?;
        sys::forbid_core_dump().context("cannot forbid core dumps")?;
        Ok(Arc::new(guard))
    }

    /// Whether this process only stands by yet.
    pub fn is_standing(&self) -> bool {
        self.standing.load(Relaxed)
    }

    /// The main thread is on nobody's way, but what it is now, later threads inherit.
    fn note_main(&self) {
        lock(&self.threads).push((sys::thread_id(), sys::io_flusher().unwrap_or(false)));
    }

    /// In swap mode passes an error on, else logs it.
    fn require(&self, result: anyhow::Result<()>) -> anyhow::Result<()> {
        match result {
            Err(error) if !self.swap => {
                tracing::warn!("{error:#}; going on, since the device does not serve swap");
                Ok(())
            }
            other => other,
        }
    }

    /// Takes the measures that concern the calling thread, which serves I/O or feeds those that do.
    /// In a standby only prepares them: it is to be called again when that takes over.
    pub fn enter_thread(&self, duty: Duty) -> io::Result<()> {
        if self.is_standing() {
            sys::touch_stack::<STACK_TOUCHED>();
            return Ok(());
        }
        if self.swap {
            sys::touch_stack::<STACK_TOUCHED>();
            sys::set_io_flusher()?;
            sys::set_fifo(duty.priority()).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("SCHED_FIFO is refused ({error}): {FIFO_REMEDY}"),
                )
            })?;
        }
        // Without the privilege it cannot even be asked for.
        let io_flusher = match sys::io_flusher() {
            Err(error) if self.swap => return Err(error),
            other => other.unwrap_or(false),
        };
        lock(&self.threads).push((sys::thread_id(), io_flusher));
        Ok(())
    }

    /// What a transport runs in each of its threads.
    pub fn hooks(self: &Arc<Self>) -> ThreadHooks {
        let guard = self.clone();
        let guarded = self.heap_guarded;
        let called = if self.is_standing() {
            let guard = self.clone();
            Arc::new(move || guard.enter_thread(Duty::Io))
        } else {
            ThreadHooks::none().called
        };
        ThreadHooks {
            start: Arc::new(move || guard.enter_thread(Duty::Io)),
            called,
            live: Arc::new(move || {
                if guarded {
                    heap::forbid();
                }
            }),
            end: Arc::new(heap::allow),
            ..ThreadHooks::none()
        }
    }

    /// Locks all memory that there is now: everything present at once, but of `store`, where it
    /// still grows, only what is there and then what comes. To be called again when there is more
    /// that shall be present. What is mapped later is locked page by page, as it is used: there is
    /// no thread of ours whose stack may lie on the device, for the kernel reads it when that thread
    /// dies, and while the worker is dying nobody serves.
    pub fn lock_memory(&self, store: &StoreMapping) -> anyhow::Result<()> {
        if !self.swap {
            return Ok(());
        }
        self.keep_heap(HEAP_KEPT);
        // First, so that what is mapped while we look is not missed.
        sys::lock_future_on_fault()
            .with_context(|| format!("cannot lock memory in advance: {LOCK_REMEDY}"))?;
        for mapping in mappings().context("cannot read /proc/self/maps")? {
            let locked = if mapping.inode == store.inode && mapping.device == store.device {
                sys::lock_range_on_fault(&mapping.range)
            } else if mapping.lockable {
                sys::lock_range(&mapping.range)
            } else {
                Ok(())
            };
            locked.with_context(|| {
                format!(
                    "cannot lock {} bytes of memory ({}): {LOCK_REMEDY}",
                    mapping.range.len(),
                    mapping.name
                )
            })?;
        }
        let locked = size_in(STATUS, "VmLck").with_context(|| format!("cannot read {STATUS}"))?;
        anyhow::ensure!(locked > 0, "no memory stayed locked: {LOCK_REMEDY}");
        Ok(())
    }

    /// Has `bytes` of heap there, to be locked with everything else.
    pub fn keep_heap(&self, bytes: usize) {
        // Taken, touched and given back: the heap keeps it (see `sys::keep_heap`).
        let mut kept = vec![0u8; bytes];
        kept.fill(1);
        drop(std::hint::black_box(kept));
    }

    /// The process that was stood by for is dead: takes the measures that were left out, and makes
    /// the calling thread as urgent as those that serve, since they wait for it.
    pub fn enter_succession(&self) -> anyhow::Result<()> {
        if !self.is_standing() {
            return Ok(());
        }
        self.standing.store(false, Relaxed);
        set_io_flusher()?;
        sys::set_fifo(Duty::Io.priority())
            .with_context(|| format!("SCHED_FIFO is refused: {FIFO_REMEDY}"))?;
        self.note_main();
        Ok(())
    }

    /// The calling thread is on nobody's way any more.
    pub fn leave_succession(&self) {
        if !self.swap {
            return;
        }
        if let Err(error) = sys::set_ordinary() {
            tracing::warn!("the main thread stays a real-time thread: {error}");
        }
    }

    /// Remembers the page faults of the threads that serve I/O; from here on there should be none.
    pub fn mark_start(&self, threads: &[IoThread]) -> io::Result<()> {
        let mut start = lock(&self.faults_at_start);
        for thread in threads {
            start.insert(thread.tid, faults(thread.tid)?);
        }
        Ok(())
    }

    /// Reads everything back. What the store and the transport know is left at 0.
    pub fn report(&self, io_threads: &[IoThread]) -> io::Result<Report> {
        let start = lock(&self.faults_at_start).clone();
        let queue_thread_faults = io_threads
            .iter()
            .map(|thread| {
                let (minor, major) = faults(thread.tid)?;
                let (minor_at_start, major_at_start) =
                    start.get(&thread.tid).copied().unwrap_or((0, 0));
                Ok(FaultReport {
                    name: thread.name.clone(),
                    tid: thread.tid,
                    minor_at_start,
                    minor,
                    major_at_start,
                    major,
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let threads = lock(&self.threads).clone();
        let threads = threads
            .into_iter()
            .map(|(tid, io_flusher)| {
                let (class, priority) = sys::scheduling(tid)?;
                let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm"))?;
                Ok(ThreadReport {
                    name: name.trim_end().to_string(),
                    tid,
                    io_flusher,
                    scheduling: class_name(class).to_string(),
                    priority,
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Report {
            swap_mode: self.swap,
            locked_bytes: locked_bytes()?,
            resident_bytes: size_in(STATUS, "VmRSS")?,
            oom_score_adj: oom_score()?,
            locked_memory_moves: compaction::allowed(),
            threads,
            queue_thread_faults,
            heap_uses_on_io_threads: self.heap_guarded.then(heap::forbidden_uses),
            ..Report::default()
        })
    }
}

const FIFO_REMEDY: &str = "give the daemon CAP_SYS_NICE, or a cgroup with a real-time budget";
const LOCK_REMEDY: &str = "give the daemon CAP_IPC_LOCK or raise its limit (ulimit -l unlimited)";

/// Which lines of `/proc/self/maps` are the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreMapping {
    device: (u64, u64),
    inode: u64,
}

impl StoreMapping {
    /// The mappings of `file`.
    pub fn of(file: &File) -> io::Result<StoreMapping> {
        let meta = file.metadata()?;
        let device = meta.st_dev();
        Ok(StoreMapping {
            device: (
                u64::from(libc::major(device)),
                u64::from(libc::minor(device)),
            ),
            inode: meta.st_ino(),
        })
    }
}

/// A line of `/proc/self/maps`.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    range: Range<usize>,
    /// Whether it can be read, and so be brought in; not so guard pages and the kernel's own.
    lockable: bool,
    device: (u64, u64),
    inode: u64,
    name: String,
}

fn mappings() -> io::Result<Vec<Mapping>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    maps.lines()
        .map(|line| {
            parse_mapping(line).ok_or_else(|| io::Error::other(format!("not understood: {line:?}")))
        })
        .collect()
}

/// `start-end rwxp offset major:minor inode   name`, numbers in hexadecimal but for the inode.
fn parse_mapping(line: &str) -> Option<Mapping> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let readable = fields.next()?.starts_with('r');
    let _offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    let name = fields.next().unwrap_or("anonymous memory");
    // [vvar], [vdso], [vsyscall] and their like are the kernel's pages.
    let of_kernel = name.starts_with("[v");
    Some(Mapping {
        range: hex(start)? as usize..hex(end)? as usize,
        lockable: readable && !of_kernel,
        device: (hex(major)?, hex(minor)?),
        inode,
        name: name.to_string(),
    })
}

fn set_io_flusher() -> anyhow::Result<()> {
    sys::set_io_flusher().context("cannot set IO_FLUSHER: give the daemon CAP_SYS_RESOURCE")
}

fn set_oom_score() -> anyhow::Result<()> {
    const REMEDY: &str = "give the daemon CAP_SYS_RESOURCE";
    std::fs::write(OOM_SCORE_FILE, OOM_SCORE.to_string())
        .with_context(|| format!("cannot write {OOM_SCORE} to {OOM_SCORE_FILE}: {REMEDY}"))?;
    let found = oom_score().with_context(|| format!("cannot read {OOM_SCORE_FILE}"))?;
    anyhow::ensure!(
        found == OOM_SCORE,
        "{OOM_SCORE_FILE} stayed at {found}: {REMEDY}"
    );
    Ok(())
}

fn oom_score() -> io::Result<i32> {
    let text = std::fs::read_to_string(OOM_SCORE_FILE)?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::other(format!("not a score: {text:?}")))
}

/// Bytes that are there and locked, counted by the kernel. It walks through all page tables, so it
/// is asked only where something is locked: on behalf of a client, never on the way of a page.
fn locked_bytes() -> io::Result<Option<u64>> {
    if size_in(STATUS, "VmLck")? == 0 {
        return Ok(Some(0));
    }
    match size_in("/proc/self/smaps_rollup", "Locked") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

const STATUS: &str = "/proc/self/status";

/// A size in a file of lines such as `VmRSS:  26448 kB`.
fn size_in(file: &str, name: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let kib = text.lines().find_map(|line| {
        let value = line
            .strip_prefix(name)?
            .strip_prefix(':')?
            .strip_suffix("kB")?;
        value.trim().parse::<u64>().ok()
    });
    kib.map(|kib| kib << 10)
        .ok_or_else(|| io::Error::other(format!("no {name} in {file}")))
}

/// Page faults of a thread so far.
fn faults(tid: i32) -> io::Result<Faults> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat"))?;
    parse_faults(&stat).ok_or_else(|| io::Error::other(format!("not understood: {stat:?}")))
}

/// Fields 10 and 12 of `/proc/PID/stat`; field 2 is a name in parentheses, which may hold anything.
fn parse_faults(stat: &str) -> Option<Faults> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(7);
    let minor = fields.next()?.parse().ok()?;
    let major = fields.nth(1)?.parse().ok()?;
    Some((minor, major))
}

fn class_name(class: i32) -> &'static str {
    match class {
        libc::SCHED_OTHER => "other",
        libc::SCHED_FIFO => "fifo",
        libc::SCHED_RR => "rr",
        libc::SCHED_BATCH => "batch",
        libc::SCHED_IDLE => "idle",
        _ => "unknown",
    }
}

/// The content of a mutex; a thread that panicked left nothing half done in ours.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart() {
        let store = parse_mapping(
            "7f0000000000-7f0200000000 rw-s 00000000 00:2a 12  /run/trueno-ublk/0/memory/store",
        )
        .unwrap();
        assert_eq!(store.range.len(), 8 << 30);
        assert_eq!(
            (store.device, store.inode, store.lockable),
            ((0, 0x2a), 12, true)
        );
        let guard = parse_mapping("7f1-7f2 ---p 00000000 00:00 0 ").unwrap();
        assert!(!guard.lockable && guard.inode == 0);
        let kernel = parse_mapping("7ffd1-7ffd2 r-xp 00000000 00:00 0  [vdso]").unwrap();
        assert!(!kernel.lockable);
        assert!(parse_mapping("nonsense").is_none());
    }

    #[test]
    fn faults_are_read_behind_any_thread_name() {
        let stat = "17 (a) b (c) S 1 17 17 0 -1 4194560 321 0 45 0 7 8 0 0 20 0 1 0 100";
        assert_eq!(parse_faults(stat), Some((321, 45)));
        // And from the real file: this thread's first touch of some pages shows.
        let before = faults(sys::thread_id()).unwrap();
        let mut pages = vec![0u8; 8 << 20];
        pages.fill(1);
        std::hint::black_box(&pages);
        assert!(faults(sys::thread_id()).unwrap().0 > before.0);
    }

    /// The bytes of the mapping at `address` that are there and locked.
    fn locked_at(address: usize) -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| {
            !parse_mapping(line).is_some_and(|mapping| mapping.range.contains(&address))
        });
        let locked = lines.find_map(|line| line.strip_prefix("Locked:"));
        let kib = locked.and_then(|value| value.trim().strip_suffix(" kB"));
        kib.unwrap().parse::<u64>().unwrap() << 10
    }

    #[test]
    fn memory_is_locked() {
        // Locks all memory of its process, where no other thread shall come or go.
        if std::env::var_os("ALONE").is_none() {
            let alone = std::process::Command::new("/proc/self/exe")
                .args(["--exact", "daemon::harden::tests::memory_is_locked"])
                .args(["--test-threads=1", "--nocapture"])
                .env("ALONE", "1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&alone.stdout);
            eprint!("{said}{}", String::from_utf8_lossy(&alone.stderr));
            assert!(alone.status.success() && said.contains("1 passed"));
            return;
        }
        let file = sys::memfd(c"harden-test").unwrap();
        let mapping = StoreMapping::of(&file).unwrap();
        let length = 1 << 30;
        let memory =
            trueno_zram_store::Memory::from_file(file.try_clone().unwrap(), length).unwrap();
        memory.populate(0..1 << 20).unwrap();
        let guard = Guard {
            swap: true,
            heap_guarded: false,
            standing: AtomicBool::new(false),
            threads: Mutex::default(),
            faults_at_start: Mutex::default(),
        };
        if let Err(error) = guard.lock_memory(&mapping) {
            assert!(!sys::is_root(), "{error:#}");
            eprintln!("SKIPPED: {error:#}");
            return;
        }
        let present = file.metadata().unwrap().st_blocks() * 512;
        assert!(
            present < 4 << 20,
            "{present} bytes of the store were brought in"
        );
        // What is locked is what is there, and not the store's address space.
        let ours = |found: &Mapping| found.inode == mapping.inode && found.device == mapping.device;
        let store = mappings().unwrap().into_iter().find(ours).unwrap();
        let store = store.range.start;
        assert_eq!(locked_at(store), 1 << 20);
        memory.populate(1 << 20..65 << 20).unwrap();
        assert_eq!(locked_at(store), 65 << 20);
        let said = guard.report(&[]).unwrap().locked_bytes;
        assert!(
            said.is_some_and(|bytes| bytes > 65 << 20),
            "the report says {said:?}"
        );
        // The stack of a thread that is started afterwards is locked as far as it is used.
        let stack = std::thread::Builder::new()
            .stack_size(4 << 20)
            .spawn(|| {
                sys::touch_stack::<{ 1 << 20 }>();
                let here = 0u8;
                locked_at(&raw const here as usize)
            })
            .unwrap()
            .join()
            .unwrap();
        assert!(
            (1 << 20..2 << 20).contains(&stack),
            "of a stack in use {stack} bytes are locked"
        );
        let report = guard.report(&[]).unwrap();
        assert_eq!(report.heap_uses_on_io_threads, None);
    }
}
