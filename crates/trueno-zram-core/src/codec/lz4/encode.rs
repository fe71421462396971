//! The encoder of LZ4 blocks, for exactly one page: greedy, with a look ahead.
//!
//! ```text
//! look up the last position with the same hash, and note this one instead
//! 4 bytes agree?   look at the next two positions too, and take the longest match; one that
//!                  begins a byte later has to be longer by two
//!                  extend the match to both sides, write a sequence, go on behind it
//! else             go on; the longer nothing was found, the larger the steps
//! ```
//! The block depends on the page alone, and is the same on every CPU: the table is cleared first,
//! and an instruction set only decides how many bytes are compared at once.
//!
//! Seven bytes are hashed, where the usual is four. Most matches of four to six bytes, which save
//! one to three, are not found then, and longer ones are: a block has two thirds of the sequences,
//! and it is sequences that cost time, when they are written and whenever they are read. The look
//! ahead gains back more than that loses in size. Why, and what was tried: `docs/codecs.md`.

#![allow(unsafe_code)]

use crate::simd::vector::{REACH, Vector};
use crate::{PAGE_SIZE, PageBytes};

/// The room that a block needs, with what copies write behind it.
pub(in crate::codec) const BLOCK_MAX: usize = super::decode::BLOCK_MAX + WIDE;

/// What a copy of literals moves at once.
const WIDE: usize = 16;

/// Of the format: no match begins later, and none ends later.
const LAST_START: usize = PAGE_SIZE - 12;
const LAST_END: usize = PAGE_SIZE - 5;

/// The shortest match.
const MATCH_MIN: usize = 4;

/// What half of a token can hold.
const HALF: usize = 15;

/// After this many positions without a match the steps get longer.
const PATIENCE: usize = 128;

/// Up to here a position is searched in full: [`REACH`] bytes are there to be compared at the next
/// two as well, and all of them may be part of a match.
const SEARCH_LAST: usize = LAST_END - REACH - 2;

const HASH_BITS: u32 = 12;

/// By hash, where in the page it was seen last. 0 where it was not: the first position of a page is
/// never looked up, and a candidate is compared in any case.
pub(crate) struct Table([u16; 1 << HASH_BITS]);

impl Table {
    /// Filled with something other than zeros, so that the kernel has really given its memory.
    pub(super) fn boxed() -> Box<Table> {
        Box::new(Table([0xffff; 1 << HASH_BITS]))
    }

    /// Notes that the bytes of `word` are seen at `at`, which lies before all that is looked up later.
    #[inline(always)]
    fn note(&mut self, word: u64, at: usize) {
        self.0[hash(word)] = at as u16;
    }

    /// The same for a position that was not noted yet. Returns where the bytes of `word` may have
    /// been seen last, which is before `at`.
    #[inline(always)]
    fn replace(&mut self, word: u64, at: usize) -> usize {
        let candidate = usize::from(std::mem::replace(&mut self.0[hash(word)], at as u16));
        debug_assert!(candidate < at);
        candidate
    }
}

/// Which entry of the table stands for the first 7 bytes of `word`.
#[inline(always)]
fn hash(word: u64) -> usize {
    // An odd factor of 56 bits: the top bits depend on all of the seven bytes.
    ((word << 8).wrapping_mul(58_295_818_150_454_627) >> (64 - HASH_BITS)) as usize
}

