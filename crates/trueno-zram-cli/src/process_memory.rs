//! The private pages of running programs that the kernel would swap out.
//!
//! Those are pages that are present, and anonymous: heap, stacks, anonymous mappings and private
//! copies of file mappings. (Shared memory could be swapped out too, and is not among them; nor is what
//! has been swapped out already.) `/proc/PID/pagemap` tells (Documentation/admin-guide/mm/pagemap.rst):
//! bit 63 present, bit 61 file page or shared anonymous, low 55 bits the frame. What `/proc/kpageflags`
//! calls the zero page or unevictable never is swapped out.

use anyhow::{Context as _, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

const PAGE: u64 = 4096;

const PRESENT: u64 = 1 << 63;
const FILE_OR_SHARED: u64 = 1 << 61;
const FRAME: u64 = (1 << 55) - 1;
/// Bits of `/proc/kpageflags` (include/uapi/linux/kernel-page-flags.h).
const ANON: u64 = 1 << 12;
const SWAPBACKED: u64 = 1 << 14;
const UNEVICTABLE: u64 = 1 << 18;
const HUGE: u64 = 1 << 22;
const ZERO_PAGE: u64 = 1 << 24;

/// Entries of a pagemap that are read at once: address space of 256 MiB.
const ENTRIES: u64 = 1 << 16;

/// A set of frames, with a bit for each: 2 MiB for 64 GiB of memory.
#[derive(Debug, Default)]
pub struct Frames(BTreeMap<u64, Box<[u64; FRAMES as usize / 64]>>);

/// Frames that lie side by side, of which the bits are kept together.
const FRAMES: u64 = 4096;

impl Frames {
    /// Adds a frame; whether it was not there.
    fn insert(&mut self, frame: u64) -> bool {
        let bits = self
            .0
            .entry(frame / FRAMES)
            .or_insert_with(|| Box::new([0; _]));
        let (word, bit) = (frame % FRAMES / 64, 1 << (frame % 64));
        let word = &mut bits[word as usize];
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// Addresses of pages, in order. Pages that follow each other take 16 bytes together.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    count: u64,
    /// For each such run: how many pages there are before it, and its first address.
    runs: Vec<(u64, u64)>,
}

impl Addresses {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The one at this place.
    pub fn get(&self, index: u64) -> Option<u64> {
        if index >= self.count {
            return None;
        }
        let after = self.runs.partition_point(|(before, _)| *before <= index);
        let (before, start) = self.runs[after - 1];
        Some(start + (index - before) * PAGE)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        (0..self.count).filter_map(|index| self.get(index))
    }
}

impl Extend<u64> for Addresses {
    fn extend<T: IntoIterator<Item = u64>>(&mut self, addresses: T) {
        for address in addresses {
            let follows = self.runs.last().is_some_and(|(before, start)| {
                address.checked_sub(*start) == Some((self.count - before) * PAGE)
            });
            if !follows {
                self.runs.push((self.count, address));
            }
            self.count += 1;
        }
    }
}

impl FromIterator<u64> for Addresses {
    fn from_iter<T: IntoIterator<Item = u64>>(addresses: T) -> Addresses {
        let mut all = Addresses::default();
        all.extend(addresses);
        all
    }
}

/// The memory of a process, to be read page by page.
#[derive(Debug)]
pub struct ProcessMemory {
    pid: u32,
    memory: File,
}

impl ProcessMemory {
    /// That of process `pid`. Needs root.
    pub fn open(pid: u32) -> anyhow::Result<ProcessMemory> {
        let path = format!("/proc/{pid}/mem");
        let memory = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(ProcessMemory { pid, memory })
    }

    /// The mapping in which `address` lies, if that is private: its first address, and the one behind it.
    pub fn private_range_of(&self, address: u64) -> anyhow::Result<Option<(u64, u64)>> {
        let path = format!("/proc/{}/maps", self.pid);
        let maps = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let mut ranges = maps.lines().filter_map(private_range);
        Ok(ranges.find(|(start, end)| (*start..*end).contains(&address)))
    }

    /// The addresses of its private pages that could be swapped out, in order. A frame that several processes
    /// map is given once: it is added to the frames `taken`, and left out where it is among them.
    pub fn swappable(&self, taken: &mut Frames) -> anyhow::Result<Addresses> {
        let proc = format!("/proc/{}", self.pid);
        let maps = std::fs::read_to_string(format!("{proc}/maps"))
            .with_context(|| format!("cannot read {proc}/maps"))?;
        let pagemap = File::open(format!("{proc}/pagemap"))
            .with_context(|| format!("cannot open {proc}/pagemap"))?;
        let flags = File::open("/proc/kpageflags").context("cannot open /proc/kpageflags")?;
        let mut found = Addresses::default();
        for (start, end) in maps.lines().filter_map(private_range) {
            let (first, last) = (start / PAGE, end / PAGE);
            for part in (first..last).step_by(ENTRIES as usize) {
                let count = ENTRIES.min(last - part);
                let mut entries = vec![0; count as usize * 8];
                if pagemap.read_exact_at(&mut entries, part * 8).is_err() {
                    break; // A mapping without entries, such as [vvar], or one that is gone.
                }
                let (entries, _) = entries.as_chunks::<8>();
                for (page, entry) in (part..).zip(entries) {
                    let entry = u64::from_le_bytes(*entry);
                    if entry & PRESENT == 0 || entry & FILE_OR_SHARED != 0 {
                        continue;
                    }
                    let frame = entry & FRAME;
                    if frame == 0 {
                        bail!("{proc}/pagemap holds no frame numbers: they are for root only");
                    }
                    let mut of_frame = [0; 8];
                    flags
                        .read_exact_at(&mut of_frame, frame * 8)
                        .context("cannot read /proc/kpageflags")?;
                    if is_swappable(u64::from_le_bytes(of_frame)) && taken.insert(frame) {
                        found.extend([page * PAGE]);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The bytes at `address`. They can be gone since it was found.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        self.memory.read_exact_at(bytes, address)
    }
}

/// Whether the kernel swaps out a frame with these flags. Before Linux 6.10 only the first of a huge
/// page's frames is called swap backed.
fn is_swappable(flags: u64) -> bool {
    let huge = ANON | HUGE;
    (flags & SWAPBACKED != 0 || flags & huge == huge) && flags & (UNEVICTABLE | ZERO_PAGE) == 0
}

/// The addresses of a line of `/proc/PID/maps` that is private memory of the program.
fn private_range(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let name = words.nth(3).unwrap_or_default();
    let pseudo = ["[vvar]", "[vdso]", "[vsyscall]", "[vvar_vclock]"].contains(&name);
    let range = (
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    );
    (permissions.ends_with('p') && !pseudo).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_memory_is_swapped_out() {
        let line = "7f00-7f02 rw-p 00000000 00:00 0    [heap]";
        assert_eq!(private_range(line), Some((0x7f00, 0x7f02)));
        assert_eq!(
            private_range("7f00-7f02 rw-s 00000000 00:05 9 /dev/shm/x"),
            None
        );
        assert_eq!(
            private_range("7f00-7f02 r--p 00000000 00:00 0 [vvar]"),
            None
        );
    }

    #[test]
    fn every_frame_of_a_huge_page_counts() {
        assert!(is_swappable(SWAPBACKED | ANON));
        assert!(is_swappable(ANON | HUGE | 1 << 16));
        assert!(!is_swappable(ANON));
        assert!(!is_swappable(SWAPBACKED | UNEVICTABLE));
        assert!(!is_swappable(HUGE | ZERO_PAGE));
    }

    #[test]
    fn a_frame_is_new_once() {
        let mut frames = Frames::default();
        let some = [0, 1, 63, 64, 4095, 4096, 1 << 54];
        assert!(some.iter().all(|frame| frames.insert(*frame)));
        assert!(some.iter().all(|frame| !frames.insert(*frame)));
        assert!(frames.insert(2));
        // All of 4 GiB, in any order: one bit each.
        let mut frames = Frames::default();
        let (count, step) = (1 << 20, 0x9_e377);
        assert!((0..count).all(|number| frames.insert(number * step % count)));
        assert_eq!(frames.0.len() as u64 * FRAMES, count);
    }

    #[test]
    fn addresses_come_back_in_their_order() {
        let pages = [3, 4, 5, 9, 11, 12, 1 << 50, 2].map(|page| page * PAGE);
        let all: Addresses = pages.into_iter().collect();
        assert_eq!((all.count(), all.runs.len()), (8, 5));
        assert!(all.iter().eq(pages));
        assert_eq!((all.get(4), all.get(8)), (Some(11 * PAGE), None));
        assert_eq!(Addresses::default().get(0), None);
    }

    #[test]
    fn our_own_heap_is_found_and_read() {
        let mut heap = vec![0u8; 64 * PAGE as usize];
        heap.fill(0x5a);
        let Ok(memory) = ProcessMemory::open(std::process::id()) else {
            return; // No /proc.
        };
        let mut taken = Frames::default();
        let found = match memory.swappable(&mut taken) {
            Ok(found) => found,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "this test needs root");
                return eprintln!("SKIPPED: {error:#}");
            }
        };
        let ours = heap.as_ptr() as u64..heap.as_ptr() as u64 + heap.len() as u64;
        let pages = found.iter().filter(|address| ours.contains(address));
        // The first and the last page may be others' too.
        assert!(pages.count() >= 62);
        let mut page = [0; PAGE as usize];
        memory
            .read((ours.start + PAGE) & !(PAGE - 1), &mut page)
            .unwrap();
        assert_eq!(page, [0x5a; PAGE as usize]);
        let again = memory.swappable(&mut taken).unwrap();
        assert!(
            again
                .iter()
                .all(|address| address != (ours.start + PAGE) & !(PAGE - 1))
        );
    }
}
