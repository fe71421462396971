//! The literals of a block: as they are, or in Huffman codes (RFC 8878, sections 3.1.1.3.1 and 4.2).

#![forbid(unsafe_code)]

use super::bits::Bits;
use super::fse;
use super::logarithm::{UNIT, WEIGHT};
use super::shared::Shared;

/// The longest code, in bits.
const LENGTH_MAX: u32 = 11;

/// Fewer literals are not worth looking at.
const COUNT_MIN: usize = 16;
/// What a literal in codes must save at least, in [`UNIT`]s: what codes take is an estimate, and the
/// header has no room for the size of anything longer than the literals.
const EACH_MIN: u32 = UNIT / 8;
/// From this many on in four streams, which a reader follows at the same time.
const FOUR_STREAMS: usize = 256;

/// What describes codes costs about this for each byte that has one, in sixteenths of a bit.
const DESCRIPTION: u32 = 4 * UNIT + UNIT / 4;

/// Bits that coding literals must save, for the time that it takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Toll {
    /// For each literal in codes, in [`UNIT`]s.
    pub(super) each: u32,
    /// For codes made for these literals.
    pub(super) own: u32,
}

/// By byte, its code and how many bits it has: code << 8 | bits.
pub(super) type Codes = [u32; 256];

/// The kinds of a literals section, as its header has them.
#[derive(Clone, Copy)]
enum Kind {
    Raw = 0,
    Repeated = 1,
    Coded = 2,
    /// In the codes of the dictionary.
    CodedAsBefore = 3,
}

/// Writes the literals section into `out` from `at` on and returns where it ends. In codes, if
/// those save more than `toll`.
pub(super) fn write(
    literals: &[u8],
    shared: &Shared,
    toll: Toll,
    out: &mut [u8],
    at: usize,
) -> usize {
    coded(literals, shared, toll, out, at)
        .unwrap_or_else(|| plain(Kind::Raw, literals.len(), literals, out, at))
}

/// Writes literals as they are, or the one that is repeated.
fn plain(kind: Kind, count: usize, bytes: &[u8], out: &mut [u8], at: usize) -> usize {
    let kind = kind as usize;
    let (header, length) = match count {
        0..32 => (kind | count << 3, 1),
        32..4096 => (kind | 1 << 2 | count << 4, 2),
        _ => (kind | 3 << 2 | count << 4, 3),
    };
    out[at..at + length].copy_from_slice(&header.to_le_bytes()[..length]);
    let at = at + length;
    out[at..at + bytes.len()].copy_from_slice(bytes);
    at + bytes.len()
}

/// Writes literals in codes, if they are worth it.
fn coded(literals: &[u8], shared: &Shared, toll: Toll, out: &mut [u8], at: usize) -> Option<usize> {
    let count = literals.len();
    let each = toll.each.max(EACH_MIN);
    if count < COUNT_MIN || each >= 8 * UNIT {
        return None;
    }
    let counts = histogram(literals);
    let mut in_shared_codes = 0;
    for (count, bits) in counts.iter().zip(shared.literal_bits) {
        in_shared_codes += u32::from(*count) * u32::from(*bits);
    }
    let mut in_own_codes = WEIGHT[count];
    let mut used = 0;
    for &count in &counts {
        in_own_codes -= WEIGHT[usize::from(count)];
        used += u32::from(count > 0);
    }
    if used == 1 {
        return Some(plain(Kind::Repeated, count, &literals[..1], out, at));
    }
    let in_own_codes = (in_own_codes + used * DESCRIPTION) / UNIT;
    let worth = count as u32 * (8 * UNIT - each) / UNIT;
    let in_own_codes = in_own_codes + toll.own;
    if in_shared_codes <= in_own_codes {
        let codes = &shared.literals;
        return (in_shared_codes < worth).then(|| {
            streams(Kind::CodedAsBefore, codes, literals, out, at, |_, at| {
                Some(at)
            })
        })?;
    }
    if in_own_codes >= worth {
        return None;
    }
    let lengths = lengths_of(&counts, count as u32);
    let codes = codes_of(&lengths);
    let end = streams(Kind::Coded, &codes, literals, out, at, |out, at| {
        try_write_tree(&lengths, out, at)
    })?;
    // What it takes was an estimate, and the header has no room for the size of anything longer.
    (end - at <= count).then_some(end)
}

