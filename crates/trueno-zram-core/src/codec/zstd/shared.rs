//! The tables that every block may refer to instead of bringing its own: a Zstandard dictionary of
//! entropy tables (RFC 8878, section 5) with next to no content.
//!
//! A table of a block's own costs some 10 to 70 bytes, and time on both sides: to count, to build,
//! to write, to read and to build again. Distributions of memory pages are much alike.
//!
//! The figures below are what our search finds in memory of eight programs, printed by
//! `cargo test --release -p trueno-zram-core prints_the_shared_tables -- --ignored --nocapture`.

#![forbid(unsafe_code)]

use super::fse::{self, Shares, Table};
use super::huffman::{self, Codes};
use super::logarithm::{UNIT, log2};

/// Codes of literal lengths, of offsets and of match lengths that a page can have.
pub(super) const KINDS: [usize; 3] = [31, 13, 48];
/// There are 1 << this states for each of them.
const LOG: u32 = 8;

#[rustfmt::skip]
const LITERAL_LENGTHS: [u16; KINDS[0]] = [
    74, 56, 51, 16, 11, 9, 6, 3, 3, 4, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
];
#[rustfmt::skip]
const OFFSETS: [u16; KINDS[1]] = [129, 4, 6, 5, 8, 12, 16, 18, 19, 17, 14, 7, 1];
#[rustfmt::skip]
const MATCH_LENGTHS: [u16; KINDS[2]] = [
    1, 25, 16, 35, 35, 35, 6, 7, 9, 6, 4, 10, 7, 8, 1, 2, 1, 2, 1, 3, 2, 3, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1,
    1, 1, 2, 1, 1, 2, 3, 2, 1, 1, 4, 1, 1, 1, 1, 1,
];
/// Bits of the code of each byte.
#[rustfmt::skip]
const LITERALS: [u8; 256] = [
    3, 6, 8, 8, 8, 8, 8, 9, 8, 8, 8, 9, 9, 9, 9, 9, 7, 8, 9, 9, 8, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9,
    5, 8, 8, 9, 9, 9, 9, 9, 8, 8, 9, 9, 8, 8, 8, 8, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 8, 8, 7, 9, 8,
    6, 7, 8, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 7, 8, 9, 8, 9, 9, 9, 9, 8, 9, 9, 9, 8, 9, 9, 8,
    8, 6, 7, 7, 6, 6, 7, 8, 7, 7, 9, 9, 7, 8, 7, 7, 7, 9, 7, 7, 7, 8, 9, 8, 8, 8, 9, 9, 9, 9, 9, 8,
    7, 9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 8, 8, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9,
    8, 9, 8, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 8, 8, 9, 9,
    7, 9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 10, 10, 9, 8, 9, 9, 9, 9, 9, 9, 9,
    8, 9, 9, 9, 9, 9, 9, 10, 8, 9, 9, 9, 9, 9, 9, 9, 8, 9, 8, 9, 9, 9, 9, 10, 9, 9, 10, 10, 9, 10, 10, 7,
];

fn shares() -> [Shares; 3] {
    let mut all = [[0; fse::SYMBOLS]; 3];
    all[0][..KINDS[0]].copy_from_slice(&LITERAL_LENGTHS);
    all[1][..KINDS[1]].copy_from_slice(&OFFSETS);
    all[2][..KINDS[2]].copy_from_slice(&MATCH_LENGTHS);
    all
}

/// What the encoder needs of the shared tables.
pub(super) struct Shared {
    pub(super) tables: [Table; 3],
    /// What each code costs, in sixteenths of a bit.
    pub(super) costs: [[u32; fse::SYMBOLS]; 3],
    pub(super) literals: Codes,
    /// Bits of the code of each byte.
    pub(super) literal_bits: &'static [u8; 256],
}

impl Shared {
    pub(super) fn new() -> Shared {
        let mut tables = [Table::new(), Table::new(), Table::new()];
        let mut costs = [[0; fse::SYMBOLS]; 3];
        let parts = tables.iter_mut().zip(&mut costs).zip(KINDS);
        for (((table, costs), kinds), shares) in parts.zip(shares()) {
            table.build(&shares[..kinds], LOG);
            for (cost, share) in costs.iter_mut().zip(&shares[..kinds]) {
                *cost = LOG * UNIT - log2(u32::from(*share));
            }
        }
        Shared {
            tables,
            costs,
            literals: huffman::codes_of(&LITERALS),
            literal_bits: &LITERALS,
        }
    }
}

/// The dictionary, as RFC 8878 lays it out and every Zstandard library loads it: with it, and the
/// frame that [`the module`](super) describes, a block can be restored without this crate.
pub fn dictionary() -> Vec<u8> {
    const MAGIC: u32 = 0xec30_a437;
    /// From the range for private use.
    const ID: u32 = 0x7472_7a31;
    /// The offsets that are repeated at first, as without a dictionary.
    const REPEATED: [u32; 3] = [1, 4, 8];

    let mut bytes = vec![0; 1024];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..8].copy_from_slice(&ID.to_le_bytes());
    let mut at = huffman::write_tree(&LITERALS, &mut bytes, 8);
    let shares = shares();
    for part in [1, 2, 0] {
        at = fse::write_shares(&shares[part], LOG, &mut bytes, at);
    }
    for offset in REPEATED {
        bytes[at..at + 4].copy_from_slice(&offset.to_le_bytes());
        at += 4;
    }
    // The format asks for as much content as the largest of these offsets.
    bytes.truncate(at + 8);
    bytes
}
