//! The thorough encoder of LZ4 blocks, for exactly one page: for pages of programs, the smallest
//! block there is, or nearly.
//!
//! ```text
//! search     finds the matches that no other match contains, without looking at every position
//! stairs     puts them in order: begins and ends both rise
//! choose     from the end of the page to its start, what the rest costs at least
//! write      from the start, what was chosen
//! ```
//! **What matches are needed.** A match may be cut at both sides and remains one. And what is left of
//! the page costs no less than a shorter rest. So at a position the best match is the one that ends
//! last, or as much of it as needs no more length bytes; no other has to be known. All of these are
//! parts of the few matches that lie in no other one:
//!
//! ```text
//!            s1------------t1                 s: where it begins, t: where it ends
//!                  s2-----------t2            from s1 to s2 the first one ends last,
//!                            s3------t3       from s2 to s3 the second, ...
//! ```
//! **How they are found.** Let the best match at `at` end before `end`. A match that begins behind
//! `at` and ends later contains the four bytes `end - 3..=end`, or begins behind `end - 3`. So the
//! next place to look at is `end - 3`, and no candidate there is missed: each is extended to both
//! sides. That is one walk along a chain for each match, where one for each position is usual. Where
//! the four bytes were not there before, the next place is the next position.
//!
//! **What is entered into the chains.** Only what was looked at. The positions that were passed over
//! lie within a match, so the same bytes stand where that one copies from; and a match that goes
//! beyond its end is found from its last four bytes, which are looked at. So three positions in ten
//! are entered, and chains hold fewer candidates that say the same.
//!
//! **Bytes that repeat.** Of a run of one byte only the first position is entered: behind it, the run
//! is a match with itself at distance 1. If a match ends within a run, its first position is looked
//! at instead: two runs agree from their starts or, found later, at their ends.
//!
//! Walks are cut off after [`TRIES`] candidates, and of the first position of a chain the four bytes
//! must agree.
//!
//! The block depends on the page alone, and is the same on every CPU. Measurements:
//! `docs/codecs.md`.

#![allow(unsafe_code)] // What `Text` and the chains are read with.

use super::encode::BLOCK_MAX;
use crate::{PAGE_SIZE, PageBytes};

/// Of the format: no match begins later, and none ends later.
const LAST_START: usize = PAGE_SIZE - 12;
const LAST_END: usize = PAGE_SIZE - 5;

/// The shortest match.
const MATCH_MIN: usize = 4;

/// The longest match that needs no length bytes.
const SHORT_MAX: usize = MATCH_MIN + 14;

/// What half of a token can hold.
const HALF: usize = 15;

/// How many candidates are looked at in one place.
const TRIES: usize = 12;

const HASH_BITS: u32 = 14;

/// Costs are counted in quarters of a byte, so that they fit 16 bits with a sign.
const BYTE: i16 = 4;

/// A token, an offset, and a quarter: of two ways to write as many bytes, the one with fewer
/// sequences is restored faster.
const SEQUENCE: i16 = 3 * BYTE + 1;

/// How many positions [`Rest`] does at once, and literals are copied.
const WIDE: usize = 16;

/// What [`Rest`] notes of a position lies this far behind its number: it writes [`WIDE`] entries
/// below a position where fewer are asked for. And it reads a few above the page's end.
const SHIFT: usize = WIDE;
const NOTES: usize = SHIFT + PAGE_SIZE + 2 * WIDE;

/// Zeros before the page in [`Text`].
const FRONT: usize = PAGE_SIZE;

/// A match that lies in no other.
#[derive(Clone, Copy)]
struct Match {
    start: u16,
    end: u16,
    distance: u16,
}

/// All that is needed beside page and block.
pub(in crate::codec) struct Tables {
    text: Text,
    chains: Chains,
    found: Found,
    stairs: [Match; PAGE_SIZE],
    rest: Rest,
}