/// Writes a section of coded literals: the header, what `describe` writes, and the streams.
#[inline(always)]
fn streams(
    kind: Kind,
    codes: &Codes,
    literals: &[u8],
    out: &mut [u8],
    at: usize,
    describe: impl FnOnce(&mut [u8], usize) -> Option<usize>,
) -> Option<usize> {
    let count = literals.len();
    let header = 3 + usize::from(count >= 1024);
    let start = at + header;
    let mut to = describe(out, start)?;
    let is_four = count >= FOUR_STREAMS;
    if is_four {
        let sizes = to;
        to += 6;
        for (i, part) in literals.chunks(count.div_ceil(4)).enumerate() {
            let start = to;
            to = stream(codes, part, out, to);
            if i < 3 {
                let size = (to - start) as u16;
                out[sizes + 2 * i..][..2].copy_from_slice(&size.to_le_bytes());
            }
        }
    } else {
        to = stream(codes, literals, out, to);
    }
    let size = to - start;
    let (kind, count, size) = (kind as u64, count as u64, size as u64);
    let word = if header == 3 {
        kind | u64::from(is_four) << 2 | count << 4 | size << 14
    } else {
        kind | 2 << 2 | count << 4 | size << 18
    };
    out[at..start].copy_from_slice(&word.to_le_bytes()[..header]);
    Some(to)
}

/// Writes one stream, the last literal first.
#[inline(always)]
fn stream(codes: &Codes, literals: &[u8], out: &mut [u8], at: usize) -> usize {
    let mut bits = Bits::new(out, at);
    let put = |bits: &mut Bits<'_>, byte: u8| {
        let code = codes[usize::from(byte)];
        bits.put(u64::from(code >> 8), code & 0xff);
    };
    // Five codes and what is left of a byte fit: 5 · 11 + 7 bits.
    let (first, groups) = literals.as_rchunks::<5>();
    for group in groups.iter().rev() {
        for &byte in group.iter().rev() {
            put(&mut bits, byte);
        }
        bits.flush();
    }
    for &byte in first.iter().rev() {
        put(&mut bits, byte);
    }
    bits.close_backward()
}

/// How often each byte occurs.
fn histogram(bytes: &[u8]) -> [u16; 256] {
    // In four rows, since counting the same byte again has to wait for the time before.
    let mut rows = [[0u16; 256]; 4];
    let (groups, rest) = bytes.as_chunks::<8>();
    for group in groups {
        for (i, &byte) in group.iter().enumerate() {
            rows[i % 4][usize::from(byte)] += 1;
        }
    }
    for &byte in rest {
        rows[0][usize::from(byte)] += 1;
    }
    let [mut sum, rows @ ..] = rows;
    for row in rows {
        for (sum, count) in sum.iter_mut().zip(row) {
            *sum += count;
        }
    }
    sum
}

/// Code lengths for bytes that occur `counts` times, of which `total` is the sum; at least two
/// occur. 0 for those that do not.
///
/// Not Huffman's algorithm, which has to sort, and to follow a tree: each byte first gets the bits
/// that Shannon gives it, ⌈log2 total / count⌉, or as many as are allowed. Where that leaves codes
/// unused, those get shorter by one that gain most for what they take; where it takes more than
/// there are, those get longer that lose least. That is within some 0.03 % of the best there is.
pub(super) fn lengths_of(counts: &[u16; 256], total: u32) -> [u8; 256] {
    /// Codes with the same number of bits are told apart this finely.
    const STEPS: usize = 32;

    // Bytes that occur, by value: count << 8 | byte.
    let mut all = [0u32; 256];
    let mut used = 0;
    for (byte, &count) in counts.iter().enumerate() {
        all[used % 256] = u32::from(count) << 8 | byte as u32;
        used += usize::from(count > 0);
    }
    let all = &all[..used];
    let index = |key: u32| key as usize % 256;

    // Longer codes than this hardly gain, and cost the reader time and the description bytes.
    let needed = (used as u32 - 1).ilog2() + 1;
    let longest = (total - 1).ilog2().clamp(needed + 1, LENGTH_MAX);
    // Codes of that length, and what is left of them.
    let room = 1i32 << longest;
    let mut left = room;
    let mut lengths = [0u8; 256];
    let mut values = [0u8; 256];
    let mut begins = [[0u16; STEPS]; 4];
    let scale = (1u64 << 32) / u64::from(total);
    for (i, (&key, value)) in all.iter().zip(&mut values).enumerate() {
        let share = u64::from(key >> 8) * scale;
        let length = (share.leading_zeros() - 31).min(longest);
        left -= room >> length;
        lengths[index(key)] = length as u8;
        // How much the byte uses of its code: from all (STEPS) to twice that.
        let step = (share << length) >> (32 - STEPS.ilog2());
        *value = step.clamp(STEPS as u64, 2 * STEPS as u64 - 1) as u8;
        begins[i % 4][usize::from(*value) % STEPS] += 1;
    }
    if left == 0 {
        return lengths;
    }

    // By what they use, those first that gain most.
    let mut begin = 0;
    for step in (0..STEPS).rev() {
        for row in &mut begins {
            let count = row[step];
            row[step] = begin;
            begin += count;
        }
    }
    let mut order = [0u8; 256];
    for (i, (&key, &value)) in all.iter().zip(&values).enumerate() {
        let place = &mut begins[i % 4][usize::from(value) % STEPS];
        order[usize::from(*place) % 256] = key as u8;
        *place += 1;
    }
    let order = &order[..used];
    while left < 0 {
        for &byte in order.iter().rev() {
            let length = &mut lengths[usize::from(byte)];
            if u32::from(*length) < longest {
                *length += 1;
                left += room >> *length;
                if left >= 0 {
                    break;
                }
            }
        }
    }
    for &byte in order {
        let length = &mut lengths[usize::from(byte)];
        let cost = room >> *length;
        let fits = cost <= left;
        left -= if fits { cost } else { 0 };
        *length -= u8::from(fits);
    }
    // What is left is a multiple of the shortest step there is: from the longest code to one bit
    // less. So this ends, and all codes are used.
    while left > 0 {
        let deepest = lengths.iter().fold(0, |a, b| a.max(*b));
        for &byte in order {
            let length = &mut lengths[usize::from(byte)];
            let cost = room >> *length;
            if *length == deepest && cost <= left {
                left -= cost;
                *length -= 1;
            }
        }
    }
    lengths
}

