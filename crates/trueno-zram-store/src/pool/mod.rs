//! The pool: where objects lie.
//!
//! ```text
//! place of an object = slab, slot        slab: class, pages 0..31        page: a frame of 4 KiB
//! ```
//! A slab is cut into equal slots of one size class ([`class`]). It has the pages that its slots in
//! use need and no more, each in any frame of the arena ([`frames`]); a slot may begin in one frame
//! and end in another. What a slab's place means in memory ([`slab`]) outlives the process; which
//! slots are taken is rebuilt from the page table. A huge page is a frame of its own.
//!
//! # Who owns what
//! - A slab that has a class is *owned* by one worker, which alone takes slots in it and changes its
//!   pages; or it is *listed* in its class, with free slots for whoever asks; or it is full and
//!   neither.
//! - Any thread may free a slot of any slab, without a lock: it clears a bit and counts down.
//!   Only a count that makes a slab change its list takes the lock of the class.
//!
//! # Locks
//! A class lock guards the list of that class and the flags `owned` and `listed` of its slabs. The
//! lock of the frames guards their lists, the lock of the free slabs theirs. Nobody holds two of
//! them. All are held for a few dozen instructions, never across a system call or a fault.

pub(crate) mod class;
mod frames;
mod slab;

use crate::Memory;
use crate::error::WriteError;
use crate::plan::{Growth, Plan};
use crate::stats::ClassStats;
use crate::step::{step, step_locked};
use crate::superblock::Superblock;
use crate::system::System;
pub(crate) use class::{CLASS_COUNT, OBJECT_MAX, SLAB_PAGES, class_of, slot_bytes};
use class::{pages_for, slots, slots_in};
pub(crate) use frames::Frame;
use frames::Frames;
use slab::{List, NONE, Slab, Slabs};
pub(crate) use slab::{MAP_BYTES, SLAB_STATE_BYTES};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use trueno_zram_core::PAGE_SIZE;

/// Free frames with memory that a pool growing on demand keeps for the next writes: a MiB.
const READY_KEPT: u32 = 256;

/// How many slabs of its class a worker looks at for a slot that needs no new memory: some
/// microseconds, and only where a write would fail otherwise.
const LISTED_TRIES: usize = 32;

/// How many slabs' states are present ahead of need, beside those that the free frames can fill: a
/// slab of each class for a few workers.
const SLABS_AHEAD: u32 = 4 * CLASS_COUNT as u32;

/// Bits of a place that say the slot.
const SLOT_BITS: u32 = 11;

const _: () = assert!(class::SLOTS_MAX <= 1 << SLOT_BITS);

/// The most slabs: an entry has 38 bits for a place.
pub(crate) const SLABS_MAX: u64 = 1 << (38 - SLOT_BITS);

/// The most frames: an entry has 30 bits for one.
pub(crate) const FRAMES_MAX: u64 = 1 << 30;

/// A slot that belongs to whoever holds this value: taken and not published, or unpublished and
/// not yet freed. Neither `Copy` nor `Clone`, so it cannot be freed twice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Slab and slot.
    pub place: u64,
}

impl Slot {
    fn new(slab: u32, slot: usize) -> Slot {
        Slot {
            place: u64::from(slab) << SLOT_BITS | slot as u64,
        }
    }
}

/// Slab and slot of a place; the slab may be any number.
fn parts(place: u64) -> (u64, usize) {
    (
        place >> SLOT_BITS,
        (place & ((1 << SLOT_BITS) - 1)) as usize,
    )
}

/// Why the pool that another process left cannot be taken up.
#[derive(Debug)]
pub(crate) enum AdoptError {
    /// What was found there, in words.
    Damaged(&'static str),
    /// No memory to take it up with.
    Os(io::Error),
}

impl From<io::Error> for AdoptError {
    fn from(error: io::Error) -> AdoptError {
        AdoptError::Os(error)
    }
}

/// Frames that somebody has.
#[derive(Clone, Debug)]
pub(crate) struct FrameSet {
    bits: Vec<u64>,
    frames: u32,
    len: u64,
}

impl FrameSet {
    /// None of `frames` frames.
    fn new(frames: u32) -> FrameSet {
        FrameSet {
            bits: vec![0; (frames as usize).div_ceil(64)],
            frames,
            len: 0,
        }
    }

    pub fn has(&self, frame: Frame) -> bool {
        let word = self.bits.get(frame.0 as usize / 64);
        word.is_some_and(|word| word >> (frame.0 % 64) & 1 == 1)
    }

