//! Makes the root file system of a guest: busybox, kernel modules, our programs, and the tools of
//! this machine that a script wants, with their shared libraries.
//!
//! It is two archives in one file. The first (busybox, modules) is the same for every test on a
//! kernel and kept; the second is a test's own. All of it lives in the guest's memory, so a small
//! guest gets only what its test names.

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::{modules, packages, process, workspace};
use anyhow::{Context as _, Result, bail};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: &str = include_str!("init.sh");

/// Modules that a guest can load with `modprobe`; which ones it has is up to the kernel.
const MODULES: &[&str] = &[
    "ublk_drv",
    "zram",
    "loop",
    "fuse",
    "null_blk",
    "virtio_blk",
    "ext4",
    "xfs",
    "crc32c_generic",
    "crc32c_intel",
    "libcrc32c",
    "lz4",
    "lz4hc",
    "zstd",
];

/// What a test puts into its guest.
#[derive(Clone, Default)]
pub struct Content {
    pub script: PathBuf,
    /// `NAME=VALUE` is exported to the script, anything else is an argument.
    pub arguments: Vec<String>,
    /// Loaded before the script starts.
    pub modules: Vec<String>,
    /// Programs by path; they go to `/usr/bin`.
    pub bins: Vec<PathBuf>,
    /// Programs of this machine by name; they go to `/usr/bin` with their libraries.
    pub tools: Vec<String>,
    /// Files and directories: here, there.
    pub files: Vec<(PathBuf, String)>,
}

/// The part that is the same for every test on `kernel`.
pub fn base(kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
    let busybox = packages::busybox().context("no statically linked busybox")?;
    let busybox = std::fs::read(&busybox)?;
    let mut hasher = DefaultHasher::new();
    (INIT, MODULES, &kernel.release, &busybox).hash(&mut hasher);
    let path = directory.join(format!("base-{:016x}.cpio", hasher.finish()));
    if path.exists() {
        return Ok(path);
    }
    let mut archive = Archive::new();
    for name in [
        "dev", "proc", "sys", "tmp", "run", "mnt", "etc", "root", "test", "lib64",
    ] {
        archive.directory(name);
    }
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("bin/busybox", 0o755, &busybox);
    archive.symlink("bin/sh", "busybox");
    // Where the kernel looks when it wants a module.
    archive.symlink("sbin/modprobe", "/bin/busybox");
    let library = format!("lib/modules/{}", kernel.release);
    let found = modules::collect(&kernel.modules, MODULES)?;
    let (dependencies, aliases) = modules::index(&found);
    archive.file(
        &format!("{library}/modules.dep"),
        0o644,
        dependencies.as_bytes(),
    );
    archive.file(
        &format!("{library}/modules.alias"),
        0o644,
        aliases.as_bytes(),
    );
    let builtin = std::fs::read(kernel.modules.join("modules.builtin"))?;
    archive.file(&format!("{library}/modules.builtin"), 0o644, &builtin);
    for module in &found {
        archive.file(
            &format!("{library}/{}.ko", module.name),
            0o644,
            &module.data,
        );
    }
    process::write_atomic(&path, &archive.finish())?;
    Ok(path)
}

/// A test's own part.
pub fn own(content: &Content) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for program in &content.bins {
        add_program(&mut archive, program)?;
    }
    for tool in &content.tools {
        let program =
            process::which(tool).with_context(|| format!("{tool} is not on this machine"))?;
        add_program(&mut archive, &program)?;
    }
    for (here, there) in &content.files {
        add_tree(&mut archive, here, there)?;
    }
    let lines: String = content
        .modules
        .iter()
        .map(|name| format!("{name}\n"))
        .collect();
    archive.file("test/modules", 0o644, lines.as_bytes());
    archive.file(
        "test/arguments.sh",
        0o644,
        arguments(&content.arguments).as_bytes(),
    );
    let library = workspace::root().join("tests/vm/lib.sh");
    archive.file("test/lib.sh", 0o644, &read(&library)?);
    archive.file("test/script.sh", 0o755, &read(&content.script)?);
    Ok(archive.finish())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A shell fragment that exports the `NAME=VALUE`s and sets the others as `$1`, `$2`, ….
fn arguments(words: &[String]) -> String {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let (mut exports, mut positional) = (String::new(), String::from("set --"));
    for word in words {
        match word.split_once('=') {
            Some((name, value)) if is_name(name) => {
                exports += &format!("export {name}={}\n", quoted(value));
            }
            _ => positional += &format!(" {}", quoted(word)),
        }
    }
    exports + &positional + "\n"
}

fn add_program(archive: &mut Archive, program: &Path) -> Result<()> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    archive.file(&format!("usr/bin/{name}"), 0o755, &read(program)?);
    // ldd fails on a static program, which is fine.
    let Ok(list) = process::text(Command::new("ldd").arg(program)) else {
        return Ok(());
    };
    for library in libraries(&list)? {
        if !archive.contains(library) {
            archive.file(library, 0o755, &read(Path::new(library))?);
        }
    }
    Ok(())
}

/// The paths in what `ldd` prints.
fn libraries(list: &str) -> Result<Vec<&str>> {
    let mut paths = Vec::new();
    for line in list.lines() {
        if line.contains("not found") {
            bail!("a shared library is missing: {}", line.trim());
        }
        paths.extend(line.split_whitespace().find(|word| word.starts_with('/')));
    }
    Ok(paths)
}

fn add_tree(archive: &mut Archive, here: &Path, there: &str) -> Result<()> {
    let kind = std::fs::symlink_metadata(here)
        .with_context(|| format!("cannot read {}", here.display()))?;
    if kind.is_dir() {
        archive.directory(there);
        for entry in std::fs::read_dir(here)? {
            let entry = entry?;
            let name = entry.file_name();
            add_tree(
                archive,
                &entry.path(),
                &format!("{there}/{}", name.to_string_lossy()),
            )?;
        }
    } else if here.is_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(here)?.permissions().mode() & 0o777;
        archive.file(there, mode, &read(here)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_shell_as_they_were_typed() {
        let words = ["MB=480", "it's", "a b", "1=2"].map(String::from);
        assert_eq!(
            arguments(&words),
            "export MB='480'\nset -- 'it'\\''s' 'a b' '1=2'\n"
        );
    }

    #[test]
    fn libraries_are_the_paths_that_ldd_names() {
        let list = "\tlinux-vdso.so.1 (0x1)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x2)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(list).unwrap(), expected);
        assert!(libraries("\tlibx.so => not found\n").is_err());
    }
}
