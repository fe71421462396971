//! The size-class pool: where objects lie.
//!
//! The arena is cut into slabs of 64 KiB. A slab is free, or cut into equal slots of one size
//! class ([`class`]). What is known of a slab ([`slab`]) is private memory: it is not needed to
//! read objects, and can be rebuilt from the page table.
//!
//! # Who owns what
//! - A slab that has a class is *owned* by one worker, which alone takes slots in it; or it is
//!   *listed* in its class, with free slots for whoever asks; or it is full and neither.
//! - Any thread may free a slot of any slab, without a lock: it clears a bit and counts down.
//!   Only a count that makes a slab change its list takes the lock of the class.
//!
//! # Locks
//! A class lock guards the list of that class and the flags `owned` and `listed` of its slabs. The
//! free lock guards the lists of free slabs. The free lock is the innermost; nobody holds two
//! class locks. Both are held for a few dozen instructions, never across a system call or a fault.
//!
//! # Where memory comes from
//! ```text
//! fresh ──populate──> ready ──take──> (a class) ──last slot freed──> ready ──release──> cold
//!                       ^──────────────────────populate────────────────────────────────────┘
//! ```
//! *fresh*: never used. *ready*: free, with memory. *cold*: free, its memory given back.

pub(crate) mod class;
mod slab;

use crate::Memory;
use crate::error::WriteError;
use crate::plan::{Growth, Plan};
use crate::system::System;
pub(crate) use class::{CLASS_COUNT, HUGE, OBJECT_MAX, SLAB_BYTES, class_of, slot_bytes};
use slab::{NONE, Slabs};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Mutex, MutexGuard, PoisonError};
use trueno_zram_core::PAGE_SIZE;

/// Pages of the operating system in a slab.
const SLAB_PAGES: u32 = (SLAB_BYTES / PAGE_SIZE) as u32;

/// How far a slab's memory is populated ahead of its objects when growing on demand, in pages.
const GROW_PAGES: u32 = 4;

/// Free slabs with memory that a pool growing on demand keeps for the next writes: 2 MiB.
const READY_KEPT: u32 = 32;

/// How many slabs of a class compaction looks at for the emptiest.
const SPARSE_LOOKED_AT: u32 = 64;

/// How many slabs of its class a worker looks at for a slot that needs no new memory.
const LISTED_TRIES: usize = 8;

/// Slabs that [`Pool::maintain`] populates between two looks at the reserve: 1 MiB.
const MAINTAIN_SLABS: u32 = 16;

/// A slot that belongs to whoever holds this value: taken and not published, or unpublished and
/// not yet freed. Neither `Copy` nor `Clone`, so it cannot be freed twice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Offset in the arena.
    pub place: u64,
}

/// The slabs in which one worker takes slots, by class.
#[derive(Debug)]
pub(crate) struct Current([u32; CLASS_COUNT]);

impl Current {
    pub fn new() -> Current {
        Current([NONE; CLASS_COUNT])
    }
}

/// Singly linked lists of free slabs.
#[derive(Debug)]
struct Free {
    ready: u32,
    cold: u32,
    /// Slabs from here on have never been used.
    fresh: u32,
}

/// Sums that the pool keeps, in bytes where nothing else is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub used: u64,
    pub used_max: u64,
    /// Free memory that is populated.
    pub ready: u64,
    /// The lowest it has been, in whole slabs.
    pub ready_min: u64,
}

#[derive(Debug)]
pub(crate) struct Pool {
    slabs: Slabs,
    arena_offset: usize,
    growth: Growth,
    /// Asked before the reserve grows.
    system: Option<System>,
    classes: [Mutex<u32>; CLASS_COUNT],
    free: Mutex<Free>,
    /// Slabs in the list `ready`, for looking without the lock.
    ready_count: AtomicU32,
    ready_min: AtomicU32,
    ready_pages: AtomicU64,
    /// Pages of memory in slabs that have a class.
    used_pages: AtomicU64,
    used_pages_max: AtomicU64,
    limit_pages: AtomicU64,
    /// Set when there was no slab left to populate.
    exhausted: AtomicBool,
    /// Set while the maintenance thread is known to be awake.
    awake: AtomicBool,
    /// A futex: counts wake-ups of the maintenance thread.
    wakes: AtomicU32,
}