    /// Adds a frame; whether it is one, and nobody had it.
    pub fn take(&mut self, frame: Frame) -> bool {
        let free = frame.0 < self.frames && !self.has(frame);
        if free {
            self.bits[frame.0 as usize / 64] |= 1 << (frame.0 % 64);
            self.len += 1;
        }
        free
    }
}

/// The slabs in which one worker takes slots, by class.
#[derive(Debug)]
pub(crate) struct Current([u32; CLASS_COUNT]);

impl Current {
    pub fn new() -> Current {
        Current([NONE; CLASS_COUNT])
    }
}

/// Sums that the pool keeps, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub used: u64,
    pub used_max: u64,
    /// What is known of slabs and frames.
    pub overhead: u64,
    /// Free memory that is populated.
    pub ready: u64,
    /// The lowest it has been.
    pub ready_min: u64,
}

#[derive(Debug)]
pub(crate) struct Pool {
    memory: Arc<Memory>,
    superblock: Superblock,
    slabs: Slabs,
    frames: Frames,
    growth: Growth,
    /// Asked before the reserve grows.
    system: Option<System>,
    classes: [Mutex<List>; CLASS_COUNT],
    /// The first of the slabs that were given up.
    free_slabs: Mutex<u32>,
    /// How many slabs' states have memory.
    slabs_present: AtomicU32,
    /// Frames that slabs and huge pages have.
    used_pages: AtomicU64,
    used_pages_max: AtomicU64,
    limit_pages: AtomicU64,
    /// Set when there was no frame left to populate.
    exhausted: AtomicBool,
    /// Set while the maintenance thread is known to be awake.
    awake: AtomicBool,
    /// A futex: counts wake-ups of the maintenance thread.
    wakes: AtomicU32,
}

impl Pool {
    pub fn new(plan: &Plan, memory: &Arc<Memory>, growth: Growth, limit: Option<u64>) -> Pool {
        // A reserve larger than the arena could never be reached.
        let arena = u64::from(plan.frames) * PAGE_SIZE as u64;
        let growth = match growth {
            Growth::Reserve(bytes) => Growth::Reserve(bytes.min(arena / 2)),
            other => other,
        };
        Pool {
            memory: Arc::clone(memory),
            superblock: Superblock::of(memory),
            slabs: Slabs::new(plan.maps_offset, plan.states_offset, plan.slabs),
            frames: Frames::new(plan.arena_offset, plan.stack_offset, plan.frames),
            growth,
            system: matches!(growth, Growth::Reserve(_)).then(System::read),
            classes: std::array::from_fn(|_| Mutex::new(List::new())),
            free_slabs: Mutex::new(NONE),
            slabs_present: AtomicU32::new(0),
            used_pages: AtomicU64::new(0),
            used_pages_max: AtomicU64::new(0),
            limit_pages: AtomicU64::new(limit_pages(limit)),
            exhausted: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            wakes: AtomicU32::new(0),
        }
    }

    pub fn usage(&self) -> Usage {
        let pages = |count: u64| count * PAGE_SIZE as u64;
        let slabs = match self.growth {
            Growth::OnDemand => self.superblock.slabs_used().get(),
            _ => self.slabs_present.load(Relaxed),
        };
        let slab_bytes = u64::from(slabs) * (MAP_BYTES + SLAB_STATE_BYTES) as u64;
        Usage {
            used: pages(self.used_pages.load(Relaxed)),
            used_max: pages(self.used_pages_max.load(Relaxed)),
            overhead: slab_bytes + self.frames.stack_bytes(),
            ready: pages(self.frames.ready().into()),
            ready_min: pages(self.frames.ready_min().into()),
        }
    }

    pub fn set_limit(&self, limit: Option<u64>) {
        self.limit_pages.store(limit_pages(limit), Relaxed);
    }

    pub fn reset_used_max(&self) {
        self.used_pages_max
            .store(self.used_pages.load(Relaxed), Relaxed);
    }

