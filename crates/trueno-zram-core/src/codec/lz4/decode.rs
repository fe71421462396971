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
//! Two functions share the work. [`common`] runs as long as a sequence is of the common kind and
//! lies far enough from the end of block and page that copies may move more than asked: what they
//! write beyond a sequence the next one writes over. [`careful`] does one sequence of any kind, in
//! safe code; all that is rare or wrong is left to it, so that a hostile block can end in `None`
//! and nowhere else.
//!
//! Why it is as it is, and what was tried: `docs/codecs.md`.

#![allow(unsafe_code)]

use crate::{PAGE_SIZE, PageBytes};

/// No block of a page is longer: a sequence is no longer than what it stands for, but for a byte in
/// 255 literals, and the last one has a token and no match.
pub(super) const BLOCK_MAX: usize = PAGE_SIZE + PAGE_SIZE / 255 + 2;

/// What a copy of literals moves at once.
const WIDE: usize = 16;

/// How far [`common`] stays away from the end of the block when it begins a sequence: a token, 14
/// literals, an offset and a byte for the length, with 16 bytes read from behind the token.
const BLOCK_MARGIN: usize = 18;

/// How far it stays away from the end of the page: 14 literals, and [`LONG`] bytes of a match, are
/// less.
const PAGE_MARGIN: usize = 96;

/// What is copied of a long match without asking how long it is.
const LONG: usize = 64;

/// Matches that begin less than 8 bytes back, by that distance: what repeats, as a mask of the 8
/// bytes found there, the factor that repeats it in 8 bytes, and after how many bytes a word begins
/// as the one before.
const PATTERNS: [(u64, u64, usize); 8] = patterns();

const fn patterns() -> [(u64, u64, usize); 8] {
    let mut table = [(0, 0, 8); 8];
    let mut period = 1;
    while period < 8 {
        let mut repeat = 0;
        let mut at = 0;
        while at < 8 {
            repeat |= 1 << (8 * at);
            at += period;
        }
        table[period] = (u64::MAX >> (64 - 8 * period), repeat, 8 / period * period);
        period += 1;
    }
    table
}

/// Fills `page` from `block`; `None` if the block is not valid or not exactly a page.
pub(super) fn decode(block: &[u8], page: &mut PageBytes) -> Option<()> {
    // So that no sum of length bytes comes near what an `isize` holds.
    if block.len() > BLOCK_MAX {
        return None;
    }
    let (mut next, mut at) = (0, 0);
    loop {
        (next, at) = common(block, next, page, at);
        (next, at) = careful(block, next, page, at)?;
        if next == block.len() {
            return (at == PAGE_SIZE).then_some(());
        }
    }
}

/// Does sequences from `block[next]` on, into `page[at..]`, as long as they are common ones. Returns
/// where the first other one begins, in block and page.
#[inline(always)]
fn common(block: &[u8], next: usize, page: &mut PageBytes, at: usize) -> (usize, usize) {
    let Some(last) = block.len().checked_sub(BLOCK_MARGIN) else {
        return (next, at);
    };
    assert!(next <= block.len() && at <= PAGE_SIZE);
    let (block_start, page_start) = (block.as_ptr(), page.as_mut_ptr());
    // SAFETY: in the loop `from` lies at most at `last` and `to` at most at `page_last` where a
    // sequence begins, and never behind the end of block or page. With up to 14 literals, all that
    // is read of the block lies within BLOCK_MARGIN from `from`: 1 + 16 bytes of literals, and
    // 1 + 14 + 2 + 1 bytes of the sequence. A longer run is checked to end at `last`; further bytes
    // of a length are read by `more`, which goes no further than the block. So offset and length
    // lie at most 3 bytes behind `last`. All that is written lies within PAGE_MARGIN from `to`: 16
    // bytes of literals; 14 literals and then 3 words at most 8 apart. Longer literals and matches
    // are checked to end at `page_last`, and reach at most 15 or LONG bytes beyond; a short match
    // behind long literals, 24. A match is read from the page's start on, as is checked, and not
    // beyond what may be written. The page is initialised memory, so all of it may be read, and it is ours.
    unsafe {
        let last = block_start.add(last);
        let page_last = page_start.add(PAGE_SIZE - PAGE_MARGIN);
        let mut from = block_start.add(next);
        let mut to = page_start.add(at);
        while from <= last && to <= page_last {
            let token = usize::from(*from);
            let mut run = from.add(1);
            let mut literals = token >> 4;
            if literals == 15 {
                literals += usize::from(*run);
                run = run.add(1);
                // A length of more bytes is at least 15 + 255.
                if literals >= 15 + 255
                    || last.offset_from(run) < literals as isize
                    || page_last.offset_from(to) < literals as isize
                {
                    break;
                }
                let mut done = 0;
                while done < literals {
                    copy::<WIDE>(run.add(done), to.add(done));
                    done += WIDE;
                }
            } else {
                copy::<WIDE>(run, to);
            }
            let offset = run.add(literals);
            let target = to.add(literals);
            let distance = usize::from(u16::from_le_bytes(offset.cast::<[u8; 2]>().read()));
            if distance.wrapping_sub(1) >= target.offset_from(page_start) as usize {
                break;
            }
            let source = target.sub(distance);
            let length = token & 15;
            if length == 15 {
                let mut length = length + 4 + usize::from(*offset.add(2));
                let mut end = offset.add(3);
                if length == 15 + 4 + 255 {
                    let mut next = end.offset_from(block_start) as usize;
                    let Some(sum) = more(block, &mut next) else {
                        break;
                    };
                    length += sum;
                    end = block_start.add(next);
                }
                if page_last.offset_from(target) < length as isize {
                    break;
                }
                if distance >= LONG / 2 {
                    copy::<{ LONG / 2 }>(source, target);
                    copy::<{ LONG / 2 }>(source.add(LONG / 2), target.add(LONG / 2));
                    if length > LONG {
                        let (source, target) = (source.add(LONG), target.add(LONG));
                        extend(source, target, distance, length - LONG);
                    }
                } else {
                    extend(source, target, distance, length);
                }
                from = end;
                to = target.add(length);
            } else {
                if distance >= 8 {
                    // What is not needed is taken from elsewhere: there it might just have been
                    // written, and a load waits for that.
                    let second = if length > 4 { source.add(8) } else { from };
                    copy::<8>(source, target);
                    copy::<8>(second, target.add(8));
                    copy::<2>(source.add(16), target.add(16));
                } else {
                    let (word, step) = pattern(source, distance);
                    target.cast::<u64>().write_unaligned(word);
                    target.add(step).cast::<u64>().write_unaligned(word);
                    target.add(2 * step).cast::<u64>().write_unaligned(word);
                }
                from = offset.add(2);
                to = target.add(length + 4);
            }
        }
        (
            from.offset_from(block_start) as usize,
            to.offset_from(page_start) as usize,
        )
    }
}

