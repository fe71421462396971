//! The search for matches in a page, greedy, with small tables that are cleared for each page.
//!
//! ```text
//! does what stands at the next position stand one repeated offset before it?   take that
//! was there something with the same hash?                                      take that
//! extend the match to both sides, note literals and sequence, go on behind it
//! ```
//! With two tables, eight bytes are looked up besides, and what is found there is taken first.
//!
//! No unsafe code: every position is cut to the bits that an index may have, which the compiler
//! understands, and which costs an instruction.

#![forbid(unsafe_code)]

use super::sequences::{MATCH_MIN, Sequences};
use crate::{PAGE_SIZE, PageBytes};
use std::hint::select_unpredictable;

/// Zeros before the page, so that there is something to compare with before its first byte.
const FRONT: usize = 8;
/// Positions are cut to this, which no position in a page reaches.
const INDEX_MASK: usize = 2 * PAGE_SIZE - 1;
/// What a copy of literals moves at once.
const WIDE: usize = 32;

/// The last position at which eight bytes can be read.
const LAST: usize = PAGE_SIZE - 8;

const HASH_BITS: u32 = 12;
/// By hash, the last position with it. 0 where there is none: position 0 is never entered, and a
/// candidate is compared in any case.
type Table = [u16; 1 << HASH_BITS];

/// How thorough the search is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Effort {
    /// One table, of six bytes: short matches far away are passed over, which saves time for each.
    Hasty,
    /// One table, of five bytes.
    Fast,
    /// Two tables, of five and of eight bytes.
    Double,
    /// Two tables, of four and of eight bytes.
    Thorough,
}

pub(super) struct Search {
    /// The page, with room around it.
    text: [u8; FRONT + 2 * PAGE_SIZE + WIDE],
    short: Table,
    long: Table,
    literals: [u8; PAGE_SIZE + WIDE],
    literal_count: usize,
    pub(super) sequences: Sequences,
}

/// How far the search is. Apart, so that it stays in registers.
struct Progress {
    /// Everything before is in a sequence.
    done: usize,
    /// The offset of the last match, and that before it.
    offsets: [usize; 2],
    literal_count: usize,
}

/// The repeated offsets at the start of a block, as the format has them.
const OFFSETS: [usize; 2] = [1, 4];

/// A match: where it begins, where the same stands before, and how the first eight bytes differ.
struct Match {
    begin: usize,
    from: usize,
    differ: u64,
}

/// Which entry of a table stands for the first `BYTES` bytes of `word`.
#[inline(always)]
fn hash<const BYTES: u32>(word: u64) -> usize {
    // 2^64 divided by the golden ratio.
    let mixed = (word << (64 - 8 * BYTES)).wrapping_mul(0x9e37_79b1_85eb_ca87);
    (mixed >> (64 - HASH_BITS)) as usize
}

/// Whether the first four bytes are equal, by how eight differ.
#[inline(always)]
fn begins_alike(differ: u64) -> bool {
    differ as u32 == 0
}

impl Search {
    pub(super) fn new() -> Search {
        Search {
            text: [0; FRONT + 2 * PAGE_SIZE + WIDE],
            short: [0; 1 << HASH_BITS],
            long: [0; 1 << HASH_BITS],
            literals: [0; PAGE_SIZE + WIDE],
            literal_count: 0,
            sequences: Sequences::new(),
        }
    }

    pub(super) fn literals(&self) -> &[u8] {
        &self.literals[..self.literal_count]
    }

    /// Finds the sequences of `page`, and its literals.
    pub(super) fn run(&mut self, page: &PageBytes, effort: Effort) {
        self.text[FRONT..FRONT + PAGE_SIZE].copy_from_slice(page);
        self.short.fill(0);
        self.sequences.clear();
        let mut progress = Progress {
            done: 0,
            offsets: OFFSETS,
            literal_count: 0,
        };
        match effort {
            Effort::Hasty => self.fast::<6, 6>(&mut progress),
            Effort::Fast => self.fast::<5, 7>(&mut progress),
            Effort::Double => self.double::<5>(&mut progress),
            Effort::Thorough => self.double::<4>(&mut progress),
        }
        let rest = &page[progress.done..];
        self.literals[progress.literal_count..][..rest.len()].copy_from_slice(rest);
        self.literal_count = progress.literal_count + rest.len();
    }