impl Pool {
    pub fn new(
        plan: &Plan,
        memory: &Memory,
        growth: Growth,
        limit: Option<u64>,
    ) -> io::Result<Pool> {
        // A reserve larger than the arena could never be reached.
        let arena = u64::from(plan.slabs) * SLAB_BYTES as u64;
        let growth = match growth {
            Growth::Reserve(bytes) => Growth::Reserve(bytes.min(arena / 2)),
            other => other,
        };
        Ok(Pool {
            slabs: Slabs::new(memory, plan.slabs)?,
            arena_offset: plan.arena_offset,
            growth,
            system: matches!(growth, Growth::Reserve(_)).then(System::read),
            classes: std::array::from_fn(|_| Mutex::new(NONE)),
            free: Mutex::new(Free {
                ready: NONE,
                cold: NONE,
                fresh: 0,
            }),
            ready_count: AtomicU32::new(0),
            ready_min: AtomicU32::new(u32::MAX),
            ready_pages: AtomicU64::new(0),
            used_pages: AtomicU64::new(0),
            used_pages_max: AtomicU64::new(0),
            limit_pages: AtomicU64::new(limit_pages(limit)),
            exhausted: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            wakes: AtomicU32::new(0),
        })
    }

    /// Where in the store's memory a place of the arena lies.
    pub fn offset(&self, place: u64) -> usize {
        self.arena_offset + place as usize
    }

    pub fn usage(&self) -> Usage {
        let pages = |count: &AtomicU64| count.load(Relaxed) * PAGE_SIZE as u64;
        let ready = self.ready_count.load(Relaxed);
        Usage {
            used: pages(&self.used_pages),
            used_max: pages(&self.used_pages_max),
            ready: pages(&self.ready_pages),
            ready_min: self.ready_min.load(Relaxed).min(ready) as u64 * SLAB_BYTES as u64,
        }
    }

    pub fn set_limit(&self, limit: Option<u64>) {
        self.limit_pages.store(limit_pages(limit), Relaxed);
    }

    pub fn reset_used_max(&self) {
        self.used_pages_max
            .store(self.used_pages.load(Relaxed), Relaxed);
    }

    /// Takes a slot of `class` for a worker; of a larger class if there is no memory for one, since
    /// a slot that is too large is better than a write that fails.
    pub fn take(
        &self,
        memory: &Memory,
        current: &mut Current,
        class: u8,
    ) -> Result<Slot, WriteError> {
        let first = self.try_take(memory, current, class);
        let error = match first {
            Err(error) => error,
            taken => return taken,
        };
        if self.give_up_empty(memory, current) {
            // The worker itself held memory in slabs of other classes.
            if let Ok(slot) = self.try_take(memory, current, class) {
                return Ok(slot);
            }
        }
        (class + 1..CLASS_COUNT as u8)
            .find_map(|larger| self.take_listed(memory, current, larger))
            .ok_or(error)
    }

    fn try_take(
        &self,
        memory: &Memory,
        current: &mut Current,
        class: u8,
    ) -> Result<Slot, WriteError> {
        let mine = &mut current.0[class as usize];
        let mut tried = [NONE; LISTED_TRIES];
        let mut tries = 0;
        let result = loop {
            if *mine == NONE {
                match self.acquire(class) {
                    Ok(index) => *mine = index,
                    Err(error) => break Err(error),
                }
            }
            let slab = self.slabs.get(*mine);
            let Some(index) = slab.first_free() else {
                self.give_up_or_retire(memory, *mine, class);
                *mine = NONE;
                continue;
            };
            let start = index * slot_bytes(class);
            let pages = (start + slot_bytes(class)).div_ceil(PAGE_SIZE) as u32;
            if let Err(error) = self.grow(memory, *mine, pages) {
                // No more memory for this slab. Others of the class may have slots that were
                // freed, in memory they have already. This one is kept until the end, so that it
                // is not the next to be found.
                tried[tries] = *mine;
                tries += 1;
                *mine = NONE;
                if tries < LISTED_TRIES
                    && let Some(other) = self.acquire_listed(class)
                {
                    *mine = other;
                    continue;
                }
                break Err(error);
            }
            slab.take(index);
            break Ok(Slot {
                place: *mine as u64 * SLAB_BYTES as u64 + start as u64,
            });
        };
        for index in tried.into_iter().take(tries) {
            self.give_up_or_retire(memory, index, class);
        }
        result
    }