/// Copies `N` bytes.
///
/// # Safety
/// - `N` bytes can be read at `from`, and written at `to`.
#[inline(always)]
unsafe fn copy<const N: usize>(from: *const u8, to: *mut u8) {
    // SAFETY: as the caller promises. An array of bytes has no alignment.
    unsafe { to.cast::<[u8; N]>().write(from.cast::<[u8; N]>().read()) }
}

/// Eight bytes that continue the `distance` bytes at `source`, and after how many bytes they begin
/// again.
///
/// # Safety
/// - `distance` is 1 to 7, and 8 bytes can be read at `source`.
#[inline(always)]
unsafe fn pattern(source: *const u8, distance: usize) -> (u64, usize) {
    let (mask, repeat, step) = PATTERNS[distance & 7];
    // SAFETY: as the caller promises.
    let found = u64::from_le_bytes(unsafe { source.cast::<[u8; 8]>().read() });
    // The copies do not overlap, but for bytes that fall off at the top.
    ((found & mask).wrapping_mul(repeat).to_le(), step)
}

/// A long match: writes `length` bytes and at most 15 more.
///
/// # Safety
/// - `target` is `distance` behind `source`, and that is not 0.
/// - From `source` to `length` + 15 bytes behind `target` everything can be read and written.
#[inline(always)]
unsafe fn extend(source: *const u8, target: *mut u8, distance: usize, length: usize) {
    let mut done = 0;
    // SAFETY: `done` is below `length` where a copy of up to 16 bytes begins. A pattern is read from
    // before `source` + 8, which lies before `target` + 15.
    unsafe {
        if distance >= WIDE {
            while done < length {
                copy::<WIDE>(source.add(done), target.add(done));
                done += WIDE;
            }
        } else if distance >= 8 {
            while done < length {
                copy::<8>(source.add(done), target.add(done));
                done += 8;
            }
        } else {
            let (word, step) = pattern(source, distance);
            if step == 8 {
                while done < length {
                    target
                        .add(done)
                        .cast::<[u64; 2]>()
                        .write_unaligned([word; 2]);
                    done += WIDE;
                }
            }
            while done < length {
                target.add(done).cast::<u64>().write_unaligned(word);
                done += step;
            }
        }
    }
}

/// Does one sequence, of whatever kind. Returns where the next one begins, in block and page: after
/// the last one, that is the block's end.
#[cold]
#[inline(never)]
fn careful(
    block: &[u8],
    mut next: usize,
    page: &mut PageBytes,
    mut at: usize,
) -> Option<(usize, usize)> {
    let token = usize::from(*block.get(next)?);
    next += 1;
    let mut literals = token >> 4;
    if literals == 15 {
        literals += more(block, &mut next)?;
    }
    page.get_mut(at..at + literals)?
        .copy_from_slice(block.get(next..next + literals)?);
    next += literals;
    at += literals;
    if next == block.len() {
        return Some((next, at));
    }

    let offset = block.get(next..)?.first_chunk::<2>()?;
    next += 2;
    let distance = usize::from(u16::from_le_bytes(*offset));
    let from = at.checked_sub(distance)?;
    let mut length = token & 15;
    if length == 15 {
        length += more(block, &mut next)?;
    }
    let end = at + length + 4;
    // A block ends with literals, if only with none.
    if distance == 0 || end > PAGE_SIZE || next == block.len() {
        return None;
    }
    while at < end {
        // All that is there by now repeats with the same period.
        let step = (at - from).min(end - at);
        page.copy_within(from..from + step, at);
        at += step;
    }
    Some((next, at))
}

/// The bytes that extend a length. The block bounds the sum: it is at most 255 times its length.
#[inline(never)]
fn more(block: &[u8], next: &mut usize) -> Option<usize> {
    let mut sum = 0;
    loop {
        let byte = *block.get(*next)?;
        *next += 1;
        sum += usize::from(byte);
        if byte != 255 {
            return Some(sum);
        }
    }
}