impl Tables {
    /// Filled with something other than zeros, so that the kernel has really given its memory.
    pub(super) fn boxed() -> Box<Tables> {
        Box::new(Tables {
            text: Text([0; _]),
            chains: Chains {
                heads: [1; _],
                before: [1; _],
            },
            found: Found {
                begun: [u64::MAX; _],
                longest: [u32::MAX; _],
            },
            stairs: [Match {
                start: 0xffff,
                end: 0xffff,
                distance: 0xffff,
            }; _],
            rest: Rest {
                costs: [-1; _],
                zones: [Zone {
                    low: 0xffff,
                    high: 0xffff,
                    end: 0xffff,
                    distance: 0xffff,
                }; _],
                count: usize::MAX,
            },
        })
    }

    /// Finds the matches.
    fn search(&mut self) {
        self.found.begun.fill(0);
        self.chains.heads.fill(0);
        // SAFETY: here and below, `at` is at most LAST_END - MATCH_MIN where it is used, and first
        // is less; candidates come out of the chains. All are less than PAGE_SIZE.
        unsafe { self.chains.enter(0, self.text.four(0)) };
        // Nothing from behind `last` on was looked at, and no match ends behind `end`.
        let (mut at, mut last, mut end) = (1, 0, 0);
        loop {
            let (candidate, four) = loop {
                if at > LAST_END - MATCH_MIN {
                    return;
                }
                // SAFETY: as above.
                unsafe {
                    let four = self.text.four(at);
                    let candidate = self.chains.enter(at, four);
                    if four == self.text.four(candidate) {
                        break (candidate, four);
                    }
                }
                last = at;
                at += 1;
            };
            // SAFETY: as above.
            unsafe {
                if four != self.text.four(at - 1) {
                    end = end.max(self.walk(at, candidate, four));
                } else {
                    self.chains.leave(four, candidate);
                    let first = at - 1 - self.text.agree_before(at - 1, at);
                    let behind = at + self.text.agree(at - 1, at);
                    self.found.note(first + 1, behind, 1);
                    end = end.max(behind);
                    if first > last {
                        let candidate = self.chains.enter(first, four);
                        if four == self.text.four(candidate) {
                            end = end.max(self.walk(first, candidate, four));
                        }
                    }
                }
            }
            last = at;
            at = (at + 1).max((end + 1).saturating_sub(MATCH_MIN));
        }
    }

    /// Compares `at` with the candidates from the first on, whose four bytes agree, and notes the
    /// matches. Returns where the last one ends.
    ///
    /// # Safety
    /// - `at` is at most `LAST_END - MATCH_MIN`, and `candidate` is less.
    #[inline(always)]
    unsafe fn walk(&mut self, at: usize, mut candidate: usize, four: u32) -> usize {
        // SAFETY: both are less than PAGE_SIZE, and so is what follows from them: `after` and `reach`
        // are at least MATCH_MIN and at most LAST_END - at; `ahead` and `back` are at most the
        // candidate; and further candidates come out of the chains.
        unsafe {
            let mut after = self.text.agree(candidate, at);
            let mut ahead = self.text.agree_before(candidate, at);
            self.found.note(at - ahead, at + after, at - candidate);
            // The four bytes that a match must share to reach further than the longest one, behind it
            // or before it. One that does neither lies in it.
            let mut behind = self.text.four(at + after - 3);
            let mut before = self.text.before_four(at, ahead);
            for _ in 1..TRIES {
                candidate = self.chains.before(candidate);
                if (self.text.four(candidate + after - 3) == behind
                    || self.text.before_four(candidate, ahead) == before)
                    && self.text.four(candidate) == four
                {
                    let reach = self.text.agree(candidate, at);
                    let back = self.text.agree_before(candidate, at);
                    self.found.note(at - back, at + reach, at - candidate);
                    if (reach, back) > (after, ahead) {
                        (after, ahead) = (reach, back);
                        behind = self.text.four(at + after - 3);
                        before = self.text.before_four(at, ahead);
                    }
                }
                if candidate == 0 {
                    break;
                }
            }
            at + after
        }
    }

