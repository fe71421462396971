//! Who uses a block device: file systems, swap, and devices stacked on it.
//!
//! A user may be some floors up. All of these keep `/dev/ublkb0` busy:
//!
//! ```text
//! ublkb0 ─┬─ a file system ── a swap file on it
//!         ├─ swap
//!         ├─ ublkb0p1 ── any of these                (sysfs: directories with a file `partition`)
//!         ├─ dm-3, md0 ── any of these               (sysfs: `holders`)
//!         └─ loop7 ── any of these                   (sysfs: `loop/backing_file`)
//! ```

use std::collections::HashSet;
use std::io;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where the kernel shows every block device, partitions included.
const BLOCK_DEVICES: &str = "/sys/class/block";

/// What a block device is in use for. Empty means: nothing that the kernel tells us about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Where it, a partition of it or a device stacked on it is mounted, as seen from this process.
    pub mountpoints: Vec<PathBuf>,
    /// What the kernel swaps to and lies on it: itself, a partition, a stacked device, a file.
    pub swaps: Vec<PathBuf>,
    /// Names of block devices stacked on it (device mapper, RAID, loop).
    pub holders: Vec<String>,
}

impl Usage {
    /// What uses `device` (a path such as `/dev/ublkb0`) now.
    pub fn of(device: &Path) -> io::Result<Usage> {
        let device = device.canonicalize()?;
        let family = Family::of(&device, Path::new(BLOCK_DEVICES))?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        // A kernel built without swap has no such file.
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        let mounts = mounts_of(&mounts, &family);
        Ok(Usage {
            swaps: swaps_of(&swaps, &mounts, &family),
            mountpoints: mounts
                .into_iter()
                .filter_map(|mount| mount.ours.then_some(mount.point))
                .collect(),
            holders: family.holders,
        })
    }

    /// Whether nothing was found.
    pub fn is_free(&self) -> bool {
        self.mountpoints.is_empty() && self.swaps.is_empty() && self.holders.is_empty()
    }

    /// The column MOUNTPOINT: `[SWAP]`, the mount points, or the holders in brackets.
    pub fn column(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        if !self.swaps.is_empty() {
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

/// A device and all that is built on it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    /// Device numbers, as the kernel writes them: `259:3`.
    numbers: HashSet<String>,
    /// Paths in `/dev`.
    nodes: HashSet<PathBuf>,
    /// Names of those that are neither the device nor a partition.
    holders: Vec<String>,
}

impl Family {
    fn of(device: &Path, blocks: &Path) -> io::Result<Family> {
        let mut family = Family::default();
        let rdev = std::fs::metadata(device)?.st_rdev();
        let number = format!("{}:{}", major(rdev), minor(rdev));
        family.numbers.insert(number);
        family.nodes.insert(device.to_path_buf());
        if let Some(name) = device.file_name() {
            family.add(&name.to_string_lossy(), blocks);
        }
        family.holders.sort();
        Ok(family)
    }

    /// Adds the device `name` and what is built on it.
    fn add(&mut self, name: &str, blocks: &Path) {
        let block = blocks.join(name);
        let node = Path::new("/dev").join(name);
        if let Ok(number) = std::fs::read_to_string(block.join("dev")) {
            self.numbers.insert(number.trim_end().to_string());
        }
        self.nodes.insert(node.clone());
        for partition in names_in(&block) {
            if block.join(&partition).join("partition").exists() {
                self.add(&partition, blocks);
            }
        }
        let mut stacked = names_in(&block.join("holders"));
        stacked.extend(names_in(blocks).into_iter().filter(|other| {
            let file = std::fs::read_to_string(blocks.join(other).join("loop/backing_file"));
            file.is_ok_and(|file| Path::new(file.trim_end()) == node)
        }));
        for holder in stacked {
            // RAID of two partitions of one device is met twice.
            if !self.holders.contains(&holder) {
                self.holders.push(holder.clone());
                self.add(&holder, blocks);
            }
        }
    }
}

/// A mount of this process.
struct Mount {
    point: PathBuf,
    /// Whether it is a file system of the family.
    ours: bool,
}

/// The mounts in the text of `mountinfo`, by device number or source. btrfs has a number of its own.
fn mounts_of(mountinfo: &str, family: &Family) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            // id parent major:minor root mountpoint options [tags…] - type source options
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ').skip(2);
            let number = fields.next()?;
            let point = PathBuf::from(unescape(fields.nth(1)?));
            let source = PathBuf::from(unescape(after.split(' ').nth(1)?));
            let of_family = |source: &Path| {
                source.starts_with("/dev")
                    && (family.nodes.contains(source)
                        // /dev/mapper/NAME
                        || source.canonicalize().is_ok_and(|real| family.nodes.contains(&real)))
            };
            let ours = family.numbers.contains(number) || of_family(&source);
            Some(Mount { point, ours })
        })
        .collect()
}

