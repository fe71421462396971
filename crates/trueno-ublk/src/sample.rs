//! Pages of files, block devices and running processes, spread over all there are: to be looked at, not
//! to be kept.
//!
//! All pages are divided into as many stretches as are wanted, and one page of each is taken, at a
//! random place in it: always the same place would see one page of each record, where records have a
//! power of two of pages. The same seed gives the same places.
//!
//! Of a process those pages count that `trueno_zram_cli::process_memory` finds, and a frame that several
//! processes share counts once. Nothing is stopped: a page that changes while it is read is a page as
//! good as any.
#![forbid(unsafe_code)]

use crate::daemon::sys;
use anyhow::{Context as _, ensure};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;
use trueno_zram_cli::process_memory::{Addresses, Frames, ProcessMemory};
use trueno_zram_core::{PAGE_SIZE, PageBytes};

/// Where pages are to come from.
#[derive(Debug, Default)]
pub struct Sources {
    list: Vec<(Source, u64)>,
    frames: Frames,
    forbidden: usize,
}

#[derive(Debug)]
enum Source {
    File(File),
    /// A process, and the addresses of its pages.
    Process(u32, Addresses),
}

/// An open [`Source`]. A process is opened when its turn comes: there may be more of them than a process
/// may have files.
enum Reader<'a> {
    File(&'a File),
    /// None: it is gone.
    Process(Option<ProcessMemory>, &'a Addresses),
}

impl Sources {
    /// Adds a file or block device. A last part of a page counts as a page, filled up with zeros.
    pub fn add_path(&mut self, path: &Path) -> anyhow::Result<()> {
        let shown = path.display();
        // Before it is opened: a pipe would wait for a writer, and a watchdog begin to run.
        let kind = std::fs::metadata(path)
            .with_context(|| format!("cannot open {shown}"))?
            .file_type();
        ensure!(
            kind.is_file() || kind.is_block_device(),
            "{shown} is neither a file nor a block device: only these have pages"
        );
        let mut file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let bytes = file
            .seek(SeekFrom::End(0))
            .with_context(|| format!("cannot tell the size of {shown}"))?;
        let pages = bytes.div_ceil(PAGE_SIZE as u64);
        self.list.push((Source::File(file), pages));
        Ok(())
    }

    /// Adds the pages at these addresses of a process, whatever they hold.
    pub fn add_addresses(&mut self, pid: u32, addresses: Addresses) {
        let pages = addresses.count();
        self.list.push((Source::Process(pid, addresses), pages));
    }

    /// Adds the memory of a process; once, however often it is given.
    pub fn add_process(&mut self, pid: u32) -> anyhow::Result<()> {
        ensure!(
            sys::is_root(),
            "reading the memory of processes needs root: run it with sudo"
        );
        let known =
            |(source, _): &(Source, u64)| matches!(source, Source::Process(one, _) if *one == pid);
        if self.list.iter().any(known) {
            return Ok(());
        }
        let found = ProcessMemory::open(pid).and_then(|memory| memory.swappable(&mut self.frames));
        let addresses = found.with_context(|| format!("cannot look at process {pid}"))?;
        let pages = addresses.count();
        self.list.push((Source::Process(pid, addresses), pages));
        Ok(())
    }

    /// Adds the memory of all processes but this one. Those that end meanwhile are left out, and the
    /// kernel's own, which have none; and those that root may not look at, as in a container, which are
    /// [counted](Sources::forbidden).
    pub fn add_all_processes(&mut self) -> anyhow::Result<()> {
        let mut first = None;
        for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
            let name = entry.context("cannot read /proc")?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if pid != std::process::id() {
                match self.add_process(pid) {
                    Err(error) if is_one_of(&error, &FORBIDDEN) => {
                        self.forbidden += 1;
                        first.get_or_insert(error);
                    }
                    Err(error) if !is_one_of(&error, &GONE) => return Err(error),
                    _ => {}
                }
            }
        }
        self.list.retain(|(_, pages)| *pages > 0);
        match first {
            Some(error) if self.list.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// Processes that could not be looked at.
    pub fn forbidden(&self) -> usize {
        self.forbidden
    }

    /// How many sources there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// All their pages.
    pub fn pages(&self) -> u64 {
        self.list.iter().map(|(_, pages)| pages).sum()
    }

    /// Where page `index` of all lies, if that is in a process.
    pub fn address(&self, index: u64) -> Option<u64> {
        match self.find(index)? {
            (Source::File(_), _) => None,
            (Source::Process(_, addresses), index) => addresses.get(index),
        }
    }

    /// Page `index` of all, if there are so many and it is still there.
    pub fn page(&self, index: u64) -> anyhow::Result<Option<PageBytes>> {
        let Some((source, index)) = self.find(index) else {
            return Ok(None);
        };
        let mut page = [0; PAGE_SIZE];
        let is_there = source.open()?.read(index, &mut page)?;
        Ok(is_there.then_some(page))
    }

    /// The source that has page `index` of all, and which of its pages that is.
    fn find(&self, mut index: u64) -> Option<(&Source, u64)> {
        for (source, pages) in &self.list {
            if index < *pages {
                return Some((source, index));
            }
            index -= pages;
        }
        None
    }

    /// At most `limit` pages, spread over all; pages that are gone are left out.
    pub fn take(&self, limit: u64) -> anyhow::Result<Vec<PageBytes>> {
        self.take_runs(limit, 1)
    }

    /// At most `limit` runs of `run` pages that follow each other in one source, spread over all; runs of
    /// which a page is gone are left out, and so are sources that have fewer pages.
    pub fn take_runs(&self, limit: u64, run: u64) -> anyhow::Result<Vec<PageBytes>> {
        let all = self.pages();
        ensure!(all > 0, "there is no page to look at");
        let count = limit.min(all / run);
        let mut taken = Vec::with_capacity((count * run) as usize);
        let mut sources = self.list.iter();
        let mut current = None;
        let (mut begin, mut end) = (0, 0);
        let mut random = 1u64;
        // The product fits: there are fewer than 2^52 pages.
        let bound = |step: u64| (u128::from(step) * u128::from(all) / u128::from(count)) as u64;
        for step in 0..count {
            // xorshift64 (Marsaglia 2003).
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let (first, next) = (bound(step), bound(step + 1));
            let index = first + (random >> 16) % (next - first);
            while index >= end {
                let Some((source, pages)) = sources.next() else {
                    return Ok(taken);
                };
                (begin, end) = (end, end + pages);
                if index < end {
                    current = Some(source.open()?);
                }
            }
            // Not beyond the end of the source.
            let from = index.min(end.saturating_sub(run));
            let Some(reader) = current.as_ref().filter(|_| from >= begin) else {
                continue;
            };
            let whole = taken.len() + run as usize;
            for index in from..from + run {
                let mut page = [0; PAGE_SIZE];
                if reader.read(index - begin, &mut page)? {
                    taken.push(page);
                }
            }
            if taken.len() < whole {
                taken.truncate(whole - run as usize);
            }
        }
        Ok(taken)
    }
}

impl Source {
    fn open(&self) -> anyhow::Result<Reader<'_>> {
        match self {
            Source::File(file) => Ok(Reader::File(file)),
            Source::Process(pid, addresses) => match ProcessMemory::open(*pid) {
                Err(error) if !is_one_of(&error, &GONE) => Err(error),
                memory => Ok(Reader::Process(memory.ok(), addresses)),
            },
        }
    }
}

impl Reader<'_> {
    /// Reads page `index`; whether it is still there.
    fn read(&self, index: u64, page: &mut PageBytes) -> anyhow::Result<bool> {
        match self {
            Reader::Process(memory, addresses) => {
                let there = memory.as_ref().zip(addresses.get(index));
                Ok(there.is_some_and(|(memory, address)| memory.read(address, page).is_ok()))
            }
            Reader::File(file) => {
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

/// What the kernel says of a process that has ended, and of one that is not to be looked at.
const GONE: [i32; 2] = [libc::ENOENT, libc::ESRCH];
const FORBIDDEN: [i32; 2] = [libc::EACCES, libc::EPERM];

/// Whether somebody else may be permitted what `error` says that we are not.
pub fn is_forbidden(error: &anyhow::Error) -> bool {
    is_one_of(error, &FORBIDDEN)
}

fn is_one_of(error: &anyhow::Error, numbers: &[i32]) -> bool {
    let error = error.downcast_ref::<io::Error>();
    let number = error.and_then(io::Error::raw_os_error);
    number.is_some_and(|number| numbers.contains(&number))
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
        // One of each stretch of five or six.
        let four = firsts(4);
        assert_eq!(four.len(), 4);
        assert!(
            four[0] < 6 && four[1] >= 5 && four[2] < 6 && four[3] >= 5,
            "{four:?}"
        );
        let all: Vec<u8> = (0..11).chain(0..11).collect();
        assert_eq!(firsts(1000), all);
        let last = sources.take(22).unwrap()[10];
        assert_eq!((last[99], last[100]), (10, 0));
    }

    #[test]
    fn runs_are_of_pages_that_follow_each_other() {
        let mut sources = Sources::default();
        let mut files = Vec::new();
        for count in [3, 40, 4] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            for number in 0..count {
                file.write_all(&[files.len() as u8 * 64 + number; PAGE_SIZE])
                    .unwrap();
            }
            sources.add_path(file.path()).unwrap();
            files.push(file);
        }
        let pages = sources.take_runs(100, 4).unwrap();
        // 47 pages have room for eleven runs, of which the first, at most, is where there are only three.
        let runs = pages.chunks(4);
        assert!((10..=11).contains(&runs.len()) && pages.len() % 4 == 0);
        for run in runs {
            for (at, page) in run.iter().enumerate() {
                assert_eq!(page[0], run[0][0] + at as u8);
            }
        }
        assert_eq!(sources.take_runs(100, 41).unwrap().len(), 0);
        assert_eq!(sources.take_runs(3, 4).unwrap().len(), 12);
    }

    #[test]
    fn records_of_two_pages_are_seen_whole() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for number in 0..4096 {
            file.write_all(&[(number % 2) as u8; PAGE_SIZE]).unwrap();
        }
        let mut sources = Sources::default();
        sources.add_path(file.path()).unwrap();
        let pages = sources.take(1024).unwrap();
        let odd = pages.iter().filter(|page| page[0] == 1).count();
        assert!((450..574).contains(&odd), "{odd}");
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
