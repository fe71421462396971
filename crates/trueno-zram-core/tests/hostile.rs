//! No bytes at all make a decoder panic, write outside the page, or call a page restored that is
//! not.

mod pages;

use trueno_zram_core::{
    Algorithm, Codec, CodecId, Error, PAGE_SIZE, PageBytes, Scratch, codec_for,
};

/// Decodes `block` twice into pages with different content and other bytes around them.
fn decode(id: CodecId, block: &[u8], scratch: &mut Scratch) -> Result<Box<PageBytes>, Error> {
    const GUARD: usize = 64;
    let [first, second] = [0x5a, 0xc3].map(|filler| {
        let mut memory = vec![filler; GUARD + PAGE_SIZE + GUARD];
        let page = memory[GUARD..].first_chunk_mut::<PAGE_SIZE>().unwrap();
        let result = id
            .decompress(block, page, scratch)
            .map(|()| Box::new(*page));
        assert!(
            memory[..GUARD].iter().all(|b| *b == filler),
            "{id:?} wrote before the page"
        );
        assert!(
            memory[GUARD + PAGE_SIZE..].iter().all(|b| *b == filler),
            "{id:?} wrote past it"
        );
        result
    });
    // What was there before must not shine through: every byte of a restored page is written.
    assert_eq!(first, second, "{id:?}");
    first
}

fn block_of(codec: &dyn Codec, page: &PageBytes, scratch: &mut Scratch) -> Vec<u8> {
    let mut out = vec![0; 2 * PAGE_SIZE];
    let length = codec.compress(page, &mut out, scratch).unwrap();
    out.truncate(length);
    out
}

fn codecs() -> impl Iterator<Item = std::sync::Arc<dyn Codec>> {
    [
        Algorithm::Lz4,
        Algorithm::Lz4Hc,
        Algorithm::Zstd1,
        Algorithm::Zstd3,
        Algorithm::Zstd { level: 19 },
    ]
    .into_iter()
    .map(|algorithm| codec_for(algorithm).unwrap().unwrap())
}

