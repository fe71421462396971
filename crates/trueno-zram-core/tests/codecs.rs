//! Every codec gives back every page, in blocks that other libraries can read.

mod pages;

use std::sync::Arc;
use trueno_zram_core::codec::zstd::{self, Zstd};
use trueno_zram_core::{
    Algorithm, Codec, CodecId, Error, PAGE_SIZE, Page, Scratch, codec_for, is_trial,
};

/// More than any codec needs.
const ROOM: usize = 2 * PAGE_SIZE;

fn codecs() -> Vec<(Algorithm, Arc<dyn Codec>)> {
    let levels = Zstd::LEVELS
        .filter(|level| *level != 0)
        .map(|level| Algorithm::Zstd { level });
    let prices = [1, 8, 24, 47, 48, 64, 10_000];
    [Algorithm::SameFill, Algorithm::Lz4, Algorithm::Lz4Hc]
        .into_iter()
        .chain(levels)
        .chain(prices.map(|price| Algorithm::ZstdAtPrice { price }))
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

/// The frame that a block is a part of, as the documentation of the codec draws it.
fn frame_of(block: &[u8]) -> Vec<u8> {
    const COMPRESSED: u32 = 2 << 1;
    const LAST: u32 = 1;
    let header = LAST | COMPRESSED | (block.len() as u32) << 3;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x10];
    frame.extend_from_slice(&header.to_le_bytes()[..3]);
    frame.extend_from_slice(block);
    frame
}

#[test]
fn libzstd_restores_every_zstd_block_with_the_dictionary_alone() {
    let (mut scratch, dictionary) = (Scratch::new(), zstd::dictionary());
    let mut theirs = zstd_safe::DCtx::create();
    for (algorithm, codec) in codecs()
        .into_iter()
        .filter(|(_, codec)| codec.id() == CodecId::Zstd)
    {
        for seed in 0..9 {
            for (name, page) in pages::one_of_each(seed) {
                let mut out = [0; ROOM];
                let length = codec.compress(&page, &mut out, &mut scratch).unwrap();
                if name == "random" {
                    assert_eq!(out[..length], page[..], "{algorithm}");
                    continue;
                }
                assert!(length < PAGE_SIZE, "{algorithm} {name}");
                let mut restored = [0; PAGE_SIZE];
                let frame = frame_of(&out[..length]);
                let result = theirs.decompress_using_dict(&mut restored[..], &frame, &dictionary);
                assert_eq!(result, Ok(PAGE_SIZE), "{algorithm} {name}");
                assert!(restored == *page, "{algorithm} {name}");
            }
        }
    }
}

#[test]
fn a_frame_of_several_pages_has_what_they_share_once() {
    let zstd1 = zstd::Zstd::new(1).unwrap();
    let random = pages::one_of_each(3)
        .into_iter()
        .find(|(name, _)| *name == "random");
    let page = random.unwrap().1;
    let one = zstd1.frame_bytes(&page[..]);
    assert!(one > PAGE_SIZE);
    let four = zstd1.frame_bytes(&page.repeat(4));
    assert!((one..one + 100).contains(&four), "{four}");
}

#[test]
fn blocks_of_libzstd_are_zstd_blocks() {
    let mut theirs = zstd_safe::CCtx::create();
    let mut scratch = Scratch::new();
    for level in [-5, 1, 3, 9, 19] {
        for (name, page) in pages::one_of_each(4) {
            let mut frame = [0; ROOM];
            let length = theirs.compress(&mut frame[..], &page[..], level).unwrap();
            // Magic number, descriptor, content size of two bytes, and the block's header.
            let (headers, block) = frame[..length].split_at(4 + 1 + 2 + 3);
            if headers[7] & 6 != 4 {
                continue; // Neither raw blocks nor those of one byte have content.
            }
            let mut restored = Page::ZERO;
            CodecId::Zstd
                .decompress(block, &mut restored, &mut scratch)
                .unwrap();
            assert!(restored == page, "level {level} {name}");
        }
    }
}

/// Pages that ask much of a coder: every length of match and of literals, at every distance, few
/// bytes and many, long codes, and what does not compress.
fn hard_pages() -> impl Iterator<Item = (String, Page)> {
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    (0..3000).map(move |i| {
        let mut page = Page::ZERO;
        let kinds = 1 << random(9);
        let run = 1 << random(13);
        let reach = 2 << random(12);
        let skew = 1 + random(4);
        let mut at = 0;
        while at < PAGE_SIZE {
            let end = (at + 1 + random(run)).min(PAGE_SIZE);
            if random(3) == 0 && at > 0 {
                let distance = 1 + random(reach.min(at));
                for to in at..end {
                    page[to] = page[to - distance];
                }
            } else {
                for byte in &mut page[at..end] {
                    *byte = (0..skew).fold(kinds, |n, _| random(n.max(1))) as u8;
                }
            }
            at = end;
        }
        (format!("hard page {i}"), page)
    })
}

#[test]
fn our_zstd_encoder_is_read_by_libzstd_whatever_the_page() {
    let mut scratch = Scratch::new();
    let mut sizes = std::collections::BTreeSet::new();
    for level in 1..=3 {
        let codec = Zstd::new(level).unwrap();
        for (name, page) in hard_pages() {
            let (mut out, mut restored) = ([0; PAGE_SIZE], Page::ZERO);
            let length = codec.compress(&page, &mut out, &mut scratch).unwrap();
            let result = codec.decompress(&out[..length], &mut restored, &mut scratch);
            assert_eq!(result, Ok(()), "level {level} {name}");
            assert!(restored == page, "level {level} {name}");
            sizes.insert(length / 256);
        }
    }
    assert!(sizes.len() > 15, "these were to be of all sizes: {sizes:?}");
}

/// The size of a literals section has ten bits in its header as long as there are fewer than 1024
/// literals, and codes can make more of them than they were.
#[test]
fn zstd_literals_that_hardly_compress_are_no_trouble() {
    let (mut scratch, noise) = (Scratch::new(), pages::one_of_each(6).pop().unwrap().1);
    let codec = Zstd::new(1).unwrap();
    for count in (16..300).chain(960..1040).chain([2000, 4000, 4090]) {
        for kinds in 120..=256 {
            let mut page = Page::ZERO;
            for (to, from) in page[..count].iter_mut().zip(noise.iter()) {
                *to = (usize::from(*from) * kinds / 256) as u8;
            }
            let (mut out, mut restored) = ([0; PAGE_SIZE], Page::ZERO);
            let length = codec.compress(&page, &mut out, &mut scratch).unwrap();
            let result = codec.decompress(&out[..length], &mut restored, &mut scratch);
            assert_eq!(result, Ok(()), "{count} bytes of {kinds} kinds");
            assert!(restored == page, "{count} bytes of {kinds} kinds");
            assert!(length <= count + 20, "{count} bytes of {kinds} kinds");
        }
    }
}

#[test]
fn a_name_without_a_codec_and_numbers_out_of_range_are_errors() {
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
    for price in [0, 10_001, u32::MAX] {
        assert_eq!(
            codec_for(Algorithm::ZstdAtPrice { price }).err(),
            Some(Error::Price(price))
        );
    }
    assert!(codec_for(Algorithm::None).unwrap().is_none());
}

#[test]
fn few_pages_are_trials_and_fewer_later() {
    let trials: Vec<u64> = (0..20_000).filter(|count| is_trial(*count)).collect();
    assert_eq!(trials[..3], [0, 64, 128]);
    assert_eq!(trials[63..], [4032, 4096, 8192, 12_288, 16_384]);
}
