//! Which slot sizes there are.
//!
//! A slab is cut into equal slots of a multiple of 16 bytes. Where several sizes fit equally often,
//! only the largest is a class, so an object of `b` bytes wastes on average about `b²/248 KiB`
//! (0.6 % of a 1400-byte object) plus 8 bytes of rounding.
#![forbid(unsafe_code)]

use trueno_zram_core::PAGE_SIZE;

/// Pages of memory of a full slab: as many as fit with their class into 128 bytes ([`super::slab::Map`]).
pub(crate) const SLAB_PAGES: usize = 31;

/// Bytes of a full slab. Larger slabs waste less inside a slot; what is open in partly filled ones
/// does not depend on it, since a slab has only the pages that its objects need.
const SLAB_BYTES: usize = SLAB_PAGES * PAGE_SIZE;

/// The smallest slot. Bounds the slots of a slab, hence the bitmap. One object in 25 is smaller.
const SLOT_MIN: usize = 128;

/// All slots are multiples of this.
const UNIT: usize = 16;

/// The largest object, header included: 33 slots a slab. What does not fit is kept as a huge page:
/// the next class would save 3 % of the page, and cost a decompression.
pub(crate) const OBJECT_MAX: usize = SLAB_BYTES / 33 / UNIT * UNIT;

/// The most slots a slab can have.
pub(crate) const SLOTS_MAX: usize = SLAB_BYTES / SLOT_MIN;

const fn is_class(size: usize) -> bool {
    size == OBJECT_MAX || SLAB_BYTES / size != SLAB_BYTES / (size + UNIT)
}

const fn count() -> usize {
    let (mut size, mut count) = (SLOT_MIN, 0);
    while size <= OBJECT_MAX {
        if is_class(size) {
            count += 1;
        }
        size += UNIT;
    }
    count
}

/// How many classes there are.
pub(crate) const CLASS_COUNT: usize = count();

/// Bytes of a slot, by class.
const SLOT_BYTES: [u16; CLASS_COUNT] = {
    let mut table = [0; CLASS_COUNT];
    let (mut size, mut class) = (SLOT_MIN, 0);
    while size <= OBJECT_MAX {
        if is_class(size) {
            table[class] = size as u16;
            class += 1;
        }
        size += UNIT;
    }
    table
};

/// Slots of a slab, by class.
const SLOTS: [u16; CLASS_COUNT] = {
    let mut table = [0; CLASS_COUNT];
    let mut class = 0;
    while class < CLASS_COUNT {
        table[class] = (SLAB_BYTES / SLOT_BYTES[class] as usize) as u16;
        class += 1;
    }
    table
};

/// The smallest class that holds an object, by its size in units, rounded up.
const CLASS_OF: [u8; OBJECT_MAX / UNIT + 1] = {
    let mut table = [0; OBJECT_MAX / UNIT + 1];
    let (mut units, mut class) = (0, 0);
    while units < table.len() {
        if units * UNIT > SLOT_BYTES[class] as usize {
            class += 1;
        }
        table[units] = class as u8;
        units += 1;
    }
    table
};

/// The smallest class with room for `bytes`, at most [`OBJECT_MAX`].
pub(crate) fn class_of(bytes: usize) -> u8 {
    CLASS_OF[bytes.div_ceil(UNIT)]
}

/// Bytes of a slot.
pub(crate) fn slot_bytes(class: u8) -> usize {
    SLOT_BYTES[class as usize] as usize
}

/// Slots of a slab that has all its pages.
pub(crate) fn slots(class: u8) -> usize {
    SLOTS[class as usize] as usize
}

/// Slots that lie whole in the first `pages` pages of a slab.
pub(crate) fn slots_in(class: u8, pages: u32) -> usize {
    pages as usize * PAGE_SIZE / slot_bytes(class)
}

/// Pages that the first `slots` slots of a slab lie in.
pub(crate) fn pages_for(class: u8, slots: usize) -> u32 {
    (slots * slot_bytes(class)).div_ceil(PAGE_SIZE) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_fits_its_class_and_no_smaller_one() {
        for bytes in 1..=OBJECT_MAX {
            let class = class_of(bytes);
            assert!(slot_bytes(class) >= bytes, "{bytes}");
            assert!(class == 0 || slot_bytes(class - 1) < bytes, "{bytes}");
            assert!(slots(class) <= SLOTS_MAX);
            assert_eq!(slots_in(class, SLAB_PAGES as u32), slots(class));
            assert!(pages_for(class, slots(class)) <= SLAB_PAGES as u32);
        }
        const { assert!(CLASS_COUNT < 255) };
    }

    #[test]
    fn rounding_to_classes_wastes_little() {
        let waste = |bytes: usize| slot_bytes(class_of(bytes)) - bytes;
        let total = |range: std::ops::Range<usize>| {
            let bytes: usize = range.clone().sum();
            range.map(waste).sum::<usize>() as f64 / bytes as f64
        };
        assert!(total(1000..1800) < 0.012, "{}", total(1000..1800));
        assert!(total(128..OBJECT_MAX) < 0.02, "{}", total(128..OBJECT_MAX));
    }
}