    /// The matches that lie in no other one, in order. Returns how many there are.
    fn stairs(&mut self) -> usize {
        let (mut count, mut end) = (0, 0);
        for (word, bits) in self.found.begun.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let start = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let longest = self.found.longest[start];
                let this = longest >> 16;
                self.stairs[count] = Match {
                    start: start as u16,
                    end: this as u16,
                    distance: longest as u16,
                };
                count += usize::from(this > end && start <= LAST_START);
                end = end.max(this);
            }
        }
        count
    }

    /// Writes the block, and returns its length.
    fn write(&self, out: &mut [u8]) -> usize {
        let costs = &self.rest.costs;
        let (mut at, mut to) = (0, 0);
        for zone in self.rest.zones[..self.rest.count].iter().rev() {
            let end = usize::from(zone.end);
            while at < usize::from(zone.high) {
                let from = FRONT + at;
                let literals = usize::from(zone.low).saturating_sub(at);
                at += literals;
                let mut length = end - at;
                if length > SHORT_MAX {
                    let cut = costs[SHIFT + at + SHORT_MAX];
                    if cut <= costs[SHIFT + end] + length_bytes(length) {
                        length = SHORT_MAX;
                    }
                }
                let more = length - MATCH_MIN;
                let low = more.min(HALF);
                if literals < HALF {
                    // 16 bytes are copied at once.
                    let wide = &mut out[to..to + 1 + WIDE];
                    wide[0] = (literals << 4 | low) as u8;
                    wide[1..].copy_from_slice(&self.text.0[from..from + WIDE]);
                    to += 1 + literals;
                } else {
                    to = many_literals(&self.text.0[from..from + literals], low, out, to);
                }
                out[to..to + 2].copy_from_slice(&zone.distance.to_le_bytes());
                to += 2;
                if low == HALF {
                    to = extend(more - HALF, out, to);
                }
                at += length;
            }
        }
        many_literals(&self.text.0[FRONT + at..FRONT + PAGE_SIZE], 0, out, to)
    }
}

/// Writes the block of `page` into `out`, which has at least [`BLOCK_MAX`] bytes, and returns its
/// length.
pub(super) fn encode(page: &PageBytes, out: &mut [u8], tables: &mut Tables) -> usize {
    // What is written is never longer than the part of the page it stands for, but for a byte in 255
    // literals; and literals are copied 16 at once.
    const { assert!(BLOCK_MAX >= super::decode::BLOCK_MAX + WIDE) };
    assert!(out.len() >= BLOCK_MAX);
    tables.text.0[FRONT..FRONT + PAGE_SIZE].copy_from_slice(page);
    tables.search();
    let count = tables.stairs();
    tables.rest.choose(&tables.stairs[..count]);
    tables.write(out)
}

/// Which head stands for four bytes.
#[inline(always)]
fn hash(four: u32) -> usize {
    // An odd factor near 2^32 divided by the golden ratio, as Knuth has it.
    (four.wrapping_mul(2_654_435_761) >> (32 - HASH_BITS)) as usize
}

/// The positions that were looked at, linked by hash. All entries are less than [`PAGE_SIZE`], those
/// of an earlier page and those never written too: `boxed` fills both with ones.
struct Chains {
    /// By hash, where it was seen last; 0 where it was not.
    heads: [u16; 1 << HASH_BITS],
    /// Where the hash of a position was seen before; 0 ends the chain.
    before: [u16; PAGE_SIZE],
}

impl Chains {
    /// Enters a position, and returns where its hash was seen last. That is less than [`PAGE_SIZE`].
    ///
    /// # Safety
    /// - `at` is less than [`PAGE_SIZE`].
    #[inline(always)]
    unsafe fn enter(&mut self, at: usize, four: u32) -> usize {
        debug_assert!(at < PAGE_SIZE);
        let candidate = std::mem::replace(&mut self.heads[hash(four)], at as u16);
        // SAFETY: as the caller promises.
        unsafe { *self.before.get_unchecked_mut(at) = candidate };
        usize::from(candidate)
    }

    /// Undoes it, right after it; `candidate` is what it returned.
    #[inline(always)]
    fn leave(&mut self, four: u32, candidate: usize) {
        self.heads[hash(four)] = (candidate % PAGE_SIZE) as u16;
    }

