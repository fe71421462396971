//! Where a store's memory comes from: pages that are never swapped out and belong to no process.
//!
//! Compressed pages must not be swapped, least of all to the device that holds them, and must outlive
//! the process that wrote them.
//!
//! | kernel | memory | what the directory holds |
//! |---|---|---|
//! | since 6.4 | a file on a tmpfs mounted `noswap` | the tmpfs, with `store` and `buffers` |
//! | before | a System V segment under SHM_LOCK | `segment`, its number |
//! | without System V IPC | a memfd, which goes with the process | nothing |
//!
//! A segment has no name, but its pages are those of a file, which the kernel shows to root where it
//! is mapped (`/proc/self/map_files`). From there on it is used like the others, but its size is final
//! once it is [locked](StoreMemory::lock).
#![forbid(unsafe_code)]

use super::{rundir, sys};
use anyhow::Context as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The name of the store's file on its tmpfs.
const STORE: &str = "store";
/// The name of the file that holds a segment's number.
const SEGMENT: &str = "segment";

/// The file that a store is mapped from, and what has to be taken away after it.
#[derive(Debug)]
pub struct StoreMemory {
    place: Place,
    file: Option<File>,
    /// Whether it stays when this value goes: it is still a dead process's.
    kept: bool,
}

/// Where the pages are.
#[derive(Debug)]
enum Place {
    /// On a tmpfs mounted at this directory.
    Tmpfs(PathBuf),
    /// In a segment, whose number is in this directory.
    Segment(PathBuf),
    /// With this process, or given back.
    Process,
}

/// Whether a dead process has left memory at `directory`.
pub fn is_left(directory: &Path) -> bool {
    directory.join(STORE).exists() || matches!(segment(directory), Ok(Some(_)))
}

