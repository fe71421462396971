//! The directory of running devices: who is there, who holds which number, who died.
//!
//! ```text
//! /run/trueno-ublk/        0700
//! ├── 0.lock               held (flock) by the daemon of device 0 for all its life; holds its [`Record`]
//! ├── 0.sock               0600, its control socket
//! ├── 0.log                what it has to say
//! ├── 0.plan               what device 0 is, for a successor of its daemon; while it has memory to find
//! ├── 0/                   its mount points: memory/, fuse/
//! └── compaction           a setting of the machine while one of them is swap (compaction.rs)
//! ```
//!
//! A daemon that was killed leaves all this behind, but not the lock. So a lock that can be taken
//! beside files that exist means: dead. Where the plan and the store's file are among them, the data
//! is kept, and a successor can go on with it: nobody but `remove` clears that away.
//!
//! Who may write here may have root write, unmount and believe what he likes. So the directory is
//! used only if it is root's (or our own) and nobody else can write to it, and no file in it is
//! opened through a symbolic link.
//!
//! `/run` can be swapped out, and a daemon that serves swap writes here: one that waited for a page of
//! its own log, with itself to bring it, would not even die. So the usual directory is a ramfs, which is
//! never swapped out, from the first daemon on until the machine stops.
#![forbid(unsafe_code)]

use super::{Plan, memory, sys};
use crate::transport::Kind;
use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The environment variable that names another directory than [`DEFAULT`].
pub const VARIABLE: &str = "TRUENO_RUN_DIR";
/// Where the directory is.
pub const DEFAULT: &str = "/run/trueno-ublk";

/// Where below its mount points a device has that of its memory.
const MEMORY: &str = "memory";

/// The directory of running devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

/// What a daemon has written into its lock file: for those who cannot ask it, or need not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How far it has come.
    pub phase: Phase,
    /// How the kernel reaches its device.
    pub transport: Kind,
    /// Its process.
    pub pid: u32,
    /// The process that made the device: its own, or one that it has succeeded.
    pub maker: u32,
    /// The block device; a loop device has no name before it is there.
    pub name: Option<PathBuf>,
    /// Why it has ended, in phase [`Failed`](Phase::Failed).
    pub failure: Option<String>,
}

/// How far a daemon has come in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It makes its device, and answers nobody.
    Starting,
    /// It answers.
    Serving,
    /// It takes its device away.
    Ending,
    /// It could serve no longer, and has ended.
    Failed,
}

/// How a device number is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its daemon answers, or is starting.
    Alive,
    /// Its daemon is gone and has left things behind.
    Dead,
    /// Nobody has it.
    Free,
}