    /// The next candidate of a chain, which is less than [`PAGE_SIZE`] too.
    ///
    /// # Safety
    /// - `candidate` is less than [`PAGE_SIZE`].
    #[inline(always)]
    unsafe fn before(&self, candidate: usize) -> usize {
        debug_assert!(candidate < PAGE_SIZE);
        // SAFETY: as the caller promises.
        usize::from(unsafe { *self.before.get_unchecked(candidate) })
    }
}

/// The page, with as many zeros before it and more behind: what is read beyond its ends is cut off,
/// or does no harm. So anything may be read up to a page's length from a position of the page.
/// Positions are the page's.
struct Text([u8; FRONT + 2 * PAGE_SIZE + Text::WIDEST]);

impl Text {
    /// What is read at once, at most.
    const WIDEST: usize = 16;

    /// `N` bytes from a place on, which is counted from the first zero.
    ///
    /// # Safety
    /// - `place` is at most `FRONT + 2 * PAGE_SIZE`.
    #[inline(always)]
    unsafe fn bytes<const N: usize>(&self, place: usize) -> [u8; N] {
        const { assert!(N <= Text::WIDEST) };
        debug_assert!(place <= FRONT + 2 * PAGE_SIZE);
        // SAFETY: the text has WIDEST bytes behind the last place, and an array of bytes has no
        // alignment.
        unsafe { self.0.as_ptr().add(place).cast::<[u8; N]>().read() }
    }

    /// Four bytes from a position on, or from less than a page's length behind one.
    ///
    /// # Safety
    /// - `at` is less than `2 * PAGE_SIZE`.
    #[inline(always)]
    unsafe fn four(&self, at: usize) -> u32 {
        // SAFETY: as the caller promises.
        u32::from_le_bytes(unsafe { self.bytes(FRONT + at) })
    }

    /// The byte before the `length` bytes before a position, and three more from there.
    ///
    /// # Safety
    /// - `at` and `length` are less than [`PAGE_SIZE`].
    #[inline(always)]
    unsafe fn before_four(&self, at: usize, length: usize) -> u32 {
        // SAFETY: FRONT is PAGE_SIZE, so the place is not negative; and it is less than FRONT + at.
        u32::from_le_bytes(unsafe { self.bytes(FRONT + at - length - 1) })
    }

    /// How many bytes from `at` on agree with those from `from` on. The first four do; and no match
    /// ends behind [`LAST_END`].
    ///
    /// # Safety
    /// - `from` and `at` are less than [`PAGE_SIZE`].
    #[inline(always)]
    unsafe fn agree(&self, from: usize, at: usize) -> usize {
        const WIDE: usize = 16;
        let mut length = MATCH_MIN;
        while at + length < LAST_END {
            // SAFETY: `at + length` is less than PAGE_SIZE, so `from + length` is less than twice that.
            let (a, b): ([u8; WIDE], [u8; WIDE]) = unsafe {
                let (a, b) = (FRONT + at + length, FRONT + from + length);
                (self.bytes(a), self.bytes(b))
            };
            let differ = u128::from_le_bytes(a) ^ u128::from_le_bytes(b);
            if differ != 0 {
                length += differ.trailing_zeros() as usize / 8;
                break;
            }
            length += WIDE;
        }
        length.min(LAST_END - at)
    }

    /// How many bytes before `at` agree with those before `from`.
    ///
    /// # Safety
    /// - `from` and `at` are less than [`PAGE_SIZE`].
    #[inline(always)]
    unsafe fn agree_before(&self, from: usize, at: usize) -> usize {
        const WIDE: usize = 8;
        let mut length = 0;
        while length < from {
            // SAFETY: `length` is a multiple of WIDE below PAGE_SIZE, which is FRONT; so these places
            // are not negative, and they lie before `FRONT + at` and `FRONT + from`.
            let (a, b): ([u8; WIDE], [u8; WIDE]) = unsafe {
                let (a, b) = (FRONT + at - length - WIDE, FRONT + from - length - WIDE);
                (self.bytes(a), self.bytes(b))
            };
            let differ = u64::from_le_bytes(a) ^ u64::from_le_bytes(b);
            if differ != 0 {
                // Baseline x86-64 has a fast instruction to count from this end only.
                length += differ.swap_bytes().trailing_zeros() as usize / 8;
                break;
            }
            length += WIDE;
        }
        length.min(from)
    }
}
/// Matches, by where they begin.
struct Found {
    /// A bit for each position, lowest first: whether there is one.
    begun: [u64; PAGE_SIZE / 64],
    /// Where it ends, and below that, in 16 bits, its distance.
    longest: [u32; PAGE_SIZE],
}

