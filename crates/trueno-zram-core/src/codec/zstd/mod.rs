//! Zstandard, for exactly one page.
//!
//! # Format
//! ```text
//! fewer than 4096 bytes   the content of one compressed block (RFC 8878, section 3.1.1.3): a literals
//!                         section and a sequences section
//! 4096 bytes              the page itself, which did not get smaller
//! ```
//! Frame header and block header are left out, since the page-table entry says what they would: where
//! the block ends, and that it restores 4096 bytes. A block may refer to the entropy tables of
//! [`dictionary()`] in place of its own, which makes it smaller and faster to read. To restore it
//! elsewhere, put these before it and give it to any Zstandard library with that dictionary:
//!
//! ```text
//! 28 b5 2f fd   the magic number of a frame
//! 00 10         its header: nothing but a window of 4096 bytes (00 70 with a larger dictionary)
//! 3 bytes       block header, little endian: 1 (the last) | 2 << 1 (compressed) | length << 3
//! ```
//!
//! # Blocks made with a dictionary
//! A [`Dictionary`] of the caller's takes the place of the shared one. Such a block says so:
//!
//! ```text
//! 4 bytes   little endian: bits 0 to 3 are 12, bits 4 to 31 the id of the dictionary
//! then      the content of a block, as above
//! ```
//! No other block begins with a 12 in its lowest bits: that would be a header of three bytes for
//! literals that are stored as they are, which only 4096 or more of them need.
//!
//! # Who does what
//! Levels 1 to 3, and blocks for a price ([`ZstdAtPrice`]), are compressed by our own encoder
//! (`encode.rs`: a search, and the coders for what it finds), the other levels by libzstd; everything is
//! restored by libzstd (`libzstd.rs`). Whatever the bytes are: libzstd takes them for hostile, and what
//! comes out is a whole page or an error.

#![deny(unsafe_code)] // `libzstd` is allowed it, for the calls.

mod bits;
mod dictionary;
mod encode;
mod fse;
mod huffman;
mod libzstd;
mod logarithm;
mod search;
mod sequences;
mod shared;

pub use dictionary::{Dictionary, ZstdWithDictionary};
pub use shared::dictionary;

use super::{Codec, CodecId, Scratch};
use crate::{Error, PAGE_SIZE, PageBytes};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The Zstandard codec at one level. It restores blocks of every level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zstd {
    level: i32,
}

impl Zstd {
    /// The levels; 0, which libzstd takes for "the default", is not one. libzstd goes far below
    /// −7, to blocks that LZ4 makes smaller in less time.
    pub const LEVELS: RangeInclusive<i32> = -7..=22;

    /// The codec at `level`, or [`Error::Level`].
    pub fn new(level: i32) -> Result<Zstd, Error> {
        if level == 0 || !Zstd::LEVELS.contains(&level) {
            return Err(Error::Level(level));
        }
        Ok(Zstd { level })
    }

    /// The codec at this level with a dictionary, which all its users share. Every level is
    /// libzstd's then.
    pub fn with_dictionary(self, dictionary: Arc<Dictionary>) -> ZstdWithDictionary {
        ZstdWithDictionary::new(self, dictionary)
    }

    /// Bytes of the frame that libzstd makes of `data` at this level: what several pages would take as one
    /// object. No codec here can keep such an object; this is to find out what that would be worth.
    ///
    /// # Panics
    /// If there is no memory for libzstd.
    pub fn frame_bytes(self, data: &[u8]) -> usize {
        let mut frame = vec![0; zstd_safe::compress_bound(data.len())];
        let length = zstd_safe::compress(&mut frame[..], data, self.level);
        // All that can be wrong beside memory is a frame that does not fit, and the bound prevents it.
        length.unwrap_or_else(|code| panic!("libzstd: {}", zstd_safe::get_error_name(code)))
    }

    /// The level.
    pub fn level(self) -> i32 {
        self.level
    }
}

/// Zstandard for whoever can say what memory is worth: it spends time on a block only where that makes
/// it smaller by enough bytes.
///
/// Codes for literals, and tables for sequences, cost much the same time whatever they save. A level
/// takes them for nearly any gain; this codec takes them where the bytes that they save, at the price,
/// are worth more than the nanoseconds that they cost, to compress and to restore once. At low prices
/// it also searches less. Blocks are of the same format as those of levels.
///
/// ```
/// use trueno_zram_core::codec::zstd::ZstdAtPrice;
/// use trueno_zram_core::{Algorithm, Compressor};
///
/// assert_eq!(ZstdAtPrice::new(24)?.price(), 24);
/// let thrifty = Compressor::new(Algorithm::ZstdAtPrice { price: 24 });
/// let text = b"one page of a program's memory, and ".repeat(100);
/// assert_eq!(thrifty.decompress(&thrifty.compress(&text)?)?, text);
/// # Ok::<(), trueno_zram_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZstdAtPrice {
    price: u32,
}

impl ZstdAtPrice {
    /// The prices, in nanoseconds per byte: seconds of one processor's time for a gigabyte.
    pub const PRICES: RangeInclusive<u32> = 1..=10_000;

    /// The codec for this price, or [`Error::Price`].
    pub fn new(price: u32) -> Result<ZstdAtPrice, Error> {
        if !ZstdAtPrice::PRICES.contains(&price) {
            return Err(Error::Price(price));
        }
        Ok(ZstdAtPrice { price })
    }

