//! The thorough encoder of LZ4 blocks, for exactly one page: for pages of programs, the smallest
//! block there is, or nearly.
//!
//! ```text
//! chain      links every position to the last one before it with the same hash of 4 bytes
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
//! no match is known the next place is the next position whose four bytes were there before, and a
//! bit for each position tells.
//!
//! **Bytes that repeat.** Of a run of one byte only the first position is entered into the chains:
//! behind it, the run is a match with itself at distance 1. If a match ends within a run, its first
//! position is looked at instead: two runs agree from their starts or, found later, at their ends.
//!
//! Walks are cut off after [`TRIES`] candidates, and of the first position of a chain the four bytes
//! must agree: with both exact, blocks would be 0.2 % smaller.
//!
//! The block depends on the page alone, and is the same on every CPU. Measurements:
//! `docs/codecs.md`.

#![forbid(unsafe_code)]

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
const TRIES: usize = 16;

const HASH_BITS: u32 = 13;

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
    /// By hash, where it was seen last; 0 where it was not.
    heads: [u16; 1 << HASH_BITS],
    /// Where the hash of a position was seen before; 0 ends the chain.
    before: [u16; PAGE_SIZE],
    /// A bit for each position, highest first: whether the four bytes are those at `before`.
    known: [u64; PAGE_SIZE / 64],
    found: Found,
    stairs: [Match; PAGE_SIZE],
    rest: Rest,
}

