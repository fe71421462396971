//! Which slot sizes there are.
//!
//! A slab of 64 KiB is cut into equal slots of a multiple of 16 bytes. Where several sizes fit
//! equally often, only the largest is a class, so an object of `b` bytes wastes on average
//! about `b²/128 KiB` (1 % of a 1400-byte object) plus 8 bytes of rounding. One more class has
//! slots of exactly a page, for huge pages.
#![forbid(unsafe_code)]

use trueno_zram_core::PAGE_SIZE;

/// Bytes of a slab. Larger slabs waste less inside a slot and more in partly filled slabs: at
/// 64 KiB some 110 classes cost at most 7 MiB, and far less since a slab's memory is populated
/// only as far as it is filled.
pub(crate) const SLAB_BYTES: usize = 64 << 10;

/// The smallest slot. Bounds the slots of a slab, hence the bitmap.
const SLOT_MIN: usize = 64;

/// All slots are multiples of this, and places too.
const UNIT: usize = 16;

/// The largest object, header included: 17 slots a slab. What does not fit is kept as a huge page,
/// since the next class would not be smaller than a page.
pub(crate) const OBJECT_MAX: usize = SLAB_BYTES / 17 / UNIT * UNIT;

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

/// How many classes there are; the last one is [`HUGE`].
pub(crate) const CLASS_COUNT: usize = count() + 1;

/// The class of huge pages.
pub(crate) const HUGE: u8 = (CLASS_COUNT - 1) as u8;

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
    table[class] = PAGE_SIZE as u16;
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

/// Slots of a slab.
pub(crate) fn slots(class: u8) -> usize {
    SLAB_BYTES / slot_bytes(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_fits_its_class_and_no_smaller_one() {
        for bytes in 1..=OBJECT_MAX {
            let class = class_of(bytes);
            assert!(class < HUGE && slot_bytes(class) >= bytes, "{bytes}");
            assert!(class == 0 || slot_bytes(class - 1) < bytes, "{bytes}");
            assert!(slots(class) <= SLOTS_MAX);
        }
        assert_eq!((slot_bytes(HUGE), slots(HUGE)), (4096, 16));
        const { assert!(CLASS_COUNT <= 128) };
    }

    #[test]
    fn rounding_to_classes_wastes_little() {
        let waste = |bytes: usize| slot_bytes(class_of(bytes)) - bytes;
        let total = |range: std::ops::Range<usize>| {
            let bytes: usize = range.clone().sum();
            range.map(waste).sum::<usize>() as f64 / bytes as f64
        };
        assert!(total(1000..1800) < 0.018, "{}", total(1000..1800));
        assert!(total(64..OBJECT_MAX) < 0.03, "{}", total(64..OBJECT_MAX));
    }
}
