//! Keeps the kernel from moving locked memory about while we serve swap.
//!
//! A locked page never goes away, but to make room for large pages the kernel may move it, and who
//! touches it meanwhile takes a page fault and waits. The setting
//! `vm.compact_unevictable_allowed` (`Documentation/admin-guide/sysctl/vm.rst`) forbids that.
//!
//! It belongs to the whole machine, and there may be several swap devices. So the file `compaction`
//! of the run directory holds what the setting was, and each daemon that serves swap holds a shared
//! lock on that file:
//!
//! ```text
//! first:  exclusive lock ── note the setting, unless it is noted already ── set it to 0 ─┐
//! others:                                                                  shared lock ◀─┘
//! end:    exclusive lock? ── yes, nobody else has it: set it back, remove the file
//!                         └─ no: somebody still needs it
//! ```
//!
//! A daemon that was killed leaves the file but no lock: whoever cleans up after it does what is
//! done at an end, and the next first one takes the note for the truth.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

const SETTING: &str = "/proc/sys/vm/compact_unevictable_allowed";

/// The setting, changed. Dropping the last one of the machine sets it back.
#[derive(Debug)]
pub struct Forbidden {
    setting: PathBuf,
    note: PathBuf,
    lock: File,
}

/// Forbids it, with `note` as the file; `None` if this kernel has no such thing.
pub fn forbid(note: &Path) -> io::Result<Option<Forbidden>> {
    forbid_with(Path::new(SETTING), note)
}

/// Sets the setting back if a daemon that is dead forbade it and no living one needs that.
pub fn clear_dead(note: &Path) -> io::Result<()> {
    match File::open(note) {
        Ok(file) => restore_if_last(Path::new(SETTING), note, &file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// What the setting is now; none: this kernel has no such thing.
pub fn allowed() -> Option<bool> {
    Some(std::fs::read_to_string(SETTING).ok()?.trim() != "0")
}

fn forbid_with(setting: &Path, note: &Path) -> io::Result<Option<Forbidden>> {
    if !setting.exists() {
        return Ok(None);
    }
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(note)?;
        match file.try_lock() {
            Ok(()) => {
                if is_named(&file, note)? {
                    if std::fs::read(note)?.is_empty() {
                        std::fs::write(note, std::fs::read(setting)?)?;
                    }
                    std::fs::write(setting, "0")?;
                }
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Changing the lock lets go of it for an instant, in which the last of the others may have
        // removed the file.
        file.lock_shared()?;
        if is_named(&file, note)? {
            return Ok(Some(Forbidden {
                setting: setting.to_path_buf(),
                note: note.to_path_buf(),
                lock: file,
            }));
        }
    }
}

/// Whether the open file is still the one of that name.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(named) => Ok(named.st_ino() == file.metadata()?.st_ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn restore_if_last(setting: &Path, note: &Path, file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    if !is_named(file, note)? {
        return Ok(());
    }
    let before = std::fs::read_to_string(note)?;
    // Somebody else's change since then stays.
    if !before.is_empty() && std::fs::read_to_string(setting)?.trim() == "0" {
        std::fs::write(setting, before.trim())?;
    }
    std::fs::remove_file(note)
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        if let Err(error) = restore_if_last(&self.setting, &self.note, &self.lock) {
            tracing::warn!("cannot set {} back: {error}", self.setting.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine {
        _directory: tempfile::TempDir,
        setting: PathBuf,
        note: PathBuf,
    }

    impl Machine {
        fn with(value: &str) -> Machine {
            let directory = tempfile::tempdir().unwrap();
            let setting = directory.path().join("setting");
            std::fs::write(&setting, value).unwrap();
            let note = directory.path().join("compaction");
            Machine {
                _directory: directory,
                setting,
                note,
            }
        }

        fn forbid(&self) -> Forbidden {
            forbid_with(&self.setting, &self.note).unwrap().unwrap()
        }

        fn now(&self) -> String {
            std::fs::read_to_string(&self.setting).unwrap()
        }
    }

    #[test]
    fn the_last_swap_device_sets_it_back() {
        let machine = Machine::with("1\n");
        let first = machine.forbid();
        let second = machine.forbid();
        assert_eq!(machine.now(), "0");
        drop(first);
        assert_eq!(machine.now(), "0", "the second still needs it");
        let third = machine.forbid();
        drop(second);
        assert_eq!(machine.now(), "0");
        drop(third);
        assert_eq!(machine.now(), "1");
        assert!(!machine.note.exists());
    }

    #[test]
    fn what_a_killed_daemon_noted_is_the_truth() {
        let machine = Machine::with("0");
        std::fs::write(&machine.note, "1\n").unwrap();
        drop(machine.forbid());
        assert_eq!(machine.now(), "1");

        std::fs::write(&machine.setting, "0").unwrap();
        std::fs::write(&machine.note, "1\n").unwrap();
        let file = File::open(&machine.note).unwrap();
        restore_if_last(&machine.setting, &machine.note, &file).unwrap();
        assert_eq!(machine.now(), "1");
    }

    #[test]
    fn a_setting_that_was_0_or_is_not_there_stays_so() {
        let machine = Machine::with("0\n");
        drop(machine.forbid());
        assert_eq!(machine.now(), "0");
        assert!(!machine.note.exists());
        std::fs::remove_file(&machine.setting).unwrap();
        assert!(
            forbid_with(&machine.setting, &machine.note)
                .unwrap()
                .is_none()
        );
        assert!(!machine.note.exists());
    }

    #[test]
    fn many_at_once_leave_it_as_it_was() {
        let machine = Machine::with("1");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let forbidden = machine.forbid();
                        assert_eq!(machine.now(), "0");
                        drop(forbidden);
                    }
                });
            }
        });
        assert_eq!(machine.now(), "1");
        assert!(!machine.note.exists());
    }
}