#[test]
fn truncated_and_lengthened_blocks_are_damaged() {
    let mut scratch = Scratch::new();
    for codec in codecs() {
        for (name, page) in pages::one_of_each(2) {
            let block = block_of(&*codec, &page, &mut scratch);
            assert!(
                *decode(codec.id(), &block, &mut scratch).unwrap() == *page,
                "{name}"
            );
            for length in (0..block.len()).step_by(if block.len() > 1000 { 17 } else { 1 }) {
                let result = decode(codec.id(), &block[..length], &mut scratch);
                assert_eq!(result.err(), Some(Error::Corrupt), "{name} cut to {length}");
            }
            for garbage in [&[0][..], &[0; 3], &[1, 0, 0], &[0xff; 40], &block] {
                let longer = [&block, garbage].concat();
                let result = decode(codec.id(), &longer, &mut scratch);
                assert_eq!(result.err(), Some(Error::Corrupt), "{name} and {garbage:?}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_gives_a_whole_page_or_an_error() {
    let mut scratch = Scratch::new();
    for codec in codecs() {
        let mut damaged = 0;
        for (_, page) in pages::one_of_each(3) {
            let mut block = block_of(&*codec, &page, &mut scratch);
            for at in (0..block.len()).step_by(1 + block.len() / 500) {
                for bit in 0..8 {
                    block[at] ^= 1 << bit;
                    damaged += usize::from(decode(codec.id(), &block, &mut scratch).is_err());
                    block[at] ^= 1 << bit;
                }
            }
            assert!(*decode(codec.id(), &block, &mut scratch).unwrap() == *page);
        }
        assert!(damaged > 0, "some of these must have been noticed");
    }
}

#[test]
fn on_damaged_lz4_blocks_we_agree_with_lz4_flex() {
    let mut scratch = Scratch::new();
    let lz4 = codec_for(Algorithm::Lz4).unwrap().unwrap();
    let (mut whole, mut damaged) = (0, 0);
    for seed in 0..4 {
        for (name, page) in pages::one_of_each(seed) {
            let mut block = block_of(&*lz4, &page, &mut scratch);
            for at in (0..block.len()).step_by(1 + block.len() / 700) {
                for change in [0x01, 0x10, 0x80, 0xf0, 0xff] {
                    block[at] ^= change;
                    let mut theirs = [0; PAGE_SIZE];
                    let result = lz4_flex::block::decompress_into(&block, &mut theirs).ok();
                    match decode(CodecId::Lz4, &block, &mut scratch) {
                        Ok(ours) => {
                            assert_eq!(result, Some(PAGE_SIZE), "{name} at {at}");
                            assert!(*ours == theirs, "{name} at {at}");
                            whole += 1;
                        }
                        Err(_) => {
                            assert_ne!(result, Some(PAGE_SIZE), "{name} at {at}");
                            damaged += 1;
                        }
                    }
                    block[at] ^= change;
                }
            }
        }
    }
    assert!(whole > 0 && damaged > 0, "both must have been seen");
}

#[test]
fn random_bytes_are_survived() {
    let mut scratch = Scratch::new();
    for seed in 0..300 {
        let (_, noise) = pages::one_of_each(seed).pop().unwrap();
        let length = seed as usize * 13 % PAGE_SIZE;
        for id in [CodecId::Same, CodecId::Lz4, CodecId::Zstd] {
            let _ = decode(id, &noise[..length], &mut scratch);
        }
        assert!(
            decode(CodecId::Zstd, &noise[..length], &mut scratch).is_err(),
            "seed {seed}"
        );
    }
}

#[test]
fn zstd_takes_one_block_of_one_page_and_nothing_else() {
    let mut scratch = Scratch::new();
    let mut zstd = |block: &[u8]| decode(CodecId::Zstd, block, &mut scratch);
    /// The content of a block: `size` literals that are all sevens, and no sequence.
    fn literals(size: u32) -> Vec<u8> {
        let [a, b, c, _] = (1 | 3 << 2 | size << 4).to_le_bytes();
        vec![a, b, c, 7, 0]
    }

    assert!(*zstd(&literals(4096)).unwrap() == [7; PAGE_SIZE]);
    // Too short, too long, cut off, and with something behind it.
    assert!(zstd(&literals(4095)).is_err());
    assert!(zstd(&literals(4097)).is_err());
    assert!(zstd(&literals(100_000)).is_err());
    assert!(zstd(&literals(4096)[..4]).is_err());
    assert!(zstd(&[&literals(4096)[..], &[0]].concat()).is_err());
    // Nothing, next to nothing, and more than a page.
    assert!(zstd(&[]).is_err());
    assert!(zstd(&[0]).is_err());
    assert!(zstd(&[0, 0]).is_err());
    assert!(zstd(&[7; PAGE_SIZE + 1]).is_err());
    assert!(zstd(&[7; 100_000]).is_err());
    // As long as a page: a page.
    assert!(*zstd(&[7; PAGE_SIZE]).unwrap() == [7; PAGE_SIZE]);
    // A whole frame, with and without its magic number.
    let frame = [
        &[0x28, 0xb5, 0x2f, 0xfd, 0, 0x10, 0x2d, 0, 0],
        &literals(4096)[..],
    ]
    .concat();
    assert!(zstd(&frame).is_err());
    assert!(zstd(&frame[4..]).is_err());
}

#[test]
fn a_context_that_saw_damage_works_as_before() {
    let mut scratch = Scratch::new();
    for codec in codecs() {
        for (name, page) in pages::one_of_each(4) {
            let block = block_of(&*codec, &page, &mut scratch);
            let _ = decode(codec.id(), &block[..block.len() / 2], &mut scratch);
            assert_eq!(
                codec.compress(&page, &mut [0; 3], &mut scratch),
                None,
                "{name}"
            );
            assert!(block_of(&*codec, &page, &mut scratch) == block, "{name}");
            assert!(
                *decode(codec.id(), &block, &mut scratch).unwrap() == *page,
                "{name}"
            );
        }
    }
}
