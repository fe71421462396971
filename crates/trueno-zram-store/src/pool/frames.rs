//! Frames: the pages of memory that slabs and huge pages are made of.
//!
//! ```text
//! fresh ──populate──> ready ──take──> (a slab, a huge page) ──give──> ready ──release──> cold
//!                       ^──────────────────────populate───────────────────────────────────┘
//! ```
//! *fresh*: never used. *ready*: free, with memory. *cold*: free, its memory given back. Any frame
//! serves any slab, so the first object of a class costs a page, and memory that one class gave up
//! is ready for all.
//!
//! The list of ready frames runs through the frames themselves: they have memory and nobody uses
//! it. Cold ones have none; their numbers stand on a stack of their own, 4 bytes for each frame that
//! was ever used.

use super::lock;
use crate::Memory;
use crate::step::step_locked;
use crate::superblock::Used;
use std::io;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::*};
use trueno_zram_core::PAGE_SIZE;

/// The number of a frame, which belongs to whoever holds this value, or is looked at only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frame(pub u32);

/// The end of the list.
const NONE: u32 = u32::MAX;

/// How many frames are populated at a time when a writing thread needs one: 64 KiB.
const GROW: u32 = 16;

/// The most frames that change between ready and cold in one step of maintenance: 1 MiB.
pub(super) const STEP: usize = 256;

#[derive(Debug)]
struct Lists {
    /// The first ready frame.
    ready: u32,
    /// How many numbers stand on the stack of cold frames.
    cold: u32,
}

#[derive(Debug)]
pub(super) struct Frames {
    arena_offset: usize,
    stack_offset: usize,
    count: u32,
    lists: Mutex<Lists>,
    /// Frames in the list `ready`, for looking without the lock.
    ready: AtomicU32,
    ready_min: AtomicU32,
    /// How much of the stack has memory, in numbers: always enough for all frames that are not fresh.
    stack_present: AtomicU32,
}