impl RunDir {
    /// The directory that the environment names, or the usual one. Makes nothing.
    pub fn from_environment() -> RunDir {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        let path = path.map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from);
        // A daemon works in `/`: what it is told must not depend on where that was.
        RunDir::at(std::path::absolute(&path).unwrap_or(path))
    }

    /// The directory at `path`. Makes nothing.
    pub fn at(path: impl Into<PathBuf>) -> RunDir {
        RunDir { path: path.into() }
    }

    /// The file that `compaction.rs` keeps.
    pub fn compaction(&self) -> PathBuf {
        self.path.join("compaction")
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The control socket of device `id`.
    pub fn socket(&self, id: u32) -> PathBuf {
        self.path.join(format!("{id}.sock"))
    }

    /// The log of device `id`.
    pub fn log(&self, id: u32) -> PathBuf {
        self.path.join(format!("{id}.log"))
    }

    /// Below which device `id` has its mount points.
    pub fn mounts(&self, id: u32) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// The mount point of the memory of device `id`.
    pub fn memory(&self, id: u32) -> PathBuf {
        self.mounts(id).join(MEMORY)
    }

    fn lock(&self, id: u32) -> PathBuf {
        self.path.join(format!("{id}.lock"))
    }

    fn plan(&self, id: u32) -> PathBuf {
        self.path.join(format!("{id}.plan"))
    }

    /// Writes down what device `id` is, for a successor of this process.
    pub fn write_plan(&self, id: u32, plan: &Plan) -> anyhow::Result<()> {
        let path = self.plan(id);
        let new = self.path.join(format!("{id}.plan.new"));
        let context = || format!("cannot write {}", path.display());
        let line = serde_json::to_string(plan).with_context(context)? + "\n";
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        // Whoever dies in between leaves the old one whole.
        open(&new, &mut options)
            .and_then(|file| file.write_all_at(line.as_bytes(), 0))
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(context)
    }

    /// What device `id` is, as its daemon wrote it down.
    pub fn read_plan(&self, id: u32) -> anyhow::Result<Plan> {
        let path = self.plan(id);
        let mut text = String::new();
        open(&path, OpenOptions::new().read(true))
            .and_then(|mut file| file.read_to_string(&mut text))
            .with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!(
                "{} does not hold what this version of trueno-ublk understands",
                path.display()
            )
        })
    }

    /// Whether there is all that a successor of the daemon of device `id` needs of it.
    pub fn keeps(&self, id: u32) -> bool {
        self.plan(id).exists() && memory::is_left(&self.memory(id))
    }

    /// Refuses a directory that others can write to. None at all is fine.
    fn check(&self) -> io::Result<()> {
        let meta = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let (owner, mode) = (meta.st_uid(), meta.permissions().mode());
        let shown = self.path.display();
        let other = format!("or name another directory in {VARIABLE}");
        if owner != 0 && owner != sys::user() {
            Err(io::Error::other(format!(
                "it belongs to the user with the id {owner}, who could put anything there: \
                 `chown root {shown}`, {other}"
            )))
        } else if mode & 0o022 != 0 {
            Err(io::Error::other(format!(
                "others can write to it (mode {:o}): `chmod go-w {shown}`, {other}",
                mode & 0o7777
            )))
        } else {
            Ok(())
        }
    }

    /// Makes the directory if there is none, and gives its path as the kernel spells it.
    pub fn create(&self) -> anyhow::Result<RunDir> {
        let shown = self.path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .with_context(|| format!("cannot make the directory {shown}"))?;
        self.check()
            .with_context(|| format!("cannot use the directory {shown}"))?;
        // Mounted in a namespace of our own, nobody else would see it.
        if self.path == Path::new(DEFAULT) && in_first_mount_namespace() {
            keep_in_memory(&self.path)
                .with_context(|| format!("cannot mount a ramfs at {shown}"))?;
        }
        let path = self
            .path
            .canonicalize()
            .with_context(|| format!("cannot resolve {shown}"))?;
        Ok(RunDir { path })
    }

    /// The numbers that have files here, in order. No directory: none.
    pub fn ids(&self) -> io::Result<Vec<u32>> {
        self.check()?;
        let entries = match std::fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let id = name.strip_suffix(".lock").unwrap_or(name);
            ids.extend(id.parse::<u32>().ok());
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// How the number `id` is.
    pub fn state(&self, id: u32) -> io::Result<State> {
        if UnixStream::connect(self.socket(id)).is_ok() {
            return Ok(State::Alive);
        }
        let mut options = OpenOptions::new();
        let file = match open(&self.lock(id), options.read(true)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(if self.mounts(id).exists() {
                    State::Dead
                } else {
                    State::Free
                });
            }
            other => other?,
        };
        // Shared, and given back at once: two who look do not disturb each other, and a daemon
        // that wants the lock in this instant tries more than once.
        match file.try_lock_shared() {
            // A daemon that has ended, with nothing left, while we looked.
            Ok(()) if !self.lock(id).exists() => Ok(State::Free),
            Ok(()) => Ok(State::Dead),
            Err(TryLockError::WouldBlock) => Ok(State::Alive),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// What the daemon of device `id`, alive or dead, has written down.
    pub fn record(&self, id: u32) -> Option<Record> {
        read_record(&open(&self.lock(id), OpenOptions::new().read(true)).ok()?)
    }

    /// The lowest number that nobody here has, and under which nothing is kept.
    pub fn lowest_free(&self, mut taken_elsewhere: impl FnMut(u32) -> bool) -> io::Result<u32> {
        self.check()?;
        let mut id = 0;
        while taken_elsewhere(id) || self.keeps(id) || self.state(id)? == State::Alive {
            id += 1;
        }
        Ok(id)
    }

    /// Takes the number `id` for this process, for as long as the result lives. What a dead
    /// daemon left under it is taken away first. `None`: a living process has it.
    pub fn take(&self, id: u32) -> anyhow::Result<Option<Taken>> {
        let Some(mut taken) = self.hold(id)? else {
            return Ok(None);
        };
        taken.own();
        taken.clear()?;
        Ok(Some(taken))
    }

    /// As [`take`](RunDir::take), for a new device: refuses a number under which data is kept.
    pub fn take_new(&self, id: u32) -> anyhow::Result<Option<Taken>> {
        let Some(mut taken) = self.hold(id)? else {
            return Ok(None);
        };
        ensure!(
            !self.keeps(id),
            "device id {id} is that of a dead daemon whose data is kept: choose another, go on \
             with it by `trueno-ublk recover {id}`, or give it up by `trueno-ublk remove {id}`"
        );
        taken.own();
        taken.clear()?;
        Ok(Some(taken))
    }

    /// Gets ready to hold the number `id` as soon as the process that has it is dead.
    pub fn wait(&self, id: u32) -> anyhow::Result<Waiting> {
        let path = self.lock(id);
        let mut options = OpenOptions::new();
        let lock = open(&path, options.read(true).write(true))
            .with_context(|| format!("cannot open {}", path.display()))?;
        let left = read_record(&lock)
            .with_context(|| format!("{} does not say what device {id} is", path.display()))?;
        Ok(Waiting {
            run_dir: self.clone(),
            id,
            left,
            lock: Arc::new(lock),
        })
    }

    /// Takes the number `id`, and nothing away: until it is made [our own](Taken::own), everything
    /// stays as it is found.
    pub fn hold(&self, id: u32) -> anyhow::Result<Option<Taken>> {
        let path = self.lock(id);
        // Whoever looks at the state holds the lock for an instant.
        for attempt in 0..10 {
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(10));
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let file = open(&path, &mut options)
                .with_context(|| format!("cannot open {}", path.display()))?;
            if lock_named(&file, &path)? {
                return Ok(Some(Taken {
                    run_dir: self.clone(),
                    id,
                    left: read_record(&file),
                    remains: Vec::new(),
                    lock: Arc::new(file),
                    owned: false,
                }));
            }
        }
        Ok(None)
    }
}

