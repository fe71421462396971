//! Pages compressed with a dictionary come back with it, and with no other.

mod pages;

use std::sync::Arc;
use trueno_zram_core::codec::zstd::{Dictionary, Zstd};
use trueno_zram_core::{
    Algorithm, Codec, CodecId, Compressor, CompressorBuilder, Error, PAGE_SIZE, Page, Scratch,
    codec_for,
};

/// Text and records of many seeds, which generated pages have in common.
fn samples(seeds: std::ops::Range<u64>) -> Vec<Page> {
    seeds
        .flat_map(pages::one_of_each)
        .filter(|(name, _)| ["records", "text", "sparse"].contains(name))
        .map(|(_, page)| page)
        .collect()
}

fn trained(seeds: std::ops::Range<u64>) -> Arc<Dictionary> {
    let samples = samples(seeds);
    let pages = samples.iter().map(|page| &**page);
    Arc::new(Dictionary::train(pages, 16 * 1024).unwrap())
}

fn block_of(codec: &dyn Codec, page: &Page, scratch: &mut Scratch) -> Vec<u8> {
    let mut out = [0; PAGE_SIZE];
    let length = codec.compress(page, &mut out, scratch).unwrap();
    out[..length].to_vec()
}

#[test]
fn every_level_restores_every_page() {
    let dictionary = trained(0..200);
    for level in Zstd::LEVELS.filter(|level| *level != 0) {
        let codec = Zstd::new(level).unwrap();
        let codec = codec.with_dictionary(Arc::clone(&dictionary));
        let mut scratch = Scratch::new();
        codec.prepare(&mut scratch);
        for seed in 1000..1004 {
            for (name, page) in pages::one_of_each(seed) {
                let block = block_of(&codec, &page, &mut scratch);
                let mut restored = Page::ZERO;
                let result = codec.decompress(&block, &mut restored, &mut scratch);
                assert_eq!(result, Ok(()), "level {level} {name}");
                assert!(restored == page, "level {level} {name}");

                // By the id of the format, with what the scratch knows.
                let mut restored = Page::ZERO;
                let result = CodecId::Zstd.decompress(&block, &mut restored, &mut scratch);
                assert_eq!(result, Ok(()), "level {level} {name}");
                assert!(restored == page, "level {level} {name}");
            }
        }
    }
}

#[test]
fn pages_like_those_it_was_trained_on_get_smaller() {
    // Tables of prose: lines that the pages have in common, each page others.
    let page = |seed: usize| {
        let mut page = Page::ZERO;
        for (i, line) in page.chunks_exact_mut(64).enumerate() {
            let key = (seed * 31 + i * 17) % 257;
            let text = format!(
                "row {key:03} of a table that {} more pages have",
                key * key * 7919
            );
            line[..text.len()].copy_from_slice(text.as_bytes());
        }
        page
    };
    let samples: Vec<Page> = (0..300).map(page).collect();
    let dictionary = Dictionary::train(samples.iter().map(|page| &**page), 32 * 1024).unwrap();
    let dictionary = Arc::new(dictionary);
    for level in [1, 3, 9, 19] {
        let plain = Zstd::new(level).unwrap();
        let codec = plain.with_dictionary(Arc::clone(&dictionary));
        let (mut with, mut without, mut scratch) = (0, 0, Scratch::new());
        for seed in 5000..5020 {
            with += block_of(&codec, &page(seed), &mut scratch).len();
            without += block_of(&plain, &page(seed), &mut scratch).len();
        }
        assert!(
            2 * with < without,
            "level {level}: {with}, {without} without"
        );
    }
}

#[test]
fn a_block_asks_for_its_own_dictionary_and_names_both() {
    let (one, other) = (trained(0..200), trained(200..400));
    assert_ne!(one.id(), other.id());
    let codec = Zstd::new(1).unwrap().with_dictionary(Arc::clone(&one));
    let stranger = Zstd::new(1).unwrap().with_dictionary(Arc::clone(&other));
    let page = &samples(500..501)[1];
    let mut scratch = Scratch::new();
    let block = block_of(&codec, page, &mut scratch);
    // A scratch that has compressed with a dictionary knows it, whoever asks.
    let mut restored = Page::ZERO;
    let found = stranger.decompress(&block, &mut restored, &mut scratch);
    assert!(found == Ok(()) && restored == *page);

    scratch = Scratch::new();
    let mut error = |codec: &dyn Codec, scratch: &mut Scratch| {
        codec
            .decompress(&block, &mut restored, scratch)
            .unwrap_err()
    };
    let wrong = error(&stranger, &mut scratch);
    let given = Some(other.id());
    assert_eq!(
        wrong,
        Error::Dictionary {
            block: one.id(),
            given
        }
    );
    for id in [one.id(), other.id()] {
        assert!(wrong.to_string().contains(&format!("{id:07x}")), "{wrong}");
    }
    let plain = codec_for(Algorithm::Zstd1).unwrap().unwrap();
    let missing = error(&*plain, &mut Scratch::new());
    assert_eq!(
        missing,
        Error::Dictionary {
            block: one.id(),
            given: None
        }
    );
    assert!(missing.to_string().contains("none is at hand"), "{missing}");

    // What was made without one needs none.
    let block = block_of(&*plain, page, &mut scratch);
    codec
        .decompress(&block, &mut restored, &mut scratch)
        .unwrap();
    assert!(restored == *page);
}