    /// Frees a slot; from now on someone else may have it.
    pub fn free(&self, memory: &Memory, slot: Slot) {
        let index = (slot.place / SLAB_BYTES as u64) as u32;
        let slab = self.slabs.get(index);
        let class = slab.class();
        slab.clear((slot.place % SLAB_BYTES as u64) as usize / slot_bytes(class));
        if slab.count_down_within_list() {
            return;
        }
        let mut head = lock(&self.classes[class as usize]);
        let after = slab.count_down_locked();
        if after.owned {
            return;
        }
        if after.used == 0 {
            if after.listed {
                self.slabs.unlink(&mut head, index);
            }
            slab.set_unclassed();
            drop(head);
            self.retire(memory, index);
        } else if !after.listed && (after.used as usize) < class::slots(class) {
            // The count can be above the slots taken, while another thread that has cleared its
            // bit has not counted down yet and the bit was taken again: then that one lists it.
            self.slabs.link(&mut head, index);
            slab.set_listed(true);
        }
    }

    /// A listed slab of `class`, owned by the caller, whose objects fit into the free slots of
    /// other listed slabs, if emptying it is worth the copies: at most half of it is in use.
    pub fn acquire_sparse(&self, class: u8) -> Option<u32> {
        let slots = class::slots(class) as u32;
        let mut head = lock(&self.classes[class as usize]);
        let (mut best, mut best_used, mut best_free, mut free) = (NONE, u32::MAX, 0, 0);
        let mut index = *head;
        for _ in 0..SPARSE_LOOKED_AT {
            if index == NONE {
                break;
            }
            let slab = self.slabs.get(index);
            let used = u32::from(slab.used());
            // Slots beyond the memory that the slab has got would need more of it.
            let have = slab.touched() * PAGE_SIZE as u32 / slot_bytes(class) as u32;
            let free_here = have.min(slots).saturating_sub(used);
            free += free_here;
            if used < best_used {
                (best, best_used, best_free) = (index, used, free_here);
            }
            index = slab.next();
        }
        if best == NONE || best_used > slots / 2 || free - best_free < best_used {
            return None;
        }
        self.slabs.unlink(&mut head, best);
        self.slabs.get(best).own_listed();
        Some(best)
    }

    /// Takes a slot of `class` that needs no more memory.
    pub fn take_listed(&self, memory: &Memory, current: &mut Current, class: u8) -> Option<Slot> {
        let mine = &mut current.0[class as usize];
        for _ in 0..SPARSE_LOOKED_AT {
            if *mine == NONE {
                *mine = self.acquire_listed(class)?;
            }
            let slab = self.slabs.get(*mine);
            if let Some(index) = slab.first_free() {
                let start = index * slot_bytes(class);
                if start + slot_bytes(class) <= slab.touched() as usize * PAGE_SIZE {
                    slab.take(index);
                    return Some(Slot {
                        place: *mine as u64 * SLAB_BYTES as u64 + start as u64,
                    });
                }
            }
            // Another one first, so that this one is not the next to be found.
            let other = self.acquire_listed(class);
            self.give_up_or_retire(memory, *mine, class);
            *mine = NONE;
            *mine = other?;
        }
        None
    }

    /// Pages of memory that slab `index` has.
    pub fn touched_pages(&self, index: u32) -> u32 {
        self.slabs.get(index).touched()
    }

