//! LZ4: the standard block format. The encoder is that of `lz4_flex`, the decoder is our own.
//!
//! A block is what the reference implementation might have written, with no header: any LZ4 library
//! reads it if it is told that it restores 4096 bytes, and any block that restores 4096 bytes can be
//! read here.
//!
//! The decoder (`decode.rs`) reads bytes that may have been damaged or forged: only the copies of
//! its common case are unsafe, below bounds that are checked where they stand. The encoder is
//! `lz4_flex` without its checks. What that may touch follows from two lengths, not from the content
//! of the page: the input is 4096 bytes, its last 12 bytes are only ever copied as literals, and the
//! output holds the worst case, which `lz4_flex` checks before it starts. Its 16-bit table suits
//! inputs below 64 KiB.

#![deny(unsafe_code)] // The decoder's copies are allowed it.

mod decode;

use super::{Codec, CodecId, Scratch};
use crate::{Error, PAGE_SIZE, PageBytes};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

/// The output that `lz4_flex` asks for, which is more than a block can be.
pub(super) const BLOCK_MAX: usize = get_maximum_output_size(PAGE_SIZE);

/// The LZ4 codec.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lz4;

impl Codec for Lz4 {
    fn id(&self) -> CodecId {
        CodecId::Lz4
    }

    fn prepare(&self, scratch: &mut Scratch) {
        scratch.staging.prepare();
        scratch.lz4.get_or_insert_with(touched_table);
    }

    fn compress(&self, page: &PageBytes, out: &mut [u8], scratch: &mut Scratch) -> Option<usize> {
        let table = scratch.lz4.get_or_insert_with(touched_table);
        scratch.staging.compress(BLOCK_MAX, out, |out| {
            compress_into_with_table(page, out, table).expect("the buffer holds the worst case")
        })
    }

    fn decompress(
        &self,
        block: &[u8],
        page: &mut PageBytes,
        _scratch: &mut Scratch,
    ) -> Result<(), Error> {
        decompress(block, page)
    }
}

/// A table whose memory the kernel has already handed out: compressing clears and so writes all
/// of it, where a new table is zeros that nobody has touched.
fn touched_table() -> CompressTable {
    let mut table = CompressTable::small();
    let mut out = [0; get_maximum_output_size(0)];
    compress_into_with_table(&[], &mut out, &mut table).expect("the buffer holds the worst case");
    table
}

/// Restores a page from an LZ4 block.
pub(super) fn decompress(block: &[u8], page: &mut PageBytes) -> Result<(), Error> {
    decode::decode(block, page).ok_or(Error::Corrupt)
}
