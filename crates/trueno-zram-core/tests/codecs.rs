//! Every codec gives back every page, in blocks that other libraries can read.

mod pages;

use std::sync::Arc;
use trueno_zram_core::codec::zstd::Zstd;
use trueno_zram_core::{Algorithm, Codec, CodecId, Error, PAGE_SIZE, Page, Scratch, codec_for};

/// More than any codec needs.
const ROOM: usize = 2 * PAGE_SIZE;

fn codecs() -> Vec<(Algorithm, Arc<dyn Codec>)> {
    let zstd = Zstd::LEVELS
        .filter(|level| *level != 0)
        .map(|level| Algorithm::Zstd { level });
    [Algorithm::SameFill, Algorithm::Lz4, Algorithm::Lz4Hc]
        .into_iter()
        .chain(zstd)
        .map(|algorithm| (algorithm, codec_for(algorithm).unwrap().unwrap()))
        .collect()
}

/// Only pages of one word fit the codec of same-filled pages.
fn fits(codec: &dyn Codec, name: &str) -> bool {
    codec.id() != CodecId::Same || ["zeros", "one word"].contains(&name)
}

#[test]
fn every_codec_restores_every_page_with_one_scratch_for_all() {
    let mut scratch = Scratch::new();
    for seed in 0..8 {
        for (name, page) in pages::one_of_each(seed) {
            for (algorithm, codec) in codecs() {
                let mut out = [0; ROOM];
                let length = codec.compress(&page, &mut out, &mut scratch);
                assert_eq!(length.is_some(), fits(&*codec, name), "{algorithm} {name}");
                let Some(length) = length else { continue };
                assert_ne!(length, 0, "{algorithm} {name}");

                let mut restored = Page([0xa5; PAGE_SIZE]);
                codec
                    .decompress(&out[..length], &mut restored, &mut scratch)
                    .unwrap();
                assert!(restored == page, "{algorithm} {name}");

                let mut restored = Page([0xa5; PAGE_SIZE]);
                codec
                    .id()
                    .decompress(&out[..length], &mut restored, &mut scratch)
                    .unwrap();
                assert!(restored == page, "{algorithm} {name} by its id");
            }
        }
    }
}

#[test]
fn a_block_fits_exactly_if_it_is_no_longer_than_the_buffer() {
    let mut scratch = Scratch::new();
    for algorithm in [
        Algorithm::SameFill,
        Algorithm::Lz4,
        Algorithm::Lz4Hc,
        Algorithm::Zstd1,
        Algorithm::Zstd3,
    ] {
        let codec = codec_for(algorithm).unwrap().unwrap();
        for (name, page) in pages::one_of_each(1) {
            if !fits(&*codec, name) {
                continue;
            }
            let mut whole = [0; ROOM];
            let length = codec.compress(&page, &mut whole, &mut scratch).unwrap();
            let step = if name == "records" { 1 } else { 61 };
            for room in (0..ROOM)
                .step_by(step)
                .chain([length - 1, length, length + 1])
            {
                let mut out = vec![0; room];
                match codec.compress(&page, &mut out, &mut scratch) {
                    Some(got) => {
                        assert_eq!(got, length, "{algorithm} {name} room {room}");
                        assert!(out[..got] == whole[..got], "{algorithm} {name} room {room}");
                    }
                    None => assert!(room < length, "{algorithm} {name} room {room}"),
                }
            }
        }
    }
}

#[test]
fn what_other_contexts_did_before_does_not_change_a_block() {
    let (mut used, mut out, mut fresh_out) = (Scratch::new(), [0; ROOM], [0; ROOM]);
    for (algorithm, codec) in codecs() {
        for seed in 0..3 {
            for (name, page) in pages::one_of_each(seed) {
                let length = codec.compress(&page, &mut out, &mut used);
                let fresh = codec.compress(&page, &mut fresh_out, &mut Scratch::new());
                assert_eq!(length, fresh, "{algorithm} {name}");
                let length = length.unwrap_or(0);
                assert!(out[..length] == fresh_out[..length], "{algorithm} {name}");
            }
        }
    }
}