fn longest_of(lengths: &[u8; 256]) -> u8 {
    lengths.iter().fold(0, |a, b| a.max(*b))
}

/// The codes that the format gives to bytes with codes of these lengths.
pub(super) fn codes_of(lengths: &[u8; 256]) -> Codes {
    // In four parts, so that the next byte need not wait for the one before.
    const PART: usize = 64;
    let mut counts = [[0u32; 16]; 4];
    for i in 0..PART {
        for (part, counts) in counts.iter_mut().enumerate() {
            counts[usize::from(lengths[PART * part + i]) % 16] += 1;
        }
    }
    let mut next = [[0u32; 16]; 4];
    let mut code = 0;
    for length in (1..16).rev() {
        for part in 0..4 {
            next[part][length] = code << 8 | length as u32;
            code += counts[part][length];
        }
        code >>= 1;
    }
    let mut codes = [0; 256];
    for i in 0..PART {
        for (part, next) in next.iter_mut().enumerate() {
            let byte = PART * part + i;
            let next = &mut next[usize::from(lengths[byte]) % 16];
            codes[byte] = *next;
            *next += 1 << 8;
        }
    }
    codes
}

/// Writes the description of codes of these lengths into `out` from `at` on, and returns where it
/// ends.
pub(super) fn write_tree(lengths: &[u8; 256], out: &mut [u8], at: usize) -> usize {
    try_write_tree(lengths, out, at).expect("these lengths can be described")
}

/// As [`write_tree`]; `None` if the format cannot say it: noise, for which it is no loss.
fn try_write_tree(lengths: &[u8; 256], out: &mut [u8], at: usize) -> Option<usize> {
    /// The weights of lengths have at most this many states.
    const LOG: u32 = 6;
    let longest = longest_of(lengths);
    // 0 for no code, else the more the shorter. The last that is not 0 is left to be concluded.
    let mut weights = [0u8; 256];
    for (weight, &length) in weights.iter_mut().zip(lengths) {
        *weight = if length == 0 { 0 } else { longest + 1 - length };
    }
    let last = lengths.iter().rposition(|length| *length > 0)?;
    let weights = &weights[..last];
    let mut rows = [[0u16; 16]; 4];
    for (i, &weight) in weights.iter().enumerate() {
        rows[i % 4][usize::from(weight) % 16] += 1;
    }
    let counts: [u16; 16] = std::array::from_fn(|i| rows.iter().map(|row| row[i]).sum());
    let most = counts.iter().fold(0, |a, b| a.max(*b));
    if last > 2 && most > 1 && usize::from(most) < last {
        let kinds = 1 + counts.iter().rposition(|count| *count > 0)?;
        let log = fse::log_for(last, kinds - 1).clamp(5, LOG);
        let shares = fse::shares_of(&counts[..kinds], last as u32, log);
        let to = fse::write_shares(&shares, log, out, at + 1);
        let mut table = fse::Table::new();
        table.build(&shares[..kinds], log);
        let to = write_weights(weights, &table, out, to);
        let size = to - at - 1;
        if size < 128 && (size < last / 2 || last > 128) {
            out[at] = size as u8;
            return Some(to);
        }
    }
    if last > 128 {
        return None;
    }
    // Four bits each.
    out[at] = 127 + last as u8;
    let to = at + 1 + last.div_ceil(2);
    for (byte, pair) in out[at + 1..to].iter_mut().zip(weights.chunks(2)) {
        *byte = pair[0] << 4 | pair.get(1).unwrap_or(&0);
    }
    Some(to)
}

