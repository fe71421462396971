//! What is known of each slab.
//!
//! Its [`Map`] says where its bytes are, and is part of what outlives the process. The [`Slab`]
//! beside it says which slots are taken; it is rebuilt from the page table.
//!
//! ```text
//! state: 47..40 pages │ 39..32 class │ 17 listed │ 16 owned │ 15..0 used slots
//! ```
//! `state` is one word so that a thread that frees the last slot and the owner that gives the slab
//! up cannot miss each other. `owned`, `listed` and `class` change only under the class lock, or
//! while nobody else knows the slab; `pages` changes only by whoever owns the slab, or while nobody
//! else knows it.

use super::class::{self, SLAB_PAGES, SLOTS_MAX};
use super::frames::Frame;
use crate::Memory;
use crate::step::step;
use std::mem::{offset_of, size_of};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use trueno_zram_core::PAGE_SIZE;

/// No slab.
pub(super) const NONE: u32 = u32::MAX;

/// The class of a slab that has none.
const UNCLASSED: u8 = u8::MAX;

const USED: u64 = 0xffff;
const OWNED: u64 = 1 << 16;
const LISTED: u64 = 1 << 17;
const CLASS_SHIFT: u32 = 32;
const PAGES_SHIFT: u32 = 40;

/// Where a slab's bytes are: its class, and the frame of each of its pages. What it says counts as
/// long as the page table names a slot of the slab: it is complete before a slot is published, and
/// a frame is taken out of it before it goes to somebody else.
///
/// All zeros is a slab that was never used.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Map {
    /// One more than the class.
    class: AtomicU32,
    /// One more than the number of each page's frame; 0 where there is none.
    frames: [AtomicU32; SLAB_PAGES],
}

impl Map {
    /// The class, if it can be one.
    pub fn class(&self) -> Option<u8> {
        let class = self.class.load(Relaxed).wrapping_sub(1);
        (class < class::CLASS_COUNT as u32).then_some(class as u8)
    }

    pub fn set_class(&self, class: u8) {
        step();
        self.class.store(u32::from(class) + 1, Relaxed);
    }

    pub fn frame(&self, page: usize) -> Option<Frame> {
        self.frames[page].load(Relaxed).checked_sub(1).map(Frame)
    }

    pub fn set_frame(&self, page: usize, frame: Frame) {
        step();
        self.frames[page].store(frame.0 + 1, Release);
    }

    /// Takes the frame of a page out.
    pub fn take_frame(&self, page: usize) -> Option<Frame> {
        step();
        self.frames[page].swap(0, AcqRel).checked_sub(1).map(Frame)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub used: u16,
    pub owned: bool,
    pub listed: bool,
    pub pages: u32,
    /// `None` for a slab that has none, or was never used.
    pub class: Option<u8>,
}

impl State {
    fn of(bits: u64) -> State {
        State {
            used: (bits & USED) as u16,
            owned: bits & OWNED != 0,
            listed: bits & LISTED != 0,
            pages: (bits >> PAGES_SHIFT) as u32 & 0xff,
            class: (bits & (OWNED | USED) != 0).then_some((bits >> CLASS_SHIFT) as u8),
        }
    }
}

/// All zeros is a slab that was never used: class 0 by its bits, but no slot taken and on no list.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Slab {
    state: AtomicU64,
    previous: AtomicU32,
    next: AtomicU32,
    taken: [AtomicU64; SLOTS_MAX.div_ceil(64)],
}

impl Slab {
    /// The class. Only of a slab that has one.
    pub fn class(&self) -> u8 {
        (self.state.load(Relaxed) >> CLASS_SHIFT) as u8
    }

    pub fn state(&self) -> State {
        State::of(self.state.load(Relaxed))
    }

    pub fn pages(&self) -> u32 {
        self.state().pages
    }

    pub fn set_pages(&self, pages: u32) {
        self.update(|bits| bits & !(0xff << PAGES_SHIFT) | u64::from(pages) << PAGES_SHIFT);
    }

    /// Makes a free slab one of `class`, without pages and owned by the caller.
    pub fn set_class(&self, class: u8) {
        self.update(|bits| {
            debug_assert_eq!(bits & (USED | OWNED | LISTED), 0);
            u64::from(class) << CLASS_SHIFT | OWNED
        });
    }

    pub fn set_unclassed(&self) {
        self.update(|bits| {
            debug_assert_eq!(bits & USED, 0);
            bits & (0xff << PAGES_SHIFT) | u64::from(UNCLASSED) << CLASS_SHIFT
        });
    }

