//! The encoder of LZ4 blocks, for exactly one page: greedy, as the reference implementation is.
//!
//! ```text
//! look up the last position with the same hash, and note this one instead
//! 4 bytes agree?   extend the match to both sides, write a sequence, go on behind it
//! else             go on; the longer nothing was found, the larger the steps
//! ```
//! The block depends on the page alone, and is the same on every CPU: the table is cleared first,
//! and nothing here asks for an instruction set.
//!
//! Six bytes are hashed, where the usual is four. Most matches of four or five bytes, which save a
//! byte or two, are not found then, and longer ones are: a block has fewer sequences, and it is
//! sequences that cost time. Why, and what was tried: `docs/codecs.md`.

#![allow(unsafe_code)]

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

/// After 2^this positions without a match the steps get longer.
const PATIENCE: u32 = 6;

const HASH_BITS: u32 = 12;

/// By hash, where in the page it was seen last. 0 where it was not: the first position of a page is
/// never looked up, and a candidate is compared in any case.
pub(in crate::codec) struct Table([u16; 1 << HASH_BITS]);

impl Table {
    /// Filled with something other than zeros, so that the kernel has really given its memory.
    pub(super) fn boxed() -> Box<Table> {
        Box::new(Table([0xffff; 1 << HASH_BITS]))
    }
}

/// Which entry of the table stands for the first 6 bytes of `word`.
#[inline(always)]
fn hash(word: u64) -> usize {
    // An odd factor of 48 bits: the top bits depend on all of the six bytes.
    ((word << 16).wrapping_mul(227_718_039_650_203) >> (64 - HASH_BITS)) as usize
}

/// Writes the block of `page` into `out`, which has at least [`BLOCK_MAX`] bytes, and returns its
/// length.
pub(super) fn encode(page: &PageBytes, out: &mut [u8], table: &mut Table) -> usize {
    assert!(out.len() >= BLOCK_MAX);
    let table = &mut table.0;
    table.fill(0);
    let start = out.as_mut_ptr();
    let mut to = start;
    // Everything before `done` is in the block.
    let (mut at, mut done) = (1, 0);
    'page: loop {
        let mut patience = 1 << PATIENCE;
        let (mut begin, mut from) = loop {
            if at > LAST_START {
                break 'page;
            }
            // SAFETY: `at` is at most LAST_START, 12 bytes before the end.
            let here = unsafe { word(page, at) };
            let entry = &mut table[hash(here)];
            let candidate = usize::from(*entry);
            *entry = at as u16;
            // SAFETY: entries are positions up to LAST_START: `at`, and `end - 2` below.
            let there = unsafe { word(page, candidate) };
            if here as u32 == there as u32 {
                break (at, candidate);
            }
            at += patience >> PATIENCE;
            patience += 1;
        };

        let mut end = begin + MATCH_MIN;
        loop {
            let behind = end - begin + from;
            if end > LAST_END - 8 {
                let rest = page[end..LAST_END].iter().zip(&page[behind..]);
                end += rest.take_while(|(a, b)| a == b).count();
                break;
            }
            // SAFETY: `end` is at least 8 bytes before LAST_END, and `behind` is below `end`.
            let differ = unsafe { word(page, end) ^ word(page, behind) };
            if differ != 0 {
                end += differ.trailing_zeros() as usize / 8;
                break;
            }
            end += 8;
        }
        while begin > done && from > 0 && page[begin - 1] == page[from - 1] {
            begin -= 1;
            from -= 1;
        }

        // SAFETY: `done <= begin`, and the match has at least 4 bytes and ends in the page. What was
        // written so far is no longer than `done + done / 255`, and with this sequence no longer
        // than `end + end / 255`, since a sequence is no longer than what it stands for but for a
        // byte in 255 literals. BLOCK_MAX has room for that, and for WIDE bytes more.
        to = unsafe { sequence(page, done..begin, begin - from, end - begin, to) };
        done = end;
        at = end;
        if at > LAST_START {
            break;
        }
        // SAFETY: `at` is at most LAST_START.
        let here = unsafe { word(page, at - 2) };
        table[hash(here)] = (at - 2) as u16;
    }
    // SAFETY: a token, the literals and what extends their number: see BLOCK_MAX.
    let end = unsafe { many_literals(&page[done..], 0, to) };
    // SAFETY: both lie in `out`.
    unsafe { end.offset_from(start) as usize }
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
            to = extend(more - HALF, to.sub(1));
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
            to = extend(more, to);
        }
        to.copy_from_nonoverlapping(literals.as_ptr(), literals.len());
        to.add(literals.len())
    }
}

/// Writes the bytes that add up to `more`. Returns where they end.
///
/// # Safety
/// - `more / 255 + 1` bytes fit at `to`.
unsafe fn extend(mut more: usize, mut to: *mut u8) -> *mut u8 {
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