/// Writes weights with two states that take turns, the last weight first (RFC 8878, 4.2.1.2).
fn write_weights(weights: &[u8], table: &fse::Table, out: &mut [u8], at: usize) -> usize {
    let mut bits = Bits::new(out, at);
    let (rest, [before, last]) = weights.split_last_chunk::<2>().expect("three at least");
    // `even` encodes the first weight, the third, and so on.
    let (mut even, mut odd) = (table.start(*before), table.start(*last));
    let mut rest = rest;
    if weights.len() % 2 == 1 {
        (even, odd) = (odd, even);
        let (last, before) = rest.split_last().expect("one at least");
        table.step(&mut even, *last, &mut bits);
        rest = before;
    }
    // Of at most six bits each: 7 + 8 · 6 in a group, the one before the first among the 7.
    let (first, groups) = rest.as_rchunks::<8>();
    let mut pairs = |pairs: &[u8], bits: &mut Bits<'_>| {
        for pair in pairs.as_chunks::<2>().0.iter().rev() {
            table.step(&mut odd, pair[1], bits);
            table.step(&mut even, pair[0], bits);
        }
        bits.flush();
    };
    for group in groups.iter().rev() {
        pairs(group, &mut bits);
    }
    pairs(first, &mut bits);
    table.end(odd, &mut bits);
    table.end(even, &mut bits);
    bits.close_backward()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What codes of at most `longest` bits take at least, by the package-merge algorithm.
    fn least(counts: &[u16; 256], longest: u32) -> u32 {
        let mut leaves: Vec<(u32, Vec<u8>)> = (0..=255)
            .filter(|byte| counts[usize::from(*byte)] > 0)
            .map(|byte| (u32::from(counts[usize::from(byte)]), vec![byte]))
            .collect();
        leaves.sort();
        let mut list = leaves.clone();
        for _ in 1..longest {
            let mut next: Vec<_> = list
                .chunks_exact(2)
                .map(|pair| (pair[0].0 + pair[1].0, [&pair[0].1[..], &pair[1].1].concat()))
                .collect();
            next.extend(leaves.clone());
            next.sort();
            list = next;
        }
        let taken = &list[..2 * leaves.len() - 2];
        taken.iter().map(|(count, _)| count).sum()
    }

    /// The size in a header of three bytes has ten bits, and what codes take is estimated.
    #[test]
    fn a_section_is_never_much_longer_than_its_literals() {
        let mut state = 11u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize
        };
        let (shared, mut out) = (Shared::new(), [0; 2 * crate::PAGE_SIZE]);
        for _ in 0..60_000 {
            // As many bytes of one kind as make the rest, each a few times, just compress or not.
            let count = 940 + random() % 84;
            let (kinds, often) = (1 + random() % 256, random() % 400);
            let spread = 1 + random() % 256;
            let literals: Vec<u8> = (0..count)
                .map(|i| match i < often {
                    true => (random() % kinds) as u8,
                    false => (random() % spread * 256 / spread) as u8,
                })
                .collect();
            let end = write(&literals, &shared, Toll { each: 0, own: 0 }, &mut out, 0);
            assert!(end <= count + 2, "{count} literals take {end} bytes");
        }
    }

    #[test]
    fn lengths_use_every_code_and_are_nearly_the_best() {
        let mut state = 7u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u32
        };
        let (mut ours, mut best) = (0, 0);
        for round in 0..3000 {
            let mut counts = [0u16; 256];
            let literals = 16 + random() % if round % 3 == 0 { 60 } else { 3000 };
            let (skew, kinds) = (1 + random() % 9, 2 + random() % 255);
            for _ in 0..literals {
                let mut byte = random() % kinds;
                for _ in 0..random() % skew {
                    byte = byte * (random() % kinds) / kinds;
                }
                counts[byte as usize] += 1;
            }
            if counts.iter().filter(|count| **count > 0).count() < 2 {
                continue;
            }
            let total = counts.iter().map(|c| u32::from(*c)).sum();
            let lengths = lengths_of(&counts, total);
            let mut codes = 0;
            for (count, length) in counts.iter().zip(lengths) {
                assert_eq!(*count > 0, length > 0);
                assert!(u32::from(length) <= LENGTH_MAX);
                codes += if length > 0 {
                    1 << LENGTH_MAX >> length
                } else {
                    0
                };
                ours += u64::from(*count) * u64::from(length);
            }
            assert_eq!(codes, 1 << LENGTH_MAX, "{counts:?}");
            best += u64::from(least(&counts, u32::from(longest_of(&lengths))));
        }
        assert!(
            ours as f64 <= best as f64 * 1.002,
            "{ours} bits, at best {best}"
        );
    }
}