    pub fn set_listed(&self, listed: bool) {
        self.update(|bits| {
            if listed {
                bits | LISTED
            } else {
                bits & !LISTED
            }
        });
    }

    /// From listed to owned by the caller.
    pub fn own_listed(&self) {
        self.update(|bits| {
            debug_assert_eq!(bits & (LISTED | OWNED), LISTED);
            bits & !LISTED | OWNED
        });
    }

    pub fn disown(&self) -> State {
        State::of(self.update(|bits| bits & !OWNED))
    }

    /// The lowest free slot. Only for the owner.
    pub fn first_free(&self) -> Option<usize> {
        let slots = class::slots(self.class());
        for (word, taken) in self.taken[..slots.div_ceil(64)].iter().enumerate() {
            let free = !taken.load(Acquire);
            if free != 0 {
                let index = word * 64 + free.trailing_zeros() as usize;
                return (index < slots).then_some(index);
            }
        }
        None
    }

    /// Takes slot `index`, which [`first_free`](Slab::first_free) found. Only for the owner.
    pub fn take(&self, index: usize) {
        let before = self.taken[index / 64].fetch_or(1 << (index % 64), Acquire);
        debug_assert_eq!(before >> (index % 64) & 1, 0);
        self.state.fetch_add(1, Relaxed);
    }

    /// Takes slot `index` for an object that is there already; whether it was free. Only while
    /// nobody else knows the slab.
    pub fn take_found(&self, index: usize) -> bool {
        let bit = 1 << (index % 64);
        let found = self.taken[index / 64].fetch_or(bit, Relaxed) & bit == 0;
        if found {
            self.state.fetch_add(1, Relaxed);
        }
        found
    }

    /// Marks slot `index` as free. The count follows.
    pub fn clear(&self, index: usize) {
        let before = self.taken[index / 64].fetch_and(!(1 << (index % 64)), Release);
        debug_assert!(before >> (index % 64) & 1 == 1, "a slot was freed twice");
    }

    /// Counts one slot less, if that moves the slab to no other list; else does nothing and
    /// returns `false`.
    pub fn count_down_within_list(&self) -> bool {
        self.state
            .fetch_update(AcqRel, Acquire, |bits| {
                let state = State::of(bits);
                (state.owned || state.listed && state.used > 1).then(|| bits - 1)
            })
            .is_ok()
    }

    /// Counts one slot less. Only under the class lock.
    pub fn count_down_locked(&self) -> State {
        State::of(self.update(|bits| bits - 1))
    }

    pub fn next(&self) -> u32 {
        self.next.load(Relaxed)
    }

    pub fn set_next(&self, index: u32) {
        self.next.store(index, Relaxed);
    }

    pub fn is_taken(&self, index: usize) -> bool {
        self.taken[index / 64].load(Acquire) >> (index % 64) & 1 == 1
    }

    /// The highest taken slot.
    pub fn last_taken(&self) -> Option<usize> {
        let taken = self.taken.iter().enumerate().rev();
        taken
            .map(|(word, taken)| (word, taken.load(Acquire)))
            .find(|(_, taken)| *taken != 0)
            .map(|(word, taken)| word * 64 + 63 - taken.leading_zeros() as usize)
    }

    pub fn taken(&self) -> u32 {
        self.taken
            .iter()
            .map(|word| word.load(Relaxed).count_ones())
            .sum()
    }

    pub fn is_listed_in(&self, class: u8) -> bool {
        let state = self.state();
        state.listed && !state.owned && state.class == Some(class)
    }

    pub fn check(&self, map: &Map) -> Result<(), String> {
        let state = self.state();
        let taken = self.taken();
        if taken != u32::from(state.used) {
            return Err(format!("{taken} slots taken, {} counted", state.used));
        }
        let Some(class) = state.class else {
            return Ok(());
        };
        if map.class() != Some(class) {
            return Err(format!("class {class}, {:?} mapped", map.class()));
        }
        let full = taken as usize == class::slots(class);
        if !state.owned && full == state.listed {
            return Err(format!("{taken} slots taken, listed: {}", state.listed));
        }
        let needed = self.last_taken().map_or(0, |last| last + 1);
        if class::pages_for(class, needed) > state.pages {
            return Err(format!("{} pages for {needed} slots", state.pages));
        }
        Ok(())
    }