/// Gives back the segment whose number is in `directory`, if there is one.
pub fn remove_segment(directory: &Path) -> anyhow::Result<()> {
    if let Some(number) = segment(directory)? {
        sys::remove_segment(number)
            .with_context(|| format!("cannot remove the segment {number}: `ipcrm -m {number}`"))?;
    }
    let path = directory.join(SEGMENT);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// The segment at `directory`; none: there is none, or it is gone. Numbers are used again, after a
/// restart of the machine and in other namespaces: one that does not belong to the process that is
/// written down beside it is not ours.
fn segment(directory: &Path) -> anyhow::Result<Option<i32>> {
    let path = directory.join(SEGMENT);
    let text = match rundir::open(&path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.and_then(io::read_to_string),
    };
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let number = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    let number = number.with_context(|| {
        let shown = path.display();
        format!("{shown} holds {text:?}, not the number of a segment: remove it")
    })?;
    Ok((describe_segment(number)?.as_deref() == Some(text.trim())).then_some(number))
}

/// What is written down about the segment `number`: that, its creator, and the machine's start; none:
/// there is no such segment.
fn describe_segment(number: i32) -> anyhow::Result<Option<String>> {
    let all = std::fs::read_to_string("/proc/sysvipc/shm");
    let all = all.context("cannot read /proc/sysvipc/shm")?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let boot = boot.context("cannot read /proc/sys/kernel/random/boot_id")?;
    let found = all.lines().find_map(|line| {
        // Key, number, mode, size, creator.
        let mut words = line.split_whitespace().skip(1);
        let same = words.next()?.parse() == Ok(number);
        same.then(|| words.nth(2)).flatten()
    });
    Ok(found.map(|creator| format!("{number} {creator} {}", boot.trim())))
}

impl StoreMemory {
    /// An empty file, by the table above; what has to be found again lies at `directory`.
    pub fn create(directory: &Path) -> anyhow::Result<StoreMemory> {
        StoreMemory::create_as(directory, false)
    }

    /// [`create`](StoreMemory::create), in a `segment` even where there is a better place.
    fn create_as(directory: &Path, segment: bool) -> anyhow::Result<StoreMemory> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        let made = create_at(directory, segment);
        if !matches!(&made, Ok(memory) if memory.outlives_process()) {
            let _ = std::fs::remove_dir(directory);
        }
        made
    }

    /// What a dead process left at `directory`. Until it is made [our own](StoreMemory::own),
    /// dropping this takes nothing away.
    pub fn open(directory: &Path) -> anyhow::Result<StoreMemory> {
        let gone = |what: String| {
            format!(
                "the memory of the device is gone ({what}): it belonged to the dead process, or to \
                 another namespace"
            )
        };
        let (place, file) = if let Some(number) = segment(directory)? {
            let file =
                sys::open_segment(number).with_context(|| gone(format!("no segment {number}")))?;
            (Place::Segment(directory.to_path_buf()), file)
        } else {
            let path = directory.join(STORE);
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.with_context(|| gone(format!("no {}", path.display())))?;
            (Place::Tmpfs(directory.to_path_buf()), file)
        };
        Ok(StoreMemory {
            place,
            file: Some(file),
            kept: true,
        })
    }

    /// From here on the memory goes with this value.
    pub fn own(&mut self) {
        self.kept = false;
    }

    /// Keeps the pages of a segment from being swapped out. The store has given the file its size, and
    /// nobody may change that any more.
    pub fn lock(&self) -> anyhow::Result<()> {
        let Place::Segment(directory) = &self.place else {
            return Ok(());
        };
        let number = segment(directory)?.context("the segment is gone")?;
        sys::lock_segment(number).with_context(|| format!("cannot lock the segment {number}"))
    }

    /// A file beside the store's, for the transport's buffers: a worker and its standby use the
    /// same ones. `None`: each has its own.
    pub fn buffers(&self) -> anyhow::Result<Option<File>> {
        let Place::Tmpfs(mount) = &self.place else {
            return Ok(None);
        };
        let path = mount.join("buffers");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Some(file))
    }

    /// Whether the memory is there when this process is not.
    pub fn outlives_process(&self) -> bool {
        !matches!(self.place, Place::Process)
    }

    /// The file, once; the store keeps it.
    pub fn take_file(&mut self) -> Option<File> {
        self.file.take()
    }

    /// `tmpfs noswap`, `locked segment` or `memfd`, for people.
    pub fn describe(&self) -> &'static str {
        match self.place {
            Place::Tmpfs(_) => "tmpfs noswap",
            Place::Segment(_) => "locked segment",
            Place::Process => "memfd",
        }
    }

    /// Gives everything back. The store and its mapping must be gone before.
    pub fn remove(&mut self) -> anyhow::Result<()> {
        self.file = None;
        let directory = match std::mem::replace(&mut self.place, Place::Process) {
            Place::Process => return Ok(()),
            Place::Segment(directory) => {
                remove_segment(&directory)?;
                directory
            }
            Place::Tmpfs(mount) => {
                sys::unmount(&mount)
                    .with_context(|| format!("cannot unmount {}", mount.display()))?;
                mount
            }
        };
        std::fs::remove_dir(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))
    }
}

/// The memory that this kernel has for us, in `directory`, which is empty.
fn create_at(directory: &Path, segment: bool) -> anyhow::Result<StoreMemory> {
    // From here on dropping it gives everything back.
    let mut memory = StoreMemory {
        place: Place::Process,
        file: None,
        kept: false,
    };
    let mounted = if segment {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    } else {
        sys::mount_in_memory(directory, c"tmpfs", c"size=0,mode=0700,noswap")
    };
    let file = match mounted {
        Ok(()) => {
            memory.place = Place::Tmpfs(directory.to_path_buf());
            new_file(&directory.join(STORE))?
        }
        // This kernel does not know `noswap`, or has no swap at all.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => match create_segment(directory)
        {
            Ok(file) => {
                memory.place = Place::Segment(directory.to_path_buf());
                file
            }
            Err(error) => {
                tracing::warn!("the data will not outlive the daemon: {error:#}");
                sys::memfd(c"trueno-ublk-store")
                    .context("cannot make a file in memory for the store")?
            }
        },
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot mount a tmpfs at {}", directory.display()));
        }
    };
    memory.file = Some(file);
    Ok(memory)
}

/// A segment, its number in `directory`.
fn create_segment(directory: &Path) -> anyhow::Result<File> {
    let number = sys::create_segment().context("cannot make a segment of memory")?;
    let path = directory.join(SEGMENT);
    let make = || {
        let file = sys::open_segment(number).context("cannot open the segment that was made")?;
        let line = describe_segment(number)?.context(
            "a segment goes as soon as nobody has it attached: set kernel.shm_rmid_forced to 0",
        )?;
        let written = new_file(&path)?.write_all((line + "\n").as_bytes());
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(file)
    };
    make().inspect_err(|_| {
        let _ = std::fs::remove_file(&path);
        let _ = sys::remove_segment(number);
    })
}