    /// Takes a slot of `class` for a worker.
    pub fn take(&self, current: &mut Current, class: u8) -> Result<Slot, WriteError> {
        let mine = &mut current.0[class as usize];
        let mut tries = 0;
        loop {
            if *mine == NONE {
                *mine = self.acquire(class)?;
            }
            let slab = self.slab(*mine);
            let Some(slot) = slab.first_free() else {
                self.give_up(*mine, class, true);
                *mine = NONE;
                continue;
            };
            if let Err(error) = self.grow(*mine, pages_for(class, slot + 1)) {
                // No more memory for this slab. Others of the class may have slots that were
                // freed, in memory they have already. This one goes to the end, so that it is not
                // found again before them.
                tries += 1;
                let other = (tries < LISTED_TRIES).then(|| self.acquire_listed(class));
                self.give_up(*mine, class, false);
                *mine = NONE;
                *mine = other.flatten().ok_or(error)?;
                continue;
            }
            slab.take(slot);
            return Ok(Slot::new(*mine, slot));
        }
    }

    /// Takes a slot of a class larger than `class` that needs no more memory: where there is none,
    /// a slot that is too large is better than a write that fails.
    pub fn take_larger(&self, current: &mut Current, class: u8) -> Option<Slot> {
        (class + 1..CLASS_COUNT as u8).find_map(|larger| self.take_listed(current, larger))
    }

    /// Frees a slot; from now on someone else may have it.
    pub fn free(&self, slot: Slot) {
        let (index, number) = parts(slot.place);
        let index = index as u32;
        let slab = self.slab(index);
        let class = slab.class();
        slab.clear(number);
        if slab.count_down_within_list() {
            return;
        }
        let mut list = lock(&self.classes[class as usize]);
        let after = slab.count_down_locked();
        if after.owned {
            return;
        }
        if after.used == 0 {
            if after.listed {
                list.unlink(&self.slabs, &self.memory, index);
            }
            slab.set_unclassed();
            drop(list);
            self.retire(index);
        } else if !after.listed && usize::from(after.used) < slots(class) {
            // The count can be above the slots taken, while another thread that has cleared its
            // bit has not counted down yet and the bit was taken again: then that one lists it.
            list.link(&self.slabs, &self.memory, index, true);
            slab.set_listed(true);
        }
    }

    /// Frees the frame of a huge page.
    pub fn free_frame(&self, frame: Frame) {
        self.free_frames(&[frame]);
    }

    /// Takes a slot of `class` that needs no more memory.
    pub fn take_listed(&self, current: &mut Current, class: u8) -> Option<Slot> {
        let mine = &mut current.0[class as usize];
        for _ in 0..LISTED_TRIES {
            if *mine == NONE {
                *mine = self.acquire_listed(class)?;
            }
            let slab = self.slab(*mine);
            if let Some(slot) = slab.first_free()
                && slot < slots_in(class, slab.pages())
            {
                slab.take(slot);
                return Some(Slot::new(*mine, slot));
            }
            // This one goes to the end, so that it is not found again before all others.
            let other = self.acquire_listed(class);
            self.give_up(*mine, class, false);
            *mine = NONE;
            *mine = other?;
        }
        None
    }

    /// Takes a slot of slab `index`, which the caller owns, below slot `end`.
    pub fn take_below(&self, index: u32, end: usize) -> Option<Slot> {
        let slab = self.slab(index);
        let slot = slab.first_free().filter(|slot| *slot < end)?;
        slab.take(slot);
        Some(Slot::new(index, slot))
    }

    /// How many slabs there may be.
    pub fn slab_count(&self) -> u32 {
        self.superblock.slabs_used().get()
    }

    /// Makes slab `index` the caller's own if it could do with half of its pages, or with fewer
    /// pages at all when `tight`; returns its class.
    pub fn acquire_sparse(&self, index: u32, tight: bool) -> Option<u8> {
        let slab = self.slab(index);
        let sparse = || {
            let state = slab.state();
            let class = state.class.filter(|_| state.listed && !state.owned)?;
            let needed = pages_for(class, state.used.into());
            let enough = if tight { needed } else { 2 * needed };
            (enough.max(needed + 1) <= state.pages).then_some(class)
        };
        let class = sparse()?;
        let mut list = lock(&self.classes[class as usize]);
        if sparse() != Some(class) {
            return None;
        }
        list.unlink(&self.slabs, &self.memory, index);
        slab.own_listed();
        Some(class)
    }

    /// The highest slot of slab `index` that is taken, below slot `end`.
    pub fn taken_below(&self, index: u32, end: usize) -> Option<usize> {
        let slab = self.slab(index);
        (0..end).rev().find(|slot| slab.is_taken(*slot))
    }

