//! One 64-bit entry per page: the only truth about what is stored where.
//!
//! ```text
//!          63    62..60   59..54   53..50   49..38     37..0
//! empty  │ lock │ 0      │ 0                                                │
//! same   │ lock │ 3      │ 59: half │ 58..0: the word                       │
//! stored │ lock │ 5      │ age    │ codec  │ length−1 │ 37..11: slab │ 10..0: slot │
//! huge   │ lock │ 6      │ age    │ 53..30: checksum    │ 29..0: frame        │
//! ```
//!
//! *same*: the page repeats one 64-bit word. With `half` clear the word is bits 58..0 sign
//! extended; with `half` set it is the low 32 bits, twice. These two forms hold zero, small
//! numbers of both signs, pointers and every repeated byte or 32-bit pattern; other words are
//! stored as an object of eight bytes.
//! *huge*: the page as it is, in a frame of the arena. It needs no header: its checksum is here.
//! *age* is written as zero; the other states are not in use. Any two states differ in
//! two bits, so that one flipped bit makes no other state.
//!
//! **The lock bit** is held by a reader while it copies the object out (so that a writer cannot
//! free it meanwhile), and by a partial write from reading the old page to publishing the new
//! one. It is never held while waiting for anything else but memory. A writer publishes with one
//! compare-and-swap from an unlocked entry. A lock bit that is left by a killed process means
//! nothing: whoever held it changed nothing.
#![forbid(unsafe_code)]

use crate::step::{step, waits};
use std::sync::atomic::{AtomicU64, Ordering};
use trueno_zram_core::CodecId;

const LOCK: u64 = 1 << 63;
const STATE_SHIFT: u32 = 60;
const SAME: u64 = 3;
const STORED: u64 = 5;
const HUGE: u64 = 6;
const CODEC_SHIFT: u32 = 50;
const LENGTH_SHIFT: u32 = 38;
const PLACE_BITS: u32 = 38;
const CHECKSUM_SHIFT: u32 = 30;
const SAME_HALF: u64 = 1 << 59;
const SAME_BITS: u32 = 59;

/// How often a locked entry is looked at before its holder is taken to be asleep: longer than a
/// page takes to copy.
const SPINS: u32 = 200;

/// What an entry says, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing is stored: reads as zeros.
    Empty,
    /// The page repeats this word (native byte order).
    Same(u64),
    /// A compressed object with a header.
    Stored {
        /// The format of its block.
        codec: CodecId,
        /// Bytes of the block, 1 to 4096, without the header.
        length: u16,
        /// Slab and slot of the object, 38 bits.
        place: u64,
    },
    /// The page as it is.
    Huge {
        /// 24 bits.
        checksum: u32,
        /// The number of the frame, 30 bits.
        frame: u32,
    },
}

impl Entry {
    /// An entry for a page that repeats `word`, if the word fits in one.
    pub fn same(word: u64) -> Option<Entry> {
        let fits = sign_extend(word) == word || (word as u32) == (word >> 32) as u32;
        fits.then_some(Entry::Same(word))
    }

    fn pack(self) -> u64 {
        match self {
            Entry::Empty => 0,
            Entry::Same(word) => {
                let payload = if sign_extend(word) == word {
                    word & ((1 << SAME_BITS) - 1)
                } else {
                    SAME_HALF | word & 0xffff_ffff
                };
                SAME << STATE_SHIFT | payload
            }
            Entry::Stored {
                codec,
                length,
                place,
            } => {
                debug_assert!((1..=4096).contains(&length) && place < 1 << PLACE_BITS);
                (STORED << STATE_SHIFT)
                    | ((codec as u64) << CODEC_SHIFT)
                    | ((length as u64 - 1) << LENGTH_SHIFT)
                    | place
            }
            Entry::Huge { checksum, frame } => {
                debug_assert!(checksum < 1 << 24 && frame < 1 << CHECKSUM_SHIFT);
                (HUGE << STATE_SHIFT) | ((checksum as u64) << CHECKSUM_SHIFT) | frame as u64
            }
        }
    }

    /// `None`: no program of ours writes such an entry.
    fn unpack(bits: u64) -> Option<Entry> {
        match (bits & !LOCK) >> STATE_SHIFT {
            0 => (bits & !LOCK == 0).then_some(Entry::Empty),
            SAME if bits & SAME_HALF != 0 => {
                let half = bits & 0xffff_ffff;
                Some(Entry::Same(half << 32 | half))
            }
            SAME => Some(Entry::Same(sign_extend(bits))),
            STORED => Some(Entry::Stored {
                codec: CodecId::from_u8((bits >> CODEC_SHIFT & 15) as u8)?,
                length: (bits >> LENGTH_SHIFT & 0xfff) as u16 + 1,
                place: bits & ((1 << PLACE_BITS) - 1),
            }),
            HUGE => Some(Entry::Huge {
                checksum: (bits >> CHECKSUM_SHIFT) as u32 & 0xff_ffff,
                frame: (bits & ((1 << CHECKSUM_SHIFT) - 1)) as u32,
            }),
            _ => None,
        }
    }
}

/// The low 59 bits of `word`, sign extended.
fn sign_extend(word: u64) -> u64 {
    ((word << (64 - SAME_BITS)) as i64 >> (64 - SAME_BITS)) as u64
}