impl Tables {
    /// Filled with something other than zeros, so that the kernel has really given its memory.
    pub(super) fn boxed() -> Box<Tables> {
        Box::new(Tables {
            text: Text([0; _]),
            heads: [0xffff; _],
            before: [0xffff; _],
            known: [u64::MAX; _],
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
                top: usize::MAX,
                run: 0xffff,
                cost: -1,
                costs: [-1; _],
                literals: [0xffff; _],
                lengths: [0xffff; _],
                distances: [0xffff; _],
            },
        })
    }

    /// Links the positions by hash.
    fn chain(&mut self) {
        self.heads.fill(0);
        let mut last = !self.text.four(0);
        let mut first = 0;
        let befores = self.before.as_chunks_mut::<64>().0;
        for ((word, bits), befores) in self.known.iter_mut().enumerate().zip(befores) {
            let mut known = 0;
            for (bit, before) in befores.iter_mut().enumerate() {
                let at = word * 64 + bit;
                let four = self.text.four(at);
                let head = &mut self.heads[hash(four)];
                let candidate = *head;
                // In a run, this is its first position, and remains it.
                first = if four != last { at as u16 } else { first };
                *head = first;
                last = four;
                *before = candidate;
                known = known << 1 | u64::from(self.text.four(usize::from(candidate)) == four);
            }
            *bits = known;
        }
        // Nothing is before the first position, and no match begins that late.
        self.known[0] &= u64::MAX >> 1;
        self.known[LAST_END / 64] &= u64::MAX << (63 - (LAST_END - MATCH_MIN) % 64);
    }

    /// Finds the matches.
    fn search(&mut self) {
        self.found.begun.fill(0);
        let (mut next, mut end, mut walked) = (1, 0, 0);
        while let Some(mut at) = self.next_known(next) {
            let four = self.text.four(at);
            let mut candidate = usize::from(self.before[at & (PAGE_SIZE - 1)]);
            if four == self.text.four(at - 1) && candidate > walked {
                at = candidate;
                candidate = usize::from(self.before[at & (PAGE_SIZE - 1)]);
            }
            walked = at;
            if four == self.text.four(at + 1) {
                let length = self.text.agree(at, at + 1);
                self.found.note(at + 1, at + 1 + length, 1);
                end = end.max(at + 1 + length);
            }
            if four == self.text.four(candidate) {
                end = end.max(self.walk(at, candidate, four));
            }
            next = (at + 1).max((end + 1).saturating_sub(MATCH_MIN));
        }
    }

    /// The first position from `at` on whose four bytes were there before.
    #[inline(always)]
    fn next_known(&self, at: usize) -> Option<usize> {
        let mut word = at / 64;
        let mut bits = self.known.get(word)? << (at % 64) >> (at % 64);
        while bits == 0 {
            word += 1;
            bits = *self.known.get(word)?;
        }
        Some(word * 64 + bits.leading_zeros() as usize)
    }

    /// Compares `at` with the candidates from the first on, whose four bytes agree, and notes the
    /// matches. Returns where the last one ends.
    #[inline(always)]
    fn walk(&mut self, at: usize, mut candidate: usize, four: u32) -> usize {
        let mut after = self.text.agree(candidate, at);
        let mut ahead = self.text.agree_before(candidate, at);
        self.found.note(at - ahead, at + after, at - candidate);
        // The four bytes that a match must share to reach further than the longest one, behind it or
        // before it. One that does neither lies in it.
        let mut behind = self.text.four(at + after - 3);
        let mut before = self.text.before_four(at, ahead);
        for _ in 1..TRIES {
            if candidate == 0 {
                break;
            }
            candidate = usize::from(self.before[candidate & (PAGE_SIZE - 1)]);
            let further = self.text.four(candidate + after - 3) == behind;
            let earlier = self.text.before_four(candidate, ahead) == before;
            if (further | earlier) && self.text.four(candidate) == four {
                let reach = self.text.agree(candidate, at);
                let back = self.text.agree_before(candidate, at);
                self.found.note(at - back, at + reach, at - candidate);
                if (reach, back) > (after, ahead) {
                    (after, ahead) = (reach, back);
                    behind = self.text.four(at + after - 3);
                    before = self.text.before_four(at, ahead);
                }
            }
        }
        at + after
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
        let (mut at, mut to) = (0, 0);
        loop {
            let literals = usize::from(self.rest.literals[SHIFT + at]);
            let from = FRONT + at;
            at += literals;
            if at >= PAGE_SIZE {
                return many_literals(&self.text.0[from..from + literals], 0, out, to);
            }
            let more = usize::from(self.rest.lengths[SHIFT + at]) - MATCH_MIN;
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
            let distance = self.rest.distances[SHIFT + at].to_le_bytes();
            out[to..to + 2].copy_from_slice(&distance);
            to += 2;
            if low == HALF {
                to = extend(more - HALF, out, to);
            }
            at += more + MATCH_MIN;
        }
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
    tables.chain();
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

/// The page, with as many zeros before and some behind: what is read beyond its ends is cut off, or
/// does no harm. Positions are the page's.
struct Text([u8; FRONT + PAGE_SIZE + Text::BEHIND]);

impl Text {
    const BEHIND: usize = 16;

    /// Bytes from a position on. The mask changes none, and tells the compiler that no check is
    /// needed; so does the next one's.
    #[inline(always)]
    fn at<const N: usize>(&self, at: usize) -> [u8; N] {
        let place = FRONT + (at & (PAGE_SIZE - 1));
        *self.0[place..place + N].first_chunk().expect("N bytes")
    }

    /// The eight bytes before the `length` bytes before a position.
    #[inline(always)]
    fn before(&self, at: usize, length: usize) -> u64 {
        let place = (FRONT + at - length - 8) & (2 * PAGE_SIZE - 1);
        u64::from_le_bytes(*self.0[place..place + 8].first_chunk().expect("8 bytes"))
    }

    /// The byte before the `length` bytes before a position, and three more from there.
    #[inline(always)]
    fn before_four(&self, at: usize, length: usize) -> u32 {
        let place = (FRONT + at - length - 1) & (2 * PAGE_SIZE - 1);
        u32::from_le_bytes(*self.0[place..place + 4].first_chunk().expect("4 bytes"))
    }

    #[inline(always)]
    fn four(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.at(at))
    }

    /// How many bytes from `at` on agree with those from `from` on. The first four do; and no match
    /// ends behind [`LAST_END`].
    #[inline(always)]
    fn agree(&self, from: usize, at: usize) -> usize {
        let mut length = MATCH_MIN;
        while at + length < LAST_END {
            let differ = u64::from_le_bytes(self.at(at + length))
                ^ u64::from_le_bytes(self.at(from + length));
            if differ != 0 {
                length += differ.trailing_zeros() as usize / 8;
                break;
            }
            length += 8;
        }
        length.min(LAST_END - at)
    }

    /// How many bytes before `at` agree with those before `from`.
    #[inline(always)]
    fn agree_before(&self, from: usize, at: usize) -> usize {
        let mut length = 0;
        while length < from {
            let differ = self.before(at, length) ^ self.before(from, length);
            if differ != 0 {
                // Baseline x86-64 has a fast instruction to count from this end only.
                length += differ.swap_bytes().trailing_zeros() as usize / 8;
                break;
            }
            length += 8;
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

/// What the rest of the page costs, from each position on, and how it begins.
struct Rest {
    /// Everything from here on is done, costs so much, and begins with so many literals.
    top: usize,
    cost: i16,
    run: u16,
    /// By position, [`SHIFT`] entries further up.
    costs: [i16; NOTES],
    literals: [u16; NOTES],
    /// Where there are no literals: the match.
    lengths: [u16; NOTES],
    distances: [u16; NOTES],
}

impl Rest {
    /// Does the whole page, from its end.
    fn choose(&mut self, stairs: &[Match]) {
        // The token of the last literals.
        (self.top, self.cost, self.run) = (PAGE_SIZE, BYTE, 0);
        self.costs[SHIFT + PAGE_SIZE] = BYTE;
        self.literals[SHIFT + PAGE_SIZE] = 0;
        for step in stairs.iter().rev() {
            let (start, end) = (usize::from(step.start), usize::from(step.end));
            // No match begins in the last bytes of this one.
            let high = self.top.min(end - 3).min(LAST_START + 1).max(start);
            // And from here on it needs no length bytes.
            let near = start.max(end.saturating_sub(SHORT_MAX)).min(high);
            let behind = if end < self.top {
                self.after(self.top - end)
            } else {
                self.costs[SHIFT + end]
            };
            let taken = behind + SEQUENCE;
            // Literals as long as they cost less; at most 3, since the match costs no more.
            let more = (taken - self.after(self.top - high)).max(1);
            let more = usize::from((more + BYTE - 1) as u16 / BYTE as u16 - 1);
            self.put_literals(high - more.min(high - near));

            // Notes are made below `top`, WIDE of them: what is too low is written over.
            let low = self.top;
            *self.costs[low..].first_chunk_mut().expect("room") = [taken; WIDE];
            let first = (end + SHIFT - low) as u16;
            let lengths = std::array::from_fn(|i| first.wrapping_sub(i as u16));
            self.put_match(low, lengths, step.distance);
            if self.top > near {
                (self.top, self.cost, self.run) = (near, taken, 0);
            }
            if self.top > start {
                self.put_long(start, end, taken, step.distance);
            }
        }
        self.put_literals(0);
    }

    /// What the page costs from so many literals before `top` on. Most runs of literals are short:
    /// only their first length byte is seen.
    #[inline(always)]
    fn after(&self, literals: usize) -> i16 {
        let run = usize::from(self.run);
        let longer = run < HALF && run + literals >= HALF;
        self.cost + BYTE * (literals as i16 + i16::from(longer))
    }

    /// Notes literals down to `low`.
    #[inline(always)]
    fn put_literals(&mut self, low: usize) {
        const WIDE: usize = 8;
        loop {
            // With so many, the run needs a length byte more.
            let limit = match self.run.checked_sub(HALF as u16) {
                Some(more) => more / 255 * 255 + HALF as u16 + 255,
                None => HALF as u16,
            };
            let (cost, run) = (self.cost, self.run);
            let at = self.top + SHIFT - WIDE;
            let all = |i: usize| {
                let run = run + (WIDE - i) as u16;
                cost + BYTE * ((WIDE - i) as i16 + i16::from(run >= limit))
            };
            *self.costs[at..].first_chunk_mut::<WIDE>().expect("room") = std::array::from_fn(all);
            let all = |i: usize| run + (WIDE - i) as u16;
            *self.literals[at..].first_chunk_mut::<WIDE>().expect("room") =
                std::array::from_fn(all);
            let count = (self.top - low).min(WIDE);
            self.run += count as u16;
            self.cost += BYTE * (count as i16 + i16::from(self.run >= limit));
            self.top -= count;
            if self.top <= low {
                return;
            }
        }
    }

    /// Notes a match at WIDE positions.
    #[inline(always)]
    fn put_match(&mut self, low: usize, lengths: [u16; WIDE], distance: u16) {
        *self.lengths[low..].first_chunk_mut().expect("room") = lengths;
        *self.literals[low..].first_chunk_mut().expect("room") = [0; WIDE];
        *self.distances[low..].first_chunk_mut().expect("room") = [distance; WIDE];
    }

    /// The positions down to `start`, from where a match to `end` needs length bytes. Without them
    /// it costs `taken`. It may be cut to end where none is needed.
    #[inline(always)]
    fn put_long(&mut self, start: usize, end: usize, taken: i16, distance: u16) {
        while self.top > start {
            let whole = taken + length_bytes(end - self.top + 1);
            let cut = self.costs[SHIFT + self.top - 1 + SHORT_MAX] + SEQUENCE;
            if self.cost + BYTE >= whole.min(cut) {
                break;
            }
            self.put_literals(self.top - 1);
        }
        if self.top == start {
            return;
        }
        // From the first position where the match is the better choice it remains that.
        while self.top > start {
            let low = self.top;
            let whole = taken + length_bytes(end - self.top + 1);
            let cut: [i16; WIDE] = *self.costs[low + SHORT_MAX..].first_chunk().expect("room");
            let first = (end + SHIFT - low) as u16;
            let mut costs = [0; WIDE];
            let mut lengths = [0; WIDE];
            for i in 0..WIDE {
                let cut = cut[i] + SEQUENCE;
                costs[i] = cut.min(whole);
                lengths[i] = if cut <= whole {
                    SHORT_MAX as u16
                } else {
                    first - i as u16
                };
            }
            *self.costs[low..].first_chunk_mut().expect("room") = costs;
            self.put_match(low, lengths, distance);
            self.top = low.max(start + WIDE) - WIDE;
        }
        (self.cost, self.run) = (self.costs[SHIFT + start], 0);
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