    /// The place of slot `slot` of slab `index`.
    pub fn place(&self, index: u32, slot: usize) -> u64 {
        Slot::new(index, slot).place
    }

    /// Slots of slab `index` and how many of them are taken.
    pub fn used_slots(&self, index: u32) -> (usize, usize) {
        let slab = self.slab(index);
        (slots(slab.class()), slab.state().used.into())
    }

    /// Gives up slab `index`, which the caller owns, with the pages that no taken slot needs.
    /// Returns how many became free.
    pub fn trim(&self, index: u32, class: u8) -> u32 {
        let slab = self.slab(index);
        let before = slab.pages();
        let needed = slab
            .last_taken()
            .map_or(0, |last| pages_for(class, last + 1));
        if needed < before {
            // Only the owner takes slots, so none lies in these pages, and none will.
            self.free_pages(index, needed, before);
        }
        // One without room in its pages is the last to be asked.
        let room = usize::from(slab.state().used) < slots_in(class, slab.pages());
        let emptied = self.give_up(index, class, room);
        before - if emptied { 0 } else { needed.min(before) }
    }

    /// Gives back the slabs that a worker owns and in which nothing is left.
    pub fn give_up_empty(&self, current: &mut Current) {
        self.give_up_those(current, |slab| slab.state().used == 0);
    }

    /// Gives back all slabs that a worker owns.
    pub fn give_up_all(&self, current: &mut Current) {
        self.give_up_those(current, |_| true);
    }

    fn give_up_those(&self, current: &mut Current, which: impl Fn(&Slab) -> bool) {
        for (class, index) in current.0.iter_mut().enumerate() {
            if *index != NONE && which(self.slab(*index)) {
                self.give_up(*index, class as u8, true);
                *index = NONE;
            }
        }
    }

    /// Ends a worker's ownership. A slab that turns out to be empty is free; returns whether it was.
    fn give_up(&self, index: u32, class: u8, front: bool) -> bool {
        let mut list = lock(&self.classes[class as usize]);
        let slab = self.slab(index);
        let state = slab.disown();
        if state.used == 0 {
            slab.set_unclassed();
            drop(list);
            self.retire(index);
            return true;
        }
        if usize::from(state.used) < slots(class) {
            list.link(&self.slabs, &self.memory, index, front);
            slab.set_listed(true);
        }
        false
    }

    /// A slab of `class` with a free slot, owned by the caller.
    fn acquire(&self, class: u8) -> Result<u32, WriteError> {
        if let Some(index) = self.acquire_listed(class) {
            return Ok(index);
        }
        let index = self.take_slab().ok_or(WriteError::NoMemory)?;
        self.map(index).set_class(class);
        self.slab(index).set_class(class);
        Ok(index)
    }

    /// A listed slab of `class`, owned by the caller.
    fn acquire_listed(&self, class: u8) -> Option<u32> {
        let mut list = lock(&self.classes[class as usize]);
        let index = list.first;
        if index == NONE {
            return None;
        }
        list.unlink(&self.slabs, &self.memory, index);
        self.slab(index).own_listed();
        Some(index)
    }

    /// A slab without class and pages.
    fn take_slab(&self) -> Option<u32> {
        let mut free = lock(&self.free_slabs);
        if *free != NONE {
            let index = *free;
            *free = self.slab(index).next();
            return Some(index);
        }
        let fresh = self.superblock.slabs_used();
        let index = fresh.get();
        if index == self.slabs.count() {
            return None;
        }
        if index >= self.slabs_present.load(Acquire) {
            if self.growth != Growth::OnDemand {
                return None;
            }
            drop(free);
            // A page fault that finds no memory would kill the process; this is an error.
            self.populate_slabs(index + 1).ok()?;
            return self.take_slab();
        }
        step_locked();
        fresh.set(index + 1);
        Some(index)
    }

    /// Has memory for the states of the slabs below `count`.
    fn populate_slabs(&self, count: u32) -> io::Result<()> {
        let count = count.min(self.slabs.count());
        let present = self.slabs_present.load(Acquire);
        if count > present {
            self.slabs.populate(&self.memory, present, count)?;
            self.slabs_present.fetch_max(count, Release);
        }
        Ok(())
    }

    /// Gives an owned slab frames for its first `pages` pages.
    fn grow(&self, index: u32, pages: u32) -> Result<(), WriteError> {
        let slab = self.slab(index);
        for page in slab.pages()..pages {
            let frame = self.take_frame()?;
            self.map(index).set_frame(page as usize, frame);
            slab.set_pages(page + 1);
        }
        Ok(())
    }