/// Writes the block of `page` into `out`, which has at least [`BLOCK_MAX`] bytes, and returns its
/// length.
#[inline(always)]
pub(crate) fn encode<V: Vector>(
    v: V,
    page: &PageBytes,
    out: &mut [u8],
    table: &mut Table,
) -> usize {
    assert!(out.len() >= BLOCK_MAX);
    table.0.fill(0);
    let start = out.as_mut_ptr();
    let mut to = start;
    // Everything before `done` is in the block.
    let (mut at, mut done) = (1, 0);
    'page: while at <= SEARCH_LAST {
        let (mut step, mut patient) = (1, SEARCH_LAST.min(at + PATIENCE));
        let (mut begin, mut from) = 'search: loop {
            while at <= patient {
                // SAFETY: `at` is at most SEARCH_LAST.
                let here = unsafe { word(page, at) };
                let candidate = table.replace(here, at);
                // SAFETY: a candidate lies before the position it was looked up for.
                let there = unsafe { word(page, candidate) };
                if here as u32 == there as u32 {
                    break 'search (at, candidate);
                }
                at += step;
            }
            if at > SEARCH_LAST {
                break 'page;
            }
            step += 1;
            patient = SEARCH_LAST.min(at + step * PATIENCE);
        };

        let mut length;
        // SAFETY: `begin` is at most SEARCH_LAST, so that these words and REACH bytes from the next two
        // positions on end by LAST_END; candidates lie before the position they were looked up
        // for. The words are read first: the compiler would else take them out of vectors, for more.
        let (next, second) = unsafe {
            let (next, second) = (word(page, begin + 1), word(page, begin + 2));
            length = v.agree(reach(page, begin), reach(page, from));
            let next_from = table.replace(next, begin + 1);
            let next_length = v.agree(reach(page, begin + 1), reach(page, next_from));
            let second_from = table.replace(second, begin + 2);
            let second_length = v.agree(reach(page, begin + 2), reach(page, second_from));
            ((next_from, next_length), (second_from, second_length))
        };
        if next.1 > length + 1 || second.1 > length + 2 {
            (begin, from, length) = look_ahead(begin, next, second);
        }
        let distance = begin - from;
        let mut end = begin + length;
        if length == REACH {
            end = extend(v, page, distance, end);
        }
        begin -= agree_before(page, begin, from).min(begin - done);

        // SAFETY: `done <= begin`, and the match has at least 4 bytes and ends in the page. What was
        // written so far is no longer than `done + done / 255`, and with this sequence no longer
        // than `end + end / 255`, since a sequence is no longer than what it stands for but for a
        // byte in 255 literals. BLOCK_MAX has room for that, and for WIDE bytes more.
        to = unsafe { sequence(page, done..begin, distance, end - begin, to) };
        done = end;
        at = end;
        if at <= SEARCH_LAST {
            // SAFETY: `at` is at most SEARCH_LAST.
            let (third, first) = unsafe { (word(page, at - 3), word(page, at - 1)) };
            table.note(third, at - 3);
            table.note(first, at - 1);
        }
    }
    // SAFETY: as for `to` above.
    let end = unsafe { finish(page, table, at, done, to) };
    // SAFETY: both lie in `out`.
    unsafe { end.offset_from(start) as usize }
}

/// The better of the matches at the next position and at the second, each given by its candidate and
/// its length. Out of the way, so that this is a branch: it is taken for one match in seven, and the
/// search for the next one need not wait for what it depends on.
#[cold]
#[inline(never)]
fn look_ahead(begin: usize, next: (usize, usize), second: (usize, usize)) -> (usize, usize, usize) {
    if second.1 > next.1 + 1 {
        (begin + 2, second.0, second.1)
    } else {
        (begin + 1, next.0, next.1)
    }
}

/// Where a match at `distance` ends, if it goes at least to `end`.
#[inline(always)]
fn extend<V: Vector>(v: V, page: &PageBytes, distance: usize, mut end: usize) -> usize {
    while end <= LAST_END - REACH {
        // SAFETY: REACH bytes from `end` on end by LAST_END.
        let more = unsafe { v.agree(reach(page, end), reach(page, end - distance)) };
        end += more;
        if more < REACH {
            return end;
        }
    }
    let rest = page[end..LAST_END].iter().zip(&page[end - distance..]);
    end + rest.take_while(|(a, b)| a == b).count()
}

/// How many bytes before `at` and before `from` agree, as far as up to 7 are looked at.
#[inline(always)]
fn agree_before(page: &PageBytes, at: usize, from: usize) -> usize {
    if from < 8 || at > PAGE_SIZE {
        let before = page[..at].iter().rev().zip(page[..from].iter().rev());
        return before.take_while(|(a, b)| a == b).count();
    }
    // SAFETY: 8 is at most `from`, which is less than `at`, and that lies in the page.
    let differ = unsafe { word(page, at - 8) ^ word(page, from - 8) };
    (differ | 1).leading_zeros() as usize / 8
}