/// A device number that is to be held when the process that has it is dead. Everything that might
/// have to be read from a file is here already: the file may be swapped out to that very device.
#[derive(Debug)]
pub struct Waiting {
    run_dir: RunDir,
    id: u32,
    left: Record,
    lock: Arc<File>,
}

impl Waiting {
    /// What the living process has written down.
    pub fn left(&self) -> &Record {
        &self.left
    }

    /// What this process will write down, later.
    pub fn begin(&self, record: Record) -> Arc<Notes> {
        Arc::new(Notes {
            lock: self.lock.clone(),
            record: Mutex::new(record),
        })
    }

    /// Takes the number; `None` if somebody else has it, or nobody has it any more.
    pub fn hold(self) -> anyhow::Result<Option<Taken>> {
        let path = self.run_dir.lock(self.id);
        if !lock_named(&self.lock, &path)? {
            return Ok(None);
        }
        Ok(Some(Taken {
            run_dir: self.run_dir,
            id: self.id,
            left: Some(self.left),
            remains: Vec::new(),
            lock: self.lock,
            owned: false,
        }))
    }
}

/// Whether this process sees the mounts that the machine's first one sees, as far as it can tell.
fn in_first_mount_namespace() -> bool {
    let namespace = |process| std::fs::read_link(format!("/proc/{process}/ns/mnt"));
    matches!((namespace("self"), namespace("1")), (Ok(ours), Ok(first)) if ours == first)
}

