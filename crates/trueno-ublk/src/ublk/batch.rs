//! Fetching and committing many requests with one command (`UBLK_F_BATCH_IO`, Linux 7.0).
//!
//! One fetch command stays in the driver for as long as the device lives. Each time requests have
//! come it takes the next of our fetch buffers, writes their tags into it, and says which one it
//! was. Results go back as arrays of elements, a commit buffer each.
//!
//! Everything the driver reads or writes here lies in one mapping, present from the start.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{Submitter, opcode, squeue, types};

use super::DEPTH_MAX;
use super::queue::{Buffers, CHAR_FILE};
use super::sys::{self, BatchCmd, BatchElem};

/// Commit buffers, of which one is always being filled. With the others all under way results are
/// handed back at the end of a batch and not before.
const COMMITS: usize = 16;

/// Entries that the ring needs at least: each commit buffer's command and the fetch.
pub(super) const RING_MIN: u16 = COMMITS as u16;

/// `user_data` of the fetch command; a commit has the number of its buffer.
pub(super) const FETCH: u64 = u64::MAX;

/// The fetch buffers' group in the ring.
const GROUP: u16 = 0;

/// `IORING_URING_CMD_MULTISHOT`, and its place among the 32-bit words of a ring entry.
const MULTISHOT: u32 = 1 << 1;
const COMMAND_FLAGS_WORD: usize = 7;
const _: () = assert!(size_of::<squeue::Entry>() == 64);

/// Tags that came together.
pub(super) struct Tags {
    tags: [u16; DEPTH_MAX as usize],
    count: usize,
}

impl Tags {
    pub(super) fn as_slice(&self) -> &[u16] {
        &self.tags[..self.count]
    }
}

/// The buffers that a queue shares with the driver besides those for data.
///
/// ```text
/// io_uring's list of free fetch buffers │ fetch buffers │ commit buffers
/// ```
pub(super) struct Batch {
    memory: Buffers,
    queue: u16,
    depth: usize,
    /// Whether an element names its tag's data buffer.
    with_addr: bool,
    /// Fetch buffers ever offered; the list's place for the next one, modulo its length.
    offered: u16,
    /// The commit buffer being filled, and its elements.
    filling: usize,
    filled: usize,
    /// The elements of each commit buffer under way, 0 for one that is free.
    under_way: [u16; COMMITS],
}

impl Batch {
    pub(super) fn map(queue: u16, depth: u16, with_addr: bool) -> io::Result<Batch> {
        let bytes = Batch::bytes(depth);
        Ok(Batch {
            memory: Buffers::map(1, bytes, true)?,
            queue,
            depth: usize::from(depth),
            with_addr,
            offered: 0,
            filling: 0,
            filled: 0,
            under_way: [0; COMMITS],
        })
    }

    /// Bytes that a queue of `depth` has for this.
    pub(super) fn bytes(depth: u16) -> usize {
        let depth = usize::from(depth);
        let elements = size_of::<BatchElem>() + size_of::<u64>();
        fetches(depth) * (size_of::<types::BufRingEntry>() + depth * size_of::<u16>())
            + COMMITS * depth * elements
    }