impl Found {
    /// Notes a match, unless one is known that begins there and ends later.
    #[inline(always)]
    fn note(&mut self, start: usize, end: usize, distance: usize) {
        let start = start & (PAGE_SIZE - 1);
        let bits = &mut self.begun[start / 64];
        let was = (*bits >> (start % 64) & 1) as u32;
        *bits |= 1 << (start % 64);
        let longest = &mut self.longest[start];
        *longest = (*longest * was).max((end << 16 | distance) as u32);
    }
}

/// Where it pays to begin with a match, on the way from the page's start: anywhere from `low` to
/// before `high`. It goes to before `end`, or is cut to need no length bytes.
#[derive(Clone, Copy)]
struct Zone {
    low: u16,
    high: u16,
    end: u16,
    distance: u16,
}

/// What the rest of the page costs, from each position on, and how it begins.
struct Rest {
    /// By position, [`SHIFT`] entries further up.
    costs: [i16; NOTES],
    /// They are disjoint, and the last one is the first in the page. Between them are literals.
    zones: [Zone; PAGE_SIZE],
    count: usize,
}

impl Rest {
    /// Does the whole page, from its end.
    fn choose(&mut self, stairs: &[Match]) {
        // The token of the last literals.
        let mut done = Done {
            top: PAGE_SIZE,
            cost: BYTE,
            run: 0,
        };
        self.costs[SHIFT + PAGE_SIZE] = BYTE;
        self.count = 0;
        for step in stairs.iter().rev() {
            let (start, end) = (usize::from(step.start), usize::from(step.end));
            // No match begins in the last bytes of this one.
            let high = done.top.min(end - 3).min(LAST_START + 1).max(start);
            // And from here on it needs no length bytes.
            let near = start.max(end.saturating_sub(SHORT_MAX)).min(high);
            let behind = if end < done.top {
                done.after(done.top - end)
            } else {
                self.costs[SHIFT + end]
            };
            let taken = behind + SEQUENCE;
            // Literals as long as they cost less; at most 3, since the match costs no more.
            let more = (taken - done.after(done.top - high)).max(1);
            let more = usize::from((more + BYTE - 1) as u16 / BYTE as u16 - 1);
            done = done.literals(&mut self.costs, high - more.min(high - near));

            // Notes are made below `top`, WIDE of them: what is too low is written over.
            let top = done.top;
            *self.costs[top..].first_chunk_mut().expect("room") = [taken; WIDE];
            self.put_zone(near, top, step);
            if top > near {
                done = Done {
                    top: near,
                    cost: taken,
                    run: 0,
                };
            }
            if done.top > start {
                done = self.put_long(done, step, taken);
            }
        }
        done.literals(&mut self.costs, 0);
    }

    /// Notes where to begin with a match, unless it is nowhere.
    #[inline(always)]
    fn put_zone(&mut self, low: usize, high: usize, step: &Match) {
        self.zones[self.count] = Zone {
            low: low as u16,
            high: high as u16,
            end: step.end,
            distance: step.distance,
        };
        self.count += usize::from(high > low);
    }