    /// The price, in nanoseconds per byte.
    pub fn price(self) -> u32 {
        self.price
    }
}

impl Codec for ZstdAtPrice {
    fn id(&self) -> CodecId {
        CodecId::Zstd
    }

    fn prepare(&self, scratch: &mut Scratch) {
        scratch.zstd.own();
        scratch.zstd.decoder();
    }

    fn compress(&self, page: &PageBytes, out: &mut [u8], scratch: &mut Scratch) -> Option<usize> {
        let plan = encode::Plan::at(self.price);
        copy_into(out, scratch.zstd.own().encode(page, plan))
    }
}

/// The length of `block`, if `out` has room for it.
fn copy_into(out: &mut [u8], block: &[u8]) -> Option<usize> {
    out.get_mut(..block.len())?.copy_from_slice(block);
    Some(block.len())
}

impl Codec for Zstd {
    fn id(&self) -> CodecId {
        CodecId::Zstd
    }

    fn prepare(&self, scratch: &mut Scratch) {
        match encode::Plan::of(self.level) {
            Some(_) => _ = scratch.zstd.own(),
            None => _ = scratch.zstd.theirs(self.level, None),
        }
        scratch.zstd.decoder();
    }

    fn compress(&self, page: &PageBytes, out: &mut [u8], scratch: &mut Scratch) -> Option<usize> {
        let block = match encode::Plan::of(self.level) {
            Some(plan) => scratch.zstd.own().encode(page, plan),
            None => scratch.zstd.theirs(self.level, None).encode(page),
        };
        copy_into(out, block)
    }
}

/// Restores a page from a block of any level, with the dictionary that it was made with if `scratch`
/// knows that.
pub(super) fn decompress(
    block: &[u8],
    page: &mut PageBytes,
    scratch: &mut Scratch,
) -> Result<(), Error> {
    if block.len() >= PAGE_SIZE {
        *page = *<&PageBytes>::try_from(block).map_err(|_| Error::Corrupt)?;
        return Ok(());
    }
    let contexts = &mut scratch.zstd;
    let decoder = contexts.decoder.get_or_insert_with(libzstd::Decoder::new);
    let length = match split_id(block) {
        None => decoder.decode(block, page, None),
        Some((id, content)) => {
            let known = &contexts.dictionaries;
            // Should two have one id, which is as likely as guessing 28 bits, neither will do.
            let mut fitting = known.iter().filter(|dictionary| dictionary.id() == id);
            let (Some(fitting), None) = (fitting.next(), fitting.next()) else {
                let given = known.last().map(|dictionary| dictionary.id());
                return Err(Error::Dictionary { block: id, given });
            };
            decoder.decode(content, page, Some(fitting.restoring()))
        }
    };
    match length {
        Some(PAGE_SIZE) => Ok(()),
        _ => Err(Error::Corrupt),
    }
}

/// What the lowest four bits of a block are that was made with a dictionary.
const WITH_DICTIONARY: u32 = 12;

/// How such a block begins.
fn prefix_of(id: u32) -> [u8; 4] {
    (id << 4 | WITH_DICTIONARY).to_le_bytes()
}

/// The id of the dictionary that a block was made with, if it was, and what stands behind.
fn split_id(block: &[u8]) -> Option<(u32, &[u8])> {
    let (prefix, content) = block.split_first_chunk()?;
    let prefix = u32::from_le_bytes(*prefix);
    (prefix & 15 == WITH_DICTIONARY).then_some((prefix >> 4, content))
}

/// What one worker has made of it so far.
#[derive(Default)]
pub(super) struct Contexts {
    own: Option<Box<encode::Encoder>>,
    theirs: Vec<libzstd::Encoder>,
    /// Those that codecs have brought.
    dictionaries: Vec<Arc<Dictionary>>,
    decoder: Option<libzstd::Decoder>,
}

impl Contexts {
    /// Our encoder; the first call makes it.
    fn own(&mut self) -> &mut encode::Encoder {
        self.own.get_or_insert_with(encode::Encoder::boxed)
    }

    /// libzstd's encoder of `level`, with this dictionary; the first call makes it.
    fn theirs(
        &mut self,
        level: i32,
        dictionary: Option<&Arc<libzstd::ForCompression>>,
    ) -> &mut libzstd::Encoder {
        let at = (self.theirs.iter()).position(|encoder| encoder.is_for(level, dictionary));
        let at = at.unwrap_or_else(|| {
            let encoder = libzstd::Encoder::new(level, dictionary.cloned());
            self.theirs.push(encoder);
            self.theirs.len() - 1
        });
        &mut self.theirs[at]
    }

    /// Keeps `dictionary` for blocks that ask for it by its id.
    fn dictionary(&mut self, dictionary: &Arc<Dictionary>) {
        let is_known = (self.dictionaries.iter()).any(|known| known.is_same(dictionary));
        if !is_known {
            self.dictionaries.push(Arc::clone(dictionary));
        }
    }

    /// The decoder; the first call makes it.
    fn decoder(&mut self) -> &mut libzstd::Decoder {
        self.decoder.get_or_insert_with(libzstd::Decoder::new)
    }
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contexts")
            .field("own", &self.own.is_some())
            .field("libzstd", &self.theirs)
            .field("dictionaries", &self.dictionaries)
            .field("decoder", &self.decoder.is_some())
            .finish()
    }
}
