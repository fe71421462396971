//! Pages of files, block devices and running processes, spread evenly over all there are: to be looked
//! at, not to be kept.
//!
//! Of a process those count that the kernel would swap out, and a frame that several processes share
//! counts once. Nothing is stopped: a page that changes while it is read is a page as good as any.
#![forbid(unsafe_code)]

use crate::daemon::sys;
use anyhow::{Context as _, bail, ensure};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;
use trueno_zram_cli::process_memory::ProcessMemory;
use trueno_zram_core::{PAGE_SIZE, PageBytes};

/// Where pages are to come from.
#[derive(Debug, Default)]
pub struct Sources {
    list: Vec<(Source, u64)>,
    frames: BTreeSet<u64>,
}

#[derive(Debug)]
enum Source {
    File(File),
    Process(ProcessMemory, Vec<u64>),
}

impl Sources {
    /// Adds a file or block device. A last part of a page counts as a page, filled up with zeros.
    pub fn add_path(&mut self, path: &Path) -> anyhow::Result<()> {
        let shown = path.display();
        let mut file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let kind = file
            .metadata()
            .with_context(|| format!("cannot look at {shown}"))?
            .file_type();
        ensure!(
            kind.is_file() || kind.is_block_device(),
            "{shown} is neither a file nor a block device: only these have pages"
        );
        let bytes = file
            .seek(SeekFrom::End(0))
            .with_context(|| format!("cannot tell the size of {shown}"))?;
        let pages = bytes.div_ceil(PAGE_SIZE as u64);
        self.list.push((Source::File(file), pages));
        Ok(())
    }

    /// Adds the memory of a process.
    pub fn add_process(&mut self, pid: u32) -> anyhow::Result<()> {
        if !sys::is_root() {
            bail!("reading the memory of processes needs root: run it with sudo");
        }
        let memory = ProcessMemory::open(pid).with_context(|| format!("no process {pid}"))?;
        let addresses = memory.swappable(&mut self.frames)?;
        let pages = addresses.len() as u64;
        self.list.push((Source::Process(memory, addresses), pages));
        Ok(())
    }

    /// Adds the memory of all processes but this one. Those that end meanwhile are left out, and the
    /// kernel's own, which have none.
    pub fn add_all_processes(&mut self) -> anyhow::Result<()> {
        let mut last = None;
        for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
            let name = entry.context("cannot read /proc")?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if pid != std::process::id()
                && let Err(error) = self.add_process(pid)
            {
                last = Some(error);
            }
        }
        // One that could be read is enough: at least the shell that called us lives.
        self.list.retain(|(_, pages)| *pages > 0);
        match last {
            Some(error) if self.list.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// How many sources there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// All their pages.
    pub fn pages(&self) -> u64 {
        self.list.iter().map(|(_, pages)| pages).sum()
    }

    /// At most `limit` pages, evenly spread over all; pages that are gone are left out.
    pub fn take(&self, limit: u64) -> anyhow::Result<Vec<PageBytes>> {
        let all = self.pages();
        ensure!(all > 0, "there is no page to look at");
        let count = limit.min(all);
        let mut taken = Vec::with_capacity(count as usize);
        let mut sources = self.list.iter();
        let mut current = sources.next();
        let mut before = 0;
        for step in 0..count {
            // The product fits: there are fewer than 2^52 pages, and a limit is memory of ours.
            let index = (u128::from(step) * u128::from(all) / u128::from(count)) as u64;
            while let Some((_, pages)) = current
                && index - before >= *pages
            {
                before += pages;
                current = sources.next();
            }
            let Some((source, _)) = current else { break };
            let mut page = [0; PAGE_SIZE];
            if source.read(index - before, &mut page)? {
                taken.push(page);
            }
        }
        Ok(taken)
    }
}

impl Source {
    /// Reads page `index`; whether it is still there.
    fn read(&self, index: u64, page: &mut PageBytes) -> anyhow::Result<bool> {
        match self {
            Source::Process(memory, addresses) => {
                Ok(memory.read(addresses[index as usize], page).is_ok())
            }
            Source::File(file) => {
                let mut at = 0;
                while at < PAGE_SIZE {
                    let offset = index * PAGE_SIZE as u64 + at as u64;
                    match file.read_at(&mut page[at..], offset) {
                        Ok(0) => break,
                        Ok(count) => at += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => {
                            return Err(error).with_context(|| format!("cannot read page {index}"));
                        }
                    }
                }
                // A file that has become shorter.
                Ok(at > 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn pages_are_spread_over_all_sources() {
        let mut sources = Sources::default();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for number in 0..10u8 {
            file.write_all(&[number; PAGE_SIZE]).unwrap();
        }
        file.write_all(&[10; 100]).unwrap();
        let empty = tempfile::NamedTempFile::new().unwrap();
        sources.add_path(empty.path()).unwrap();
        sources.add_path(file.path()).unwrap();
        sources.add_path(file.path()).unwrap();
        assert_eq!((sources.len(), sources.pages()), (3, 22));
        let firsts = |limit| {
            let pages = sources.take(limit).unwrap();
            pages.iter().map(|page| page[0]).collect::<Vec<_>>()
        };
        assert_eq!(firsts(4), [0, 5, 0, 5]);
        let all: Vec<u8> = (0..11).chain(0..11).collect();
        assert_eq!(firsts(1000), all);
        let last = sources.take(22).unwrap()[10];
        assert_eq!((last[99], last[100]), (10, 0));
    }

    #[test]
    fn what_has_no_pages_is_refused() {
        let mut sources = Sources::default();
        for (path, words) in [
            ("/dev/null", "neither"),
            ("/", "neither"),
            ("/nothing", "cannot open /nothing"),
        ] {
            let error = sources.add_path(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = sources.take(9).unwrap_err().to_string();
        assert!(error.contains("no page"), "{error}");
    }
}
