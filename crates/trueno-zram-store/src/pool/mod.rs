//! The size-class pool: where objects lie.
//!
//! The arena is cut into slabs of 64 KiB. A slab is free, or cut into equal slots of one size
//! class ([`class`]). What is known of a slab ([`slab`]) is private memory: it is not needed to
//! read objects, and can be rebuilt from the page table.
//!
//! # Who owns what
//! - A slab that has a class is *owned* by one worker, which alone takes slots in it; or it is
//!   *listed* in its class, with free slots for whoever asks; or it is full and neither.
//! - What a worker owns stands in its [`Current`], which it locks from taking a slot until the
//!   object is published. Others only try that lock: so every slot that is taken in a slab which
//!   they recall has been published.
//! - Any thread may free a slot of any slab, without a lock: it clears a bit and counts down.
//!   Only a count that makes a slab change its list takes the lock of the class.
//!
//! # Locks
//! A class lock guards the list of that class and the flags `owned` and `listed` of its slabs. The
//! free lock guards the lists of free slabs. The free lock is the innermost; nobody holds two
//! class locks. Both are held for a few dozen instructions, never across a system call or a fault.
//! A worker's own lock comes before them. Only the worker itself waits for it; whoever else got it
//! by trying waits for nothing before letting it go.
//!
//! # Where memory comes from
//! ```text
//! fresh ──populate──> ready ──take──> (a class) ──last slot freed──> ready ──release──> cold
//!                       ^──────────────────────populate────────────────────────────────────┘
//! ```
//! *fresh*: never used. *ready*: free, with memory. *cold*: free, its memory given back.
//!
//! Memory counts as *used* page by page as a slab is filled, whenever it was populated; all that is
//! populated and not used is the reserve's.

pub(crate) mod class;
mod slab;

use crate::Memory;
use crate::error::WriteError;
use crate::plan::{Growth, Plan};
pub(crate) use class::{CLASS_COUNT, HUGE, OBJECT_MAX, SLAB_BYTES, class_of, slot_bytes};
use slab::{Listed, NONE, Slabs};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use trueno_zram_core::PAGE_SIZE;

/// Pages of the operating system in a slab.
const SLAB_PAGES: u32 = (SLAB_BYTES / PAGE_SIZE) as u32;

/// By how many pages a slab is filled further at a time, at most: counted, and populated when growing
/// on demand. Up to half of what it has, so that a class that is rarely used takes little.
const GROW_PAGES: u32 = 4;

/// Free slabs with memory that a pool growing on demand keeps for the next writes: 2 MiB.
const READY_KEPT: u32 = 32;

/// How many slabs of a class compaction looks at for the emptiest, under the class's lock.
pub(crate) const SPARSE_LOOKED_AT: u32 = 64;

/// How many slabs of its class a worker looks at for a slot that needs no new memory.
const LISTED_TRIES: usize = 16;

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
    /// Memory that is populated and not used.
    pub ready: u64,
    /// The lowest it has been, in whole slabs.
    pub ready_min: u64,
}