/// A file of root's alone that was not there before.
fn new_file(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    rundir::open(path, &mut options).with_context(|| format!("cannot make {}", path.display()))
}

impl Drop for StoreMemory {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = self.remove() {
            tracing::warn!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    #[test]
    fn the_mount_is_private_and_goes_with_its_owner() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("memory");
        let Some(memory) = made(&directory, false) else {
            return;
        };
        if memory.describe() == "tmpfs noswap" {
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
            let line = mounts
                .lines()
                .find(|line| line.contains(directory.to_str().unwrap()))
                .expect("the mount is listed");
            for option in ["nosuid", "nodev", "noexec", "noswap", "mode=700"] {
                assert!(line.contains(option), "{line} lacks {option}");
            }
        }
        goes_with_its_owner(memory, &directory);
    }

    #[test]
    fn the_segment_is_locked_and_goes_with_its_owner() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("memory");
        let Some(memory) = made(&directory, true) else {
            return;
        };
        assert_eq!(memory.describe(), "locked segment");
        let number = segment(&directory).unwrap().unwrap();
        memory.file.as_ref().unwrap().set_len(1 << 40).unwrap();
        memory.lock().unwrap();
        let line = shown(number).expect("the kernel knows the segment");
        // The mode in octal, with SHM_LOCKED.
        assert_eq!(line.split_whitespace().nth(2), Some("2600"), "{line}");
        goes_with_its_owner(memory, &directory);
        assert_eq!(shown(number), None);

        // What `remove` does when the daemon is dead.
        let memory = StoreMemory::create_as(&directory, true).unwrap();
        let number = segment(&directory).unwrap().unwrap();
        std::mem::forget(memory);
        assert!(is_left(&directory));
        remove_segment(&directory).unwrap();
        assert_eq!(shown(number), None);
        assert!(!is_left(&directory));
        remove_segment(&directory).unwrap();
    }

    #[test]
    fn another_programs_segment_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let Some(other) = made(&root.path().join("other"), true) else {
            return;
        };
        let number = segment(&root.path().join("other")).unwrap().unwrap();
        // As after a restart of the machine, when numbers begin anew.
        let ours = describe_segment(number).unwrap().unwrap();
        let earlier = format!("{}0", ours);
        std::fs::write(root.path().join(SEGMENT), earlier).unwrap();
        assert!(!is_left(root.path()));
        let error = StoreMemory::open(root.path()).unwrap_err().to_string();
        assert!(error.contains("is gone"), "{error}");
        remove_segment(root.path()).unwrap();
        assert!(!root.path().join(SEGMENT).exists());
        assert!(shown(number).is_some());
        drop(other);
        assert_eq!(shown(number), None);
    }

    /// The line of `/proc/sysvipc/shm` about a segment.
    fn shown(number: i32) -> Option<String> {
        let all = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
        let number = Some(number.to_string());
        let mut lines = all.lines();
        let found = lines.find(|line| line.split_whitespace().nth(1) == number.as_deref());
        found.map(str::to_string)
    }

    fn made(directory: &Path, segment: bool) -> Option<StoreMemory> {
        if !sys::is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test needs root");
            eprintln!("SKIPPED: mounting and locking need root");
            return None;
        }
        Some(StoreMemory::create_as(directory, segment).unwrap())
    }

    fn goes_with_its_owner(mut memory: StoreMemory, directory: &Path) {
        let file = memory.take_file().unwrap();
        file.set_len(1 << 40).unwrap();
        file.write_all_at(b"page", 1 << 30).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 8);
        drop(file);
        // As if it had been killed.
        std::mem::forget(memory);
        assert!(is_left(directory));
        drop(StoreMemory::open(directory).expect("it is still there"));
        let mut memory = StoreMemory::open(directory).expect("looking took it away");
        memory.own();
        let file = memory.take_file().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 40);
        let mut page = [0; 4];
        file.read_exact_at(&mut page, 1 << 30).unwrap();
        assert_eq!(&page, b"page");
        drop(file);
        memory.remove().unwrap();
        assert!(!directory.exists());
        let error = StoreMemory::open(directory).unwrap_err().to_string();
        assert!(error.contains("is gone"), "{error}");
    }
}