/// The rest of the block, once [`REACH`] bytes cannot be compared: everything from `done` on, with
/// a search from `at` on. Returns where it ends.
///
/// # Safety
/// - `done` is at most `at`, and at `to` there is room for the rest, as for a sequence.
#[inline(never)]
unsafe fn finish(
    page: &PageBytes,
    table: &mut Table,
    mut at: usize,
    mut done: usize,
    mut to: *mut u8,
) -> *mut u8 {
    while at <= LAST_START {
        // SAFETY: `at` is at most LAST_START.
        let here = unsafe { word(page, at) };
        let from = table.replace(here, at);
        // SAFETY: a candidate lies before the position it was looked up for.
        let there = unsafe { word(page, from) };
        if here as u32 != there as u32 {
            at += 1;
            continue;
        }
        let rest = page[at..LAST_END].iter().zip(&page[from..]);
        let end = at + rest.take_while(|(a, b)| a == b).count();
        let begin = at - agree_before(page, at, from).min(at - done);
        // SAFETY: the match has at least 4 bytes and ends in the page; there is room, as the caller
        // promises.
        to = unsafe { sequence(page, done..begin, at - from, end - begin, to) };
        done = end;
        at = end;
    }
    // SAFETY: there is room, as the caller promises.
    unsafe { many_literals(&page[done..], 0, to) }
}

/// Eight bytes of the page from `at` on; the first is the lowest.
///
/// # Safety
/// - `at` is at most `PAGE_SIZE - 8`.
#[inline(always)]
unsafe fn word(page: &PageBytes, at: usize) -> u64 {
    debug_assert!(at <= PAGE_SIZE - 8);
    // SAFETY: the bytes lie in the page, as the caller promises, and an array of them has no
    // alignment.
    u64::from_le_bytes(unsafe { page.as_ptr().add(at).cast::<[u8; 8]>().read() })
}

/// [`REACH`] bytes of the page from `at` on.
///
/// # Safety
/// - `at` is at most `PAGE_SIZE - REACH`.
#[inline(always)]
unsafe fn reach(page: &PageBytes, at: usize) -> &[u8; REACH] {
    debug_assert!(at <= PAGE_SIZE - REACH);
    // SAFETY: the bytes lie in the page, as the caller promises.
    unsafe { &*page.as_ptr().add(at).cast() }
}

/// Writes a sequence to `to` and returns where it ends.
///
/// # Safety
/// - `literals` is a range of the page, and `length` is at least 4.
/// - At `to` the sequence fits, and [`WIDE`] bytes behind its literals' start and its end.
#[inline(always)]
unsafe fn sequence(
    page: &PageBytes,
    literals: std::ops::Range<usize>,
    distance: usize,
    length: usize,
    mut to: *mut u8,
) -> *mut u8 {
    let more = length - MATCH_MIN;
    let low = more.min(HALF);
    // SAFETY: all writes are to the sequence or at most WIDE bytes beyond, as the caller promises.
    // 16 literals are read at once where the page has them.
    unsafe {
        if literals.len() < HALF && literals.start <= PAGE_SIZE - WIDE {
            *to = (literals.len() << 4 | low) as u8;
            to = to.add(1);
            let from = page.as_ptr().add(literals.start);
            to.cast::<[u8; WIDE]>()
                .write(from.cast::<[u8; WIDE]>().read());
            to = to.add(literals.len());
        } else {
            to = many_literals(&page[literals], low, to);
        }
        to.cast::<[u8; 2]>().write((distance as u16).to_le_bytes());
        // Most lengths that need more bytes need one. Otherwise it is written over.
        *to.add(2) = more.wrapping_sub(HALF) as u8;
        to = to.add(2 + usize::from(more >= HALF));
        if more >= HALF + 255 {
            to = length_bytes(more - HALF, to.sub(1));
        }
    }
    to
}

/// Writes a token with `low` in its lower half, and literals. Returns where they end.
///
/// # Safety
/// - All of that fits at `to`.
#[inline(never)]
unsafe fn many_literals(literals: &[u8], low: usize, mut to: *mut u8) -> *mut u8 {
    // SAFETY: as the caller promises.
    unsafe {
        *to = (literals.len().min(HALF) << 4 | low) as u8;
        to = to.add(1);
        if let Some(more) = literals.len().checked_sub(HALF) {
            to = length_bytes(more, to);
        }
        to.copy_from_nonoverlapping(literals.as_ptr(), literals.len());
        to.add(literals.len())
    }
}

/// Writes the bytes that add up to `more`. Returns where they end.
///
/// # Safety
/// - `more / 255 + 1` bytes fit at `to`.
unsafe fn length_bytes(mut more: usize, mut to: *mut u8) -> *mut u8 {
    // SAFETY: as the caller promises.
    unsafe {
        while more >= 255 {
            *to = 255;
            to = to.add(1);
            more -= 255;
        }
        *to = more as u8;
        to.add(1)
    }
}