/// An entry that holds bits no program of ours writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// The lock of one entry, with what the entry says. Unlocks when dropped.
#[derive(Debug)]
pub struct Locked<'a> {
    word: &'a AtomicU64,
    bits: u64,
}

impl Locked<'_> {
    /// What the entry says.
    pub fn entry(&self) -> Result<Entry, Damaged> {
        Entry::unpack(self.bits).ok_or(Damaged)
    }

    /// Publishes `entry` in place of the old one, and unlocks.
    pub fn publish(mut self, entry: Entry) {
        self.bits = entry.pack();
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        step();
        self.word.store(self.bits, Ordering::Release);
    }
}

/// Waits for an entry to be unlocked; returns its bits.
fn wait_unlocked(word: &AtomicU64) -> u64 {
    let mut tries = 0u32;
    loop {
        let bits = word.load(Ordering::Acquire);
        if bits & LOCK == 0 {
            return bits;
        }
        waits();
        tries += 1;
        if tries < SPINS {
            std::hint::spin_loop();
        } else {
            // The holder may be a thread of lower priority on this very processor: only sleeping
            // lets it run for certain, yielding does not.
            std::thread::sleep(std::time::Duration::from_micros(20));
        }
    }
}

/// Takes the lock away that a process left which is no more.
pub(crate) fn unlock_abandoned(word: &AtomicU64) {
    step();
    word.fetch_and(!LOCK, Ordering::Relaxed);
}

/// What the entry in `word` says now. No lock: fit for entries without a place, and for looking.
pub(crate) fn peek(word: &AtomicU64) -> Result<Entry, Damaged> {
    Entry::unpack(word.load(Ordering::Acquire)).ok_or(Damaged)
}

/// Locks the entry in `word`.
pub(crate) fn lock(word: &AtomicU64) -> Locked<'_> {
    loop {
        let bits = wait_unlocked(word);
        let locked = bits | LOCK;
        step();
        if word
            .compare_exchange_weak(bits, locked, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            return Locked { word, bits };
        }
    }
}

/// Locks the entry in `word` unless somebody else keeps it locked for longer than a copy takes. For
/// whoever holds what the holder of the entry may wait for.
pub(crate) fn try_lock(word: &AtomicU64) -> Option<Locked<'_>> {
    for _ in 0..SPINS {
        let bits = word.load(Ordering::Acquire);
        if bits & LOCK != 0 {
            waits();
            std::hint::spin_loop();
            continue;
        }
        step();
        if word
            .compare_exchange_weak(bits, bits | LOCK, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            return Some(Locked { word, bits });
        }
    }
    None
}

/// Publishes `entry` and returns the entry it replaced, whose place is now the caller's to free.
pub(crate) fn swap(word: &AtomicU64, entry: Entry) -> Result<Entry, Damaged> {
    loop {
        let bits = wait_unlocked(word);
        step();
        if word
            .compare_exchange_weak(bits, entry.pack(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            return Entry::unpack(bits).ok_or(Damaged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_comes_back_as_it_was_packed() {
        let words = [
            0,
            1,
            u64::MAX,
            0x7fff_dead_beef,
            (-5i64) as u64,
            0x5a5a_5a5a_5a5a_5a5a,
            0xdead_beef_dead_beef,
            (1 << 58) - 1,
            !((1 << 58) - 1),
        ];
        for word in words {
            let entry = Entry::same(word).unwrap();
            assert_eq!(Entry::unpack(entry.pack()), Some(entry), "{word:x}");
        }
        for codec in [CodecId::Same, CodecId::Lz4, CodecId::Zstd] {
            for length in [1, 2, 4095, 4096] {
                for place in [0, 1, (1 << 38) - 1] {
                    let entry = Entry::Stored {
                        codec,
                        length,
                        place,
                    };
                    assert_eq!(Entry::unpack(entry.pack()), Some(entry));
                }
            }
        }
        for entry in [
            Entry::Empty,
            Entry::Huge {
                checksum: 0,
                frame: 0,
            },
            Entry::Huge {
                checksum: 0xff_ffff,
                frame: (1 << 30) - 1,
            },
        ] {
            assert_eq!(Entry::unpack(entry.pack()), Some(entry));
            assert_eq!(entry.pack() & LOCK, 0);
        }
    }

    #[test]
    fn words_that_do_not_fit_are_refused() {
        for word in [1 << 58, 0x7123_4567_89ab_cdef, 0x8000_0000_0000_0000] {
            assert_eq!(Entry::same(word), None, "{word:x}");
        }
    }

    #[test]
    fn strange_bits_are_damage_not_a_panic() {
        for state in [1, 2, 4, 7u64] {
            assert_eq!(Entry::unpack(state << STATE_SHIFT), None);
        }
        assert_eq!(Entry::unpack(STORED << STATE_SHIFT), None, "codec 0");
        assert_eq!(Entry::unpack(1), None, "an empty entry has no other bits");
    }

    #[test]
    fn a_dropped_lock_leaves_the_entry_as_it_was() {
        let word = AtomicU64::new(Entry::Same(7).pack());
        drop(lock(&word));
        assert_eq!(peek(&word), Ok(Entry::Same(7)));
        lock(&word).publish(Entry::Empty);
        assert_eq!(swap(&word, Entry::Same(9)), Ok(Entry::Empty));
    }
}
