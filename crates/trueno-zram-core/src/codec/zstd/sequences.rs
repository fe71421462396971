//! The sequences of a block: numbers of literals, offsets and lengths of matches, in codes and bits
//! (RFC 8878, section 3.1.1.3.2).

#![forbid(unsafe_code)]

use super::bits::Bits;
use super::fse::{self, Table};
use super::logarithm::{UNIT, WEIGHT};
use super::shared::{KINDS, Shared};

/// A page has no more: each takes four bytes of it at least.
pub(super) const SEQUENCES_MAX: usize = crate::PAGE_SIZE / MATCH_MIN;
/// The shortest match that the search takes.
pub(super) const MATCH_MIN: usize = 4;

/// A sequence, ready to be written.
#[derive(Clone, Copy, Default)]
struct Sequence {
    /// Code of literals, code of the offset, code of the length, 8 bits each, then the number of bits
    /// in `extra`.
    codes: u32,
    /// What the codes leave open, that of literals lowest, then length, then offset.
    extra: u64,
}

/// The sequences of one page.
pub(super) struct Sequences {
    list: [Sequence; SEQUENCES_MAX],
    count: usize,
    /// How often each code occurs: of literals, offsets, lengths.
    counts: [[u16; fse::SYMBOLS]; 3],
    /// Where tables for these sequences are built.
    tables: [Table; 3],
}

/// Codes of small numbers: those up to 16 literals stand for themselves.
const LITERAL_CODES: [u8; 64] = codes(16, &LITERAL_BITS);
/// Up to 32 they do for lengths, which are counted from 3 on.
const LENGTH_CODES: [u8; 128] = codes(32, &LENGTH_BITS);

/// Bits that the code leaves open, by code.
const LITERAL_BITS: [u8; 64] = bits(16, &[1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12]);
const LENGTH_BITS: [u8; 64] = bits(32, &[1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11]);

const fn bits(first: usize, rest: &[u8]) -> [u8; 64] {
    let mut table = [0; 64];
    let mut i = 0;
    while i < rest.len() {
        table[first + i] = rest[i];
        i += 1;
    }
    table
}

const fn codes<const N: usize>(first: usize, bits: &[u8; 64]) -> [u8; N] {
    let mut table = [0; N];
    let (mut number, mut code) = (0, 0);
    while number < N {
        let end = if code < first {
            number + 1
        } else {
            number + (1 << bits[code])
        };
        while number < end && number < N {
            table[number] = code as u8;
            number += 1;
        }
        code += 1;
    }
    table
}

#[inline(always)]
fn literal_code(literals: u32) -> u8 {
    match LITERAL_CODES.get(literals as usize) {
        Some(code) => *code,
        None => (literals.ilog2() + 19) as u8,
    }
}

#[inline(always)]
fn length_code(length: u32) -> u8 {
    match LENGTH_CODES.get(length as usize) {
        Some(code) => *code,
        None => (length.ilog2() + 36) as u8,
    }
}

impl Sequences {
    pub(super) fn new() -> Sequences {
        Sequences {
            list: [Sequence::default(); SEQUENCES_MAX],
            count: 0,
            counts: [[0; fse::SYMBOLS]; 3],
            tables: [Table::new(), Table::new(), Table::new()],
        }
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.counts = [[0; fse::SYMBOLS]; 3];
    }

    /// How often each code occurs: of literals, offsets, lengths.
    #[cfg(test)]
    pub(super) fn counts(&self) -> &[[u16; fse::SYMBOLS]; 3] {
        &self.counts
    }

    /// Adds a sequence: so many literals, then a match of `length` bytes. `offset` is as the format
    /// has it: 1 to 3 for one that is repeated, else 3 more than the distance.
    #[inline(always)]
    pub(super) fn push(&mut self, literals: usize, offset: usize, length: usize) {
        let (literals, offset, length) = (literals as u32, offset as u32, length as u32 - 3);
        let codes = [
            literal_code(literals),
            offset.ilog2() as u8,
            length_code(length),
        ];
        let literal_bits = u32::from(LITERAL_BITS[usize::from(codes[0]) % 64]);
        let length_bits = u32::from(LENGTH_BITS[usize::from(codes[2]) % 64]);
        let offset_bits = u32::from(codes[1]);
        let low = |number: u32, bits: u32| u64::from(number) & ((1 << bits) - 1);
        self.list[self.count] = Sequence {
            codes: u32::from_le_bytes([
                codes[0],
                codes[1],
                codes[2],
                (literal_bits + length_bits + offset_bits) as u8,
            ]),
            extra: low(literals, literal_bits)
                | low(length, length_bits) << literal_bits
                | low(offset, offset_bits) << (literal_bits + length_bits),
        };
        self.count += 1;
        for (counts, code) in self.counts.iter_mut().zip(codes) {
            counts[usize::from(code) % fse::SYMBOLS] += 1;
        }
    }

