//! The sample of memory pages in `tests/data`, for tests, benchmarks and examples.

use trueno_zram_core::{Page, samefill::page_same_filled};

/// Its pages, those that repeat one word left out.
pub fn pages() -> Vec<Page> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/pages.zst");
    let packed = std::fs::read(path).expect("the sample is part of the repository");
    let length = zstd_safe::get_frame_content_size(&packed).ok().flatten();
    let mut bytes = vec![0; length.expect("the sample says its length") as usize];
    let mut decoder = zstd_safe::DCtx::create();
    let window = zstd_safe::DParameter::WindowLogMax(31);
    decoder.set_parameter(window).expect("a known parameter");
    let done = decoder.decompress(&mut bytes[..], &packed);
    assert_eq!(done, Ok(bytes.len()), "the sample is whole");
    let pages = bytes.as_chunks().0.iter().map(|page| Page(*page));
    pages
        .filter(|page| page_same_filled(page).is_none())
        .collect()
}