    /// The positions down to where the match begins, from where it needs length bytes. Without them
    /// it costs `taken`. It may be cut to end where none is needed.
    #[inline(always)]
    fn put_long(&mut self, mut done: Done, step: &Match, taken: i16) -> Done {
        let (start, end) = (usize::from(step.start), usize::from(step.end));
        while done.top > start {
            let whole = taken + length_bytes(end - done.top + 1);
            let cut = self.costs[SHIFT + done.top - 1 + SHORT_MAX] + SEQUENCE;
            if done.cost + BYTE >= whole.min(cut) {
                break;
            }
            done = done.literals(&mut self.costs, done.top - 1);
        }
        if done.top == start {
            return done;
        }
        self.put_zone(start, done.top, step);
        // From the first position where the match is the better choice it remains that.
        let mut top = done.top;
        while top > start {
            let whole = taken + length_bytes(end - top + 1);
            let mut costs: [i16; WIDE] =
                *self.costs[top + SHORT_MAX..].first_chunk().expect("room");
            for cost in &mut costs {
                *cost = (*cost + SEQUENCE).min(whole);
            }
            *self.costs[top..].first_chunk_mut().expect("room") = costs;
            top = top.max(start + WIDE) - WIDE;
        }
        Done {
            top,
            cost: self.costs[SHIFT + start],
            run: 0,
        }
    }
}

/// Everything from `top` on is done, costs so much, and begins with so many literals.
#[derive(Clone, Copy)]
struct Done {
    top: usize,
    cost: i16,
    run: u16,
}

impl Done {
    /// What the page costs from so many literals before `top` on. Most runs of literals are short:
    /// only their first length byte is seen.
    #[inline(always)]
    fn after(self, literals: usize) -> i16 {
        let run = usize::from(self.run);
        let longer = run < HALF && run + literals >= HALF;
        self.cost + BYTE * (literals as i16 + i16::from(longer))
    }

    /// Notes literals down to `low`.
    #[inline(always)]
    fn literals(self, costs: &mut [i16; NOTES], low: usize) -> Done {
        const WIDE: usize = 8;
        let Done {
            mut top,
            mut cost,
            mut run,
        } = self;
        let count = top - low;
        if count <= WIDE && usize::from(run) + count < HALF {
            // They are few, as most are, and need no length byte.
            let all = |i: usize| cost + BYTE * (WIDE - i) as i16;
            *costs[top + SHIFT - WIDE..].first_chunk_mut().expect("room") =
                std::array::from_fn::<i16, WIDE, _>(all);
            return Done {
                top: low,
                cost: cost + BYTE * count as i16,
                run: run + count as u16,
            };
        }
        loop {
            // With so many, the run needs a length byte more.
            let limit = match run.checked_sub(HALF as u16) {
                Some(more) => more / 255 * 255 + HALF as u16 + 255,
                None => HALF as u16,
            };
            let all = |i: usize| {
                let run = run + (WIDE - i) as u16;
                cost + BYTE * ((WIDE - i) as i16 + i16::from(run >= limit))
            };
            *costs[top + SHIFT - WIDE..].first_chunk_mut().expect("room") =
                std::array::from_fn::<i16, WIDE, _>(all);
            let count = (top - low).min(WIDE);
            run += count as u16;
            cost += BYTE * (count as i16 + i16::from(run >= limit));
            top -= count;
            if top <= low {
                return Done { top, cost, run };
            }
        }
    }
}

/// What the bytes cost that extend the length of a match of at least 19 bytes.
#[inline(always)]
fn length_bytes(length: usize) -> i16 {
    BYTE * ((length - SHORT_MAX - 1) / 255 + 1) as i16
}

/// Writes a token with `low` in its lower half, and literals. Returns where they end.
#[inline(never)]
fn many_literals(literals: &[u8], low: usize, out: &mut [u8], mut to: usize) -> usize {
    out[to] = (literals.len().min(HALF) << 4 | low) as u8;
    to += 1;
    if let Some(more) = literals.len().checked_sub(HALF) {
        to = extend(more, out, to);
    }
    out[to..to + literals.len()].copy_from_slice(literals);
    to + literals.len()
}

/// Writes the bytes that add up to `more`. Returns where they end.
fn extend(mut more: usize, out: &mut [u8], mut to: usize) -> usize {
    while more >= 255 {
        out[to] = 255;
        to += 1;
        more -= 255;
    }
    out[to] = more as u8;
    to + 1
}