#[test]
fn a_batch_does_what_single_calls_do() {
    let pages = pages::one_of_each(5);
    let pages: Vec<_> = pages.iter().map(|(_, page)| &**page).collect();
    for (algorithm, codec) in codecs() {
        let mut scratch = Scratch::new();
        // A slot that is too short for the fullest pages, and slots of no length at all.
        for slot in [3000, 0] {
            let mut out = vec![0; slot * pages.len()];
            let mut lengths = vec![Some(usize::MAX); pages.len()];
            codec.compress_batch(&pages, &mut out, &mut lengths, &mut scratch);
            let mut blocks: Vec<&[u8]> = Vec::new();
            for (i, page) in pages.iter().enumerate() {
                let mut single = vec![0; slot];
                let length = codec.compress(page, &mut single, &mut scratch);
                assert_eq!(lengths[i], length, "{algorithm}");
                let block = &out[i * slot..][..length.unwrap_or(0)];
                assert!(*block == single[..block.len()], "{algorithm}");
                blocks.push(block);
            }
            assert!(
                slot > 0 || lengths.iter().all(Option::is_none),
                "{algorithm}"
            );

            let mut restored = vec![Page::ZERO; pages.len()];
            let mut targets: Vec<_> = restored.iter_mut().map(|page| &mut **page).collect();
            let mut results = vec![Ok(()); pages.len()];
            codec.decompress_batch(&blocks, &mut targets, &mut results, &mut scratch);
            for (i, page) in pages.iter().enumerate() {
                // A page that did not fit left an empty block, which is damaged; its neighbours
                // are none the worse for it.
                assert_eq!(
                    results[i],
                    lengths[i].map(|_| ()).ok_or(Error::Corrupt),
                    "{algorithm}"
                );
                assert!(
                    lengths[i].is_none() || *restored[i] == **page,
                    "{algorithm}"
                );
            }
        }
        codec.compress_batch(&[], &mut [], &mut [], &mut scratch);
    }
}

#[test]
#[should_panic(expected = "slots of equal length")]
fn a_batch_refuses_a_buffer_that_cannot_be_cut_evenly() {
    let codec = codec_for(Algorithm::Lz4).unwrap().unwrap();
    let page = Page::ZERO;
    codec.compress_batch(
        &[&page, &page],
        &mut [0; 99],
        &mut [None; 2],
        &mut Scratch::new(),
    );
}

#[test]
fn lz4_blocks_are_read_and_written_by_the_plain_api_of_lz4_flex() {
    let mut scratch = Scratch::new();
    for (seed, algorithm) in (0..20).flat_map(|s| [(s, Algorithm::Lz4), (s, Algorithm::Lz4Hc)]) {
        let codec = codec_for(algorithm).unwrap().unwrap();
        for (name, page) in pages::one_of_each(seed) {
            let mut out = [0; ROOM];
            let length = codec.compress(&page, &mut out, &mut scratch).unwrap();
            let theirs = lz4_flex::block::decompress(&out[..length], PAGE_SIZE).unwrap();
            assert!(page[..] == theirs[..], "{name}");

            let block = lz4_flex::block::compress(&page[..]);
            let mut ours = Page::ZERO;
            codec.decompress(&block, &mut ours, &mut scratch).unwrap();
            assert!(ours == page, "{name}");
        }
    }
}

#[test]
fn zstd_blocks_are_standard_frames_but_for_the_magic_number() {
    let mut scratch = Scratch::new();
    for (_, codec) in codecs()
        .into_iter()
        .filter(|(_, codec)| codec.id() == CodecId::Zstd)
    {
        for (name, page) in pages::one_of_each(9) {
            let mut out = [0; ROOM];
            let length = codec.compress(&page, &mut out, &mut scratch).unwrap();
            assert_eq!(out[..2], [0, 0x10], "the frame header of {name}");

            // RFC 8878, section 3.1.1: the magic number, little endian.
            let mut frame = 0xfd2f_b528_u32.to_le_bytes().to_vec();
            frame.extend_from_slice(&out[..length]);
            let mut theirs = [0; PAGE_SIZE];
            assert_eq!(
                zstd_safe::decompress(&mut theirs[..], &frame),
                Ok(PAGE_SIZE),
                "{name}"
            );
            assert!(theirs == *page, "{name}");
        }
    }
}

#[test]
fn a_name_without_a_codec_and_levels_out_of_range_are_errors() {
    let adaptive = Algorithm::Adaptive;
    assert_eq!(
        codec_for(adaptive).err(),
        Some(Error::Unsupported(adaptive))
    );
    for level in [i32::MIN, -8, 0, 23, i32::MAX] {
        assert_eq!(
            codec_for(Algorithm::Zstd { level }).err(),
            Some(Error::Level(level))
        );
    }
    assert!(codec_for(Algorithm::None).unwrap().is_none());
}
