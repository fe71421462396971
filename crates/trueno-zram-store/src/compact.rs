//! Moves objects out of sparse slabs, so that whole slabs become free.
//!
//! ```text
//! own the emptiest listed slab of a class, if its objects fit into the free slots of others
//! for each slot taken in it:
//!     the object's header names its page
//!     lock the page's entry; unless it names this very slot, somebody has just freed it
//!     copy the object to a slot in another slab; publish that; free this one
//! ```
//! Only the owner of a slab takes slots in it, so nothing is written in the slab meanwhile, and
//! reading a header of a slot that is being freed is harmless. The entry is locked for the time of
//! one copy. Slots for the copies come from slabs that have them already: compaction never asks
//! for memory, so it also works at the limit and with an empty reserve.
//!
//! Huge pages have no header and are not moved.

use crate::Store;
use crate::pool::{CLASS_COUNT, Current, HUGE, OBJECT_MAX, SLAB_BYTES, slot_bytes};
use crate::store::HEADER_BYTES;
use crate::table::{self, Entry};
use std::sync::atomic::Ordering::Relaxed;

/// What compaction works with.
#[derive(Debug)]
pub(crate) struct Compactor {
    /// The slabs into which objects are moved.
    current: Current,
    object: Box<[u8; OBJECT_MAX]>,
    /// The class that the next step looks at.
    class: u8,
}

impl Compactor {
    pub fn new() -> Compactor {
        Compactor {
            current: Current::new(),
            object: Box::new([0; OBJECT_MAX]),
            class: 0,
        }
    }
}

impl Store {
    /// Looks at the next `classes` size classes for a sparse slab, and empties the first that it
    /// finds. Returns whether it emptied one.
    pub(crate) fn compact_step(&self, compactor: &mut Compactor, classes: usize) -> bool {
        for _ in 0..classes {
            let class = compactor.class;
            if class != HUGE
                && let Some(slab) = self.pool.acquire_sparse(class)
            {
                let pages = self.pool.touched_pages(slab);
                let emptied = self.empty(compactor, class, slab);
                if emptied {
                    self.pages_compacted.fetch_add(u64::from(pages), Relaxed);
                }
                // What objects were moved to is for the workers again.
                self.pool.give_up_all(&self.memory, &mut compactor.current);
                if emptied {
                    return true;
                }
            }
            compactor.class = (class + 1) % CLASS_COUNT as u8;
        }
        false
    }

    /// Moves the objects of slab `index`, which the caller owns, and gives the slab up. Returns
    /// whether it became free.
    fn empty(&self, compactor: &mut Compactor, class: u8, index: u32) -> bool {
        let start = index as u64 * SLAB_BYTES as u64;
        for slot in self.pool.taken_slots(index) {
            let place = start + (slot * slot_bytes(class)) as u64;
            if !self.move_object(compactor, class, place) {
                break;
            }
        }
        self.pool.give_up_or_retire(&self.memory, index, class)
    }

    /// Moves the object at `place`; `false` when there is no free slot to move it to.
    fn move_object(&self, compactor: &mut Compactor, class: u8, place: u64) -> bool {
        let mut header = [0; 4];
        // SAFETY: the slab is owned by this thread, so no object is written to it; see the top.
        unsafe { self.memory.read(self.pool.offset(place), &mut header) };
        let page = u64::from(u32::from_ne_bytes(header));
        // Damaged headers are found by reading; here they only must do no harm.
        if page >= self.pages() || !self.is_written(page) {
            return true;
        }
        let locked = table::lock(self.word(page));
        let Ok(Entry::Stored {
            codec,
            length,
            place: named,
        }) = locked.entry()
        else {
            return true;
        };
        let bytes = HEADER_BYTES + usize::from(length);
        // A damaged length would have more copied than a slot holds.
        if named != place || bytes > OBJECT_MAX.min(slot_bytes(class)) {
            return true;
        }
        let bytes = &mut compactor.object[..bytes];
        let Some(slot) = self
            .pool
            .take_listed(&self.memory, &mut compactor.current, class)
        else {
            return false;
        };
        // SAFETY: the entry is locked, so the object stays as it is.
        unsafe { self.memory.read(self.pool.offset(place), bytes) };
        // SAFETY: the slot is ours alone until the entry is published.
        unsafe { self.memory.write(self.pool.offset(slot.place), bytes) };
        locked.publish(Entry::Stored {
            codec,
            length,
            place: slot.place,
        });
        self.pool.free(&self.memory, crate::pool::Slot { place });
        true
    }
}
