//! Whether a block device is in use, and by whom: asked before anything that destroys data.
#![forbid(unsafe_code)]

use anyhow::Context as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};
use trueno_zram_cli::usage::Usage;

/// The answer of the kernel to "may I have this device for myself?".
#[derive(Debug)]
pub enum Claim {
    /// Yes: nobody mounts it or swaps to it while the file is open.
    Free(File),
    /// No: somebody has it. What is known of them.
    InUse(Usage),
}

/// Opens `device` for us alone. For writing too only where that is needed: when a writer closes a
/// block device, udev looks at it anew.
pub fn claim(device: &Path, write: bool) -> anyhow::Result<Claim> {
    // For a block device O_EXCL without O_CREAT asks for exclusive use, as mount and swapon do.
    let opened = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_EXCL)
        .open(device);
    match opened {
        Ok(file) if is_open_elsewhere(&file)? => Ok(Claim::InUse(usage(device)?)),
        // A loop device stacked on it claims nothing, and is no process.
        Ok(file) => match usage(device)? {
            usage if usage.is_free() => Ok(Claim::Free(file)),
            usage => Ok(Claim::InUse(usage)),
        },
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(Claim::InUse(usage(device)?)),
        Err(error) => Err(error).with_context(|| format!("cannot open {}", device.display())),
    }
}

/// How long a program may have a device open before it counts as a user: udev looks at every device
/// that a writer has closed, for some milliseconds.
const LOOK: Duration = Duration::from_secs(2);

/// Whether another process has the device open, mounted or not: a virtual machine or a database
/// claims nothing, and would lose its data all the same.
fn is_open_elsewhere(device: &File) -> anyhow::Result<bool> {
    let number = device.metadata().context("cannot read the device")?.rdev();
    let start = Instant::now();
    while opened_by_others(number).context("cannot read /proc")? {
        if start.elapsed() > LOOK {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}

fn opened_by_others(number: u64) -> io::Result<bool> {
    let own = std::process::id();
    for process in std::fs::read_dir("/proc")? {
        let process = process?;
        let pid = process.file_name().to_string_lossy().parse::<u32>();
        // A process may end while we look.
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        if pid.is_err() || pid == Ok(own) {
            continue;
        }
        for descriptor in descriptors.flatten() {
            // Only devices are looked at closer: a file system that hangs must not hold us up.
            let target = std::fs::read_link(descriptor.path());
            if !target.is_ok_and(|target| target.starts_with("/dev")) {
                continue;
            }
            let open = std::fs::metadata(descriptor.path());
            if open.is_ok_and(|open| open.file_type().is_block_device() && open.rdev() == number) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn usage(device: &Path) -> anyhow::Result<Usage> {
    let found: io::Result<Usage> = Usage::of(device);
    found.with_context(|| format!("cannot find out who uses {}", device.display()))
}

/// `device` is in use, by whom, and what to do first.
pub fn explain(device: &Path, usage: &Usage) -> String {
    let shown = device.display();
    let mut by = Vec::new();
    let mut remedy = Vec::new();
    for point in &usage.mountpoints {
        by.push(format!("mounted at {}", point.display()));
        remedy.push(format!("umount {}", point.display()));
    }
    for area in &usage.swaps {
        by.push(if area == device {
            "used as swap".to_string()
        } else {
            format!("under the swap area {}", area.display())
        });
        remedy.push(format!("swapoff {}", area.display()));
    }
    if !usage.holders.is_empty() {
        by.push(format!("part of {}", usage.holders.join(", ")));
        remedy.push(format!("take {} apart", usage.holders.join(", ")));
    }
    if by.is_empty() {
        return format!(
            "{shown} is in use by a program, or by a mount in another mount namespace: see \
             `fuser -v {shown}`"
        );
    }
    format!(
        "{shown} is {}: first `{}`",
        by.join(" and "),
        remedy.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn every_user_is_named_with_the_remedy() {
        let device = Path::new("/dev/ublkb0");
        let mounted = Usage {
            mountpoints: vec![PathBuf::from("/mnt")],
            ..Usage::default()
        };
        assert_eq!(
            explain(device, &mounted),
            "/dev/ublkb0 is mounted at /mnt: first `umount /mnt`"
        );
        let swap = Usage {
            swaps: vec![device.to_path_buf(), PathBuf::from("/mnt/swap")],
            ..Usage::default()
        };
        assert_eq!(
            explain(device, &swap),
            "/dev/ublkb0 is used as swap and under the swap area /mnt/swap: first \
             `swapoff /dev/ublkb0; swapoff /mnt/swap`"
        );
        assert!(explain(device, &Usage::default()).contains("fuser -v /dev/ublkb0"));
    }
}
