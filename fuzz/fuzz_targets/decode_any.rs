//! Any bytes, to every decoder: a whole page or an error, the same whatever was in the page before.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trueno_zram_core::{Algorithm, CodecId, Compressed, Compressor, PAGE_SIZE, Page, Scratch};

fuzz_target!(|block: &[u8]| {
    let mut scratch = Scratch::new();
    for id in [CodecId::Same, CodecId::Lz4, CodecId::Zstd] {
        let (mut first, mut second) = (Page([0x5a; PAGE_SIZE]), Page([0xc3; PAGE_SIZE]));
        let result = id.decompress(block, &mut first, &mut scratch);
        assert_eq!(result, id.decompress(block, &mut second, &mut scratch));
        assert!(result.is_err() || first == second);
    }

    // And as the chunks of data that is not one page, whose length is in the first bytes.
    if let Some((length, bytes)) = block.split_first_chunk::<3>() {
        let length = u32::from_le_bytes([length[0], length[1], length[2], 0]) as usize;
        let value = Compressed::from_parts(Algorithm::Lz4, length, bytes.to_vec());
        if let Ok(restored) = Compressor::new(Algorithm::Lz4).decompress(&value) {
            assert_eq!(restored.len(), length);
        }
    }
});