    fn update(&self, f: impl Fn(u64) -> u64) -> u64 {
        let mut bits = self.state.load(Acquire);
        loop {
            match self
                .state
                .compare_exchange_weak(bits, f(bits), AcqRel, Acquire)
            {
                Ok(_) => return f(bits),
                Err(now) => bits = now,
            }
        }
    }
}

/// Bytes of memory that a slab's `Map` takes.
pub(crate) const MAP_BYTES: usize = size_of::<Map>();

/// Bytes of memory that a `Slab` takes.
pub(crate) const SLAB_STATE_BYTES: usize = size_of::<Slab>();

/// All slabs of a pool, in memory that is touched only where slabs are used.
#[derive(Debug)]
pub(super) struct Slabs {
    maps_offset: usize,
    states_offset: usize,
    count: u32,
}

impl Slabs {
    /// `count` slabs whose maps and states lie at these offsets of the store's memory.
    pub fn new(maps_offset: usize, states_offset: usize, count: u32) -> Slabs {
        Slabs {
            maps_offset,
            states_offset,
            count,
        }
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Where maps and states lie, in whole pages.
    pub fn parts(&self) -> [std::ops::Range<usize>; 2] {
        let part = |start: usize, size: usize| {
            start..(start + self.count as usize * size).next_multiple_of(PAGE_SIZE)
        };
        [
            part(self.maps_offset, size_of::<Map>()),
            part(self.states_offset, size_of::<Slab>()),
        ]
    }

    pub fn map<'a>(&self, memory: &'a Memory, index: u32) -> &'a Map {
        assert!(index < self.count);
        // SAFETY: the memory of the maps is used through this function alone; a `Map` is atomics.
        unsafe { memory.at(self.maps_offset + index as usize * size_of::<Map>()) }
    }

    pub fn get<'a>(&self, memory: &'a Memory, index: u32) -> &'a Slab {
        assert!(index < self.count);
        // SAFETY: the memory of the states is used through this function alone; a `Slab` is atomics.
        unsafe { memory.at(self.states_offset + index as usize * size_of::<Slab>()) }
    }

    /// Has the processor fetch what is known of a slab and of its slot `slot`.
    pub fn prefetch(&self, memory: &Memory, index: u32, slot: usize) {
        let map = self.maps_offset + index as usize * size_of::<Map>();
        let state = self.states_offset + index as usize * size_of::<Slab>();
        // The two ends of a map that lies on two lines.
        for offset in [
            map,
            map + size_of::<Map>() - 1,
            state,
            state + offset_of!(Slab, taken) + slot / 8,
        ] {
            memory.prefetch(offset);
        }
    }

    /// Makes what is known of the slabs `from..to` present.
    pub fn populate(&self, memory: &Memory, from: u32, to: u32) -> std::io::Result<()> {
        for (offset, size) in [
            (self.maps_offset, size_of::<Map>()),
            (self.states_offset, size_of::<Slab>()),
        ] {
            memory.populate(offset + from as usize * size..offset + to as usize * size)?;
        }
        Ok(())
    }
}

/// The slabs of one class that have free slots and no owner, from those to take slots from first.
#[derive(Debug)]
pub(super) struct List {
    pub first: u32,
    last: u32,
}

impl List {
    pub fn new() -> List {
        List {
            first: NONE,
            last: NONE,
        }
    }

    /// Puts slab `index` at the front, or at the end.
    pub fn link(&mut self, slabs: &Slabs, memory: &Memory, index: u32, front: bool) {
        let (previous, next) = if front {
            (NONE, self.first)
        } else {
            (self.last, NONE)
        };
        self.join(slabs, memory, previous, index);
        self.join(slabs, memory, index, next);
    }

    /// Takes slab `index` out.
    pub fn unlink(&mut self, slabs: &Slabs, memory: &Memory, index: u32) {
        let slab = slabs.get(memory, index);
        let (previous, next) = (slab.previous.load(Relaxed), slab.next());
        self.join(slabs, memory, previous, next);
    }

    /// Makes `second` the one behind `first`, where either may be the end.
    fn join(&mut self, slabs: &Slabs, memory: &Memory, first: u32, second: u32) {
        match first {
            NONE => self.first = second,
            _ => slabs.get(memory, first).set_next(second),
        }
        match second {
            NONE => self.last = first,
            _ => slabs.get(memory, second).previous.store(first, Relaxed),
        }
    }
}