    fn elem_bytes(&self) -> usize {
        size_of::<BatchElem>() + if self.with_addr { size_of::<u64>() } else { 0 }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < Batch::bytes(self.depth as u16));
        // SAFETY: callers name places inside the mapping, which `map` made so large.
        unsafe { self.memory.slot(0).add(offset) }
    }

    fn fetch_buffer(&self, buffer: usize) -> *mut u8 {
        let list = fetches(self.depth) * size_of::<types::BufRingEntry>();
        self.at(list + buffer * self.depth * size_of::<u16>())
    }

    fn commit_buffer(&self, buffer: usize) -> *mut u8 {
        let elements = self.depth * (size_of::<BatchElem>() + size_of::<u64>());
        let commits = self.at(0).wrapping_add(Batch::bytes(self.depth as u16));
        commits.wrapping_sub((COMMITS - buffer) * elements)
    }

    /// Makes the fetch buffers known to the ring, all of them free.
    ///
    /// # Safety
    /// The ring must be closed before `self` is dropped.
    pub(super) unsafe fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let count = fetches(self.depth);
        // SAFETY: the list starts the mapping, page-aligned, and is there until the ring is closed.
        unsafe {
            submitter.register_buf_ring_with_flags(self.at(0) as u64, count as u16, GROUP, 0)?;
        }
        for buffer in 0..count {
            self.offer(buffer);
        }
        Ok(())
    }

    /// Gives a fetch buffer to the kernel. Each buffer is in the list at most once, so the list,
    /// which has room for all, never overflows.
    fn offer(&mut self, buffer: usize) {
        let list = self.at(0).cast::<types::BufRingEntry>();
        let place = usize::from(self.offered) % fetches(self.depth);
        let (address, length) = (self.fetch_buffer(buffer), self.depth * size_of::<u16>());
        // SAFETY: the place is inside the list and, by the above, not one that the kernel reads
        // before the store below. The entry's setters leave alone what the tail shares with the
        // first entry.
        unsafe {
            let entry = &mut *list.add(place);
            entry.set_addr(address as u64);
            entry.set_len(length as u32);
            entry.set_bid(buffer as u16);
        }
        self.offered = self.offered.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, aligned, and is written by nobody else; the
        // kernel reads it as an atomic.
        let tail = unsafe { AtomicU16::from_ptr(types::BufRingEntry::tail(list).cast_mut()) };
        tail.store(self.offered, Ordering::Release);
    }

    /// Takes the tags out of a fetch buffer, `bytes` of them, and gives it to the kernel again.
    pub(super) fn take(&mut self, buffer: u16, bytes: usize) -> Tags {
        let buffer = usize::from(buffer);
        assert!(buffer < fetches(self.depth) && bytes <= self.depth * size_of::<u16>());
        let mut taken = Tags {
            tags: [0; DEPTH_MAX as usize],
            count: bytes / size_of::<u16>(),
        };
        let tags = self.fetch_buffer(buffer).cast::<u16>().cast_const();
        for (place, tag) in taken.tags[..taken.count].iter_mut().enumerate() {
            // SAFETY: inside the buffer, whose start is even. The kernel has completed its use.
            *tag = unsafe { tags.add(place).read_volatile() };
        }
        self.offer(buffer);
        taken
    }

    /// Adds an element to the commit buffer being filled: a tag and its result, with the tag's
    /// data buffer. A tag is in our hands once at most, so the buffer has room.
    pub(super) fn add(&mut self, tag: u16, result: i32, data: u64) {
        assert!(self.filled < self.depth);
        let elem = BatchElem {
            tag,
            buf_index: 0,
            result,
        };
        let start = self.commit_buffer(self.filling);
        // SAFETY: the element lies inside a commit buffer that is ours until its command is made.
        unsafe {
            let at = start.add(self.filled * self.elem_bytes());
            at.cast::<BatchElem>().write_unaligned(elem);
            if self.with_addr {
                let addr = at.add(size_of::<BatchElem>()).cast::<u64>();
                addr.write_unaligned(data);
            }
        }
        self.filled += 1;
    }

    /// The command that hands over the elements added: `PREP_IO_CMDS` or `COMMIT_IO_CMDS`. `None`
    /// without elements, or if no buffer is free for the next ones.
    pub(super) fn hand_over(&mut self, command: u32) -> Option<squeue::Entry> {
        if self.filled == 0 {
            return None;
        }
        let full = self.filling;
        let free = (0..COMMITS).find(|&b| b != full && self.under_way[b] == 0)?;
        self.under_way[full] = self.filled as u16;
        let cmd = BatchCmd {
            q_id: self.queue,
            flags: if self.with_addr {
                sys::BATCH_HAS_BUF_ADDR
            } else {
                0
            },
            nr_elem: self.filled as u16,
            elem_bytes: self.elem_bytes() as u8,
            ..BatchCmd::default()
        };
        (self.filling, self.filled) = (free, 0);
        Some(
            opcode::UringCmd16::new(CHAR_FILE, command)
                .cmd(cmd.to_bytes())
                .addr(Some(self.commit_buffer(full) as u64))
                .build()
                .user_data(full as u64),
        )
    }

    /// What `PREP_IO_CMDS` was given has been read; it answers without a number of bytes.
    pub(super) fn prepared(&mut self) {
        self.under_way = [0; COMMITS];
    }

    /// A commit buffer has come back with `result`; anything but all of it is an error.
    pub(super) fn handed_over(&mut self, buffer: u64, result: i32) -> io::Result<()> {
        let elements = std::mem::take(&mut self.under_way[buffer as usize]);
        match result {
            0.. if result as usize == usize::from(elements) * self.elem_bytes() => Ok(()),
            // The driver stopped at a tag that it does not hold to be ours.
            0.. => Err(io::Error::from_raw_os_error(libc::EIO)),
            refused => Err(io::Error::from_raw_os_error(-refused)),
        }
    }

    /// Whether results wait for [`hand_over`](Batch::hand_over).
    pub(super) fn has_results(&self) -> bool {
        self.filled > 0
    }

    /// Commit buffers that have not come back.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.iter().filter(|&&n| n > 0).count()
    }

    /// The fetch command.
    pub(super) fn fetch(&self) -> squeue::Entry {
        let cmd = BatchCmd {
            q_id: self.queue,
            elem_bytes: size_of::<u16>() as u8,
            ..BatchCmd::default()
        };
        // The group's number, zero, is that of an entry that names none.
        const _: () = assert!(GROUP == 0);
        let mut entry = opcode::UringCmd16::new(CHAR_FILE, sys::FETCH_IO_CMDS)
            .cmd(cmd.to_bytes())
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(FETCH);
        // SAFETY: an entry is the 64 bytes of the kernel's structure, integers all, and this word
        // is its command flags, which the library does not let us set.
        unsafe {
            let word = (&raw mut entry).cast::<u32>().add(COMMAND_FLAGS_WORD);
            word.write(word.read() | MULTISHOT);
        }
        entry
    }
}

