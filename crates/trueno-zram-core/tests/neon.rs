//! Each backend of AArch64 on its own, so that something outside can see which instructions ran:
//! `tests/native/neon.sh` looks at what an emulator translated. (`forced_backend` looks for itself,
//! which takes a system call that emulators of one program do not have.)

#![cfg(target_arch = "aarch64")]

use trueno_zram_core::{Algorithm, Compressor, PAGE_SIZE, Page, SimdBackend};

/// Searches pages of one word, and pages with one other bit, by `backend`.
fn search(backend: SimdBackend) {
    let builder = Compressor::builder().algorithm(Algorithm::Lz4);
    let compressor = builder.backend(backend).build().unwrap();
    assert_eq!(compressor.backend(), backend);
    let mut page = Page([9; PAGE_SIZE]);
    assert_eq!(
        compressor.page_same_filled(&page),
        Some(0x0909_0909_0909_0909)
    );
    for at in 0..PAGE_SIZE {
        page[at] ^= 1 << (at % 8);
        assert_eq!(compressor.page_same_filled(&page), None, "{at}");
        page[at] ^= 1 << (at % 8);
    }
}

/// Compresses a page with a match every 64 bytes by `backend`.
fn lz4(backend: SimdBackend) {
    let compressor = Compressor::builder().backend(backend).build().unwrap();
    let mut page = Page::ZERO;
    for (i, line) in page.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        line[40..].fill(i as u8);
    }
    let compressed = compressor.compress(&*page).unwrap();
    assert_eq!(compressor.decompress(&compressed).unwrap(), *page);
}

#[test]
fn lz4_by_neon() {
    lz4(SimdBackend::Neon);
}

#[test]
fn lz4_by_scalar() {
    lz4(SimdBackend::Scalar);
}

#[test]
fn search_by_neon() {
    search(SimdBackend::Neon);
}

#[test]
fn search_by_scalar() {
    search(SimdBackend::Scalar);
}
