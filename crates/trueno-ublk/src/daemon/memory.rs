//! Where a store's memory comes from: a file on a private tmpfs that is never swapped out.
//!
//! Compressed pages must not be swapped, least of all to the device that holds them. A tmpfs
//! mounted `noswap` (Linux 6.4) promises that, belongs to no process, and so outlives this one.
//! Older kernels get a memfd, which swap mode locks page by page as it grows.
#![forbid(unsafe_code)]

use super::sys;
use anyhow::Context as _;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The name of the store's file on its tmpfs.
pub const FILE_NAME: &str = "store";

/// The file that a store is mapped from, and what has to be taken away after it.
#[derive(Debug)]
pub struct StoreMemory {
    mount: Option<PathBuf>,
    file: Option<File>,
    /// Whether it stays when this value goes: it is still a dead process's.
    kept: bool,
}

impl StoreMemory {
    /// An empty file at `directory/store` on a tmpfs of its own, or a memfd where this kernel
    /// cannot keep a tmpfs from being swapped.
    pub fn create(directory: &Path) -> anyhow::Result<StoreMemory> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        match sys::mount_in_memory(directory, c"tmpfs", c"size=0,mode=0700,noswap") {
            Ok(()) => {
                // From here on dropping it unmounts.
                let mut memory = StoreMemory {
                    mount: Some(directory.to_path_buf()),
                    file: None,
                    kept: false,
                };
                let path = directory.join(FILE_NAME);
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)
                    .with_context(|| format!("cannot make {}", path.display()))?;
                memory.file = Some(file);
                Ok(memory)
            }
            // EINVAL: this kernel does not know `noswap`, or has no swap at all.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let _ = std::fs::remove_dir(directory);
                let file = sys::memfd(c"trueno-ublk-store")
                    .context("cannot make a file in memory for the store")?;
                Ok(StoreMemory {
                    mount: None,
                    file: Some(file),
                    kept: false,
                })
            }
            Err(error) => {
                let _ = std::fs::remove_dir(directory);
                Err(error)
                    .with_context(|| format!("cannot mount a tmpfs at {}", directory.display()))
            }
        }
    }

    /// What a dead process left at `directory`. Until it is made [our own](StoreMemory::own),
    /// dropping this takes nothing away.
    pub fn open(directory: &Path) -> anyhow::Result<StoreMemory> {
        let path = directory.join(FILE_NAME);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.with_context(|| {
            format!(
                "the memory of the device is gone (no {}): it belonged to the dead process, or to \
                 another mount namespace",
                path.display()
            )
        })?;
        Ok(StoreMemory {
            mount: Some(directory.to_path_buf()),
            file: Some(file),
            kept: true,
        })
    }

    /// From here on the memory goes with this value.
    pub fn own(&mut self) {
        self.kept = false;
    }

    /// A file beside the store's, for the transport's buffers: a worker and its standby use the
    /// same ones. `None`: the memory is this process's alone.
    pub fn buffers(&self) -> anyhow::Result<Option<File>> {
        let Some(mount) = &self.mount else {
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
        self.mount.is_some()
    }

    /// The file, once; the store keeps it.
    pub fn take_file(&mut self) -> Option<File> {
        self.file.take()
    }

    /// `tmpfs noswap` or `memfd`, for people.
    pub fn describe(&self) -> &'static str {
        if self.mount.is_some() {
            "tmpfs noswap"
        } else {
            "memfd"
        }
    }

    /// Gives everything back. The store and its mapping must be gone before.
    pub fn remove(&mut self) -> anyhow::Result<()> {
        self.file = None;
        let Some(mount) = self.mount.take() else {
            return Ok(());
        };
        sys::unmount(&mount).with_context(|| format!("cannot unmount {}", mount.display()))?;
        std::fs::remove_dir(&mount).with_context(|| format!("cannot remove {}", mount.display()))
    }
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

    #[test]
    fn the_mount_is_private_and_goes_with_its_owner() {
        if !sys::is_root() {
            assert!(std::env::var_os("CI").is_none(), "this test needs root");
            eprintln!("SKIPPED: mounting needs root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("memory");
        let mut memory = StoreMemory::create(&directory).unwrap();
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
        let file = memory.take_file().unwrap();
        file.set_len(1 << 30).unwrap();
        drop(file);
        if memory.outlives_process() {
            // As if it had been killed.
            std::mem::forget(memory);
            drop(StoreMemory::open(&directory).expect("it is still there"));
            memory = StoreMemory::open(&directory).expect("looking took it away");
            memory.own();
            let file = memory.take_file().unwrap();
            assert_eq!(file.metadata().unwrap().len(), 1 << 30);
        }
        memory.remove().unwrap();
        assert!(!directory.exists());
        let error = StoreMemory::open(&directory).unwrap_err().to_string();
        assert!(error.contains("is gone"), "{error}");
    }
}
