//! Our Zstandard against libzstd used plainly: contexts of its own making, and no checks of ours.
//!
//! Of blocks, which may be any bytes, both restore the same page or refuse. What libzstd alone lets
//! pass and we refuse is a frame header other than ours, several frames, and bytes behind a frame.

use super::{compress, decompress, page_of, with_codec};
use trueno_zram_core::{Algorithm, CodecId, PAGE_SIZE, Page, Scratch};
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat};

/// Our frame of any page is one that libzstd restores, and its frames are restored by us.
pub fn pages(input: &[u8]) {
    let page = page_of(input);
    let mut scratch = Scratch::new();
    // All levels for each input would take too long.
    let level = [-7, -1, 1, 2, 3, 4, 6, 9, 13, 19][input.len() % 10];
    let algorithm = Algorithm::Zstd { level };
    let (_, codec) = with_codec(algorithm).unwrap();
    let block = compress(&*codec, &page, super::ROOM, &mut scratch).unwrap();
    assert!(by_libzstd(&block).as_ref() == Some(&page), "{algorithm}");

    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::Format(FrameFormat::Magicless),
        CParameter::ContentSizeFlag(false),
    ] {
        context.set_parameter(parameter).unwrap();
    }
    let mut block = [0; 2 * PAGE_SIZE];
    let length = context.compress2(&mut block[..], &page[..]).unwrap();
    let restored = decompress(CodecId::Zstd, &block[..length], &mut scratch);
    assert!(restored.as_ref() == Ok(&page), "{algorithm}");
}

/// Of any bytes we restore what libzstd does, if they are one frame with a header like ours.
pub fn blocks(block: &[u8]) {
    let ours = decompress(CodecId::Zstd, block, &mut Scratch::new()).ok();
    let theirs = by_libzstd(block).filter(|_| block[0] == 0 && is_one_frame(block));
    assert!(ours == theirs);
}

/// What libzstd restores of a block, if it is exactly a page.
fn by_libzstd(block: &[u8]) -> Option<Page> {
    let mut page = Page::ZERO;
    let mut context = DCtx::create();
    let magicless = DParameter::Format(FrameFormat::Magicless);
    context.set_parameter(magicless).unwrap();
    let restored = context.decompress(&mut page[..], block);
    (restored == Ok(PAGE_SIZE)).then_some(page)
}

/// Whether libzstd finds one frame in `block` that ends where the block ends. It is asked about
/// frames with their magic number (RFC 8878, section 3.1.1), little endian.
fn is_one_frame(block: &[u8]) -> bool {
    let frame = [&0xfd2f_b528_u32.to_le_bytes(), block].concat();
    zstd_safe::find_frame_compressed_size(&frame) == Ok(frame.len())
}
