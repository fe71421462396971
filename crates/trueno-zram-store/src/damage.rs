//! The last objects that were found damaged, for whoever writes a log.
//!
//! Who meets one serves I/O, and may neither log nor use the heap. It leaves a note here, with
//! atomic operations; a thread that may log looks from time to time.
//! ```text
//! note: │ number: 30 bits │ how: 2 │ page: 32 │        the notes' numbers begin at 1
//! ```
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::*};

/// Notes that are kept: whoever looks once a second and writes a few lines needs no more.
const KEPT: usize = 64;

const HOW_SHIFT: u32 = 32;
const NUMBER_SHIFT: u32 = 34;
const NUMBER_MASK: u64 = u64::MAX >> NUMBER_SHIFT;

/// How a damaged object was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Met {
    /// The page was read, which gave an error.
    Reading,
    /// A part of the page was to be written, which gave an error.
    Changing,
    /// The page was overwritten or discarded, which went well; the memory of the object stays
    /// taken, since it may be another page's.
    Replacing,
}

/// A damaged object that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// Whose it is.
    pub page: u64,
    /// How it was met.
    pub met: Met,
}

/// The notes.
#[derive(Debug)]
pub(crate) struct Notes {
    /// How many there have been.
    count: AtomicU64,
    kept: [AtomicU64; KEPT],
}

impl Notes {
    pub fn new() -> Notes {
        Notes {
            count: AtomicU64::new(0),
            kept: [const { AtomicU64::new(0) }; KEPT],
        }
    }

    /// Leaves a note.
    pub fn leave(&self, page: u64, met: Met) {
        let number = self.count.fetch_add(1, Relaxed) + 1;
        self.put(number, page, met);
    }

    fn put(&self, number: u64, page: u64, met: Met) {
        let note = number << NUMBER_SHIFT | (met as u64) << HOW_SHIFT | page & u64::from(u32::MAX);
        let place = &self.kept[number as usize % KEPT];
        // A later note of the same place must stay: who looks would wait for it.
        let later = |kept: u64| kept != 0 && is_later(behind(number, kept));
        // Refused, it is one of those that are only counted.
        let _ = place.fetch_update(Release, Relaxed, |kept| (!later(kept)).then_some(note));
    }

    /// Calls `each` for the notes behind the first `seen`, as far as they are kept, and returns how
    /// many have been seen now.
    pub fn since(&self, seen: u64, mut each: impl FnMut(Damage)) -> u64 {
        let count = self.count.load(Relaxed);
        for number in seen.max(count.saturating_sub(KEPT as u64)) + 1..=count {
            let note = self.kept[number as usize % KEPT].load(Acquire);
            let behind = behind(number, note);
            if is_later(behind) {
                // A later note has taken its place meanwhile.
                continue;
            }
            if behind > 0 {
                // Its number is taken, and it is just being written.
                return number - 1;
            }
            each(Damage {
                page: note & u64::from(u32::MAX),
                met: match note >> HOW_SHIFT & 3 {
                    0 => Met::Reading,
                    1 => Met::Changing,
                    _ => Met::Replacing,
                },
            });
        }
        count
    }
}

/// By how much `number` is ahead of the one in `note`. Numbers begin again.
fn behind(number: u64, note: u64) -> u64 {
    (number & NUMBER_MASK).wrapping_sub(note >> NUMBER_SHIFT) & NUMBER_MASK
}

/// Whether a note so far behind a number is really one that came after it.
fn is_later(behind: u64) -> bool {
    behind > NUMBER_MASK / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(notes: &Notes, seen: u64) -> (Vec<u64>, u64) {
        let mut pages = Vec::new();
        let seen = notes.since(seen, |damage| pages.push(damage.page));
        (pages, seen)
    }

    #[test]
    fn a_note_that_comes_late_does_not_replace_a_later_one() {
        let notes = Notes::new();
        // The first thread has its number, and no more yet.
        notes.count.fetch_add(1, Relaxed);
        for page in 2..=KEPT as u64 + 1 {
            notes.leave(page, Met::Reading);
        }
        notes.put(1, 1, Met::Reading);
        let (found, seen) = pages(&notes, 0);
        assert_eq!(found, (2..=KEPT as u64 + 1).collect::<Vec<_>>());
        assert_eq!(seen, KEPT as u64 + 1);
    }

    #[test]
    fn notes_are_seen_once_and_the_last_ones_are_kept() {
        let notes = Notes::new();
        assert_eq!(pages(&notes, 0), (vec![], 0));
        let last = u64::from(u32::MAX);
        let met = [Met::Reading, Met::Changing, Met::Replacing];
        for met in met {
            notes.leave(last, met);
        }
        let mut found = Vec::new();
        assert_eq!(notes.since(0, |damage| found.push(damage)), 3);
        assert_eq!(found, met.map(|met| Damage { page: last, met }));
        assert_eq!(pages(&notes, 3), (vec![], 3));
        for page in 0..1000 {
            notes.leave(page, Met::Reading);
        }
        let kept = 1000 - KEPT as u64..1000;
        assert_eq!(pages(&notes, 3), (kept.collect(), 1003));
    }

    #[test]
    fn numbers_that_begin_again_are_no_later_ones() {
        let notes = Notes::new();
        notes.count.store(NUMBER_MASK - 2, Relaxed);
        for page in 0..6 {
            notes.leave(page, Met::Reading);
        }
        assert_eq!(
            pages(&notes, NUMBER_MASK - 2),
            ((0..6).collect(), NUMBER_MASK + 4)
        );
    }

    #[test]
    fn a_note_that_is_just_being_written_is_waited_for() {
        let notes = Notes::new();
        notes.leave(7, Met::Reading);
        let number = notes.count.fetch_add(1, Relaxed) + 1;
        notes.leave(9, Met::Reading);
        assert_eq!(pages(&notes, 0), (vec![7], 1));
        notes.kept[number as usize].store(number << NUMBER_SHIFT | 8, Relaxed);
        assert_eq!(pages(&notes, 1), (vec![8, 9], 3));
    }
}
