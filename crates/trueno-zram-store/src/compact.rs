//! Moves objects together, so that pages of memory become free.
//!
//! ```text
//! own a slab that could do with half of its pages
//! while it has a slot taken: the last one
//!     the object's header names its page
//!     lock the page's entry, or leave the object if it is locked; unless the entry names this
//!         very slot, somebody has just freed it
//!     copy the object to a free slot of another slab, if this one is mostly empty,
//!         else to a free slot further down in this one; publish that; free the old slot
//! give the slab up without the pages behind its last object
//! ```
//! Only the owner of a slab takes slots in it. A worker that took one before it gave the slab up may
//! still be writing an object there, which no entry names yet, and another may be freeing one: what
//! the header then says is anything, and harmless, since only an entry that names the slot counts.
//! The entry is locked for the time of one copy. Slots for the copies come from slabs that have them
//! already: compaction never asks for memory, so it also works at the limit and with an empty
//! reserve.
//!
//! Huge pages need no compaction: each is a frame of its own.

use crate::Store;
use crate::pool::{Current, OBJECT_MAX, Slot, slot_bytes};
use crate::store::HEADER_BYTES;
use crate::table::{self, Entry};
use std::sync::atomic::Ordering::Relaxed;

/// What compaction works with.
#[derive(Debug)]
pub(crate) struct Compactor {
    /// The slabs into which objects are moved.
    current: Current,
    object: Box<[u8; OBJECT_MAX]>,
    /// The slab that the next step looks at.
    next: u32,
}

/// What became of an object that was to be moved.
enum Move {
    Done,
    /// There is no slot to move it to.
    NoSlot,
    /// It is just being freed, changed or written, or is damaged, and stays where it is.
    Left,
}

impl Compactor {
    pub fn new() -> Compactor {
        Compactor {
            current: Current::new(),
            object: Box::new([0; OBJECT_MAX]),
            next: 0,
        }
    }
}

impl Store {
    /// Looks at the next `slabs` slabs for a sparse one, and empties the first that it finds as far
    /// as it can. Returns whether any memory became free.
    pub(crate) fn compact_step(&self, compactor: &mut Compactor, slabs: u32) -> bool {
        let count = self.pool.slab_count();
        for _ in 0..slabs.min(count) {
            let index = compactor.next;
            compactor.next = index + 1;
            if compactor.next >= count {
                // What workers keep open is to be seen in the next round too.
                compactor.next = 0;
                self.recall();
            }
            if index < count && self.compact_slab(compactor, index, false) > 0 {
                return true;
            }
        }
        false
    }

    /// Takes the pages from slab `index` that its objects can do without, if that is half of them;
    /// or if it is any, where `tight`. Returns how many.
    pub(crate) fn compact_slab(&self, compactor: &mut Compactor, index: u32, tight: bool) -> u32 {
        let Some(class) = self.pool.acquire_sparse(index, tight) else {
            return 0;
        };
        let (slots, used) = self.pool.used_slots(index);
        let mut away = used * 2 <= slots;
        let mut end = slots;
        while let Some(slot) = self.pool.taken_below(index, end) {
            end = slot;
            let place = self.pool.place(index, slot);
            let mut moved = Move::NoSlot;
            if away {
                moved = self.move_object(compactor, class, place, |compactor| {
                    self.pool.take_listed(&mut compactor.current, class)
                });
            }
            if let Move::NoSlot = moved {
                away = false;
                moved = self.move_object(compactor, class, place, |_| {
                    self.pool.take_below(index, end)
                });
            }
            if let Move::NoSlot = moved {
                break;
            }
        }
        let pages = self.pool.trim(index, class);
        // What objects were moved to is for the workers again.
        self.pool.give_up_all(&mut compactor.current);
        self.pages_compacted.fetch_add(u64::from(pages), Relaxed);
        pages
    }

    /// Moves the object of `class` at `place` to a slot of the same class that `take` gives.
    fn move_object(
        &self,
        compactor: &mut Compactor,
        class: u8,
        place: u64,
        take: impl FnOnce(&mut Compactor) -> Option<Slot>,
    ) -> Move {
        let mut header = [0; 4];
        // SAFETY: in bounds. Where somebody is writing the object, no entry names the slot yet, and
        // these bytes decide nothing; see the top.
        if !unsafe { self.pool.read(place, &mut header) } {
            return Move::Left;
        }
        let page = u64::from(u32::from_ne_bytes(header));
        // Damaged headers are found by reading; here they only must do no harm.
        if page >= self.pages() || !self.is_written(page) {
            return Move::Left;
        }
        // Not waited for: a partial write that finds no memory keeps its entry locked while it waits
        // for compaction.
        let Some(locked) = table::try_lock(self.word(page)) else {
            return Move::Left;
        };
        let Ok(Entry::Stored {
            codec,
            length,
            place: named,
        }) = locked.entry()
        else {
            return Move::Left;
        };
        let bytes = HEADER_BYTES + usize::from(length);
        // A damaged length would have more copied than a slot holds.
        if named != place || bytes > slot_bytes(class) {
            return Move::Left;
        }
        let Some(slot) = take(compactor) else {
            return Move::NoSlot;
        };
        let object = &mut compactor.object[..bytes];
        // SAFETY: the entry is locked, so the object stays as it is.
        let whole = unsafe { self.pool.read(place, object) };
        debug_assert!(whole, "a slot that is taken has its pages");
        self.pool.write(&slot, object);
        locked.publish(Entry::Stored {
            codec,
            length,
            place: slot.place,
        });
        self.pool.free(Slot { place });
        Move::Done
    }
}
