//! Picks kernel modules with everything they depend on, and writes the index that `modprobe` reads.
//!
//! What a module needs is written in its own `.modinfo` section (NUL-terminated `key=value`), so
//! neither `depmod` nor a machine with the same kernel is asked.

use crate::process;
use anyhow::{Context as _, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A module as the guest gets it.
pub struct Module {
    /// With `_`, as the kernel writes it.
    pub name: String,
    /// The ELF file, decompressed.
    pub data: Vec<u8>,
    /// Other names that the kernel asks for, such as `fs-xfs`.
    aliases: Vec<String>,
    /// Direct dependencies.
    needs: Vec<String>,
}

/// The modules of `wanted` that `directory` (`lib/modules/RELEASE`) holds, and their dependencies,
/// each after what it depends on. One that is built into the kernel, or that this kernel does not
/// have, is left out: a script that needs it will say so.
pub fn collect(directory: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(&directory.join("kernel"), &mut files)?;
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in wanted {
        add(&canonical(name), &files, &mut seen, &mut order)?;
    }
    Ok(order)
}

/// `modules.dep` and `modules.alias` for the modules in `/lib/modules/RELEASE/NAME.ko`.
pub fn index(modules: &[Module]) -> (String, String) {
    let (mut dependencies, mut aliases) = (String::new(), String::new());
    for module in modules {
        let mut closure = Vec::new();
        reach(module, modules, &mut closure);
        // The last of a line is loaded first.
        let list = closure
            .iter()
            .rev()
            .map(|name| format!(" {name}.ko"))
            .collect::<String>();
        dependencies += &format!("{}.ko:{list}\n", module.name);
        for alias in &module.aliases {
            aliases += &format!("alias {alias} {}\n", module.name);
        }
    }
    (dependencies, aliases)
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Every module file below `directory`, by name.
fn find(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if let Some((name, _)) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.split_once(".ko"))
        {
            files.insert(canonical(name), path);
        }
    }
    Ok(())
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<Module>,
) -> Result<()> {
    let Some(path) = files.get(name) else {
        return Ok(());
    };
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let data = decompressed(path)?;
    let info = modinfo(&data).with_context(|| format!("{} is no module", path.display()))?;
    let values = |key: &str| -> Vec<String> {
        info.iter()
            .filter(|(k, _)| k == key)
            .map(|(_, value)| value.clone())
            .collect()
    };
    let mut needs: Vec<String> = values("depends")
        .iter()
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect();
    needs.retain(|need| files.contains_key(need));
    for need in &needs {
        add(need, files, seen, order)?;
    }
    order.push(Module {
        name: name.to_owned(),
        aliases: values("alias"),
        data,
        needs,
    });
    Ok(())
}

fn reach(module: &Module, all: &[Module], out: &mut Vec<String>) {
    for need in &module.needs {
        if let Some(found) = all.iter().find(|other| other.name == *need)
            && !out.contains(need)
        {
            reach(found, all, out);
            out.push(need.clone());
        }
    }
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => process::output(Command::new("xz").arg("-dc").arg(path)),
        Some("zst") => process::output(Command::new("zstd").arg("-dqc").arg(path)),
        Some("ko") => Ok(std::fs::read(path)?),
        _ => bail!("unknown compression of {}", path.display()),
    }
}

/// The `key=value` pairs of a 64-bit little-endian ELF file's `.modinfo` section.
fn modinfo(elf: &[u8]) -> Option<Vec<(String, String)>> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let mut value = 0u64;
        for (i, byte) in elf.get(at..at.checked_add(bytes)?)?.iter().enumerate() {
            value |= u64::from(*byte) << (8 * i);
        }
        usize::try_from(value).ok()
    };
    // ELF64 header: section table's place, entry size, count, index of the names' section.
    let (table, size) = (number(0x28, 8)?, number(0x3a, 2)?);
    let (count, names) = (number(0x3c, 2)?, number(0x3e, 2)?);
    // Section header: name at 0, offset at 24, size at 32.
    let offset_of = |section: usize| number(table + section * size + 24, 8);
    let names = offset_of(names)?;
    for section in 0..count {
        let name = names + number(table + section * size, 4)?;
        if elf.get(name..)?.starts_with(b".modinfo\0") {
            let start = offset_of(section)?;
            let end = start.checked_add(number(table + section * size + 32, 8)?)?;
            let pairs = elf
                .get(start..end)?
                .split(|byte| *byte == 0)
                .filter_map(|pair| {
                    let (key, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
                    Some((key.to_owned(), value.to_owned()))
                });
            return Some(pairs.collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, needs: &[&str]) -> Module {
        Module {
            name: name.into(),
            data: Vec::new(),
            aliases: Vec::new(),
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        }
    }

    #[test]
    fn a_dependency_stands_after_what_depends_on_it() {
        let modules = [
            module("c", &[]),
            module("b", &["c"]),
            module("a", &["b", "c"]),
        ];
        let (dependencies, _) = index(&modules);
        assert_eq!(dependencies, "c.ko:\nb.ko: c.ko\na.ko: b.ko c.ko\n");
    }

    #[test]
    fn modinfo_is_read_from_its_section() {
        // Header, the strings of the section table, the section's data, two section headers.
        let names = b"\0.modinfo\0";
        let info = b"depends=zsmalloc,lz4\0alias=fs-x\0";
        let (names_at, info_at) = (64, 64 + names.len());
        let table = info_at + info.len();
        let mut elf = vec![0u8; table + 2 * 64];
        elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        elf[0x3a] = 64;
        elf[0x3c] = 2;
        elf[names_at..info_at].copy_from_slice(names);
        elf[info_at..table].copy_from_slice(info);
        elf[table + 24] = names_at as u8;
        elf[table + 64] = 1;
        elf[table + 64 + 24] = info_at as u8;
        elf[table + 64 + 32] = info.len() as u8;
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected = vec![pair("depends", "zsmalloc,lz4"), pair("alias", "fs-x")];
        assert_eq!(modinfo(&elf), Some(expected));
        assert_eq!(modinfo(&elf[..100]), None);
    }
}
