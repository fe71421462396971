//! The tables that every block may refer to instead of bringing its own: a Zstandard dictionary of
//! entropy tables (RFC 8878, section 5) with next to no content.
//!
//! A table of a block's own costs some 10 to 70 bytes, and time on both sides: to count, to build,
//! to write, to read and to build again. Distributions of memory pages are much alike.
//!
//! The figures below are what our search finds in the memory of eight programs, printed by
//! `TRUENO_CORPUS=… cargo test --release -p trueno-zram-core the_shared_tables -- --nocapture`.
//! Changing one of them changes the format.

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
    72, 59, 50, 18, 11, 8, 5, 3, 3, 4, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1,
];
#[rustfmt::skip]
const OFFSETS: [u16; KINDS[1]] = [
    124, 4, 6, 5, 8, 13, 16, 19, 19, 18, 15, 8, 1,
];
#[rustfmt::skip]
const MATCH_LENGTHS: [u16; KINDS[2]] = [
    1, 24, 24, 35, 27, 35, 7, 7, 8, 6, 4, 10, 8, 8, 1, 2, 1, 2, 1, 3, 2, 3, 1, 1, 1, 1, 1, 2, 2,
    2, 1, 1, 1, 1, 2, 1, 1, 2, 3, 2, 1, 1, 4, 1, 1, 1, 1, 1,
];
/// Bits of the code of each byte.
#[rustfmt::skip]
const LITERALS: [u8; 256] = [
    3, 6, 8, 8, 8, 8, 8, 8, 7, 8, 8, 8, 9, 9, 9, 8, 7, 8, 9, 9, 8, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9,
    9, 5, 8, 8, 9, 9, 9, 9, 9, 8, 8, 9, 9, 8, 8, 8, 8, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 8, 8, 7,
    9, 8, 6, 8, 9, 8, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 7, 8, 9, 8, 9, 9, 9, 9, 8, 9, 9, 9, 8,
    9, 9, 8, 8, 6, 7, 7, 7, 6, 7, 8, 7, 7, 9, 9, 7, 8, 7, 7, 7, 9, 7, 7, 7, 8, 9, 9, 8, 8, 9, 9,
    9, 9, 9, 8, 7, 9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 8, 8, 9, 9, 9, 9, 9, 9, 8, 9, 9,
    9, 9, 9, 9, 9, 8, 9, 8, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 8, 9,
    9, 9, 8, 8, 9, 9, 7, 9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 10, 10, 9, 8,
    9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9, 8, 9, 8, 9, 9, 9, 9, 9,
    9, 9, 10, 9, 9, 9, 10, 7,
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
/// frame that [the module](super) describes, a block can be restored without this crate.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::same::page_same_filled;
    use crate::codec::zstd::search::{Effort, Search};
    use crate::{PAGE_SIZE, PageBytes};

    #[test]
    fn the_dictionary_does_not_change() {
        // FNV-1a: whoever has blocks needs the same dictionary for ever.
        let hash = dictionary()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        assert_eq!((dictionary().len(), hash), (144, 0x18c5_a74b_0fc8_16de));
    }

    /// The pages of a file that `zstd` has compressed.
    fn pages_of(path: &std::path::Path) -> Vec<PageBytes> {
        let packed = std::fs::read(path).unwrap();
        let mut decoder = zstd_safe::DCtx::create();
        let window = zstd_safe::DParameter::WindowLogMax(31);
        decoder.set_parameter(window).unwrap();
        let mut input = zstd_safe::InBuffer::around(&packed);
        let (mut bytes, mut part) = (Vec::new(), vec![0; 1 << 20]);
        loop {
            let mut output = zstd_safe::OutBuffer::around(&mut part[..]);
            let missing = decoder.decompress_stream(&mut output, &mut input).unwrap();
            bytes.extend_from_slice(output.as_slice());
            if missing == 0 {
                return bytes.as_chunks::<PAGE_SIZE>().0.to_vec();
            }
        }
    }

    /// Bits that all of `counts` cost with these `shares` of 1 << LOG.
    fn bits(counts: &[u64], shares: &[u16]) -> f64 {
        let each = counts.iter().zip(shares);
        each.map(|(count, share)| *count as f64 * (f64::from(LOG) - f64::from(*share).log2()))
            .sum()
    }

    /// Prints what stands above as it would be for the pages in `$TRUENO_CORPUS`, or else in the
    /// repository's sample; what stands above must cost little more for them.
    #[test]
    fn the_shared_tables_fit_real_pages() {
        const PAGES: usize = 2048;
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data");
        let corpus = std::env::var_os("TRUENO_CORPUS").unwrap_or(sample.into());
        let mut search = Search::new();
        let (mut codes, mut literals) = ([[0u64; fse::SYMBOLS]; 3], [0u64; 256]);
        let files = std::fs::read_dir(corpus)
            .unwrap()
            .map(|file| file.unwrap().path());
        for path in files.filter(|path| path.to_string_lossy().ends_with("pages.zst")) {
            let mut pages = pages_of(&path);
            pages.retain(|page| page_same_filled(page).is_none());
            for page in pages.iter().step_by((pages.len() / PAGES).max(1)) {
                for effort in [Effort::Fast, Effort::Thorough] {
                    search.run(page, effort);
                    for (sums, counts) in codes.iter_mut().zip(search.sequences.counts()) {
                        for (sum, count) in sums.iter_mut().zip(counts) {
                            *sum += u64::from(*count);
                        }
                    }
                    for byte in search.literals() {
                        literals[usize::from(*byte)] += 1;
                    }
                }
            }
        }
        for ((sums, kinds), ours) in codes.iter().zip(KINDS).zip(shares()) {
            let total: u64 = sums.iter().sum();
            let share = |sum: &u64| ((sum << LOG) as f64 / total as f64).round().max(1.0) as u16;
            let mut shares: Vec<u16> = sums[..kinds].iter().map(share).collect();
            let rest = (1 << LOG) - shares.iter().map(|share| i32::from(*share)).sum::<i32>();
            let largest = shares.iter_mut().max().unwrap();
            *largest = (i32::from(*largest) + rest) as u16;
            println!("{shares:?}");
            let sums = &sums[..kinds];
            let more = bits(sums, &ours[..kinds]) / bits(sums, &shares);
            println!("cost with what stands above: {more:.4}");
            assert!(more < 1.02, "{more}");
        }
        let total: u64 = literals.iter().sum();
        let counts = literals.map(|count| ((count * 40_000 / total) as u16).max(1));
        let all = counts.iter().map(|count| u32::from(*count)).sum();
        let lengths = huffman::lengths_of(&counts, all);
        println!("{lengths:?}");
        let cost = |lengths: &[u8]| -> u64 {
            let each = literals.iter().zip(lengths);
            each.map(|(count, length)| count * u64::from(*length)).sum()
        };
        let more = cost(&LITERALS) as f64 / cost(&lengths[..]) as f64;
        println!("cost with what stands above: {more:.4}");
        assert!(more < 1.02, "{more}");
    }
}
