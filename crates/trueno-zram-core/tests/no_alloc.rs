//! After `prepare` nothing allocates: neither Rust nor the C library underneath.
//!
//! `malloc` and its kin are replaced in this binary, so that libzstd's calls are seen as well as
//! those of Rust, whose system allocator ends up there too. glibc keeps the real ones under other
//! names.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod pages;

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use trueno_zram_core::codec::zstd::{Dictionary, Zstd};
use trueno_zram_core::{
    Algorithm, Compressor, CompressorBuilder, Outcome, PAGE_SIZE, Page, Scratch, codec_for,
    try_codecs,
};

thread_local! {
    /// Allocations by this thread. Needs neither initialisation nor a destructor, which might
    /// allocate themselves.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

unsafe extern "C" {
    fn __libc_malloc(bytes: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, bytes: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, bytes: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, bytes: usize) -> *mut c_void;
}

// SAFETY: the contract of malloc(3) is kept by passing the call on.
#[unsafe(no_mangle)]
extern "C" fn malloc(bytes: usize) -> *mut c_void {
    count();
    // SAFETY: any argument is allowed.
    unsafe { __libc_malloc(bytes) }
}

// SAFETY: the contract of calloc(3) is kept by passing the call on.
#[unsafe(no_mangle)]
extern "C" fn calloc(number: usize, bytes: usize) -> *mut c_void {
    count();
    // SAFETY: any argument is allowed.
    unsafe { __libc_calloc(number, bytes) }
}

// SAFETY: the contract of realloc(3) is kept by passing the call on.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(old: *mut c_void, bytes: usize) -> *mut c_void {
    count();
    // SAFETY: the caller promises that `old` came from this allocator.
    unsafe { __libc_realloc(old, bytes) }
}

// SAFETY: the contract of posix_memalign(3) is kept by passing the call on.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, bytes: usize) -> c_int {
    const ENOMEM: c_int = 12;
    count();
    // SAFETY: the caller promises a valid alignment, and that `out` may be written.
    unsafe {
        let memory = __libc_memalign(align, bytes);
        if memory.is_null() {
            return ENOMEM;
        }
        *out = memory;
    }
    0
}

/// The allocations that `work` makes.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_sees_rust_and_libzstd() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 100]))) > 0);
    assert!(allocations(|| drop(std::hint::black_box(Page::boxed()))) > 0);
    assert!(allocations(|| drop(zstd_safe::CCtx::create())) > 0);
}

/// Compressors with a dictionary, of levels that search in all the ways there are.
fn with_dictionary() -> impl Iterator<Item = Compressor> {
    let samples: Vec<_> = (0..200).flat_map(pages::one_of_each).collect();
    let samples = samples.iter().map(|(_, page)| &**page);
    let dictionary = Arc::new(Dictionary::train(samples, 16 * 1024).unwrap());
    [-5, 1, 3, 6, 9, 13, 19, 22].into_iter().map(move |level| {
        CompressorBuilder::new()
            .algorithm(Algorithm::Zstd { level })
            .dictionary(Arc::clone(&dictionary))
            .build()
            .unwrap()
    })
}

#[test]
fn after_prepare_nothing_is_allocated() {
    let compressors: Vec<Compressor> = Zstd::LEVELS
        .filter(|level| *level != 0)
        .map(|level| Algorithm::Zstd { level })
        .chain([
            Algorithm::None,
            Algorithm::SameFill,
            Algorithm::Lz4,
            Algorithm::Lz4Hc,
            Algorithm::ZstdAtPrice { price: 24 },
            Algorithm::ZstdAtPrice { price: 64 },
        ])
        .map(Compressor::new)
        .chain(with_dictionary())
        .collect();
    // One after the other with one scratch, as in a worker that recompresses.
    let mut scratch = Scratch::new();
    for compressor in &compressors {
        compressor.prepare(&mut scratch);
    }

    let pages = pages::one_of_each(1);
    let mut restored = Page::ZERO;
    let (mut long, mut short) = ([0; 2 * PAGE_SIZE], [0; 1000]);
    // An ordinary context of libzstd gives up memory that it found too large 128 times in a row;
    // this is 140 compressions with each.
    for round in 0..10 {
        for compressor in &compressors {
            for (name, page) in &pages {
                let made = allocations(|| {
                    compressor.page_same_filled(page);
                    compressor.compress_into(page, &mut short, &mut scratch);
                    if let Some(length) = compressor.compress_into(page, &mut long, &mut scratch) {
                        let block = &long[..length];
                        compressor
                            .decompress_into(block, &mut restored, &mut scratch)
                            .unwrap();
                        let damaged = &long[..length / 2];
                        compressor
                            .decompress_into(damaged, &mut restored, &mut scratch)
                            .unwrap_err();
                    }
                });
                assert_eq!(made, 0, "{} {name} round {round}", compressor.algorithm());
            }
        }
    }
}

#[test]
fn trying_codecs_allocates_nothing() {
    let codecs = [
        Algorithm::Lz4,
        Algorithm::ZstdAtPrice { price: 24 },
        Algorithm::Zstd3,
        Algorithm::Zstd { level: -1 },
    ];
    let codecs = codecs.map(|algorithm| codec_for(algorithm).unwrap().unwrap());
    let mut scratch = Scratch::new();
    codecs.iter().for_each(|codec| codec.prepare(&mut scratch));
    let (mut block, mut restored) = ([0; 3832], Page::ZERO);
    let mut outcomes = [Outcome::default(); 4];
    for (name, page) in pages::one_of_each(1) {
        let made = allocations(|| {
            let outcomes = &mut outcomes;
            try_codecs(
                &codecs,
                &page,
                &mut block,
                &mut restored,
                &mut scratch,
                outcomes,
            );
        });
        assert_eq!(made, 0, "{name}");
        for outcome in outcomes {
            assert!(
                outcome.bytes <= 3832 || outcome.bytes == PAGE_SIZE as u32,
                "{outcome:?}"
            );
            assert!((1..u32::MAX).contains(&outcome.ns), "{name}: {outcome:?}");
        }
    }
}