/// Fetch buffers for a queue of `depth`. A buffer that the kernel has filled holds a tag at least,
/// and no tag is in two, so so many are never all filled. The ring wants a power of two.
fn fetches(depth: usize) -> usize {
    depth.next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_buffers_are_used_in_turn_and_only_when_free() {
        let mut batch = Batch::map(0, 3, true).unwrap();
        assert!(batch.hand_over(sys::COMMIT_IO_CMDS).is_none());
        assert!(!batch.has_results() && batch.under_way() == 0);
        for _ in 1..COMMITS {
            batch.add(2, 4096, 1);
            assert!(batch.hand_over(sys::COMMIT_IO_CMDS).is_some());
        }
        batch.add(1, 4096, 1);
        assert!(batch.hand_over(sys::COMMIT_IO_CMDS).is_none());
        batch.handed_over(3, 16).unwrap();
        assert!(batch.hand_over(sys::COMMIT_IO_CMDS).is_some());
        assert_eq!((batch.filling, batch.under_way()), (3, COMMITS - 1));
    }

    #[test]
    fn a_result_that_the_driver_did_not_take_is_an_error() {
        let mut batch = Batch::map(0, 2, false).unwrap();
        for result in [8, -libc::EBUSY] {
            batch.add(0, 0, 0);
            batch.add(1, 0, 0);
            let buffer = batch.filling as u64;
            batch.hand_over(sys::COMMIT_IO_CMDS).unwrap();
            assert!(batch.handed_over(buffer, result).is_err());
        }
    }

    #[test]
    fn buffers_lie_beside_each_other() {
        for depth in [1, 3, 64, 128] {
            let batch = Batch::map(0, depth, true).unwrap();
            let depth = usize::from(depth);
            let end_of_fetches = batch
                .fetch_buffer(fetches(depth) - 1)
                .wrapping_add(depth * 2);
            assert_eq!(batch.commit_buffer(0), end_of_fetches);
            let end = batch.commit_buffer(COMMITS - 1).wrapping_add(depth * 16);
            assert_eq!(end, batch.at(0).wrapping_add(Batch::bytes(depth as u16)));
        }
    }
}