#[derive(Debug)]
pub(crate) struct Pool {
    slabs: Slabs,
    arena_offset: usize,
    growth: Growth,
    classes: [Mutex<Listed>; CLASS_COUNT],
    /// What each worker owns.
    workers: Mutex<Vec<Arc<Mutex<Current>>>>,
    free: Mutex<Free>,
    /// Slabs in the list `ready`, for looking without the lock.
    ready_count: AtomicU32,
    ready_min: AtomicU32,
    /// Pages of memory that slabs have, of a class or free.
    populated_pages: AtomicU64,
    /// Pages of memory that slabs of a class have filled. Never above the limit, unless that was
    /// lowered.
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
            classes: std::array::from_fn(|_| Mutex::new(Listed::new())),
            workers: Mutex::default(),
            free: Mutex::new(Free {
                ready: NONE,
                cold: NONE,
                fresh: 0,
            }),
            ready_count: AtomicU32::new(0),
            ready_min: AtomicU32::new(u32::MAX),
            populated_pages: AtomicU64::new(0),
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
        let used = pages(&self.used_pages);
        Usage {
            used,
            used_max: pages(&self.used_pages_max),
            // What is used is counted before it is populated.
            ready: pages(&self.populated_pages).saturating_sub(used),
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

    /// What a new worker owns: nothing yet.
    pub fn enter_worker(&self) -> Arc<Mutex<Current>> {
        let current = Arc::new(Mutex::new(Current::new()));
        lock(&self.workers).push(Arc::clone(&current));
        current
    }

    /// Gives back all that a worker owns, which ends.
    pub fn leave_worker(&self, memory: &Memory, current: &Arc<Mutex<Current>>) {
        lock(&self.workers).retain(|one| !Arc::ptr_eq(one, current));
        self.give_up_all(memory, &mut lock(current));
    }

    /// Takes a slot of `class` for a worker.
    pub fn take(
        &self,
        memory: &Memory,
        current: &mut Current,
        class: u8,
    ) -> Result<Slot, WriteError> {
        let first = self.try_take(memory, current, class, true);
        if first.is_err() {
            // Workers hold memory in slabs in which nothing is left: this one, and others.
            let mut any = self.give_up_empty(memory, current);
            if let Ok(workers) = self.workers.try_lock() {
                let empty = |index| self.slabs.get(index).used() == 0;
                any |= self.recall_from(memory, &workers, 0..CLASS_COUNT, empty);
            }
            if any {
                return self.try_take(memory, current, class, true);
            }
        }
        first
    }

    /// Takes a slot of `class` that needs no more memory.
    pub fn take_listed(&self, memory: &Memory, current: &mut Current, class: u8) -> Option<Slot> {
        self.try_take(memory, current, class, false).ok()
    }

    /// Takes a slot of `class`; only if `may_grow`, one that needs more memory.
    fn try_take(
        &self,
        memory: &Memory,
        current: &mut Current,
        class: u8,
        may_grow: bool,
    ) -> Result<Slot, WriteError> {
        let mine = &mut current.0[class as usize];
        let mut tried = [NONE; LISTED_TRIES];
        let mut tries = 0;
        let mut error = WriteError::NoMemory;
        let result = loop {
            if *mine == NONE {
                let found = match self.acquire_listed(class) {
                    Some(index) => Ok(index),
                    None if may_grow && tries == 0 => self.acquire_free(class),
                    None => Err(error),
                };
                match found {
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
            let grown = if pages <= slab.filled() {
                Ok(())
            } else if may_grow {
                self.grow(memory, *mine, pages)
            } else {
                Err(WriteError::NoMemory)
            };
            if let Err(refused) = grown {
                // No more memory for this slab. Others of the class may have slots that were
                // freed, in memory they have already. This one is kept until the end, so that it
                // is not the next to be found.
                error = refused;
                tried[tries] = *mine;
                tries += 1;
                *mine = NONE;
                if tries < LISTED_TRIES {
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
        let mut listed = lock(&self.classes[class as usize]);
        let after = slab.count_down_locked();
        if after.owned {
            return;
        }
        if after.used == 0 {
            if after.listed {
                self.slabs.unlink(&mut listed, index);
            }
            let filled = slab.set_unclassed();
            drop(listed);
            self.retire(memory, index, filled);
        } else if !after.listed && (after.used as usize) < class::slots(class) {
            // The count can be above the slots taken, while another thread that has cleared its
            // bit has not counted down yet and the bit was taken again: then that one lists it.
            self.slabs.link(&mut listed, index);
            slab.set_listed(true);
        }
    }

    /// A listed slab of `class`, owned by the caller, whose objects fit into the free slots of
    /// other listed slabs, if emptying it is worth the copies: at most half of it is in use. Looks at
    /// [`SPARSE_LOOKED_AT`] slabs; if none is found, the next call looks at others.
    pub fn acquire_sparse(&self, class: u8) -> Option<u32> {
        let slots = class::slots(class) as u32;
        let mut listed = lock(&self.classes[class as usize]);
        let (mut best, mut best_used, mut best_free, mut free) = (NONE, u32::MAX, 0, 0);
        let mut index = listed.head;
        for _ in 0..listed.len.min(SPARSE_LOOKED_AT) {
            let slab = self.slabs.get(index);
            let used = u32::from(slab.used());
            // Slots beyond the memory that the slab has got would need more of it.
            let have = slab.filled() * PAGE_SIZE as u32 / slot_bytes(class) as u32;
            let free_here = have.min(slots).saturating_sub(used);
            free += free_here;
            if used < best_used {
                (best, best_used, best_free) = (index, used, free_here);
            }
            index = slab.next();
        }
        if best == NONE || best_used > slots / 2 || free - best_free < best_used {
            listed.head = index;
            return None;
        }
        self.slabs.unlink(&mut listed, best);
        self.slabs.get(best).own_listed();
        Some(best)
    }

    /// How many slabs of `class` are listed.
    pub fn listed(&self, class: u8) -> u32 {
        lock(&self.classes[class as usize]).len
    }

    /// Pages of memory that slab `index` uses.
    pub fn filled_pages(&self, index: u32) -> u32 {
        self.slabs.get(index).filled()
    }

    /// The slots of slab `index` that are taken at this moment.
    pub fn taken_slots(&self, index: u32) -> impl Iterator<Item = usize> + '_ {
        let slab = self.slabs.get(index);
        (0..class::slots(slab.class())).filter(|slot| slab.is_taken(*slot))
    }

    /// Makes slabs of `class` that workers own everybody's again: an idle worker keeps nothing.
    pub fn recall(&self, memory: &Memory, class: u8) {
        let class = class as usize;
        self.recall_from(memory, &lock(&self.workers), class..class + 1, |_| true);
    }

    /// Gives up slabs that `workers` own, of some classes, if they are `wanted`; whether there were
    /// any. Workers that are at work are left alone.
    fn recall_from(
        &self,
        memory: &Memory,
        workers: &[Arc<Mutex<Current>>],
        classes: Range<usize>,
        wanted: impl Fn(u32) -> bool,
    ) -> bool {
        let mut any = false;
        for worker in workers {
            for class in classes.clone() {
                let Ok(mut current) = worker.try_lock() else {
                    break;
                };
                let index = current.0[class];
                if index != NONE && wanted(index) {
                    current.0[class] = NONE;
                    drop(current);
                    self.give_up_or_retire(memory, index, class as u8);
                    any = true;
                }
            }
        }
        any
    }

    /// Ends the caller's ownership; returns whether the slab was empty and is free now.
    pub fn give_up_or_retire(&self, memory: &Memory, index: u32, class: u8) -> bool {
        let mut listed = lock(&self.classes[class as usize]);
        let slab = self.slabs.get(index);
        let state = slab.disown();
        if state.used == 0 {
            let filled = slab.set_unclassed();
            drop(listed);
            self.retire(memory, index, filled);
            return true;
        }
        if (state.used as usize) < class::slots(class) {
            self.slabs.link(&mut listed, index);
            slab.set_listed(true);
        }
        false
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

    /// A free slab, made one of `class` and owned by the caller.
    fn acquire_free(&self, class: u8) -> Result<u32, WriteError> {
        if self.used_pages.load(Relaxed) >= self.limit_pages.load(Relaxed) {
            // It could not be filled.
            return Err(WriteError::Limit);
        }
        let index = self.take_free()?;
        self.slabs.get(index).set_class(class);
        Ok(index)
    }

    /// A listed slab of `class`, owned by the caller.
    fn acquire_listed(&self, class: u8) -> Option<u32> {
        let mut listed = lock(&self.classes[class as usize]);
        let index = listed.head;
        if index == NONE {
            return None;
        }
        self.slabs.unlink(&mut listed, index);
        self.slabs.get(index).own_listed();
        Some(index)
    }

    fn take_free(&self) -> Result<u32, WriteError> {
        let ready = self.pop_ready(&mut lock(&self.free));
        let index = match self.growth {
            Growth::OnDemand if ready.is_none() => {
                self.take_memoryless().map_err(|_| WriteError::NoMemory)?
            }
            _ => ready,
        };
        if index.is_none() {
            self.ready_min.store(0, Relaxed);
        }
        if let Growth::Reserve(_) = self.growth
            && self.ready_count.load(Relaxed) < self.ready_target()
        {
            self.wake();
        }
        index.ok_or(WriteError::NoMemory)
    }

    /// A free slab without memory, if there is one; an error if the system has no memory for what
    /// is known of it. That comes first: a slab that is taken can be put on a list without a fault.
    fn take_memoryless(&self) -> io::Result<Option<u32>> {
        loop {
            let present = self.slabs.present();
            {
                let mut free = lock(&self.free);
                if free.cold != NONE {
                    let index = free.cold;
                    free.cold = self.slabs.get(index).next();
                    return Ok(Some(index));
                }
                if free.fresh == self.slabs.count() {
                    return Ok(None);
                }
                if free.fresh < present {
                    free.fresh += 1;
                    return Ok(Some(free.fresh - 1));
                }
            }
            self.slabs.make_present(present)?;
        }
    }

    /// Lets an owned slab be filled up to `pages` pages, which is more than it is now.
    fn grow(&self, memory: &Memory, index: u32, pages: u32) -> Result<(), WriteError> {
        let slab = self.slabs.get(index);
        let (filled, touched) = (slab.filled(), slab.touched());
        let step = (filled / 2).clamp(1, GROW_PAGES);
        let mut ahead = (filled + step).min(SLAB_PAGES).max(pages);
        if pages <= touched {
            ahead = ahead.min(touched);
        }
        let used = self.count_used(ahead - filled).or_else(|_| {
            // Near the limit every page counts.
            ahead = pages;
            self.count_used(ahead - filled)
        })?;
        if ahead > touched {
            if self.populate(memory, index, touched, ahead).is_err() {
                self.used_pages.fetch_sub((ahead - filled) as u64, Relaxed);
                return Err(WriteError::NoMemory);
            }
            slab.set_touched(ahead);
        }
        slab.set_filled(ahead);
        self.used_pages_max.fetch_max(used, Relaxed);
        Ok(())
    }

    /// Populates pages `from..to` of a slab that the caller owns, or that is free and on no list;
    /// it has none from `from` on.
    fn populate(&self, memory: &Memory, index: u32, from: u32, to: u32) -> io::Result<()> {
        let start = self.offset(index as u64 * SLAB_BYTES as u64);
        let range = start + from as usize * PAGE_SIZE..start + to as usize * PAGE_SIZE;
        let populated = memory.populate(range.clone());
        if populated.is_ok() {
            self.populated_pages.fetch_add((to - from) as u64, Relaxed);
        } else {
            // Some of the pages may have come, and nobody would know of them.
            // SAFETY: the slab is the caller's, and beyond `from` it has never had memory since it
            // was free, so no object lies there.
            let _ = unsafe { memory.release(range) };
        }
        populated
    }

    /// Counts `pages` as used, unless that is more than the limit: one step, so that of two who ask
    /// for the last pages one gets them. Returns how many are used now.
    fn count_used(&self, pages: u32) -> Result<u64, WriteError> {
        let limit = self.limit_pages.load(Relaxed);
        let more = |used| Some(used + pages as u64).filter(|used| *used <= limit);
        match self.used_pages.fetch_update(Relaxed, Relaxed, more) {
            Ok(before) => Ok(before + pages as u64),
            Err(_) => Err(WriteError::Limit),
        }
    }

    /// Puts an empty slab without class among the free ones, or gives its memory back; `filled` of
    /// its pages were used.
    fn retire(&self, memory: &Memory, index: u32, filled: u32) {
        self.used_pages.fetch_sub(filled as u64, Relaxed);
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
            self.populated_pages
                .fetch_sub(slab.touched() as u64, Relaxed);
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
    /// above. Returns whether there is more to do.
    pub fn maintain(&self, memory: &Memory) -> io::Result<bool> {
        let target = self.ready_target();
        if target == 0 {
            return Ok(false);
        }
        let ready = self.ready_count.load(Relaxed);
        if ready < target {
            return self
                .add_ready(memory, MAINTAIN_SLABS.min(target - ready))
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
            let Some(index) = self.take_memoryless()? else {
                self.exhausted.store(true, Relaxed);
                return Ok(false);
            };
            let populated = self.populate(memory, index, 0, SLAB_PAGES);
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

    /// The class of the slot at `place`, if there is a slot and it is taken. Anything else in a page
    /// table entry is damage.
    pub fn class_at(&self, place: u64) -> Option<u8> {
        let index = place / SLAB_BYTES as u64;
        if index >= u64::from(self.slabs.count()) {
            return None;
        }
        let slab = self.slabs.get(index as u32);
        let class = slab.class_in_use()?;
        let offset = (place % SLAB_BYTES as u64) as usize;
        let slot = offset / slot_bytes(class);
        let taken = offset.is_multiple_of(slot_bytes(class))
            && slot < class::slots(class)
            && slab.is_taken(slot);
        taken.then_some(class)
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

    /// Whether all counts and lists agree: every slab is free and on one list, or listed in its
    /// class, or owned by one worker, or full. Only while nobody reads or writes. For tests.
    pub fn check(&self) -> Result<(), String> {
        let count = lock(&self.free).fresh;
        let mut places: Vec<&str> = vec![""; count as usize];
        let mut put = |index: u32, place: &'static str| match places.get_mut(index as usize) {
            Some(known) if known.is_empty() => {
                *known = place;
                Ok(())
            }
            Some(known) => Err(format!("slab {index} is {place} and {known}")),
            None => Err(format!("slab {index} is {place}, and was never used")),
        };
        for (class, listed) in self.classes.iter().enumerate() {
            let listed = lock(listed);
            let mut index = listed.head;
            for _ in 0..listed.len {
                put(index, "listed")?;
                let slab = self.slabs.get(index);
                if !slab.state().listed || slab.class() as usize != class {
                    return Err(format!("slab {index} stands in the list of class {class}"));
                }
                index = slab.next();
            }
            if index != listed.head {
                return Err(format!("the list of class {class} is no ring"));
            }
        }
        for worker in lock(&self.workers).iter() {
            for (class, index) in lock(worker).0.iter().enumerate() {
                if *index == NONE {
                    continue;
                }
                put(*index, "owned")?;
                let slab = self.slabs.get(*index);
                if !slab.state().owned || slab.class() as usize != class {
                    return Err(format!("slab {index} is a worker's for class {class}"));
                }
            }
        }
        let ready = {
            let free = lock(&self.free);
            let mut ready = 0;
            for (mut index, place) in [(free.ready, "ready"), (free.cold, "cold")] {
                while index != NONE {
                    put(index, place)?;
                    let slab = self.slabs.get(index);
                    if slab.class_in_use().is_some() || (slab.touched() > 0) != (place == "ready") {
                        return Err(format!("slab {index} is {place}: {slab:?}"));
                    }
                    ready += (place == "ready") as u32;
                    index = slab.next();
                }
            }
            ready
        };
        let (mut used, mut populated) = (0, 0);
        for index in 0..count {
            let slab = self.slabs.get(index);
            slab.check()
                .map_err(|what| format!("slab {index}: {what}"))?;
            used += slab.filled() as u64;
            populated += slab.touched() as u64;
            let state = slab.state();
            let full = slab.class_in_use().is_some() && !state.owned && !state.listed;
            if full != places[index as usize].is_empty() {
                return Err(format!(
                    "slab {index} is on the list {:?}: {state:?}",
                    places[index as usize]
                ));
            }
        }
        let found = (used, populated, ready);
        let counted = (
            self.used_pages.load(Relaxed),
            self.populated_pages.load(Relaxed),
            self.ready_count.load(Relaxed),
        );
        if found != counted {
            return Err(format!(
                "counted {counted:?}, found {found:?} (pages used, populated, slabs ready)"
            ));
        }
        Ok(())
    }

    /// The places of all slots that are taken, ascending. For checks.
    pub fn taken_places(&self) -> impl Iterator<Item = u64> + '_ {
        (0..lock(&self.free).fresh)
            .filter(|index| self.slabs.get(*index).class_in_use().is_some())
            .flat_map(|index| {
                let start = index as u64 * SLAB_BYTES as u64;
                let bytes = slot_bytes(self.slabs.get(index).class());
                self.taken_slots(index)
                    .map(move |slot| start + (slot * bytes) as u64)
            })
    }
}

fn limit_pages(limit: Option<u64>) -> u64 {
    limit.map_or(u64::MAX / 2, |bytes| bytes / PAGE_SIZE as u64)
}

/// A panic while a lock is held ends the process (or a test); the lists are then as they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Barrier;
    use trueno_zram_core::codec::lz4::Lz4;

    fn pool(limit: Option<u64>) -> (Pool, Plan, Memory) {
        let plan = Plan::new(&Config::new(1 << 20, Arc::new(Lz4))).unwrap();
        let memory = Memory::anonymous(plan.memory_bytes()).unwrap();
        let pool = Pool::new(&plan, &memory, Growth::OnDemand, limit).unwrap();
        (pool, plan, memory)
    }

    #[test]
    fn of_two_who_ask_for_the_last_pages_one_gets_them() {
        let (pool, ..) = pool(Some(7 * PAGE_SIZE as u64));
        let barrier = Barrier::new(2);
        let ask = || {
            let mut got = 0;
            for _ in 0..20_000 {
                barrier.wait();
                let mine = pool.count_used(4).is_ok();
                barrier.wait();
                if mine {
                    got += 1;
                    pool.used_pages.fetch_sub(4, Relaxed);
                }
                barrier.wait();
            }
            got
        };
        let both: u32 = std::thread::scope(|scope| {
            let other = scope.spawn(ask);
            ask() + other.join().unwrap()
        });
        assert_eq!(both, 20_000);
    }

    /// A file that ends early stands for a system that runs out of memory half way.
    #[test]
    fn memory_that_comes_in_part_goes_back() {
        let (pool, plan, _) = pool(None);
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let memory = Memory::from_file(file.try_clone().unwrap(), plan.memory_bytes()).unwrap();
        let mut current = Current::new();
        // Enough for the first 5 pages; then two come at once.
        file.set_len((plan.arena_offset + 5 * PAGE_SIZE) as u64)
            .unwrap();
        for _ in 0..4 {
            pool.take(&memory, &mut current, HUGE).unwrap();
        }
        let before = pool.usage();
        assert_eq!(before.used, 4 * PAGE_SIZE as u64);
        let refused = pool.take(&memory, &mut current, HUGE);
        assert_eq!(refused, Err(WriteError::NoMemory));
        file.set_len((plan.arena_offset + SLAB_BYTES + 2 * PAGE_SIZE) as u64)
            .unwrap();
        assert!(pool.add_ready(&memory, 1).is_err());
        assert_eq!(file.metadata().unwrap().blocks() * 512, before.used);
        assert_eq!(pool.usage(), before);
        pool.give_up_all(&memory, &mut current);
        pool.check().unwrap();
        file.set_len(plan.memory_bytes()).unwrap();
        pool.take(&memory, &mut current, HUGE).unwrap();
        assert_eq!(pool.usage().used, 6 * PAGE_SIZE as u64);
    }
}
