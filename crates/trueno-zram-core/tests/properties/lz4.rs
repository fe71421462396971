//! Our LZ4 against the C library's, which is the reference of the format.
//!
//! Of pages: it reads what we write, and we read what it writes.
//!
//! Of blocks, which may be any bytes: both restore the same page or refuse, but for two kinds.
//!
//! - A match that begins 0 bytes back. The format calls such a block corrupted. We refuse it; the C
//!   library restores something.
//! - A match that begins less than 12 bytes before the end of the page, or ends less than 5 before
//!   it. The format tells encoders to write no such match, so that decoders may copy in large steps.
//!   We restore the page that the block says. The C library refuses it if a match begins too late;
//!   if one only ends too late it refuses it, or restores the same page, depending on the way that
//!   its decoder took.

use super::program::{block_of, page_of};
use super::{compress, decompress, with_codec};
use trueno_zram_core::{Algorithm, CodecId, Error, PAGE_SIZE, Page, Scratch};

/// Our block of any page is one that the C library restores, and its blocks are restored by us.
pub fn pages(input: &[u8]) {
    let page = page_of(input);
    let mut scratch = Scratch::new();
    for algorithm in [Algorithm::Lz4, Algorithm::Lz4Hc] {
        let Some((_, codec)) = with_codec(algorithm) else {
            continue;
        };
        let block = compress(&*codec, &page, super::ROOM, &mut scratch).unwrap();
        assert!(by_c(&block).as_ref() == Some(&page), "{algorithm}");
        let Verdict::Page { end, .. } = judge(&block) else {
            panic!("{algorithm}: a block that is none");
        };
        assert_eq!(end, End::Kept, "{algorithm}");
    }
    for block in blocks_of_c(&page) {
        let restored = decompress(CodecId::Lz4, &block, &mut scratch);
        assert!(restored.as_ref() == Ok(&page));
    }
}

/// Of any bytes we restore the page that the format says, and the C library the same one.
pub fn blocks(block: &[u8]) {
    let ours = decompress(CodecId::Lz4, block, &mut Scratch::new());
    let theirs = by_c(block);
    match judge(block) {
        Verdict::Page { page, end } => {
            assert!(ours.as_ref() == Ok(&*page));
            match end {
                End::Kept => assert!(theirs.as_ref() == Some(&*page)),
                End::EndsLate => assert!(theirs.is_none_or(|theirs| theirs == *page)),
                End::BeginsLate => assert!(theirs.is_none()),
            }
        }
        Verdict::NothingBack => assert_eq!(ours, Err(Error::Corrupt)),
        Verdict::NoPage => assert_eq!((ours, theirs), (Err(Error::Corrupt), None)),
    }
}

/// The same of blocks that hardly ever are invalid, which any bytes hardly ever are not.
pub fn sequences(input: &[u8]) {
    blocks(&block_of(input));
}

/// What a block is, by the document of the format.
enum Verdict {
    Page {
        page: Box<Page>,
        end: End,
    },
    /// It has a match that begins 0 bytes back.
    NothingBack,
    /// It is cut off, reaches before the page, or stands for more or less than one.
    NoPage,
}

/// How a block keeps the rules for encoders about the end of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kept,
    /// A match ends less than 5 bytes before it.
    EndsLate,
    /// A match begins less than 12 bytes before it, wherever it ends.
    BeginsLate,
}

/// The format as one reads it: byte by byte.
fn judge(block: &[u8]) -> Verdict {
    read(block).unwrap_or(Verdict::NoPage)
}

fn read(block: &[u8]) -> Option<Verdict> {
    let (mut out, mut kept) = (Vec::new(), End::Kept);
    let mut bytes = block.iter().copied();
    loop {
        let token = bytes.next()?;
        for _ in 0..length(token >> 4, &mut bytes)? {
            out.push(bytes.next()?);
        }
        let Some(low) = bytes.next() else { break };
        let distance = usize::from(u16::from_le_bytes([low, bytes.next()?]));
        if distance == 0 {
            return Some(Verdict::NothingBack);
        }
        let begin = out.len();
        let end = begin + 4 + length(token & 15, &mut bytes)?;
        if end > PAGE_SIZE {
            return None;
        }
        while out.len() < end {
            out.push(out[out.len().checked_sub(distance)?]);
        }
        if begin + 12 > PAGE_SIZE {
            kept = End::BeginsLate;
        } else if end + 5 > PAGE_SIZE {
            kept = End::EndsLate;
        }
    }
    Some(Verdict::Page {
        page: Box::new(Page(out.try_into().ok()?)),
        end: kept,
    })
}

/// A length: half a token, and bytes up to the first below 255 if all its bits are set.
fn length(half: u8, bytes: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let (mut sum, mut more) = (usize::from(half), half == 15);
    while more {
        let byte = bytes.next()?;
        sum += usize::from(byte);
        more = byte == 255;
    }
    Some(sum)
}

/// What the C library restores of a block, if it is exactly a page.
fn by_c(block: &[u8]) -> Option<Page> {
    let mut page = Page::ZERO;
    // SAFETY: both buffers are as long as is said.
    let bytes = unsafe {
        lz4_sys::LZ4_decompress_safe(
            block.as_ptr().cast(),
            page.as_mut_ptr().cast(),
            block.len() as i32,
            PAGE_SIZE as i32,
        )
    };
    (bytes == PAGE_SIZE as i32).then_some(page)
}

/// The blocks that the C library makes of a page, quickly and thoroughly.
fn blocks_of_c(page: &Page) -> [Vec<u8>; 2] {
    let (mut fast, mut high) = (vec![0; 2 * PAGE_SIZE], vec![0; 2 * PAGE_SIZE]);
    let (bytes, room) = (PAGE_SIZE as i32, 2 * PAGE_SIZE as i32);
    let from = page.as_ptr().cast();
    // SAFETY: all buffers are as long as is said.
    let lengths = unsafe {
        [
            lz4_sys::LZ4_compress_default(from, fast.as_mut_ptr().cast(), bytes, room),
            lz4_sys::LZ4_compress_HC(from, high.as_mut_ptr().cast(), bytes, room, 9),
        ]
    };
    assert!(lengths[0] > 0 && lengths[1] > 0);
    fast.truncate(lengths[0] as usize);
    high.truncate(lengths[1] as usize);
    [fast, high]
}
