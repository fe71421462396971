//! The loop transport on a real loop device: bytes come back, and nothing stays behind.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use trueno_ublk::loopdev::{LoopDevice, Spec, available};
use trueno_ublk::target::Target;
use trueno_ublk::transport::{Device, ThreadHooks};
use trueno_zram_core::codec::lz4::Lz4;
use trueno_zram_store::{Config, Memory, Store};

const SIZE: u64 = 64 << 20;

/// Whether this machine has what the transport needs. Where nothing may be left out (`CI=true`)
/// its absence is a failure.
fn possible() -> bool {
    let Err(why) = available() else { return true };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
    eprintln!("SKIPPED: {why}");
    false
}

fn target(block_size: u32) -> Arc<Target> {
    let config = Config::new(SIZE, Arc::new(Lz4::new()));
    let memory = Memory::anonymous(config.memory_bytes().unwrap()).unwrap();
    Arc::new(Target::new(
        Arc::new(Store::create(config, memory).unwrap()),
        block_size,
    ))
}

fn prepare(run_dir: &Path, id: u32, block_size: u32) -> anyhow::Result<LoopDevice> {
    LoopDevice::prepare(
        Spec::new(id, run_dir),
        target(block_size),
        ThreadHooks::none(),
    )
}

fn started(run_dir: &Path, id: u32, block_size: u32) -> LoopDevice {
    let mut device = prepare(run_dir, id, block_size).unwrap();
    device.start().unwrap();
    device
}

fn sysfs(device: &Path, attribute: &str) -> Option<String> {
    let name = device.file_name()?.to_str()?;
    let text = fs::read_to_string(format!("/sys/block/{name}/{attribute}")).ok()?;
    Some(text.trim().to_string())
}

/// Loop devices and mounts whose place is below `run_dir`, and what the directory holds.
fn remains(run_dir: &Path) -> Vec<String> {
    let run_dir = run_dir.canonicalize().unwrap();
    let prefix = run_dir.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts
        .lines()
        .filter(|line| line.contains(prefix))
        .map(str::to_string);
    let loops = fs::read_dir("/sys/block").unwrap().filter_map(|entry| {
        let backing = entry.ok()?.path().join("loop/backing_file");
        fs::read_to_string(backing)
            .ok()
            .filter(|file| file.starts_with(prefix))
    });
    let files = fs::read_dir(&run_dir)
        .unwrap()
        .map(|e| e.unwrap().path().display().to_string());
    mounts.chain(loops).chain(files).collect()
}

/// Memory that direct I/O takes: aligned to a page.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(len: usize) -> Aligned {
        let memory = vec![0; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Aligned { memory, start }
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..][..len]
    }
}

fn open_direct(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .unwrap()
}

fn discard(device: &File, offset: u64, len: u64) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: fallocate touches no memory of ours; the descriptor is open while borrowed.
    let rc = unsafe { libc::fallocate(device.as_raw_fd(), mode, offset as i64, len as i64) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}

/// A small generator with a seed, so that a failure repeats (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Several threads, each in its own part of the device, against a plain copy of that part.
fn agrees_with_a_plain_copy(block_size: u32) {
    const THREADS: u64 = 4;
    const PART: u64 = 4 << 20;
    const LONGEST: u64 = 1 << 20;
    let directory = tempfile::tempdir().unwrap();
    let mut device = started(directory.path(), 0, block_size);
    let path = device.path().unwrap().to_path_buf();
    assert_eq!(
        sysfs(&path, "queue/logical_block_size"),
        Some(block_size.to_string())
    );
    assert_eq!(sysfs(&path, "size"), Some((SIZE / 512).to_string()));

    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let path = &path;
            scope.spawn(move || {
                let block = u64::from(block_size);
                let base = thread * PART;
                let file = open_direct(path);
                let mut model = vec![0u8; PART as usize];
                let mut buffer = Aligned::new(LONGEST as usize);
                let mut random = Random(0x9e37_79b9_7f4a_7c15 + thread);
                for step in 0..600 {
                    let at = random.below(PART / block) * block;
                    let longest = (PART - at).min(LONGEST);
                    // Mostly short, now and then as long as it gets.
                    let longest = if step % 8 == 0 {
                        longest
                    } else {
                        longest.min(16 << 10)
                    };
                    let len = (1 + random.below(longest / block)) * block;
                    let range = at as usize..(at + len) as usize;
                    let bytes = buffer.bytes(len as usize);
                    match random.below(8) {
                        0 => {
                            // The granularity of discards is a page; for a block device punching
                            // a hole means zeros, whatever the granularity.
                            discard(&file, base + at, len);
                            model[range].fill(0);
                        }
                        1..4 => {
                            let seed = random.below(u64::MAX);
                            for (i, byte) in bytes.iter_mut().enumerate() {
                                *byte = (seed >> (i % 56)) as u8;
                            }
                            file.write_all_at(bytes, base + at).unwrap();
                            model[range].copy_from_slice(bytes);
                        }
                        _ => {
                            file.read_exact_at(bytes, base + at).unwrap();
                            assert!(
                                *bytes == model[range],
                                "thread {thread} step {step} at {at}"
                            );
                        }
                    }
                }
                file.sync_all().unwrap();
                // Through the page cache too, from the start.
                let mut whole = vec![0u8; PART as usize];
                File::open(path)
                    .unwrap()
                    .read_exact_at(&mut whole, base)
                    .unwrap();
                assert!(whole == model, "thread {thread} at the end");
            });
        }
    });
    device.stop().unwrap();
}

