//! Who uses a block device: file systems, swap, and devices stacked on it.

use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a block device is in use for. Empty means: nothing that the kernel tells us about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Where it is mounted, as seen from this process.
    pub mountpoints: Vec<PathBuf>,
    /// Whether the kernel swaps to it.
    pub swap: bool,
    /// Names of block devices stacked on it (device mapper, RAID).
    pub holders: Vec<String>,
}

impl Usage {
    /// What uses `device` (a path such as `/dev/ublkb0`) now.
    pub fn of(device: &Path) -> io::Result<Usage> {
        let rdev = std::fs::metadata(device)?.st_rdev();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        // A kernel built without swap has no such file.
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        Ok(Usage {
            mountpoints: mountpoints(&mounts, device, rdev),
            swap: swap_files(&swaps).any(|file| {
                file == device || std::fs::metadata(&file).is_ok_and(|meta| meta.st_rdev() == rdev)
            }),
            holders: holders(device),
        })
    }

    /// Whether nothing was found.
    pub fn is_free(&self) -> bool {
        self.mountpoints.is_empty() && !self.swap && self.holders.is_empty()
    }

    /// The column MOUNTPOINT: `[SWAP]`, the mount points, or the holders in brackets.
    pub fn column(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        if self.swap {
            words.push("[SWAP]".to_string());
        }
        words.extend(
            self.mountpoints
                .iter()
                .map(|path| path.display().to_string()),
        );
        words.extend(self.holders.iter().map(|name| format!("[{name}]")));
        words.join(",")
    }
}

/// Mount points in the text of `mountinfo` whose device number or source is `device`.
fn mountpoints(mountinfo: &str, device: &Path, rdev: u64) -> Vec<PathBuf> {
    let number = format!("{}:{}", major(rdev), minor(rdev));
    mountinfo
        .lines()
        .filter_map(|line| {
            // id parent major:minor root mountpoint options [tags…] - type source options
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ').skip(2);
            let same_number = fields.next()? == number;
            let mountpoint = fields.nth(1)?;
            let source = after.split(' ').nth(1)?;
            (same_number || Path::new(&unescape(source)) == device)
                .then(|| PathBuf::from(unescape(mountpoint)))
        })
        .collect()
}

/// Paths in the text of `/proc/swaps`.
fn swap_files(swaps: &str) -> impl Iterator<Item = PathBuf> + '_ {
    swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().next())
        .map(|file| PathBuf::from(unescape(file)))
}

/// Devices stacked on `device` or on one of its partitions.
fn holders(device: &Path) -> Vec<String> {
    let Some(name) = device.file_name() else {
        return Vec::new();
    };
    let block = Path::new("/sys/class/block").join(name);
    let mut found = names_in(&block.join("holders"));
    for partition in names_in(&block) {
        if partition.starts_with(&*name.to_string_lossy()) {
            found.extend(names_in(&block.join(partition).join("holders")));
        }
    }
    found
}

/// Names in a directory, sorted; none if there is no such directory.
fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Undoes the `\040` of the kernel's tables.
fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| {
                let text = std::str::from_utf8(digits).ok()?;
                u8::from_str_radix(text, 8).ok()
            });
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Major number of a `dev_t` as glibc packs it.
fn major(rdev: u64) -> u64 {
    (rdev >> 8) & 0xfff | (rdev >> 32) & !0xfff
}

/// Minor number of a `dev_t` as glibc packs it.
fn minor(rdev: u64) -> u64 {
    rdev & 0xff | (rdev >> 12) & !0xff & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let text = "36 35 259:3 / /mnt/a\\040b rw shared:1 - ext4 /dev/ublkb3 rw\n\
                    37 35 0:44 / /mnt/btrfs rw - btrfs /dev/ublkb3 rw\n\
                    38 35 0:45 / /tmp rw - tmpfs tmpfs rw\n";
        let rdev = 259 << 8 | 3;
        assert_eq!(
            mountpoints(text, Path::new("/dev/ublkb3"), rdev),
            [PathBuf::from("/mnt/a b"), PathBuf::from("/mnt/btrfs")]
        );
        assert!(mountpoints(text, Path::new("/dev/ublkb4"), 259 << 8 | 4).is_empty());
    }

    #[test]
    fn device_numbers_come_apart_as_they_were_packed() {
        // makedev(0x12345, 0x6789a) by glibc's formula.
        let rdev = (0x345 << 8) | (0x12000 << 32) | 0x9a | (0x67800 << 12);
        assert_eq!((major(rdev), minor(rdev)), (0x12345, 0x6789a));
    }

    #[test]
    fn swap_files_are_read_below_the_heading() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/ublkb0                             partition\t8388604\t\t0\t\t100\n";
        assert_eq!(
            swap_files(text).collect::<Vec<_>>(),
            [PathBuf::from("/dev/ublkb0")]
        );
    }

    #[test]
    fn a_path_that_is_no_device_is_an_error_and_an_idle_one_is_free() {
        assert!(Usage::of(Path::new("/dev/no-such-device")).is_err());
        let null = Usage::of(Path::new("/dev/null")).unwrap();
        assert!(null.is_free());
        assert_eq!(null.column(), "");
    }
}
