//! Keeps the kernel from moving locked memory about while we serve swap.
//!
//! A locked page never goes away, but to make room for large pages the kernel may move it, and who
//! touches it meanwhile takes a page fault and waits. The setting
//! `vm.compact_unevictable_allowed` (`Documentation/admin-guide/sysctl/vm.rst`) forbids that. It
//! belongs to the whole machine, so it is set back when the device goes.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "/proc/sys/vm/compact_unevictable_allowed";

/// The setting, changed. Dropping it sets it back.
#[derive(Debug)]
pub struct Forbidden {
    file: PathBuf,
    before: String,
}

/// Forbids it; `None` if it was forbidden already.
pub fn forbid() -> io::Result<Option<Forbidden>> {
    forbid_in(Path::new(FILE))
}

/// What the setting is now; none: this kernel has no such thing.
pub fn allowed() -> Option<bool> {
    Some(std::fs::read_to_string(FILE).ok()?.trim() != "0")
}

fn forbid_in(file: &Path) -> io::Result<Option<Forbidden>> {
    let before = match std::fs::read_to_string(file) {
        // A kernel that cannot move pages at all.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?.trim().to_string(),
    };
    if before == "0" {
        return Ok(None);
    }
    std::fs::write(file, "0")?;
    Ok(Some(Forbidden {
        file: file.to_path_buf(),
        before,
    }))
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.file, &self.before) {
            tracing::warn!(
                "cannot set {} back to {}: {error}",
                self.file.display(),
                self.before
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_changed_once_and_set_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("setting");
        let now = || std::fs::read_to_string(&file).unwrap();
        assert!(forbid_in(&file).unwrap().is_none(), "no such setting");
        std::fs::write(&file, "1\n").unwrap();
        let first = forbid_in(&file).unwrap().expect("changed");
        assert_eq!(now(), "0");
        assert!(forbid_in(&file).unwrap().is_none(), "changed twice");
        drop(first);
        assert_eq!(now(), "1");
    }
}