#[test]
fn what_is_written_comes_back_in_blocks_of_4096() {
    if possible() {
        agrees_with_a_plain_copy(4096);
    }
}

#[test]
fn what_is_written_comes_back_in_blocks_of_512() {
    if possible() {
        agrees_with_a_plain_copy(512);
    }
}

#[test]
fn the_loop_device_does_direct_io_and_carries_our_name() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut device = started(directory.path(), 7, 4096);
    let path = device.path().unwrap().to_path_buf();
    assert_eq!(sysfs(&path, "loop/dio").as_deref(), Some("1"));
    let file = directory
        .path()
        .canonicalize()
        .unwrap()
        .join("7/fuse/device");
    assert_eq!(
        sysfs(&path, "loop/backing_file").map(PathBuf::from),
        Some(file)
    );
    assert_eq!(
        sysfs(&path, "queue/discard_granularity").as_deref(),
        Some("4096")
    );
    device.stop().unwrap();
}

#[test]
fn twenty_devices_leave_nothing_behind_and_stopping_twice_is_fine() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let mut device = started(directory.path(), round % 3, 4096);
        let path = device.path().unwrap().to_path_buf();
        assert!(!remains(directory.path()).is_empty());
        if round % 2 == 0 {
            device.stop().unwrap();
            assert_eq!(device.path(), None);
            device.stop().unwrap();
            assert!(device.start().is_err(), "a stopped device started");
        }
        let tids: Vec<i32> = device.threads().iter().map(|thread| thread.tid).collect();
        drop(device);
        for tid in tids {
            assert!(
                !Path::new(&format!("/proc/self/task/{tid}")).exists(),
                "thread {tid}"
            );
        }
        assert_eq!(
            remains(directory.path()),
            Vec::<String>::new(),
            "round {round}"
        );
        // Free, or bound by another test by now, but not to our file.
        let backing = sysfs(&path, "loop/backing_file").unwrap_or_default();
        assert!(
            !backing.starts_with(directory.path().to_str().unwrap()),
            "{backing}"
        );
    }
}

#[test]
fn an_id_in_use_is_refused_and_its_device_goes_on() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut device = started(directory.path(), 3, 4096);
    let Err(error) = prepare(directory.path(), 3, 4096) else {
        panic!("two devices of one id")
    };
    let text = error.to_string();
    assert!(text.starts_with("device id 3 is in use"), "{text}");
    let mut bytes = [1u8; 4096];
    File::open(device.path().unwrap())
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    assert_eq!(bytes, [0; 4096]);
    device.stop().unwrap();
}