#[test]
fn a_dictionary_is_the_same_after_it_was_kept_as_bytes() {
    let dictionary = trained(0..200);
    let again = Arc::new(Dictionary::from_bytes(dictionary.as_bytes()).unwrap());
    assert_eq!(again.id(), dictionary.id());
    let codec = Zstd::new(3).unwrap();
    let (one, two) = (
        codec.with_dictionary(dictionary),
        codec.with_dictionary(again),
    );
    let mut scratch = Scratch::new();
    for page in samples(700..704) {
        let block = block_of(&one, &page, &mut scratch);
        assert!(block == block_of(&two, &page, &mut scratch));
        let mut restored = Page::ZERO;
        two.decompress(&block, &mut restored, &mut Scratch::new())
            .unwrap();
        assert!(restored == page);
    }
}

#[test]
fn libzstd_restores_a_block_with_the_dictionary_alone() {
    let dictionary = trained(0..200);
    let codec = Zstd::new(9)
        .unwrap()
        .with_dictionary(Arc::clone(&dictionary));
    for page in samples(700..710) {
        let block = block_of(&codec, &page, &mut Scratch::new());
        let content = &block[4..];
        let header = (1 | 2 << 1 | (content.len() as u32) << 3).to_le_bytes();
        let headers = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x70], &header[..3]].concat();
        let frame = [&headers, content].concat();
        let mut restored = [0; PAGE_SIZE];
        let mut theirs = zstd_safe::DCtx::create();
        let result = theirs.decompress_using_dict(&mut restored[..], &frame, dictionary.as_bytes());
        assert_eq!(result, Ok(PAGE_SIZE));
        assert!(restored == *page);
    }
}

#[test]
fn damage_is_noticed_or_gives_a_whole_page() {
    let dictionary = trained(0..200);
    let codec = Zstd::new(1).unwrap().with_dictionary(dictionary);
    let mut scratch = Scratch::new();
    codec.prepare(&mut scratch);
    for page in samples(800..801) {
        let mut block = block_of(&codec, &page, &mut scratch);
        for length in 0..block.len() {
            let cut = codec.decompress(&block[..length], &mut Page::ZERO.clone(), &mut scratch);
            assert!(cut.is_err(), "cut to {length}");
        }
        for at in 0..block.len() {
            for bit in 0..8 {
                block[at] ^= 1 << bit;
                let [first, second] = [0x5a, 0xc3].map(|filler| {
                    let mut page = Page([filler; PAGE_SIZE]);
                    let result = codec.decompress(&block, &mut page, &mut scratch);
                    result.map(|()| page)
                });
                assert!(first == second, "byte {at} bit {bit}");
                block[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn a_compressor_takes_a_dictionary_for_pages_and_for_other_bytes() {
    let dictionary = trained(0..200);
    let builder = || CompressorBuilder::new().dictionary(Arc::clone(&dictionary));
    let compressor = builder().algorithm(Algorithm::Zstd1).build().unwrap();
    let bytes: Vec<u8> = samples(900..903).iter().flat_map(|page| page.0).collect();
    for data in [&bytes[..PAGE_SIZE], &bytes, &bytes[..10_000]] {
        let compressed = compressor.compress(data).unwrap();
        assert!(compressor.decompress(&compressed).unwrap() == data);
        let error = Compressor::new(Algorithm::Zstd1).decompress(&compressed);
        let block = dictionary.id();
        assert_eq!(error.err(), Some(Error::Dictionary { block, given: None }));
    }
    for algorithm in [Algorithm::Lz4, Algorithm::None, Algorithm::SameFill] {
        let error = builder().algorithm(algorithm).build().unwrap_err();
        assert_eq!(error, Error::TakesNoDictionary(algorithm));
        assert!(
            error.to_string().contains(&format!("'{algorithm}'")),
            "{error}"
        );
    }
    let level = builder().algorithm(Algorithm::Zstd { level: 99 }).build();
    assert_eq!(level.unwrap_err(), Error::Level(99));
}

#[test]
fn too_few_samples_and_bytes_of_another_kind_are_errors() {
    let one = samples(0..1);
    let error = Dictionary::train([&*one[0]], 16 * 1024).unwrap_err();
    assert_eq!(
        error,
        Error::Samples {
            pages: 1,
            size: 16 * 1024
        }
    );
    assert!(
        error.to_string().starts_with("1 pages are too few"),
        "{error}"
    );
    assert!(Dictionary::train([], 16 * 1024).is_err());
    assert!(Dictionary::train(samples(0..100).iter().map(|p| &**p), 0).is_err());

    let good = trained(0..200);
    let cut = &good.as_bytes()[..40];
    for bytes in [&b""[..], b"text", &[0; 5000], &one[0][..], cut] {
        assert_eq!(
            Dictionary::from_bytes(bytes).unwrap_err(),
            Error::NotADictionary
        );
    }
}