impl Frames {
    pub fn new(arena_offset: usize, stack_offset: usize, count: u32) -> Frames {
        Frames {
            arena_offset,
            stack_offset,
            count,
            lists: Mutex::new(Lists {
                ready: NONE,
                cold: 0,
            }),
            ready: AtomicU32::new(0),
            ready_min: AtomicU32::new(u32::MAX),
            stack_present: AtomicU32::new(0),
        }
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Where in the store's memory a frame lies.
    pub fn offset(&self, frame: Frame) -> usize {
        self.arena_offset + frame.0 as usize * PAGE_SIZE
    }

    /// Where in the store's memory the frames from `first` up to `end` lie.
    pub fn range(&self, first: u32, end: u32) -> Range<usize> {
        self.offset(Frame(first))..self.offset(Frame(end))
    }

    pub fn ready(&self) -> u32 {
        self.ready.load(SeqCst)
    }

    /// The fewest frames that were ready at any time.
    pub fn ready_min(&self) -> u32 {
        self.ready_min.load(Relaxed).min(self.ready.load(Relaxed))
    }

    /// Lets [`ready_min`](Frames::ready_min) start again from what is ready now.
    pub fn watch_ready(&self) {
        self.ready_min.store(self.ready.load(Relaxed), Relaxed);
    }

    /// Bytes of memory of the stack.
    pub fn stack_bytes(&self) -> u64 {
        u64::from(self.stack_present.load(Relaxed)) * 4
    }

    /// Takes a ready frame.
    pub fn take(&self, memory: &Memory) -> Option<Frame> {
        let mut lists = lock(&self.lists);
        let frame = self.pop(memory, &mut lists);
        if frame.is_none() {
            self.ready_min.store(0, Relaxed);
        }
        frame
    }

    /// Takes a ready frame, or makes some ready first.
    pub fn take_or_populate(&self, memory: &Memory, fresh: &Used) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take(memory) {
                return Some(frame);
            }
            // What it has populated others may take first.
            if !self.populate(memory, fresh, GROW).ok()? {
                return self.take(memory);
            }
        }
    }

    /// Gives frames back, with their memory. The first is the next to be taken.
    pub fn give(&self, memory: &Memory, frames: &[Frame]) {
        let mut lists = lock(&self.lists);
        for frame in frames.iter().rev() {
            self.push(memory, &mut lists, *frame);
        }
    }

    /// Makes up to `count` more frames ready; `false` when there are no more.
    pub fn populate(&self, memory: &Memory, fresh: &Used, count: u32) -> io::Result<bool> {
        let mut left = count;
        while left > 0 {
            self.grow_stack(memory, fresh.get().saturating_add(GROW))?;
            let (frames, found) = self.without_memory(memory, fresh, left.min(GROW));
            let frames = &frames[..found];
            if frames.is_empty() {
                return Ok(false);
            }
            left -= found as u32;
            let mut done = 0;
            for run in frames.chunk_by(|one, next| one.0 + 1 == next.0) {
                let start = self.offset(run[0]);
                if let Err(error) = memory.populate(start..start + run.len() * PAGE_SIZE) {
                    self.give(memory, &frames[..done]);
                    self.give_cold(memory, &frames[done..]);
                    return Err(error);
                }
                done += run.len();
            }
            self.give(memory, frames);
        }
        Ok(true)
    }

    /// Gives the memory of ready frames above `kept` back to the system, of at most [`STEP`].
    /// Returns how many.
    pub fn release(&self, memory: &Memory, kept: u32) -> io::Result<u32> {
        let mut frames = [Frame(0); STEP];
        let mut found = 0;
        {
            let mut lists = lock(&self.lists);
            while found < STEP && self.ready.load(Relaxed) > kept {
                let Some(frame) = self.pop_unwatched(memory, &mut lists) else {
                    break;
                };
                frames[found] = frame;
                found += 1;
            }
        }
        let frames = &mut frames[..found];
        frames.sort_unstable();
        let mut done = 0;
        for run in frames.chunk_by(|one, next| one.0 + 1 == next.0) {
            let start = self.offset(run[0]);
            // SAFETY: the frames are free and on no list, so only we know of them.
            if let Err(error) = unsafe { memory.release(start..start + run.len() * PAGE_SIZE) } {
                // What the system does not take stays ready, which is no harm.
                self.give_cold(memory, &frames[..done]);
                self.give(memory, &frames[done..]);
                return Err(error);
            }
            done += run.len();
        }
        self.give_cold(memory, frames);
        Ok(done as u32)
    }

    /// Takes up a frame that belongs to nobody, as it was found: with memory or without.
    pub fn found(&self, memory: &Memory, frame: Frame, present: bool) {
        if present {
            self.give(memory, &[frame]);
        } else {
            self.give_cold(memory, &[frame]);
        }
    }

    /// Has memory for the numbers of frames below `frames`.
    pub fn grow_stack(&self, memory: &Memory, frames: u32) -> io::Result<()> {
        let frames = frames.min(self.count);
        let present = self.stack_present.load(Acquire);
        if frames > present {
            // Whole pages, a part of which may be there already.
            let (from, to) = (present as usize * 4, frames as usize * 4);
            let to = to.next_multiple_of(PAGE_SIZE);
            memory.populate(self.stack_offset + from..self.stack_offset + to)?;
            let present = u32::try_from(to / 4).unwrap_or(u32::MAX);
            self.stack_present.fetch_max(present, Release);
        }
        Ok(())
    }

    /// Up to `wanted` frames that are to get memory: cold ones, else fresh ones in a row.
    fn without_memory(
        &self,
        memory: &Memory,
        fresh: &Used,
        wanted: u32,
    ) -> ([Frame; GROW as usize], usize) {
        let mut frames = [Frame(0); GROW as usize];
        let mut lists = lock(&self.lists);
        let first = fresh.get();
        if lists.cold == 0 {
            // Another thread may have taken fresh ones since the stack was grown.
            let end = self.count.min(self.stack_present.load(Acquire));
            let found = wanted.min(end.saturating_sub(first));
            step_locked();
            fresh.set(first + found);
            for (frame, number) in frames.iter_mut().zip(first..first + found) {
                *frame = Frame(number);
            }
            return (frames, found as usize);
        }
        let found = wanted.min(lists.cold);
        for frame in &mut frames[..found as usize] {
            lists.cold -= 1;
            *frame = Frame(self.cold_at(memory, lists.cold).load(Relaxed));
        }
        drop(lists);
        frames[..found as usize].sort_unstable();
        (frames, found as usize)
    }

    fn give_cold(&self, memory: &Memory, frames: &[Frame]) {
        let mut lists = lock(&self.lists);
        for frame in frames {
            self.cold_at(memory, lists.cold).store(frame.0, Relaxed);
            lists.cold += 1;
        }
    }

    fn cold_at<'a>(&self, memory: &'a Memory, index: u32) -> &'a AtomicU32 {
        debug_assert!(index < self.stack_present.load(Relaxed));
        // SAFETY: the stack's memory is used through this function alone.
        unsafe { memory.at(self.stack_offset + index as usize * 4) }
    }

    fn push(&self, memory: &Memory, lists: &mut Lists, frame: Frame) {
        step_locked();
        // SAFETY: the frame is free, and its memory belongs to the list now.
        unsafe { memory.write(self.offset(frame), &lists.ready.to_ne_bytes()) };
        lists.ready = frame.0;
        self.ready.fetch_add(1, SeqCst);
    }

    fn pop(&self, memory: &Memory, lists: &mut Lists) -> Option<Frame> {
        let frame = self.pop_unwatched(memory, lists)?;
        self.ready_min.fetch_min(self.ready.load(Relaxed), Relaxed);
        Some(frame)
    }

    fn pop_unwatched(&self, memory: &Memory, lists: &mut Lists) -> Option<Frame> {
        if lists.ready == NONE {
            return None;
        }
        let frame = Frame(lists.ready);
        let mut next = [0; 4];
        // SAFETY: the frame is on the list, so its memory is the list's.
        unsafe { memory.read(self.offset(frame), &mut next) };
        lists.ready = u32::from_ne_bytes(next);
        if lists.ready >= self.count {
            // The end, or damage: what stands behind it is lost until the store is attached anew.
            lists.ready = NONE;
            self.ready.store(1, SeqCst);
        }
        self.ready.fetch_sub(1, SeqCst);
        Some(frame)
    }

    /// All free frames, for checks.
    pub fn free(&self, memory: &Memory) -> Vec<Frame> {
        let lists = lock(&self.lists);
        let mut frames: Vec<Frame> = (0..lists.cold)
            .map(|index| Frame(self.cold_at(memory, index).load(Relaxed)))
            .collect();
        let mut next = lists.ready;
        while next != NONE {
            frames.push(Frame(next));
            let mut bytes = [0; 4];
            // SAFETY: as in `pop_unwatched`.
            unsafe { memory.read(self.offset(Frame(next)), &mut bytes) };
            next = u32::from_ne_bytes(bytes);
        }
        frames
    }
}
