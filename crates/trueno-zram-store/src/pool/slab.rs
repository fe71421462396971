//! What is known of each slab: class, counts, which slots are taken, and a place in a list.
//!
//! ```text
//! state: 55..48 filled pages │ 47..40 touched pages │ 39..32 class │ 17 listed │ 16 owned │ 15..0 used slots
//! ```
//! *touched* pages have memory; of these, objects lie in the first, *filled* ones.
//! `state` is one word so that a thread that frees the last slot and the owner that gives the slab
//! up cannot miss each other. `owned`, `listed` and `class` change only under the class lock, or
//! while nobody else knows the slab; `touched` and `filled` change only by whoever owns the slab.

use super::class::{self, SLOTS_MAX};
use crate::Memory;
use std::io;
use std::mem::size_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::time::Duration;
use trueno_zram_core::PAGE_SIZE;

/// No slab.
pub(super) const NONE: u32 = u32::MAX;

/// The class of a slab that has none.
const UNCLASSED: u8 = u8::MAX;

const USED: u64 = 0xffff;
const OWNED: u64 = 1 << 16;
const LISTED: u64 = 1 << 17;
const CLASS_SHIFT: u32 = 32;
const TOUCHED_SHIFT: u32 = 40;
const FILLED_SHIFT: u32 = 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub used: u16,
    pub owned: bool,
    pub listed: bool,
}