    /// Eight bytes from `at` on.
    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        let (bytes, _) = self.text[FRONT + (at & INDEX_MASK)..]
            .split_first_chunk()
            .expect("room behind");
        u64::from_le_bytes(*bytes)
    }

    /// Eight bytes before `at`.
    #[inline(always)]
    fn word_before(&self, at: usize) -> u64 {
        let (bytes, _) = self.text[at & INDEX_MASK..]
            .split_first_chunk()
            .expect("room behind");
        u64::from_le_bytes(*bytes)
    }

    #[inline(always)]
    fn differ(&self, a: usize, b: usize) -> u64 {
        self.word(a) ^ self.word(b)
    }

    /// Whether an offset is repeated that is cheap to name: the last one at the position after `at`,
    /// or at the end of a match, where it cannot go on, the one before at once.
    #[inline(always)]
    fn repeated(&self, at: usize, progress: &Progress) -> Match {
        let is_behind_match = at == progress.done;
        let begin = at + usize::from(!is_behind_match);
        let offset =
            select_unpredictable(is_behind_match, progress.offsets[1], progress.offsets[0]);
        // No offset is larger: they are of earlier matches, or 1 from position 1 on, or 4 behind a match.
        debug_assert!(offset <= begin);
        let from = begin.wrapping_sub(offset);
        Match {
            begin,
            from,
            differ: self.differ(begin, from),
        }
    }

    /// After 2^`PATIENCE` positions without a match the steps get longer.
    #[inline(always)]
    fn fast<const SHORT: u32, const PATIENCE: u32>(&mut self, progress: &mut Progress) {
        let mut at = 1;
        'page: loop {
            let mut patience = 1 << PATIENCE;
            let found = loop {
                if at > LAST {
                    break 'page;
                }
                let here = self.word(at);
                let from = replace(&mut self.short, hash::<SHORT>(here), at);
                let differ = here ^ self.word(from);
                let repeated = self.repeated(at, progress);
                let is_repeated = begins_alike(repeated.differ);
                if is_repeated | begins_alike(differ) {
                    break Match {
                        begin: select_unpredictable(is_repeated, repeated.begin, at),
                        from: select_unpredictable(is_repeated, repeated.from, from),
                        differ: select_unpredictable(is_repeated, repeated.differ, differ),
                    };
                }
                at += patience >> PATIENCE;
                patience += 1;
            };
            at = self.take(found, progress);
            if at > LAST {
                break;
            }
            let near_end = self.word(at - 2);
            self.short[hash::<SHORT>(near_end)] = (at - 2) as u16;
        }
    }

    #[inline(always)]
    fn double<const SHORT: u32>(&mut self, progress: &mut Progress) {
        /// As above; who asks for more ratio has more.
        const PATIENCE: u32 = 8;
        self.long.fill(0);
        let mut at = 1;
        'page: loop {
            let mut patience = 1 << PATIENCE;
            let found = loop {
                if at > LAST {
                    break 'page;
                }
                let here = self.word(at);
                let short = replace(&mut self.short, hash::<SHORT>(here), at);
                let long = replace(&mut self.long, hash::<8>(here), at);
                let short_differ = here ^ self.word(short);
                let long_differ = here ^ self.word(long);
                let repeated = self.repeated(at, progress);
                let is_repeated = begins_alike(repeated.differ);
                if is_repeated | begins_alike(short_differ) | (long_differ == 0) {
                    if long_differ == 0 && repeated.differ != 0 {
                        break Match {
                            begin: at,
                            from: long,
                            differ: 0,
                        };
                    }
                    if is_repeated {
                        break repeated;
                    }
                    // Perhaps a longer one begins at the next position.
                    let next = self.word(at + 1);
                    let from = replace(&mut self.long, hash::<8>(next), at + 1);
                    if from <= at && self.word(from) == next {
                        break Match {
                            begin: at + 1,
                            from,
                            differ: 0,
                        };
                    }
                    break Match {
                        begin: at,
                        from: short,
                        differ: short_differ,
                    };
                }
                at += patience >> PATIENCE;
                patience += 1;
            };
            let near_begin = at + 2;
            at = self.take(found, progress);
            if at > LAST {
                break;
            }
            for place in [near_begin, at - 2] {
                let word = self.word(place);
                self.short[hash::<SHORT>(word)] = place as u16;
                self.long[hash::<8>(word)] = place as u16;
            }
        }
    }

    /// Extends a match to both sides, notes it and the literals before it, and returns its end.
    #[inline(always)]
    fn take(&mut self, found: Match, progress: &mut Progress) -> usize {
        let Match {
            begin,
            from,
            differ,
        } = found;
        let equal = |differ: u64| differ.trailing_zeros() as usize / 8;
        let mut length = equal(differ);
        if differ == 0 {
            let first = self.differ(begin + 8, from + 8);
            let second = self.differ(begin + 16, from + 16);
            length = select_unpredictable(first != 0, 8 + equal(first), 16 + equal(second));
            if first | second == 0 {
                while begin + length < PAGE_SIZE {
                    let differ = self.differ(begin + length, from + length);
                    length += equal(differ);
                    if differ != 0 {
                        break;
                    }
                }
            }
        }
        let end = (begin + length).min(PAGE_SIZE);
        let offset = begin - from;
        let before = self.word_before(begin) ^ self.word_before(from);
        let before = before.leading_zeros() as usize / 8;
        let begin = begin - before.min(begin - progress.done).min(from);

        let count = begin - progress.done;
        let literals = &self.text[FRONT + (progress.done & INDEX_MASK)..];
        let room = &mut self.literals[progress.literal_count % PAGE_SIZE..];
        room[..WIDE].copy_from_slice(&literals[..WIDE]);
        if count > WIDE {
            room[..count].copy_from_slice(&literals[..count]);
        }
        progress.literal_count += count;

        // Behind no literals the format counts differently: the last offset cannot be meant.
        let is_behind_match = count == 0;
        let [last, one_before] = progress.offsets;
        let is_last = (offset == last) & !is_behind_match;
        let name = select_unpredictable(
            offset == one_before,
            2 - usize::from(is_behind_match),
            offset + 3,
        );
        let name = select_unpredictable(is_last, 1, name);
        progress.offsets = [offset, select_unpredictable(is_last, one_before, last)];
        debug_assert!(end - begin >= MATCH_MIN);
        self.sequences.push(count, name, end - begin);
        progress.done = end;
        end
    }
}

/// Notes `at` under `hash`, and returns what stood there.
#[inline(always)]
fn replace(table: &mut Table, hash: usize, at: usize) -> usize {
    let entry = &mut table[hash % (1 << HASH_BITS)];
    usize::from(std::mem::replace(entry, at as u16))
}