/// Mounts a ramfs, which is never swapped out, at `directory`, if that is empty and no mount point yet.
fn keep_in_memory(directory: &Path) -> io::Result<()> {
    let held = File::open(directory)?;
    // Two who did it at once would hide the files of one of them.
    held.lock()?;
    let identity = |meta: std::fs::Metadata| (meta.st_dev(), meta.st_ino());
    let above = std::fs::metadata(directory.join(".."))?.st_dev();
    if identity(held.metadata()?) != identity(std::fs::metadata(directory)?)
        || held.metadata()?.st_dev() != above
        || std::fs::read_dir(directory)?.next().is_some()
    {
        return Ok(());
    }
    sys::mount_in_memory(directory, c"ramfs", c"mode=0700")
}

/// Locks `file`, which was opened at `path`; whether it could be had and still lies there: its owner
/// may have removed it, and then the next one would not see the lock.
fn lock_named(file: &File, path: &Path) -> anyhow::Result<bool> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    let held = file
        .metadata()
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(std::fs::metadata(path).is_ok_and(|named| named.st_ino() == held.st_ino()))
}

/// A device number that is held. Dropping it frees it, and removes its files if they are ours.
#[derive(Debug)]
pub struct Taken {
    run_dir: RunDir,
    id: u32,
    left: Option<Record>,
    remains: Vec<String>,
    lock: Arc<File>,
    owned: bool,
}

impl Taken {
    /// From here on what lies under the number is ours, and goes with this value.
    pub fn own(&mut self) {
        self.owned = true;
    }

    /// The number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What a dead daemon wrote down here before us.
    pub fn left(&self) -> Option<&Record> {
        self.left.as_ref()
    }

    /// What of a dead daemon could not be taken away, in words: somebody uses it.
    pub fn remains(&self) -> &[String] {
        &self.remains
    }

    /// Writes the first record down.
    pub fn begin(&self, record: Record) -> io::Result<Arc<Notes>> {
        write_record(&self.lock, &record)?;
        Ok(Arc::new(Notes {
            lock: self.lock.clone(),
            record: Mutex::new(record),
        }))
    }

    /// Removes what a dead daemon left under our number, but not what it kept: loop devices, mounts
    /// other than that of its memory, the socket. Every step is taken whatever becomes of the
    /// others; the first error is told.
    pub fn clear_but_memory(&mut self) -> anyhow::Result<()> {
        let mounts = self.run_dir.mounts(self.id);
        let mut steps = Vec::new();
        if mounts.exists() {
            steps.push(detach_loops_below(&mounts).map(|busy| self.remains = busy));
            match subdirectories(&mounts) {
                Ok(points) => {
                    for point in points.iter().filter(|point| !point.ends_with(MEMORY)) {
                        steps.push(unmount_all(point));
                        steps.push(gone(std::fs::remove_dir(point), point));
                    }
                }
                Err(error) => steps.push(Err(error)),
            }
        }
        let socket = self.run_dir.socket(self.id);
        steps.push(gone(std::fs::remove_file(&socket), &socket));
        steps.into_iter().collect()
    }

    /// Removes all that lies under our number. The log stays until it is written anew.
    fn clear(&mut self) -> anyhow::Result<()> {
        // First: from here on nobody takes the rest for something to go on with.
        let plan = self.run_dir.plan(self.id);
        let mut steps = vec![gone(std::fs::remove_file(&plan), &plan)];
        steps.push(self.clear_but_memory());
        let memory = self.run_dir.memory(self.id);
        if memory.exists() {
            steps.push(memory::remove_segment(&memory));
            steps.push(unmount_all(&memory));
            steps.push(gone(std::fs::remove_dir(&memory), &memory));
        }
        let mounts = self.run_dir.mounts(self.id);
        steps.push(gone(std::fs::remove_dir(&mounts), &mounts));
        steps.into_iter().collect()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if let Err(error) = self.clear() {
            tracing::warn!("{error:#}");
        }
        let _ = std::fs::remove_file(self.run_dir.log(self.id));
        // Last, and while still locked: see `take`.
        let _ = std::fs::remove_file(self.run_dir.lock(self.id));
    }
}

