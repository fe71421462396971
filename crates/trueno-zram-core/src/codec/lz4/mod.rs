//! LZ4: the standard block format, in code of our own.
//!
//! A block is what the reference implementation might have written, with no header: any LZ4 library
//! reads it if it is told that it restores 4096 bytes, and any block that restores 4096 bytes can be
//! read here.
//!
//! Encoders (`encode.rs`, and `hc.rs` for those who have time) and decoder (`decode.rs`) are written
//! for exactly a page: positions have 16 bits, there is no state but tables that are cleared for
//! each page, and copies that may move more than asked do so within bounds that are known from the
//! start. The fast encoder is compiled for each instruction set; the others gain nothing from that.
//! The decoder reads bytes that may have been damaged or forged: only the copies of its common case
//! are unsafe, below bounds that are checked where they stand.

#![deny(unsafe_code)] // Its files are allowed it, for what is said there.

mod decode;
pub(crate) mod encode;
mod hc;

use super::{Codec, CodecId, Scratch};
use crate::isa::Isa;
use crate::{Error, PageBytes};
pub(super) use encode::{BLOCK_MAX, Table};
pub(super) use hc::Tables as HcTables;

/// The LZ4 codec.
#[derive(Clone, Copy, Debug)]
pub struct Lz4 {
    isa: Isa,
}

impl Lz4 {
    /// The codec on the best backend of this CPU. Blocks are the same on every backend.
    pub fn new() -> Lz4 {
        Lz4::on(Isa::best())
    }

    pub(crate) fn on(isa: Isa) -> Lz4 {
        Lz4 { isa }
    }
}

impl Default for Lz4 {
    fn default() -> Lz4 {
        Lz4::new()
    }
}

impl Codec for Lz4 {
    fn id(&self) -> CodecId {
        CodecId::Lz4
    }

    fn prepare(&self, scratch: &mut Scratch) {
        scratch.staging.prepare();
        scratch.lz4.get_or_insert_with(Table::boxed);
    }

    fn compress(&self, page: &PageBytes, out: &mut [u8], scratch: &mut Scratch) -> Option<usize> {
        let table = scratch.lz4.get_or_insert_with(Table::boxed);
        (scratch.staging).compress(BLOCK_MAX, out, |out| self.isa.encode_lz4(page, out, table))
    }
}

/// The LZ4 codec that takes its time and finds the smallest block, or nearly. It is restored as any
/// other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lz4Hc;

impl Codec for Lz4Hc {
    fn id(&self) -> CodecId {
        CodecId::Lz4
    }

    fn prepare(&self, scratch: &mut Scratch) {
        scratch.staging.prepare();
        scratch.lz4hc.get_or_insert_with(HcTables::boxed);
    }

    fn compress(&self, page: &PageBytes, out: &mut [u8], scratch: &mut Scratch) -> Option<usize> {
        let tables = scratch.lz4hc.get_or_insert_with(HcTables::boxed);
        (scratch.staging).compress(BLOCK_MAX, out, |out| hc::encode(page, out, tables))
    }
}

/// Restores a page from an LZ4 block.
pub(super) fn decompress(block: &[u8], page: &mut PageBytes) -> Result<(), Error> {
    decode::decode(block, page).ok_or(Error::Corrupt)
}
