//! Our Zstandard against libzstd used plainly: contexts of its own making, and no checks of ours.
//!
//! Of blocks, which may be any bytes, both restore the same page or refuse, once libzstd is given
//! what our format leaves out: headers, and the dictionary of shared tables.

use super::{compress, decompress, page_of, with_codec};
use trueno_zram_core::codec::zstd::dictionary;
use trueno_zram_core::{Algorithm, CodecId, PAGE_SIZE, Page, Scratch};
use zstd_safe::{CCtx, CParameter, DCtx, DDict, FrameFormat};

/// Headers of a frame with a window of a page, and of its last block (RFC 8878, section 3.1.1).
const HEADERS: usize = 2 + 3;

/// Our block of any page is one that libzstd restores, and its blocks are restored by us.
pub fn pages(input: &[u8]) {
    let page = page_of(input);
    let mut scratch = Scratch::new();
    // All levels for each input would take too long.
    let level = [-7, -1, 1, 2, 3, 4, 6, 9, 13, 19][input.len() % 10];
    let price = [1, 8, 24, 64, 10_000][input.len() / 10 % 5];
    let algorithm = Algorithm::Zstd { level };
    for algorithm in [algorithm, Algorithm::ZstdAtPrice { price }] {
        let (_, codec) = with_codec(algorithm).unwrap();
        let block = compress(&*codec, &page, super::ROOM, &mut scratch).unwrap();
        if block.len() == PAGE_SIZE {
            assert!(block[..] == page[..], "{algorithm}");
        } else {
            assert!(by_libzstd(&block).as_ref() == Some(&page), "{algorithm}");
        }
    }

    let mut context = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::Format(FrameFormat::Magicless),
        CParameter::ContentSizeFlag(false),
    ] {
        context.set_parameter(parameter).unwrap();
    }
    let mut frame = [0; 2 * PAGE_SIZE];
    let length = context.compress2(&mut frame[..], &page[..]).unwrap();
    let header = u32::from_le_bytes([frame[2], frame[3], frame[4], 0]);
    // The only block, and compressed: others have no content.
    if header & 7 == 5 && header as usize >> 3 == length - HEADERS {
        let restored = decompress(CodecId::Zstd, &frame[HEADERS..length], &mut scratch);
        assert!(restored.as_ref() == Ok(&page), "{algorithm}");
    }
}

/// Of any bytes we restore what libzstd does.
pub fn blocks(block: &[u8]) {
    let ours = decompress(CodecId::Zstd, block, &mut Scratch::new()).ok();
    // A page as it is, or a block that asks for a dictionary, which libzstd is not told.
    if block.len() >= PAGE_SIZE || block.len() >= 4 && block[0] & 15 == 12 {
        assert_eq!(ours.is_some(), block.len() == PAGE_SIZE);
    } else {
        assert!(ours == by_libzstd(block));
    }
}

/// What libzstd restores of a block, if it is exactly a page.
///
/// The dictionary is given as ours is, digested. In one that is not, a match must not reach back into
/// the entropy tables, which stand before the content; in a digested one it may.
fn by_libzstd(block: &[u8]) -> Option<Page> {
    let mut frame = 0xfd2f_b528_u32.to_le_bytes().to_vec();
    frame.extend([0x00, 0x10]);
    let header = 1 | 2 << 1 | (block.len() as u32) << 3;
    frame.extend(&header.to_le_bytes()[..3]);
    frame.extend(block);
    let mut page = Page::ZERO;
    let dictionary = DDict::create(&dictionary());
    let restored = DCtx::create().decompress_using_ddict(&mut page[..], &frame, &dictionary);
    (restored == Ok(PAGE_SIZE)).then_some(page)
}
