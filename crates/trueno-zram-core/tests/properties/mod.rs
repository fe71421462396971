//! What must hold for every input, whatever its bytes are. The targets of `fuzz/` look for inputs
//! for which it does not hold; the test `seeds` repeats what is known.
//!
//! A property takes an input of at most [`INPUT_MAX`] bytes and panics if it does not hold for it.

mod lz4;
mod program;
mod zstd;

use crate::guarded::Guarded;
pub use program::page_of;
use std::cell::RefCell;
use std::sync::Arc;
use trueno_zram_core::{
    Algorithm, Codec, CodecId, Compressed, Compressor, Error, PAGE_SIZE, Page, PageBytes, Scratch,
    codec_for,
};

/// A function that panics if something does not hold for an input.
pub type Property = fn(&[u8]);

/// All properties, by the name of their fuzz target.
pub const ALL: [(&str, Property); 7] = [
    ("decode_any", decode_any),
    ("lz4_blocks", lz4::blocks),
    ("lz4_pages", lz4::pages),
    ("lz4_sequences", lz4::sequences),
    ("round_trip", round_trip),
    ("zstd_blocks", zstd::blocks),
    ("zstd_pages", zstd::pages),
];

/// The longest input: more than a block or a page.
pub const INPUT_MAX: usize = Guarded::BYTES;

/// Has the property called `name` judge `input`.
pub fn check(name: &str, input: &[u8]) {
    let found = ALL.iter().find(|(known, _)| *known == name);
    let (_, property) = found.expect("a property bears the name of its fuzz target");
    property(&input[..input.len().min(INPUT_MAX)]);
}

/// Any page, and any bytes, come back from every codec. A block depends on nothing but its page, and
/// fits exactly if it is no longer than the room for it.
fn round_trip(input: &[u8]) {
    let page = page_of(input);
    let mut other = page.clone();
    other.reverse();
    let mut scratch = Scratch::new();
    // All levels of Zstandard for each input would take too long.
    let level = [-5, 1, 3, 9, 19][input.len() % 5];
    let price = [1, 8, 24, 64, 10_000][input.len() / 5 % 5];
    let algorithms = [
        Algorithm::SameFill,
        Algorithm::Lz4,
        Algorithm::Lz4Hc,
        Algorithm::Zstd { level },
        Algorithm::ZstdAtPrice { price },
    ];
    for (algorithm, codec) in algorithms.into_iter().filter_map(with_codec) {
        let Some(block) = compress(&*codec, &page, ROOM, &mut scratch) else {
            assert_eq!(codec.id(), CodecId::Same);
            continue;
        };
        compress(&*codec, &other, ROOM, &mut scratch);
        // Around the room from which on encoders write to the buffer itself.
        for room in [block.len(), PAGE_SIZE + input.len() % 128] {
            let again = compress(&*codec, &page, room, &mut scratch);
            let expected = (block.len() <= room).then_some(&block);
            assert!(again.as_ref() == expected, "{algorithm} in {room}");
        }
        let none = compress(&*codec, &page, block.len() - 1, &mut scratch);
        assert_eq!(none, None, "{algorithm}");
        let restored = decompress(codec.id(), &block, &mut scratch);
        assert!(restored.as_ref() == Ok(&page), "{algorithm}");

        let compressor = Compressor::new(algorithm);
        let compressed = compressor.compress(input).unwrap();
        let restored = compressor.decompress(&compressed).unwrap();
        assert!(restored == input, "{algorithm}");
    }
}

/// Any bytes, to every decoder: a whole page or an error, the same whatever was in the page before.
fn decode_any(block: &[u8]) {
    let mut scratch = Scratch::new();
    for id in (0..=u8::MAX).filter_map(CodecId::from_u8) {
        // Whether it is the right page is for the other properties to say.
        let _ = decompress(id, block, &mut scratch);
    }

    // And as the chunks of data that is not one page, whose length is in the first bytes.
    if let Some((length, bytes)) = block.split_first_chunk::<3>() {
        let length = u32::from_le_bytes([length[0], length[1], length[2], 0]) as usize;
        let value = Compressed::from_parts(Algorithm::Lz4, length, bytes.to_vec());
        if let Ok(restored) = Compressor::new(Algorithm::Lz4).decompress(&value) {
            assert_eq!(restored.len(), length);
        }
    }
}

/// More room than any codec needs.
const ROOM: usize = Guarded::BYTES;

/// `algorithm` with its codec, if it has one.
fn with_codec(algorithm: Algorithm) -> Option<(Algorithm, Arc<dyn Codec>)> {
    Some((algorithm, codec_for(algorithm).ok()??))
}

thread_local! {
    /// Where a page and a block lie while a codec works on them.
    static MEMORY: RefCell<(Guarded, Guarded)> = RefCell::new((Guarded::new(), Guarded::new()));
}

/// The block of `page` if it fits `room`: page and room are followed by memory that nobody may
/// touch.
fn compress(
    codec: &dyn Codec,
    page: &PageBytes,
    room: usize,
    scratch: &mut Scratch,
) -> Option<Vec<u8>> {
    MEMORY.with_borrow_mut(|(page_memory, block_memory)| {
        let here: &mut PageBytes = page_memory.edge(PAGE_SIZE, true).try_into().unwrap();
        here.copy_from_slice(page);
        let out = block_memory.edge(room, true);
        let length = codec.compress(here, out, scratch)?;
        assert!(length > 0 && here == page);
        Some(out[..length].to_vec())
    })
}

/// The page of `block`. It is restored twice, before and behind memory that nobody may touch, into
/// pages of different content.
fn decompress(id: CodecId, block: &[u8], scratch: &mut Scratch) -> Result<Page, Error> {
    MEMORY.with_borrow_mut(|(page_memory, block_memory)| {
        let [first, second] = [(true, 0x5a), (false, 0xc3)].map(|(at_end, filler)| {
            let here = block_memory.edge(block.len(), at_end);
            here.copy_from_slice(block);
            let page: &mut PageBytes = page_memory.edge(PAGE_SIZE, at_end).try_into().unwrap();
            page.fill(filler);
            let result = id.decompress(here, page, scratch);
            result.map(|()| Page(*page))
        });
        assert!(first == second, "{id:?} depends on what was in the page");
        first
    })
}