impl State {
    fn of(bits: u64) -> State {
        State {
            used: (bits & USED) as u16,
            owned: bits & OWNED != 0,
            listed: bits & LISTED != 0,
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
    taken: [AtomicU64; SLOTS_MAX / 64],
}

impl Slab {
    pub fn class(&self) -> u8 {
        (self.state.load(Relaxed) >> CLASS_SHIFT) as u8
    }

    /// The class of a slab that is in use. One look: an entry that is damaged may name a slab that
    /// is put to use or freed at this moment.
    pub fn class_in_use(&self) -> Option<u8> {
        let bits = self.state.load(Relaxed);
        (bits & (OWNED | USED) != 0).then_some((bits >> CLASS_SHIFT) as u8)
    }

    pub fn used(&self) -> u16 {
        State::of(self.state.load(Relaxed)).used
    }

    pub fn touched(&self) -> u32 {
        (self.state.load(Relaxed) >> TOUCHED_SHIFT) as u32 & 0xff
    }

    pub fn set_touched(&self, pages: u32) {
        self.update(|bits| bits & !(0xff << TOUCHED_SHIFT) | (pages as u64) << TOUCHED_SHIFT);
    }

    pub fn filled(&self) -> u32 {
        (self.state.load(Relaxed) >> FILLED_SHIFT) as u32 & 0xff
    }

    pub fn set_filled(&self, pages: u32) {
        self.update(|bits| bits & !(0xff << FILLED_SHIFT) | (pages as u64) << FILLED_SHIFT);
    }

    /// Makes a free slab one of `class`, owned by the caller.
    pub fn set_class(&self, class: u8) {
        self.update(|bits| {
            debug_assert_eq!(bits & (USED | OWNED | LISTED), 0);
            bits & (0xff << TOUCHED_SHIFT) | (class as u64) << CLASS_SHIFT | OWNED
        });
    }

    /// Makes an empty slab a free one; returns how many of its pages were filled.
    pub fn set_unclassed(&self) -> u32 {
        let filled = self.filled();
        self.update(|bits| {
            debug_assert_eq!(bits & USED, 0);
            bits & (0xff << TOUCHED_SHIFT) | (UNCLASSED as u64) << CLASS_SHIFT
        });
        filled
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
        self.taken[index / 64].load(Relaxed) >> (index % 64) & 1 == 1
    }

    pub fn taken(&self) -> u32 {
        self.taken
            .iter()
            .map(|word| word.load(Relaxed).count_ones())
            .sum()
    }

    pub fn state(&self) -> State {
        State::of(self.state.load(Relaxed))
    }

    /// Whether counts and bits agree. Only while nobody changes the slab.
    pub fn check(&self) -> Result<(), String> {
        let state = self.state();
        let taken = self.taken();
        if taken != state.used as u32 {
            return Err(format!(
                "{taken} slots are taken, {} are counted",
                state.used
            ));
        }
        let (filled, touched) = (self.filled(), self.touched());
        if filled > touched {
            return Err(format!("{filled} pages are filled, {touched} have memory"));
        }
        let Some(class) = self.class_in_use() else {
            return if filled == 0 && !state.listed {
                Ok(())
            } else {
                Err(format!("free, but {state:?} with {filled} filled pages"))
            };
        };
        let slots = class::slots(class);
        let full = taken as usize == slots;
        if state.listed && (state.owned || full) || !(state.listed || state.owned || full) {
            return Err(format!("{state:?} with {slots} slots"));
        }
        let bytes = filled as usize * PAGE_SIZE;
        match (0..SLOTS_MAX).rfind(|slot| self.is_taken(*slot)) {
            Some(last) if last >= slots || (last + 1) * class::slot_bytes(class) > bytes => {
                Err(format!("slot {last} lies beyond {filled} filled pages"))
            }
            _ => Ok(()),
        }
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

/// All slabs of a pool, in memory of their own that is touched only where slabs are used.
#[derive(Debug)]
pub(super) struct Slabs {
    memory: Memory,
    count: u32,
    /// Slabs below this one can be looked at without a page fault.
    present: AtomicU32,
}

/// The slabs of a class that have free slots and no owner: a ring, so that its start can be moved.
#[derive(Debug)]
pub(super) struct Listed {
    /// [`NONE`] where `len` is 0.
    pub head: u32,
    pub len: u32,
}

impl Listed {
    pub fn new() -> Listed {
        Listed { head: NONE, len: 0 }
    }
}

impl Slabs {
    /// Beside `store`, in memory of the same kind, so that whoever locks the store's memory as it
    /// grows does the same here.
    pub fn new(store: &Memory, count: u32) -> io::Result<Slabs> {
        let memory = store.sibling(count as u64 * size_of::<Slab>() as u64)?;
        Ok(Slabs {
            memory,
            count,
            present: AtomicU32::new(0),
        })
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn get(&self, index: u32) -> &Slab {
        assert!(index < self.count);
        let words = size_of::<Slab>() / 8;
        // SAFETY: the whole of `memory` is used through this function alone.
        let slab = unsafe { self.memory.words(index as usize * size_of::<Slab>(), words) };
        // SAFETY: `slab` covers exactly one `Slab` at a multiple of its size from a page's start,
        // hence aligned to 8; a `Slab` is atomics only, for which every bit pattern is valid.
        unsafe { &*slab.as_ptr().cast::<Slab>() }
    }

    /// Below which slab all can be looked at without a page fault.
    pub fn present(&self) -> u32 {
        self.present.load(Acquire)
    }

    /// Makes what is known of some slabs from `present` on present too. Several threads may do so
    /// at once.
    pub fn make_present(&self, present: u32) -> io::Result<()> {
        let size = size_of::<Slab>();
        let end = (present + (PAGE_SIZE / size) as u32).min(self.count);
        self.memory
            .populate(present as usize * size..end as usize * size)?;
        self.present.fetch_max(end, AcqRel);
        Ok(())
    }

    /// Puts slab `index` at the head of a class's ring.
    pub fn link(&self, listed: &mut Listed, index: u32) {
        let slab = self.get(index);
        let (previous, next) = match listed.head {
            NONE => (index, index),
            head => (self.get(head).previous.load(Relaxed), head),
        };
        slab.previous.store(previous, Relaxed);
        slab.set_next(next);
        self.get(previous).set_next(index);
        self.get(next).previous.store(index, Relaxed);
        listed.head = index;
        listed.len += 1;
    }

    /// Takes slab `index` out of a class's ring.
    pub fn unlink(&self, listed: &mut Listed, index: u32) {
        let slab = self.get(index);
        let (previous, next) = (slab.previous.load(Relaxed), slab.next());
        self.get(previous).set_next(next);
        self.get(next).previous.store(previous, Relaxed);
        listed.len -= 1;
        if listed.len == 0 {
            listed.head = NONE;
        } else if listed.head == index {
            listed.head = next;
        }
    }
}

/// Wakes one thread that waits at `word`.
pub(super) fn futex_wake(word: &AtomicU32) {
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
pub(super) fn futex_wait(word: &AtomicU32, seen: u32, timeout: Duration) {
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