    /// Writes the sequences section into `out` from `at` on and returns where it ends. A table is
    /// made for these sequences if that saves more than `margin` bits.
    pub(super) fn write(
        &mut self,
        shared: &Shared,
        margin: u32,
        out: &mut [u8],
        at: usize,
    ) -> usize {
        let Some((last, before)) = self.list[..self.count].split_last() else {
            out[at] = 0;
            return at + 1;
        };
        let count = self.count;
        let mut at = at;
        if count < 128 {
            out[at] = count as u8;
            at += 1;
        } else {
            out[at..at + 2].copy_from_slice(&[(count >> 8) as u8 + 128, count as u8]);
            at += 2;
        }
        let modes = at;
        at += 1;
        out[modes] = 0;
        let mut tables = shared.tables.each_ref();
        for (part, own) in self.tables.iter_mut().enumerate() {
            let counts = &mut self.counts[part];
            let shift = 6 - 2 * part;
            let (mut in_shared, mut in_own) = (0, WEIGHT[count]);
            let (mut used, mut code_max) = (0, 0);
            let costs = &shared.costs[part][..KINDS[part]];
            for (code, (&count, cost)) in counts.iter().zip(costs).enumerate() {
                let count = usize::from(count);
                in_shared += count as u32 * cost;
                in_own -= WEIGHT[count];
                used += u32::from(count > 0);
                code_max = if count > 0 { code } else { code_max };
            }
            if in_shared <= in_own + used * DESCRIPTION + margin * UNIT {
                out[modes] |= REPEAT << shift;
                continue;
            }
            if used == 1 {
                out[modes] |= SINGLE << shift;
                own.build_single(code_max);
                out[at] = code_max as u8;
                at += 1;
                tables[part] = own;
                continue;
            }
            // The last code costs no bits, so it does not count, unless it would be left out.
            let mut total = count as u32;
            let last = &mut counts[usize::from(last.codes.to_le_bytes()[part]) % fse::SYMBOLS];
            if *last > 1 {
                *last -= 1;
                total -= 1;
            }
            let log = fse::log_for(count, code_max).clamp(5, LOG_MAX);
            let shares = fse::shares_of(&counts[..=code_max], total, log);
            at = fse::write_shares(&shares, log, out, at);
            own.build(&shares[..=code_max], log);
            out[modes] |= OWN << shift;
            tables[part] = own;
        }

        let [literals, offsets, lengths] = tables;
        let mut bits = Bits::new(out, at);
        let [literal, offset, length, extra] = last.codes.to_le_bytes();
        let mut literal = literals.start(literal);
        let mut offset = offsets.start(offset);
        let mut length = lengths.start(length);
        bits.put(last.extra, u32::from(extra));
        bits.flush();
        for sequence in before.iter().rev() {
            let codes = sequence.codes.to_le_bytes();
            offsets.step(&mut offset, codes[1], &mut bits);
            lengths.step(&mut length, codes[2], &mut bits);
            literals.step(&mut literal, codes[0], &mut bits);
            // 7 and three times 8 bits are there at most, so more than 32 may be too many.
            if codes[3] > 32 {
                bits.flush();
            }
            bits.put(sequence.extra, u32::from(codes[3]));
            bits.flush();
        }
        lengths.end(length, &mut bits);
        offsets.end(offset, &mut bits);
        literals.end(literal, &mut bits);
        bits.close_backward()
    }
}

/// What a table costs for each code in use, in sixteenths of a bit.
const DESCRIPTION: u32 = 5 * UNIT;
/// The tables of one block have at most 1 << this states.
const LOG_MAX: u32 = 7;

/// Which table is used: one symbol only, one that follows, or that of the dictionary.
const SINGLE: u8 = 1;
const OWN: u8 = 2;
const REPEAT: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_begin_where_the_format_says() {
        // RFC 8878, tables 16 and 17.
        for (number, code) in [
            (0, 0),
            (15, 15),
            (16, 16),
            (17, 16),
            (18, 17),
            (22, 19),
            (24, 20),
            (28, 21),
            (32, 22),
            (40, 23),
            (48, 24),
            (63, 24),
            (64, 25),
            (127, 25),
            (128, 26),
            (2048, 30),
        ] {
            assert_eq!(literal_code(number), code, "{number} literals");
        }
        for (length, code) in [
            (3, 0),
            (34, 31),
            (35, 32),
            (37, 33),
            (39, 34),
            (41, 35),
            (43, 36),
            (47, 37),
            (51, 38),
            (59, 39),
            (67, 40),
            (83, 41),
            (99, 42),
            (130, 42),
            (131, 43),
            (259, 44),
            (515, 45),
            (4096, 47),
        ] {
            assert_eq!(length_code(length - 3), code, "a match of {length}");
        }
    }
}