#[test]
fn a_device_that_someone_holds_open_is_named_and_goes_when_they_let_go() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut device = started(directory.path(), 0, 4096);
    let path = device.path().unwrap().to_path_buf();
    let holder = open_direct(&path);
    let text = device.stop().unwrap().expect("something remains");
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains("still in use"),
        "{text}"
    );
    // Our side is gone all the same, and the holder gets an error, not silence.
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    let mut buffer = Aligned::new(4096);
    assert!(holder.read_exact_at(buffer.bytes(4096), 0).is_err());
    drop(holder);
    let deadline = Instant::now() + Duration::from_secs(5);
    // A detached mount's file is shown without the mount point.
    while sysfs(&path, "loop/backing_file").as_deref() == Some("/device") {
        assert!(Instant::now() < deadline, "{} stays bound", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_thread_starts_lives_and_ends_once() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let calls: Arc<[Mutex<Vec<i32>>; 3]> = Arc::default();
    let record = |which: usize| {
        let calls = calls.clone();
        move || {
            // SAFETY: gettid has no preconditions.
            calls[which].lock().unwrap().push(unsafe { libc::gettid() });
        }
    };
    let start = record(0);
    let hooks = ThreadHooks {
        start: Arc::new(move || {
            start();
            Ok(())
        }),
        live: Arc::new(record(1)),
        end: Arc::new(record(2)),
        ..ThreadHooks::none()
    };
    let sorted = |which: usize| {
        let mut tids = calls[which].lock().unwrap().clone();
        tids.sort();
        tids
    };
    let spec = Spec {
        threads: 5,
        ..Spec::new(0, directory.path())
    };
    let mut device = LoopDevice::prepare(spec, target(4096), hooks).unwrap();
    let mut tids: Vec<i32> = device.threads().iter().map(|thread| thread.tid).collect();
    tids.sort();
    assert_eq!(tids.len(), 5);
    for thread in device.threads() {
        let name = fs::read_to_string(format!("/proc/self/task/{}/comm", thread.tid)).unwrap();
        assert_eq!(name.trim(), thread.name);
    }
    assert_eq!(sorted(0), tids);
    assert_eq!(sorted(1), tids);
    device.start().unwrap();
    assert_eq!(sorted(2), Vec::<i32>::new());
    device.stop().unwrap();
    assert_eq!(sorted(0), tids);
    assert_eq!(sorted(1), tids);
    assert_eq!(sorted(2), tids);
}

#[test]
fn a_thread_that_cannot_start_fails_prepare_and_leaves_nothing() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let hooks = ThreadHooks {
        start: Arc::new(move || match count.fetch_add(1, Ordering::Relaxed) {
            1 => Err(std::io::Error::other("no such scheduling class")),
            _ => Ok(()),
        }),
        ..ThreadHooks::none()
    };
    let spec = Spec {
        threads: 3,
        ..Spec::new(0, directory.path())
    };
    let Err(error) = LoopDevice::prepare(spec, target(4096), hooks) else {
        panic!("prepared")
    };
    assert!(
        format!("{error:#}").contains("no such scheduling class"),
        "{error:#}"
    );
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert_eq!(remains(directory.path()), Vec::<String>::new());
}

/// What the child of the last test runs: that test itself.
const THIS_TEST: &str = "the_next_device_clears_what_a_killed_process_left";

/// The directory of that child; its presence says that we are the child.
const CHILD_DIR: &str = "TRUENO_LOOP_TEST_CHILD_DIR";

/// Serves a device until it is killed.
fn serve_until_killed(directory: &Path) -> ! {
    let device = started(directory, 0, 4096);
    println!("\nserving {}", device.path().unwrap().display());
    loop {
        std::thread::park();
    }
}

#[test]
fn the_next_device_clears_what_a_killed_process_left() {
    if let Some(directory) = std::env::var_os(CHILD_DIR) {
        serve_until_killed(Path::new(&directory));
    }
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", THIS_TEST, "--nocapture"])
        .env(CHILD_DIR, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let path = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("serving ").map(PathBuf::from))
        .expect("the child serves a device");
    child.kill().unwrap();
    child.wait().unwrap();
    let left = remains(directory.path());
    assert!(
        left.len() >= 3,
        "mount, loop device and directory should be left: {left:?}"
    );

    let mut device = started(directory.path(), 0, 4096);
    let mounts = remains(directory.path());
    assert_eq!(
        mounts.len(),
        left.len(),
        "the old ones are still there beside ours: {mounts:?}"
    );
    let mut buffer = Aligned::new(4096);
    open_direct(device.path().unwrap())
        .read_exact_at(buffer.bytes(4096), 0)
        .unwrap();
    device.stop().unwrap();
    assert_eq!(remains(directory.path()), Vec::<String>::new());
    assert_ne!(
        sysfs(&path, "loop/backing_file").as_deref(),
        Some("/device")
    );
}
