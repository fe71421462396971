//! Any page, and any bytes, come back from every codec.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trueno_zram_core::{Algorithm, Compressor, PAGE_SIZE, Page, Scratch, codec_for};

fuzz_target!(|data: &[u8]| {
    // The input repeated until it fills the page: short inputs make compressible pages.
    let mut page = Page::ZERO;
    if !data.is_empty() {
        page.iter_mut()
            .zip(data.iter().cycle())
            .for_each(|(byte, input)| *byte = *input);
    }
    let mut scratch = Scratch::new();
    for algorithm in [
        Algorithm::SameFill,
        Algorithm::Lz4,
        Algorithm::Lz4Hc,
        Algorithm::Zstd1,
        Algorithm::Zstd3,
    ] {
        let Ok(Some(codec)) = codec_for(algorithm) else {
            unreachable!("{algorithm} has a codec")
        };
        let mut out = [0; 2 * PAGE_SIZE];
        if let Some(length) = codec.compress(&page, &mut out, &mut scratch) {
            let mut restored = Page::ZERO;
            codec
                .decompress(&out[..length], &mut restored, &mut scratch)
                .unwrap();
            assert!(restored == page, "{algorithm}");
            assert_eq!(
                codec.compress(&page, &mut out[..length - 1], &mut scratch),
                None
            );
        }

        let compressor = Compressor::new(algorithm);
        let compressed = compressor.compress(data).unwrap();
        assert!(
            compressor.decompress(&compressed).unwrap() == data,
            "{algorithm}"
        );
    }
});