    /// The slots of slab `index` that are taken at this moment.
    pub fn taken_slots(&self, index: u32) -> impl Iterator<Item = usize> + '_ {
        let slab = self.slabs.get(index);
        (0..class::slots(slab.class())).filter(|slot| slab.is_taken(*slot))
    }

    /// Ends the caller's ownership; returns whether the slab was empty and is free now.
    pub fn give_up_or_retire(&self, memory: &Memory, index: u32, class: u8) -> bool {
        let empty = self.give_up(index, class);
        if let Some(index) = empty {
            self.retire(memory, index);
        }
        empty.is_some()
    }

    /// Gives back the slabs that a worker owns and in which nothing is left; whether there were any.
    pub fn give_up_empty(&self, memory: &Memory, current: &mut Current) -> bool {
        let mut any = false;
        for (class, index) in current.0.iter_mut().enumerate() {
            if *index != NONE && self.slabs.get(*index).used() == 0 {
                self.give_up_or_retire(memory, *index, class as u8);
                *index = NONE;
                any = true;
            }
        }
        any
    }

    /// Gives back all slabs that a worker owns.
    pub fn give_up_all(&self, memory: &Memory, current: &mut Current) {
        for (class, index) in current.0.iter_mut().enumerate() {
            if *index != NONE {
                self.give_up_or_retire(memory, *index, class as u8);
                *index = NONE;
            }
        }
    }

    /// Ends a worker's ownership; returns the slab if it turned out to be empty.
    fn give_up(&self, index: u32, class: u8) -> Option<u32> {
        let mut head = lock(&self.classes[class as usize]);
        let slab = self.slabs.get(index);
        let state = slab.disown();
        if state.used == 0 {
            slab.set_unclassed();
            return Some(index);
        }
        if (state.used as usize) < class::slots(class) {
            self.slabs.link(&mut head, index);
            slab.set_listed(true);
        }
        None
    }

    /// A slab of `class` with a free slot, owned by the caller.
    fn acquire(&self, class: u8) -> Result<u32, WriteError> {
        if let Some(index) = self.acquire_listed(class) {
            return Ok(index);
        }
        let index = self.take_free()?;
        if self.growth == Growth::OnDemand && self.slabs.populate(index).is_err() {
            // A page fault without memory would kill the process. The slab's address space is lost.
            return Err(WriteError::NoMemory);
        }
        let slab = self.slabs.get(index);
        if let Err(error) = self.count_used(slab.touched()) {
            self.push_free(index);
            return Err(error);
        }
        slab.set_class(class);
        Ok(index)
    }

    /// A listed slab of `class`, owned by the caller.
    fn acquire_listed(&self, class: u8) -> Option<u32> {
        let mut head = lock(&self.classes[class as usize]);
        let index = *head;
        if index == NONE {
            return None;
        }
        self.slabs.unlink(&mut head, index);
        self.slabs.get(index).own_listed();
        Some(index)
    }

    fn take_free(&self) -> Result<u32, WriteError> {
        let index = {
            let mut free = lock(&self.free);
            if let Some(index) = self.pop_ready(&mut free) {
                Some(index)
            } else if self.growth == Growth::OnDemand {
                self.take_memoryless(&mut free)
            } else {
                self.ready_min.store(0, Relaxed);
                None
            }
        };
        if let Growth::Reserve(_) = self.growth
            && self.ready_count.load(Relaxed) < self.ready_target()
        {
            self.wake();
        }
        index.ok_or(WriteError::NoMemory)
    }

    /// A free slab without memory, if there is one.
    fn take_memoryless(&self, free: &mut Free) -> Option<u32> {
        if free.cold != NONE {
            let index = free.cold;
            free.cold = self.slabs.get(index).next();
            Some(index)
        } else if free.fresh < self.slabs.count() {
            free.fresh += 1;
            Some(free.fresh - 1)
        } else {
            None
        }
    }

    /// Makes the first `pages` pages of an owned slab present.
    fn grow(&self, memory: &Memory, index: u32, pages: u32) -> Result<(), WriteError> {
        let slab = self.slabs.get(index);
        let touched = slab.touched();
        if pages <= touched {
            return Ok(());
        }
        let pages = (pages.max(touched + GROW_PAGES)).min(SLAB_PAGES);
        self.count_used(pages - touched)?;
        if self.populate(memory, index, touched, pages).is_err() {
            self.used_pages.fetch_sub((pages - touched) as u64, Relaxed);
            return Err(WriteError::NoMemory);
        }
        slab.set_touched(pages);
        Ok(())
    }

    fn populate(&self, memory: &Memory, index: u32, from: u32, to: u32) -> io::Result<()> {
        let start = self.offset(index as u64 * SLAB_BYTES as u64);
        memory.populate(start + from as usize * PAGE_SIZE..start + to as usize * PAGE_SIZE)
    }

    /// Counts `pages` as used, unless that is more than the limit.
    fn count_used(&self, pages: u32) -> Result<(), WriteError> {
        let used = self.used_pages.fetch_add(pages as u64, Relaxed) + pages as u64;
        if used > self.limit_pages.load(Relaxed) {
            self.used_pages.fetch_sub(pages as u64, Relaxed);
            return Err(WriteError::Limit);
        }
        self.used_pages_max.fetch_max(used, Relaxed);
        Ok(())
    }

    /// Puts an empty slab without class among the free ones, or gives its memory back.
    fn retire(&self, memory: &Memory, index: u32) {
        self.used_pages
            .fetch_sub(self.slabs.get(index).touched() as u64, Relaxed);
        match self.growth {
            Growth::OnDemand if self.ready_count.load(Relaxed) >= READY_KEPT => {
                // Refused, it stays ready, which is no harm.
                let _ = self.make_cold(memory, index);
            }
            Growth::Reserve(_) if self.ready_count.load(Relaxed) >= self.ready_high() => {
                self.push_free(index);
                self.wake();
            }
            _ => self.push_free(index),
        }
    }

    /// Puts a slab without class on the list of those with memory, or of those without.
    fn push_free(&self, index: u32) {
        let slab = self.slabs.get(index);
        let touched = slab.touched();
        let mut free = lock(&self.free);
        if touched == 0 {
            slab.set_next(free.cold);
            free.cold = index;
            self.exhausted.store(false, Relaxed);
        } else {
            slab.set_next(free.ready);
            free.ready = index;
            self.ready_count.fetch_add(1, SeqCst);
            self.ready_pages.fetch_add(touched as u64, Relaxed);
        }
    }

    /// Takes a slab from the list of those with memory.
    fn pop_ready(&self, free: &mut Free) -> Option<u32> {
        let index = free.ready;
        if index == NONE {
            return None;
        }
        let slab = self.slabs.get(index);
        free.ready = slab.next();
        let left = self.ready_count.fetch_sub(1, SeqCst) - 1;
        self.ready_min.fetch_min(left, Relaxed);
        self.ready_pages.fetch_sub(slab.touched() as u64, Relaxed);
        Some(index)
    }

    /// Gives the memory of a free slab, which is on no list, back to the system. If the system does
    /// not take it, the slab is ready as before.
    fn make_cold(&self, memory: &Memory, index: u32) -> io::Result<()> {
        let slab = self.slabs.get(index);
        let start = self.offset(index as u64 * SLAB_BYTES as u64);
        // SAFETY: the slab is free and on no list, so only we know of it, and no entry names a
        // place in it.
        let released = unsafe { memory.release(start..start + SLAB_BYTES) };
        if released.is_ok() {
            slab.set_touched(0);
        }
        self.push_free(index);
        released
    }

    /// Slabs that are to be ready at any time.
    fn ready_target(&self) -> u32 {
        match self.growth {
            Growth::Reserve(bytes) => (bytes / SLAB_BYTES as u64) as u32,
            _ => 0,
        }
    }

    /// From how many ready slabs on memory is given back. The gap to the target keeps a device
    /// that frees and writes in turn from asking the system each time.
    fn ready_high(&self) -> u32 {
        self.ready_target() + self.ready_target() / 2 + MAINTAIN_SLABS
    }

    /// Bytes of the reserve that are wanted.
    pub fn reserve_target(&self) -> u64 {
        self.ready_target() as u64 * SLAB_BYTES as u64
    }

    /// Populates up to a MiB if the reserve is below its target, or gives one back if it is far
    /// above. Returns whether there is more to do; an error where the system has no memory, in which
    /// case it was not asked for any.
    pub fn maintain(&self, memory: &Memory) -> io::Result<bool> {
        let target = self.ready_target();
        if target == 0 {
            return Ok(false);
        }
        let ready = self.ready_count.load(Relaxed);
        if ready < target {
            let spare = self.system.as_ref().map_or(u64::MAX, System::spare) / SLAB_BYTES as u64;
            let wanted = MAINTAIN_SLABS.min(target - ready);
            let count = u64::from(wanted).min(spare) as u32;
            if count == 0 {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            return self
                .add_ready(memory, count)
                .map(|added| added && self.ready_count.load(Relaxed) < target);
        }
        for _ in 0..MAINTAIN_SLABS {
            if self.ready_count.load(Relaxed) <= self.ready_high() {
                return Ok(false);
            }
            let Some(index) = self.pop_ready(&mut lock(&self.free)) else {
                return Ok(false);
            };
            self.make_cold(memory, index)?;
        }
        Ok(true)
    }

    /// Populates `count` more slabs; `false` when there are no more.
    pub fn add_ready(&self, memory: &Memory, count: u32) -> io::Result<bool> {
        for _ in 0..count {
            let Some(index) = self.take_memoryless(&mut lock(&self.free)) else {
                self.exhausted.store(true, Relaxed);
                return Ok(false);
            };
            let populated = self
                .slabs
                .populate(index)
                .and_then(|()| self.populate(memory, index, 0, SLAB_PAGES));
            if populated.is_ok() {
                self.slabs.get(index).set_touched(SLAB_PAGES);
            }
            self.push_free(index);
            populated?;
        }
        Ok(true)
    }

    /// Starts to watch the lowest level of the reserve, from now on.
    pub fn watch_ready(&self) {
        self.ready_min
            .store(self.ready_count.load(Relaxed), Relaxed);
    }

    /// Whether a page from `place` on lies in the arena.
    pub fn contains(&self, place: u64) -> bool {
        place < u64::from(self.slabs.count()) * SLAB_BYTES as u64 - PAGE_SIZE as u64 + 1
    }

    /// Whether a page table entry may name an object of `bytes` at `place`: there is such a slot,
    /// and it is taken. Anything else is damage.
    pub fn is_slot_of(&self, place: u64, bytes: usize) -> bool {
        let index = place / SLAB_BYTES as u64;
        if index >= u64::from(self.slabs.count()) {
            return false;
        }
        let slab = self.slabs.get(index as u32);
        let offset = (place % SLAB_BYTES as u64) as usize;
        let class = slab.class();
        slab.has_class()
            && bytes <= slot_bytes(class)
            && offset.is_multiple_of(slot_bytes(class))
            && slab.is_taken(offset / slot_bytes(class))
    }

    /// Wakes the maintenance thread, without a system call if it is known to be awake.
    fn wake(&self) {
        if !self.awake.swap(true, SeqCst) {
            self.wakes.fetch_add(1, Release);
            slab::futex_wake(&self.wakes);
        }
    }

    /// Sleeps until woken, or `timeout` is over.
    pub fn wait(&self, timeout: std::time::Duration) {
        let seen = self.wakes.load(Acquire);
        // Sequentially consistent against `take_free`, which lowers the count and then looks at
        // `awake`: either it sees `false` and wakes us, or we see the lower count.
        self.awake.store(false, SeqCst);
        let low = self.ready_count.load(SeqCst) < self.ready_target();
        if !low || self.exhausted.load(Relaxed) {
            slab::futex_wait(&self.wakes, seen, timeout);
        } else {
            // Memory is short: the last attempt failed. Try again soon.
            std::thread::sleep(timeout.min(std::time::Duration::from_millis(1)));
        }
        self.awake.store(true, Release);
    }

    /// Whether all counts and lists agree. Only while nobody reads or writes. For tests.
    pub fn check(&self) -> Result<(), String> {
        let mut used = 0;
        for index in 0..lock(&self.free).fresh {
            let slab = self.slabs.get(index);
            slab.check()
                .map_err(|what| format!("slab {index}: {what}"))?;
            if slab.has_class() {
                used += slab.touched() as u64;
            }
        }
        let counted = self.used_pages.load(Relaxed);
        if used != counted {
            return Err(format!("{used} pages are used, {counted} are counted"));
        }
        for (class, head) in self.classes.iter().enumerate() {
            let mut index = *lock(head);
            while index != NONE {
                let slab = self.slabs.get(index);
                if !slab.is_listed_in(class as u8) {
                    return Err(format!("slab {index} stands in the list of class {class}"));
                }
                index = slab.next();
            }
        }
        let free = lock(&self.free);
        let (mut index, mut ready) = (free.ready, 0);
        while index != NONE {
            ready += 1;
            index = self.slabs.get(index).next();
        }
        let counted = self.ready_count.load(Relaxed);
        if ready != counted {
            return Err(format!("{ready} slabs are ready, {counted} are counted"));
        }
        Ok(())
    }

    /// Slots that are taken, over all slabs. For checks.
    pub fn taken(&self) -> u64 {
        (0..lock(&self.free).fresh)
            .map(|index| self.slabs.get(index).taken() as u64)
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
