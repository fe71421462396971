//! Programs of the host that tests need, and the Debian packages that bring them.
//!
//! As root on Debian what is missing is installed; elsewhere the command that would do it is said,
//! and whatever needs the program is skipped with that reason.

use crate::process;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What guests need: to boot at all.
pub const FOR_GUESTS: &[&str] = &[
    "qemu-system-x86_64",
    "busybox",
    "dpkg-deb",
    "apt-get",
    "xz",
    "zstd",
    "ldd",
    "setpriv",
];

/// Debian's compiler, with the standard library of its other architecture.
const ARM64_RUSTC: &str = "rustc:arm64";

/// Program, package. A program that is not here bears its package's name.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("dpkg-deb", "dpkg"),
    ("apt-get", "apt"),
    ("xz", "xz-utils"),
    ("ldd", "libc-bin"),
    ("setpriv", "util-linux"),
    ("fstrim", "util-linux"),
    ("blkdiscard", "util-linux"),
    ("losetup", "util-linux"),
    ("mkswap", "util-linux"),
    ("swapon", "mount"),
    ("systemd-analyze", "systemd"),
    ("mount", "mount"),
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_repair", "xfsprogs"),
    ("cc", "gcc libc6-dev"),
    ("c++", "g++"),
    (ARM64_RUSTC, "rustc-web libstd-rust-web-dev:arm64"),
    (
        "aarch64-linux-gnu-gcc",
        "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    ),
    ("qemu-aarch64-static", "qemu-user-static"),
];

/// Make sure that `programs` are here, installing the missing ones where that is possible.
pub fn ensure(programs: &[&str]) -> Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|name| !present(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().flat_map(|name| packages_of(name)).collect();
    packages.sort_unstable();
    packages.dedup();
    let list = packages.join(" ");
    if !may_install() {
        bail!(
            "missing {}; as root on Debian: {}apt-get install {list}",
            missing.join(", "),
            if list.contains(":arm64") {
                "dpkg --add-architecture arm64; apt-get update; "
            } else {
                ""
            }
        );
    }
    eprintln!("installing {list}");
    install(&packages).with_context(|| format!("cannot install {list}"))?;
    if let Some(still) = missing.iter().find(|name| !present(name)) {
        bail!("{still} is missing although {list} is installed");
    }
    Ok(())
}

/// Busybox linked statically: the guest's shell must not need a library.
pub fn busybox() -> Option<PathBuf> {
    let path = process::which("busybox")?;
    let ldd = Command::new("ldd").arg(&path).output().ok()?;
    let says = [ldd.stdout, ldd.stderr].concat();
    String::from_utf8_lossy(&says)
        .contains("not a dynamic executable")
        .then_some(path)
}

fn present(program: &str) -> bool {
    match program {
        "busybox" => busybox().is_some(),
        ARM64_RUSTC => ["bin/rustc", "lib/rustlib/aarch64-unknown-linux-gnu/lib"]
            .iter()
            .all(|path| Path::new("/usr").join(path).exists()),
        _ => process::which(program).is_some(),
    }
}

fn packages_of(program: &'_ str) -> impl Iterator<Item = &'_ str> {
    let list = PACKAGES
        .iter()
        .find(|(name, _)| *name == program)
        .map_or(program, |(_, list)| list);
    list.split(' ')
}

fn may_install() -> bool {
    Path::new("/etc/debian_version").exists() && is_root()
}

/// True for user id 0.
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

fn install(packages: &[&str]) -> Result<()> {
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-y"])
            .args(args);
        process::output(&mut command)
    };
    if packages.iter().any(|package| package.ends_with(":arm64")) {
        println!("adding the architecture arm64 to dpkg's");
        process::output(Command::new("dpkg").args(["--add-architecture", "arm64"]))?;
    }
    apt(&["update"])?;
    // What is here stays: Debian's compiler for the web is not beside Debian's own, for one.
    let mut args = vec!["install", "--no-install-recommends", "--no-remove"];
    args.extend(packages);
    apt(&args)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_an_entry_bears_its_packages_name() {
        assert_eq!(packages_of("fio").collect::<Vec<_>>(), ["fio"]);
        assert_eq!(packages_of("cc").collect::<Vec<_>>(), ["gcc", "libc6-dev"]);
    }
}