    /// A frame with memory, counted as used: for a slab, or a huge page.
    pub fn take_frame(&self) -> Result<Frame, WriteError> {
        let limit = self.limit_pages.load(Relaxed);
        let used = self
            .used_pages
            .fetch_update(Relaxed, Relaxed, |used| (used < limit).then(|| used + 1))
            .map_err(|_| WriteError::Limit)?;
        let frame = match self.growth {
            Growth::OnDemand => self
                .frames
                .take_or_populate(&self.memory, self.superblock.frames_used()),
            _ => self.frames.take(&self.memory),
        };
        if let Growth::Reserve(_) = self.growth
            && self.frames.ready() < self.ready_target()
        {
            self.wake();
        }
        if frame.is_none() {
            self.used_pages.fetch_sub(1, Relaxed);
        } else {
            self.used_pages_max.fetch_max(used + 1, Relaxed);
        }
        frame.ok_or(WriteError::NoMemory)
    }

    /// Puts an empty slab without class among the free ones, and its frames too.
    fn retire(&self, index: u32) {
        self.free_pages(index, 0, self.slab(index).pages());
        self.push_slab(index);
    }

    fn push_slab(&self, index: u32) {
        let mut free = lock(&self.free_slabs);
        self.slab(index).set_next(*free);
        *free = index;
    }

    /// Takes the frames of pages `from..to` from a slab, the last pages it has, which nobody uses.
    fn free_pages(&self, index: u32, from: u32, to: u32) {
        self.slab(index).set_pages(from);
        let mut frames = [Frame(0); SLAB_PAGES];
        let mut found = 0;
        for page in from..to {
            if let Some(frame) = self.map(index).take_frame(page as usize) {
                frames[found] = frame;
                found += 1;
            }
        }
        self.free_frames(&frames[..found]);
    }

    fn free_frames(&self, frames: &[Frame]) {
        self.frames.give(&self.memory, frames);
        self.used_pages.fetch_sub(frames.len() as u64, Relaxed);
        let ready = self.frames.ready();
        match self.growth {
            // A MiB at a time, since each run of frames costs a system call.
            Growth::OnDemand if ready >= READY_KEPT + frames::STEP as u32 => {
                // Refused, they stay ready, which is no harm.
                let _ = self.frames.release(&self.memory, READY_KEPT);
            }
            Growth::Reserve(_) if ready >= self.ready_high() => self.wake(),
            _ => {}
        }
    }

    /// Frames that are to be ready at any time.
    fn ready_target(&self) -> u32 {
        match self.growth {
            Growth::Reserve(bytes) => (bytes / PAGE_SIZE as u64) as u32,
            _ => 0,
        }
    }

    /// From how many ready frames on memory is given back. The gap to the target keeps a device
    /// that frees and writes in turn from asking the system each time.
    fn ready_high(&self) -> u32 {
        self.ready_target() + self.ready_target() / 2 + frames::STEP as u32
    }

    /// Bytes of the reserve that are wanted.
    pub fn reserve_target(&self) -> u64 {
        u64::from(self.ready_target()) * PAGE_SIZE as u64
    }