/// What in the text of `/proc/swaps` lies on the family: devices of it, and files on its mounts.
fn swaps_of(swaps: &str, mounts: &[Mount], family: &Family) -> Vec<PathBuf> {
    let is_device = |path: &Path| {
        family.nodes.contains(path)
            || std::fs::metadata(path).is_ok_and(|meta| {
                let rdev = meta.st_rdev();
                let number = format!("{}:{}", major(rdev), minor(rdev));
                family.numbers.contains(&number)
            })
    };
    let is_on_mount = |path: &Path| {
        // The longest mount point above it, and of those on top of each other the last.
        mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
            .is_some_and(|mount| mount.ours)
    };
    swaps
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let path = PathBuf::from(unescape(fields.next()?));
            let is_file = fields.next()? == "file";
            (is_device(&path) || is_file && is_on_mount(&path)).then_some(path)
        })
        .collect()
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

    fn family(numbers: &[&str], nodes: &[&str]) -> Family {
        Family {
            numbers: numbers.iter().map(|number| number.to_string()).collect(),
            nodes: nodes.iter().map(PathBuf::from).collect(),
            holders: Vec::new(),
        }
    }

    fn points(mountinfo: &str, family: &Family) -> Vec<PathBuf> {
        let ours = mounts_of(mountinfo, family).into_iter();
        ours.filter_map(|mount| mount.ours.then_some(mount.point))
            .collect()
    }

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let text = "36 35 259:3 / /mnt/a\\040b rw shared:1 - ext4 /dev/ublkb3 rw\n\
                    37 35 0:44 / /mnt/btrfs rw - btrfs /dev/ublkb3 rw\n\
                    38 35 0:45 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(
            points(text, &family(&["259:3"], &["/dev/ublkb3"])),
            [PathBuf::from("/mnt/a b"), PathBuf::from("/mnt/btrfs")]
        );
        assert!(points(text, &family(&["259:4"], &["/dev/ublkb4"])).is_empty());
    }

    #[test]
    fn partitions_and_stacked_devices_belong_to_the_device() {
        let sys = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = sys.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        // ublkb0 has two partitions, the second in dm-1, and loop7 lies on dm-1; loop8 does not.
        file("ublkb0/dev", "259:0\n");
        file("ublkb0/queue/scheduler", "none");
        for (name, number) in [("ublkb0p1", "259:1\n"), ("ublkb0p2", "259:2\n")] {
            file(&format!("ublkb0/{name}/partition"), "1");
            file(&format!("{name}/dev"), number);
        }
        file("ublkb0p2/holders/dm-1", "");
        file("dm-1/dev", "253:1\n");
        file("loop7/dev", "7:7\n");
        file("loop7/loop/backing_file", "/dev/dm-1\n");
        file("loop8/dev", "7:8\n");
        file("loop8/loop/backing_file", "/dev/ublkb01\n");
        let mut found = Family::default();
        found.add("ublkb0", sys.path());
        assert_eq!(found.holders, ["dm-1", "loop7"]);
        let expected = family(
            &["259:0", "259:1", "259:2", "253:1", "7:7"],
            &[
                "/dev/ublkb0",
                "/dev/ublkb0p1",
                "/dev/ublkb0p2",
                "/dev/dm-1",
                "/dev/loop7",
            ],
        );
        assert_eq!(
            (found.numbers, found.nodes),
            (expected.numbers, expected.nodes)
        );
    }

    #[test]
    fn device_numbers_come_apart_as_they_were_packed() {
        // makedev(0x12345, 0x6789a) by glibc's formula.
        let rdev = (0x345 << 8) | (0x12000 << 32) | 0x9a | (0x67800 << 12);
        assert_eq!((major(rdev), minor(rdev)), (0x12345, 0x6789a));
    }

    #[test]
    fn swap_on_the_device_on_a_partition_and_in_a_file_is_found() {
        let swaps = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/ublkb3                             partition\t8388604\t\t0\t\t100\n\
                    /dev/ublkb3p1                           partition\t8388604\t\t0\t\t99\n\
                    /dev/ublkb4                             partition\t8388604\t\t0\t\t98\n\
                    /mnt/other/swap                         file\t8388604\t\t0\t\t97\n\
                    /mnt/swap\\040file                       file\t8388604\t\t0\t\t96\n";
        let mounts = "35 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      36 35 259:3 / /mnt rw - ext4 /dev/ublkb3 rw\n\
                      37 36 8:2 / /mnt/other rw - ext4 /dev/sda2 rw\n";
        let family = family(&["259:3"], &["/dev/ublkb3", "/dev/ublkb3p1"]);
        assert_eq!(
            swaps_of(swaps, &mounts_of(mounts, &family), &family),
            ["/dev/ublkb3", "/dev/ublkb3p1", "/mnt/swap file"].map(PathBuf::from)
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