/// Opens a file of a run directory, which is the owner's alone, and never through a symbolic link.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let opened = options
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => {
            io::Error::other("it is a symbolic link, which is not ours: remove it")
        }
        _ => error,
    })
}

/// Our [`Record`], which any thread may change.
#[derive(Debug)]
pub struct Notes {
    lock: Arc<File>,
    record: Mutex<Record>,
}

impl Notes {
    /// Changes the record, and writes it down. Where that fails, `list` is behind.
    pub fn change(&self, change: impl FnOnce(&mut Record)) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        if let Err(error) = write_record(&self.lock, &record) {
            tracing::warn!("cannot write to the run directory: {error}");
        }
    }
}

fn write_record(lock: &File, record: &Record) -> io::Result<()> {
    let line = serde_json::to_string(record)? + "\n";
    // Who reads in between finds the line, or part of it and tries again.
    lock.write_all_at(line.as_bytes(), 0)?;
    lock.set_len(line.len() as u64)
}

/// The record in a lock file; none: none was written, or by another version.
fn read_record(lock: &File) -> Option<Record> {
    // A record is a line of some 100 bytes; the path in it may be long.
    let mut buffer = [0; 8192];
    for _ in 0..10 {
        let count = lock.read_at(&mut buffer, 0).ok()?;
        let line = buffer[..count].split(|byte| *byte == b'\n').next()?;
        if line.is_empty() {
            return None;
        }
        if let Ok(record) = serde_json::from_slice(line) {
            return Some(record);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// The result of a removal of `path`, which may not have been there.
fn gone(removed: io::Result<()>, path: &Path) -> anyhow::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn subdirectories(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let context = || format!("cannot read the directory {}", directory.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(context)? {
        found.push(entry.with_context(context)?.path());
    }
    Ok(found)
}

/// Unmounts everything that is mounted at `point`.
fn unmount_all(point: &Path) -> anyhow::Result<()> {
    // More than a few on top of each other are not ours.
    for _ in 0..16 {
        match sys::unmount(point) {
            Ok(()) => {}
            // EINVAL: not a mount point (any more). ENOENT: nothing at all.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
                return Ok(());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot unmount {}", point.display()));
            }
        }
    }
    bail!(
        "too many mounts lie on top of each other at {}: unmount them",
        point.display()
    )
}

/// Whether `state` is still so when a look of udev at a device would be over.
fn lasts(state: impl Fn() -> bool) -> bool {
    for _ in 0..50 {
        if !state() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Detaches loop devices whose file lies below `directory`. One that is in use goes when its
/// user goes; those are named in the result.
fn detach_loops_below(directory: &Path) -> anyhow::Result<Vec<String>> {
    let blocks = match std::fs::read_dir("/sys/block") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context("cannot read /sys/block")?,
    };
    let (mut busy, mut failed) = (Vec::new(), None);
    for block in blocks {
        let block = block.context("cannot read /sys/block")?;
        let file = block.path().join("loop/backing_file");
        let ours = || {
            let shown = std::fs::read_to_string(&file);
            shown.is_ok_and(|shown| Path::new(shown.trim_end()).starts_with(directory))
        };
        if !ours() {
            continue;
        }
        let device = Path::new("/dev").join(block.file_name());
        match File::open(&device).and_then(|open| sys::loop_clear(&open)) {
            Ok(()) if lasts(ours) => busy.push(format!(
                "{} is still in use: it answers with I/O errors until its user lets go, and is \
                 free then",
                device.display()
            )),
            Ok(()) => {}
            // Somebody else detached it since we looked.
            Err(_) if !ours() => {}
            Err(error) => failed = failed.or(Some((device, error))),
        }
    }
    match failed {
        Some((device, error)) => {
            Err(error).with_context(|| format!("cannot detach {}", device.display()))
        }
        None => Ok(busy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_is_kept_in_memory_once() {
        if !sys::is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test needs root");
            eprintln!("SKIPPED: mounting needs root");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let mounts = |directory: &Path| {
            let all = std::fs::read_to_string("/proc/self/mounts").unwrap();
            let at = format!(" {} ramfs ", directory.display());
            all.lines().filter(|line| line.contains(&at)).count()
        };
        let [empty, used] = ["empty", "used"].map(|name| parent.path().join(name));
        std::fs::create_dir(&empty).unwrap();
        std::fs::create_dir(&used).unwrap();
        std::fs::write(used.join("0.lock"), "").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| keep_in_memory(&empty).unwrap());
            }
        });
        keep_in_memory(&used).unwrap();
        assert_eq!(mounts(&used), 0, "files of a living daemon are hidden");
        let count = mounts(&empty);
        sys::unmount(&empty).unwrap();
        assert_eq!(count, 1);
    }

    fn run_dir() -> (tempfile::TempDir, RunDir) {
        let root = tempfile::tempdir().unwrap();
        let run_dir = RunDir::at(root.path().join("run")).create().unwrap();
        (root, run_dir)
    }

    #[test]
    fn a_number_is_taken_once_and_free_again_without_a_trace() {
        let (_root, run_dir) = run_dir();
        let first = run_dir.take(0).unwrap().expect("free");
        assert!(run_dir.take(0).unwrap().is_none(), "taken twice");
        assert_eq!(run_dir.state(0).unwrap(), State::Alive);
        assert_eq!(run_dir.lowest_free(|id| id == 1).unwrap(), 2);
        std::fs::write(run_dir.log(0), "something").unwrap();
        drop(first);
        assert_eq!(run_dir.state(0).unwrap(), State::Free);
        assert_eq!(std::fs::read_dir(run_dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_daemon_left_is_seen_and_taken_away() {
        let (_root, run_dir) = run_dir();
        std::fs::write(run_dir.lock(3), "").unwrap();
        drop(std::os::unix::net::UnixListener::bind(run_dir.socket(3)).unwrap());
        std::fs::create_dir_all(run_dir.mounts(3).join("memory")).unwrap();
        assert_eq!(run_dir.ids().unwrap(), [3]);
        assert_eq!(run_dir.state(3).unwrap(), State::Dead);
        let taken = run_dir.take(3).unwrap().expect("the dead do not hold it");
        assert!(!run_dir.socket(3).exists() && !run_dir.mounts(3).exists());
        drop(taken);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let (_root, run_dir) = run_dir();
        let set_mode = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(run_dir.path(), mode).unwrap();
        };
        for mode in [0o777, 0o1777, 0o770, 0o702] {
            set_mode(mode);
            for error in [
                run_dir.ids().unwrap_err().to_string(),
                run_dir.lowest_free(|_| false).unwrap_err().to_string(),
                format!("{:#}", run_dir.create().unwrap_err()),
            ] {
                let value = format!("mode {mode:o}");
                assert!(
                    error.contains(&value) && error.contains("chmod go-w"),
                    "{error}"
                );
            }
        }
        set_mode(0o755);
        assert!(run_dir.ids().unwrap().is_empty());
        if !sys::is_root() {
            eprintln!("SKIPPED in part: giving a directory away needs root");
            return;
        }
        std::os::unix::fs::chown(run_dir.path(), Some(65534), None).unwrap();
        let error = run_dir.ids().unwrap_err().to_string();
        assert!(
            error.contains("65534") && error.contains("chown root"),
            "{error}"
        );
    }

    #[test]
    fn files_are_not_opened_through_symbolic_links() {
        let (root, run_dir) = run_dir();
        let victim = root.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, run_dir.lock(0)).unwrap();
        let error = format!("{:#}", run_dir.take(0).unwrap_err());
        assert!(error.contains("symbolic link"), "{error}");
        assert!(run_dir.state(0).is_err());
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        std::os::unix::fs::symlink(&victim, run_dir.log(0)).unwrap();
        assert!(open(&run_dir.log(0), &mut options).is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_record_is_read_by_everyone_and_by_the_next_owner() {
        let (_root, run_dir) = run_dir();
        let taken = run_dir.take(4).unwrap().expect("free");
        assert_eq!((taken.left(), run_dir.record(4)), (None, None));
        let mut record = Record {
            phase: Phase::Starting,
            transport: Kind::Loop,
            pid: 4_000_000,
            maker: 4_000_000,
            name: Some(PathBuf::from("/dev/loop1234567")),
            failure: None,
        };
        let notes = taken.begin(record.clone()).unwrap();
        assert_eq!(run_dir.record(4), Some(record.clone()));
        // Shorter than what was there.
        (record.pid, record.name) = (1, None);
        notes.change(|written| *written = record.clone());
        assert_eq!(run_dir.record(4), Some(record.clone()));
        // Killed: nothing is cleaned up, but the lock is free.
        let dead = run_dir.lock(5);
        std::fs::copy(run_dir.lock(4), &dead).unwrap();
        drop(taken);
        assert_eq!(run_dir.record(4), None);
        assert_eq!(run_dir.take(5).unwrap().unwrap().left(), Some(&record));
    }

    /// A dead device's data is taken away by those alone who say so.
    #[test]
    fn what_is_kept_is_no_free_number() {
        let (_root, run_dir) = run_dir();
        let plan = crate::daemon::Wishes {
            size: 1 << 20,
            block_size: 4096,
            ..Default::default()
        };
        let plan = Plan::new(plan).unwrap();
        let first = run_dir.take_new(0).unwrap().expect("free");
        run_dir.write_plan(0, &plan).unwrap();
        assert!(!run_dir.keeps(0), "there is no memory");
        std::fs::create_dir_all(run_dir.memory(0)).unwrap();
        let store = run_dir.memory(0).join("store");
        std::fs::write(&store, "pages").unwrap();
        // Killed: the lock is free, and everything else is there.
        std::mem::forget(first);
        std::fs::copy(run_dir.lock(0), run_dir.path().join("copy")).unwrap();
        std::fs::rename(run_dir.path().join("copy"), run_dir.lock(0)).unwrap();

        assert_eq!(run_dir.state(0).unwrap(), State::Dead);
        assert!(run_dir.keeps(0));
        assert_eq!(run_dir.lowest_free(|_| false).unwrap(), 1);
        let refused = run_dir.take_new(0).unwrap_err().to_string();
        assert!(
            refused.contains("recover 0") && refused.contains("remove 0"),
            "{refused}"
        );
        let mut held = run_dir.hold(0).unwrap().expect("the dead do not hold it");
        drop(std::os::unix::net::UnixListener::bind(run_dir.socket(0)).unwrap());
        held.clear_but_memory().unwrap();
        assert!(!run_dir.socket(0).exists());
        assert_eq!(run_dir.read_plan(0).unwrap(), plan);
        drop(held);
        assert_eq!(std::fs::read_to_string(&store).unwrap(), "pages");

        std::fs::write(run_dir.plan(0), "{}").unwrap();
        let refused = format!("{:#}", run_dir.read_plan(0).unwrap_err());
        assert!(refused.contains("0.plan does not hold"), "{refused}");
        std::fs::remove_file(&store).unwrap();
        drop(run_dir.take(0).unwrap().expect("given up"));
        assert_eq!(std::fs::read_dir(run_dir.path()).unwrap().count(), 0);
    }

    /// One thing that cannot be taken away must not keep the others.
    #[test]
    fn the_rest_goes_although_one_thing_stays() {
        let (_root, run_dir) = run_dir();
        drop(std::os::unix::net::UnixListener::bind(run_dir.socket(3)).unwrap());
        std::fs::create_dir_all(run_dir.mounts(3).join("memory/not-ours")).unwrap();
        std::fs::create_dir_all(run_dir.mounts(3).join("fuse")).unwrap();
        let error = run_dir.take(3).unwrap_err();
        assert!(format!("{error:#}").contains("3/memory"), "{error:#}");
        assert!(!run_dir.socket(3).exists() && !run_dir.mounts(3).join("fuse").exists());
    }

    #[test]
    fn no_directory_is_no_devices() {
        let run_dir = RunDir::at("/nonexistent/trueno");
        assert!(run_dir.ids().unwrap().is_empty());
        assert_eq!(run_dir.state(0).unwrap(), State::Free);
        assert_eq!(run_dir.lowest_free(|_| false).unwrap(), 0);
    }
}