    /// Populates up to a MiB if the reserve is below its target, or gives one back if it is far
    /// above. Returns whether there is more to do; an error where the system has no memory, in which
    /// case it was not asked for any.
    pub fn maintain(&self) -> io::Result<bool> {
        let target = self.ready_target();
        if target == 0 {
            return Ok(false);
        }
        let ready = self.frames.ready();
        if ready < target {
            let spare = self.system.as_ref().map_or(u64::MAX, System::spare) / PAGE_SIZE as u64;
            let wanted = (frames::STEP as u32).min(target - ready);
            let count = u64::from(wanted).min(spare) as u32;
            if count == 0 {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            return self
                .add_ready(count)
                .map(|added| added && self.frames.ready() < target);
        }
        if ready <= self.ready_high() {
            return Ok(false);
        }
        let released = self.frames.release(&self.memory, self.ready_high())?;
        self.exhausted.store(false, Relaxed);
        Ok(released as usize == frames::STEP)
    }

    /// Populates `count` more frames, and what is to be known of the slabs that they can fill;
    /// `false` when there are no more.
    pub fn add_ready(&self, count: u32) -> io::Result<bool> {
        let slabs = self.superblock.slabs_used().get();
        let coming = (self.frames.ready() + count) / SLAB_PAGES as u32 + SLABS_AHEAD;
        self.populate_slabs(slabs.saturating_add(coming))?;
        let added = self
            .frames
            .populate(&self.memory, self.superblock.frames_used(), count)?;
        if !added {
            self.exhausted.store(true, Relaxed);
        }
        Ok(added)
    }

    /// Starts to watch the lowest level of the reserve, from now on.
    pub fn watch_ready(&self) {
        self.frames.watch_ready();
    }

    /// Whether a page table entry may name an object of `bytes` at `place`: there is such a slot,
    /// and it is taken. Anything else is damage.
    pub fn is_slot_of(&self, place: u64, bytes: usize) -> bool {
        let (index, slot) = parts(place);
        if index >= u64::from(self.slab_count()) {
            return false;
        }
        let slab = self.slab(index as u32);
        slab.state().class.is_some_and(|class| {
            bytes <= slot_bytes(class) && slot < slots(class) && slab.is_taken(slot)
        })
    }

    /// Whether a page table entry may name `frame`.
    pub fn is_frame(&self, frame: Frame) -> bool {
        frame.0 < self.superblock.frames_used().get().min(self.frames.count())
    }

    /// Makes what another process knew of the slabs zeros again, in the memory that it has. Nothing
    /// is given back and asked for anew: who serves swap might wait for it for ever.
    pub fn forget(&self) -> io::Result<()> {
        let [maps, states] = self.slabs.parts();
        let mut present = self.slabs.count();
        for (part, bytes, clear) in [(maps, MAP_BYTES, false), (states, SLAB_STATE_BYTES, true)] {
            let (start, mut end) = (part.start, part.start);
            self.memory.resident(part, |page, there| {
                let at = start + page * PAGE_SIZE;
                if there && clear {
                    // SAFETY: this process has not looked at them yet, and the other one is gone.
                    unsafe { self.memory.write(at, &[0; PAGE_SIZE]) };
                }
                if there && at == end {
                    end += PAGE_SIZE;
                }
            })?;
            present = present.min(((end - start) / bytes) as u32);
        }
        self.slabs_present.store(present, Release);
        self.populate_slabs(self.slab_count())
    }

    /// Takes up the object of `bytes` that an entry of the page table names, in a pool that another
    /// process left; whether there can be such an object, and no other entry named it. To be called
    /// for all entries, before [`adopt_slabs`](Pool::adopt_slabs).
    pub fn adopt_slot(&self, place: u64, bytes: usize) -> bool {
        let (index, slot) = parts(place);
        if self.pieces(place, bytes).is_none() {
            return false;
        }
        let (slab, map) = (self.slab(index as u32), self.map(index as u32));
        if let Some(class) = map.class()
            && slab.state().class.is_none()
        {
            slab.set_class(class);
        }
        slab.take_found(slot)
    }

    /// Makes the slabs with the slots that entries named the pool's own, and gives the frames that
    /// they have. An error in words if they contradict each other.
    pub fn adopt_slabs(&self) -> Result<FrameSet, AdoptError> {
        let fresh = self.superblock.frames_used().get();
        let mut used = FrameSet::new(fresh);
        for index in (0..self.slab_count()).rev() {
            let (slab, map) = (self.slab(index), self.map(index));
            let needed = slab
                .last_taken()
                .map_or(0, |last| pages_for(slab.class(), last + 1));
            for page in 0..SLAB_PAGES as u32 {
                if page >= needed {
                    // Had for an object that was never published, or just given back.
                    map.take_frame(page as usize);
                } else {
                    let frame = map.frame(page as usize);
                    let frame = frame.ok_or(AdoptError::Damaged("an object has no memory"))?;
                    if !used.take(frame) {
                        return Err(AdoptError::Damaged("two slabs have one page of memory"));
                    }
                }
            }
            slab.set_pages(needed);
            if needed == 0 {
                self.push_slab(index);
            } else {
                self.give_up(index, slab.class(), true);
            }
        }
        Ok(used)
    }

    /// Makes all frames but `used`, which slabs and huge pages have, free ones.
    pub fn adopt(&self, used: &FrameSet) -> io::Result<()> {
        let fresh = self.superblock.frames_used().get();
        self.frames.grow_stack(&self.memory, fresh)?;
        self.used_pages.store(used.len, Relaxed);
        self.used_pages_max.store(used.len, Relaxed);
        let all = self.frames.range(0, fresh);
        self.memory.resident(all, |page, present| {
            let frame = Frame(page as u32);
            if !used.has(frame) {
                self.frames.found(&self.memory, frame, present);
            }
        })?;
        if self.growth == Growth::OnDemand {
            // Refused, they stay ready, which is no harm.
            while self
                .frames
                .release(&self.memory, READY_KEPT)
                .is_ok_and(|released| released > 0)
            {}
        }
        Ok(())
    }

    /// Copies the first bytes of the object at `place` out; `false` if there can be none so long.
    ///
    /// # Safety
    /// Nobody writes to the object meanwhile, if there is one.
    #[must_use]
    pub unsafe fn read(&self, place: u64, bytes: &mut [u8]) -> bool {
        let Some((first, second)) = self.pieces(place, bytes.len()) else {
            return false;
        };
        let (head, tail) = bytes.split_at_mut(first.1);
        // SAFETY: `pieces` gives frames of the arena; nobody writes to them, says the caller.
        unsafe { self.memory.read(first.0, head) };
        if !tail.is_empty() {
            // SAFETY: as above.
            unsafe { self.memory.read(second, tail) };
        }
        true
    }

    /// Has the processor fetch what [`free`](Pool::free) will look at for the object at `place`.
    pub fn prefetch_slab(&self, place: u64) {
        let (index, slot) = parts(place);
        if index < u64::from(self.slab_count()) {
            self.slabs.prefetch(&self.memory, index as u32, slot);
        }
    }

    /// Has the processor fetch the first `bytes` bytes of the object at `place`; quick once its slab
    /// has been [fetched](Pool::prefetch_slab).
    pub fn prefetch_object(&self, place: u64, bytes: usize) {
        if let Some(((first, length), second)) = self.pieces(place, bytes) {
            for at in (0..length).step_by(64) {
                self.memory.prefetch(first + at);
            }
            for at in (length..bytes).step_by(64) {
                self.memory.prefetch(second + at - length);
            }
        }
    }

    /// Copies `bytes` into a slot, which is long enough.
    pub fn write(&self, slot: &Slot, bytes: &[u8]) {
        let (first, second) = self
            .pieces(slot.place, bytes.len())
            .expect("a slot that was taken has its pages");
        let (head, tail) = bytes.split_at(first.1);
        step();
        // SAFETY: the slot, and so its bytes, belong to the caller until they are published.
        unsafe { self.memory.write(first.0, head) };
        if !tail.is_empty() {
            step();
            // SAFETY: as above.
            unsafe { self.memory.write(second, tail) };
        }
    }

    /// Copies a huge page out; `false` if there is no such frame.
    ///
    /// # Safety
    /// Nobody writes to the frame meanwhile, if it is a huge page's.
    #[must_use]
    pub unsafe fn read_frame(&self, frame: Frame, page: &mut [u8]) -> bool {
        if !self.is_frame(frame) {
            return false;
        }
        // SAFETY: the frame lies in the arena; nobody writes to it, says the caller.
        unsafe { self.memory.read(self.frames.offset(frame), page) };
        true
    }

    /// Copies a page into a frame that [`take_frame`](Pool::take_frame) gave and no entry names.
    pub fn write_frame(&self, frame: Frame, page: &[u8]) {
        step();
        // SAFETY: the frame belongs to the caller until it is published.
        unsafe { self.memory.write(self.frames.offset(frame), page) };
    }

    /// Where `bytes` bytes at `place` lie: offset and length of the first piece, and the offset of
    /// the rest. `None` if there can be no such object.
    fn pieces(&self, place: u64, bytes: usize) -> Option<((usize, usize), usize)> {
        let (index, slot) = parts(place);
        // The maps of others have no memory: looking there would be a fault.
        if index >= u64::from(self.slab_count()) {
            return None;
        }
        let map = self.map(index as u32);
        let class = map.class()?;
        if slot >= slots(class) || bytes > slot_bytes(class) {
            return None;
        }
        let start = slot * slot_bytes(class);
        let (page, within) = (start / PAGE_SIZE, start % PAGE_SIZE);
        let at = |page| {
            let frame = map.frame(page).filter(|frame| self.is_frame(*frame))?;
            Some(self.frames.offset(frame))
        };
        let length = bytes.min(PAGE_SIZE - within);
        let first = (at(page)? + within, length);
        let second = if length < bytes { at(page + 1)? } else { 0 };
        Some((first, second))
    }

    fn slab(&self, index: u32) -> &Slab {
        self.slabs.get(&self.memory, index)
    }

    fn map(&self, index: u32) -> &slab::Map {
        self.slabs.map(&self.memory, index)
    }

    /// Wakes the maintenance thread, without a system call if it is known to be awake.
    fn wake(&self) {
        if !self.awake.swap(true, SeqCst) {
            self.wakes.fetch_add(1, Release);
            futex_wake(&self.wakes);
        }
    }

    /// Sleeps until woken, or `timeout` is over.
    pub fn wait(&self, timeout: Duration) {
        let seen = self.wakes.load(Acquire);
        // Sequentially consistent against `take_frame`, which lowers the count and then looks at
        // `awake`: either it sees `false` and wakes us, or we see the lower count.
        self.awake.store(false, SeqCst);
        let low = self.frames.ready() < self.ready_target();
        if !low || self.exhausted.load(Relaxed) {
            futex_wait(&self.wakes, seen, timeout);
        } else {
            // Memory is short: the last attempt failed. Try again soon.
            std::thread::sleep(timeout.min(Duration::from_millis(1)));
        }
        self.awake.store(true, Release);
    }

    /// Whether all counts and lists agree, where `huge` are the frames of huge pages. Only while
    /// nobody reads or writes. For tests.
    pub fn check(&self, huge: &[Frame]) -> Result<(), String> {
        let mut frames: Vec<Frame> = huge.to_vec();
        for index in 0..self.slab_count() {
            let (slab, map) = (self.slab(index), self.map(index));
            slab.check(map)
                .map_err(|what| format!("slab {index}: {what}"))?;
            for page in 0..SLAB_PAGES {
                let frame = map.frame(page);
                if frame.is_some() != (page < slab.pages() as usize) {
                    return Err(format!("slab {index}: page {page} has {frame:?}"));
                }
                frames.extend(frame);
            }
        }
        let counted = self.used_pages.load(Relaxed);
        if frames.len() as u64 != counted {
            return Err(format!(
                "{} frames are used, {counted} counted",
                frames.len()
            ));
        }
        frames.extend(self.frames.free(&self.memory));
        frames.sort_unstable();
        let fresh = self.superblock.frames_used().get();
        if !frames.iter().copied().eq((0..fresh).map(Frame)) {
            return Err(format!(
                "of {fresh} frames, {} are used or free, or one is both",
                frames.len()
            ));
        }
        for (class, list) in self.classes.iter().enumerate() {
            let mut index = lock(list).first;
            while index != NONE {
                let slab = self.slab(index);
                if !slab.is_listed_in(class as u8) {
                    return Err(format!("slab {index} stands in the list of class {class}"));
                }
                index = slab.next();
            }
        }
        Ok(())
    }

    /// What each class has that has anything, by size of its slots.
    pub fn class_stats(&self) -> Vec<ClassStats> {
        let mut all = [ClassStats::default(); CLASS_COUNT];
        for index in 0..self.slab_count() {
            let state = self.slab(index).state();
            let Some(class) = state.class else { continue };
            // A state that was damaged says anything.
            let Some(sum) = all.get_mut(usize::from(class)) else {
                continue;
            };
            sum.slot_bytes = slot_bytes(class) as u64;
            sum.slots += slots_in(class, state.pages) as u64;
            sum.objects += u64::from(state.used);
            sum.frames += u64::from(state.pages);
        }
        all.into_iter().filter(|class| class.frames > 0).collect()
    }

    /// Slots that are taken, over all slabs. For checks.
    pub fn taken(&self) -> u64 {
        (0..self.slab_count())
            .map(|index| u64::from(self.slab(index).taken()))
            .sum()
    }
}

fn limit_pages(limit: Option<u64>) -> u64 {
    limit.map_or(u64::MAX / 2, |bytes| bytes / PAGE_SIZE as u64)
}

/// A panic while a lock is held ends the process (or a test); the lists are then as they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes one thread that waits at `word`.
fn futex_wake(word: &AtomicU32) {
    // SAFETY: the address is valid during the call; waking has no other effect.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        )
    };
}

/// Waits at `word` while it holds `seen`, for at most `timeout`.
fn futex_wait(word: &AtomicU32, seen: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    };
    // SAFETY: both addresses are valid during the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            seen,
            &timeout,
        )
    };
}
