//! The decoder of LZ4 blocks, for exactly one page.
//!
//! The block is a row of sequences, each of them literals and then a match, except that the last
//! one ends after its literals:
//!
//! ```text
//! token      u8         high half: literals; low half: length of the match, less 4
//! [more]     u8, ...    if the half is 15: added to it, up to and including the first below 255
//! literals
//! offset     u16, LE    where the match begins, counted back from here; not 0
//! [more]     u8, ...    as above, for the match
//! ```
//!
//! All of it is safe Rust: a hostile block can end in `None` and nowhere else. What makes it fast
//! is that short copies, which are most of them, move 16 bytes at a time and may write more than
//! asked, as long as that stays within the page: the next sequence writes over it. Matches that
//! overlap themselves, which is what runs of zeros become, double what they copy with every step.

#![forbid(unsafe_code)]

use crate::{PAGE_SIZE, PageBytes};

/// What a short copy moves at once.
const WIDE: usize = 16;

/// Fills `page` from `block`; `None` if the block is not valid or not exactly a page.
pub(super) fn decode(block: &[u8], page: &mut PageBytes) -> Option<()> {
    let (mut rest, mut at) = (block, 0);
    loop {
        let (token, after) = rest.split_first()?;
        rest = after;

        let mut literals = usize::from(token >> 4);
        if literals == 15 {
            literals += more(&mut rest)?;
        }
        match (
            rest.first_chunk::<WIDE>(),
            page[at..].first_chunk_mut::<WIDE>(),
        ) {
            (Some(from), Some(to)) if literals <= WIDE => *to = *from,
            _ => page
                .get_mut(at..at + literals)?
                .copy_from_slice(rest.get(..literals)?),
        }
        at += literals;
        rest = &rest[literals..];
        if rest.is_empty() {
            return (at == PAGE_SIZE).then_some(());
        }

        let (offset, after) = rest.split_first_chunk::<2>()?;
        rest = after;
        let offset = usize::from(u16::from_le_bytes(*offset));
        let from = at.checked_sub(offset)?;
        let mut length = usize::from(token & 15);
        if length == 15 {
            length += more(&mut rest)?;
        }
        length += 4;
        let end = at + length;
        if offset == 0 || end > PAGE_SIZE {
            return None;
        }
        if offset >= WIDE && end <= PAGE_SIZE - WIDE {
            copy_wide(page, from, at, end);
        } else {
            repeat(page, from, at, end);
        }
        at = end;
    }
}

/// The bytes that extend a length. The block bounds the sum: it is at most 255 times its length.
fn more(rest: &mut &[u8]) -> Option<usize> {
    let mut sum = 0;
    loop {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        sum += usize::from(*byte);
        if *byte != 255 {
            return Some(sum);
        }
    }
}

/// Copies from `from` to `at` until `end` is reached or passed, in steps that do not overlap
/// themselves.
#[inline]
fn copy_wide(page: &mut PageBytes, mut from: usize, mut at: usize, end: usize) {
    while at < end {
        page.copy_within(from..from + WIDE, at);
        (from, at) = (from + WIDE, at + WIDE);
    }
}

/// Continues `page[from..at]` with period `at - from` until `end`.
#[inline]
fn repeat(page: &mut PageBytes, from: usize, mut at: usize, end: usize) {
    if at - from == 1 {
        let byte = page[from];
        page[at..end].fill(byte);
        return;
    }
    while at < end {
        // All that is there by now repeats with the same period.
        let step = (at - from).min(end - at);
        page.copy_within(from..from + step, at);
        at += step;
    }
}
