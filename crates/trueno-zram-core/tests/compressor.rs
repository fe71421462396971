//! The friendly types: any bytes in, the same bytes out, on every backend.

mod pages;

use trueno_zram_core::{
    Algorithm, Compressed, Compressor, CompressorBuilder, Error, PAGE_SIZE, Page, PageBytes,
    PageCompressor, Restored, Scratch, SimdBackend, detect_backend, samefill,
};

const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::None,
    Algorithm::SameFill,
    Algorithm::Lz4,
    Algorithm::Lz4Hc,
    Algorithm::Zstd1,
    Algorithm::Zstd3,
    Algorithm::Zstd { level: -5 },
    Algorithm::ZstdAtPrice { price: 24 },
];

fn backends() -> impl Iterator<Item = SimdBackend> {
    SimdBackend::ALL
        .into_iter()
        .filter(|backend| backend.is_available())
}

#[test]
fn bytes_of_every_length_come_back() {
    let memory: Vec<u8> = (0..2)
        .flat_map(pages::one_of_each)
        .flat_map(|(_, page)| page.0)
        .collect();
    let lengths = (0..20).chain((1..5).flat_map(|n| n * PAGE_SIZE - 2..n * PAGE_SIZE + 12));
    for length in lengths.chain([memory.len() - 1, memory.len()]) {
        for algorithm in ALGORITHMS {
            let compressor = Compressor::new(algorithm);
            // From the front, which is zeros, and from the back, which is noise.
            for data in [&memory[..length], &memory[memory.len() - length..]] {
                let compressed = compressor.compress(data).unwrap();
                let chunks = length.div_ceil(PAGE_SIZE);
                assert!(
                    compressed.len() <= length + 2 * chunks,
                    "{algorithm} {length}"
                );
                assert_eq!(compressed.original_len(), length);
                assert_eq!(compressed.as_bytes().len(), compressed.len());
                let restored = compressor.decompress(&compressed).unwrap();
                assert!(restored == data, "{algorithm} {length}");

                let kept = Compressed::from_parts(
                    compressed.algorithm(),
                    length,
                    compressed.clone().into_bytes(),
                );
                let other = Compressor::new(Algorithm::None);
                assert!(
                    other.decompress(&kept).unwrap() == data,
                    "{algorithm} {length}"
                );
            }
        }
    }
}

#[test]
fn a_page_says_what_became_of_it() {
    let of = |algorithm, name| {
        let (_, page) = pages::one_of_each(1)
            .into_iter()
            .find(|(n, _)| *n == name)
            .unwrap();
        Compressor::new(algorithm).compress(&page).unwrap()
    };
    for algorithm in [Algorithm::SameFill, Algorithm::Lz4, Algorithm::Zstd1] {
        assert_eq!(of(algorithm, "zeros").algorithm(), Algorithm::SameFill);
        assert_eq!(of(algorithm, "one word").as_bytes(), 2u64.to_le_bytes());
        assert_eq!(of(algorithm, "random").algorithm(), Algorithm::None);
        assert_eq!(of(algorithm, "random").len(), PAGE_SIZE);
    }
    for algorithm in [
        Algorithm::Lz4,
        Algorithm::Lz4Hc,
        Algorithm::Zstd1,
        Algorithm::Zstd3,
    ] {
        assert_eq!(of(algorithm, "text").algorithm(), algorithm);
        assert!(of(algorithm, "text").len() < PAGE_SIZE * 2 / 3);
    }
    assert_eq!(of(Algorithm::None, "zeros").len(), PAGE_SIZE);
    assert_eq!(of(Algorithm::SameFill, "text").algorithm(), Algorithm::None);
}

#[test]
fn restored_bytes_compare_with_everything_they_may_have_come_from() -> Result<(), Error> {
    let page: PageBytes = [7; PAGE_SIZE];
    let (vector, aligned) = (page.to_vec(), Page(page));
    let boxed: Box<[u8]> = vector.clone().into();
    let compressor = Compressor::new(Algorithm::Lz4);

    let restored: Restored = compressor.decompress(&compressor.compress(&page)?)?;
    assert_eq!(page, restored);
    assert_eq!(restored, page);
    assert_eq!(&page, restored);
    assert_eq!(restored, &page);
    assert_eq!(&page, &restored);
    assert_eq!(page[..], restored[..]);
    assert_eq!(&page[..], restored);
    assert_eq!(restored, &page[..]);
    assert_eq!(vector, restored);
    assert_eq!(restored, vector);
    assert_eq!(restored, aligned);
    assert_eq!(boxed, restored);
    assert_ne!(restored, [8; PAGE_SIZE]);
    assert_ne!(restored, [7; 5]);
    assert_eq!(PageBytes::try_from(restored.clone()), Ok(page));
    assert_eq!(Vec::from(restored), vector);

    for compressed in [
        compressor.compress(&vector)?,
        compressor.compress(&vector[..])?,
        compressor.compress(&&vector[..])?,
        compressor.compress(&aligned)?,
        compressor.compress(&boxed)?,
    ] {
        assert_eq!(compressed, compressor.compress(&page)?);
    }
    let text = compressor.decompress(&compressor.compress("five!")?)?;
    assert_eq!(text, *b"five!");
    assert_eq!(PageBytes::try_from(text.clone()), Err(text));
    Ok(())
}

#[test]
fn damaged_values_are_errors() {
    let compressor = Compressor::new(Algorithm::Lz4);
    let kinds = pages::one_of_each(6);
    let data = kinds
        .iter()
        .map(|(_, page)| &page[..])
        .collect::<Vec<_>>()
        .concat();
    let data = &data[..data.len() - 100];
    let good = compressor.compress(data).unwrap();
    let check = |length, bytes: &[u8]| {
        let value = Compressed::from_parts(Algorithm::Lz4, length, bytes.to_vec());
        compressor.decompress(&value)
    };
    assert!(check(data.len(), good.as_bytes()).unwrap() == data);
    // The same last chunk may stand for fewer bytes, unless it is raw, as it is here.
    for length in [
        0,
        1,
        PAGE_SIZE,
        data.len() - 1,
        data.len() + 1,
        1 << 40,
        usize::MAX,
    ] {
        assert_eq!(
            check(length, good.as_bytes()).err(),
            Some(Error::Corrupt),
            "{length}"
        );
    }
    for cut in (0..good.len()).step_by(7) {
        assert!(check(data.len(), &good.as_bytes()[..cut]).is_err(), "{cut}");
    }
    let mut bytes = good.as_bytes().to_vec();
    for at in (0..bytes.len()).step_by(11) {
        bytes[at] ^= 0x10;
        if let Ok(restored) = check(data.len(), &bytes) {
            assert_eq!(restored.len(), data.len(), "{at}");
        }
        bytes[at] ^= 0x10;
    }
    let adaptive = Compressed::from_parts(Algorithm::Adaptive, PAGE_SIZE, vec![1]);
    assert_eq!(
        compressor.decompress(&adaptive).err(),
        Some(Error::Unsupported(Algorithm::Adaptive))
    );
}

#[test]
fn every_backend_gives_the_same_bytes() {
    for seed in 0..5 {
        for (name, page) in pages::one_of_each(seed) {
            for algorithm in ALGORITHMS {
                let expected = Compressor::new(algorithm).compress(&page).unwrap();
                for backend in backends() {
                    let builder = CompressorBuilder::new()
                        .algorithm(algorithm)
                        .backend(backend);
                    let compressor = builder.build().unwrap();
                    assert_eq!(compressor.backend(), backend);
                    assert_eq!(
                        compressor.compress(&page).unwrap(),
                        expected,
                        "{backend} {name}"
                    );
                    assert_eq!(
                        compressor.page_same_filled(&page),
                        samefill::page_same_filled(&page),
                        "{backend} {name}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_backend_that_is_missing_is_an_error_if_forced_and_lowered_if_preferred() {
    let mut missing = 0;
    for backend in SimdBackend::ALL {
        let forced = Compressor::builder()
            .backend(backend)
            .build()
            .map(|c| c.backend());
        let preferred = Compressor::builder()
            .prefer_backend(backend)
            .build()
            .unwrap()
            .backend();
        assert!(preferred.is_available());
        if backend.is_available() {
            assert_eq!((forced, preferred), (Ok(backend), backend));
        } else {
            assert_eq!(forced, Err(Error::Backend(backend)));
            assert_ne!(preferred, backend);
            let message = Error::Backend(backend).to_string();
            assert!(message.contains(&backend.to_string()), "{message}");
            assert!(message.contains("scalar"), "{message}");
            missing += 1;
        }
    }
    assert!(missing > 0, "no CPU has all of them");
    assert_eq!(Compressor::new(Algorithm::Lz4).backend(), detect_backend());
}

#[test]
fn an_algorithm_without_a_codec_is_an_error_at_build_or_at_first_use() {
    let algorithm = Algorithm::Adaptive;
    let error = Error::Unsupported(algorithm);
    let built = Compressor::builder().algorithm(algorithm).build();
    assert_eq!(built.err(), Some(error));
    assert!(
        error.to_string().contains(&format!("'{algorithm}'")),
        "{error}"
    );

    let compressor = Compressor::new(algorithm);
    assert_eq!(compressor.algorithm(), algorithm);
    assert_eq!(compressor.compress(&[0; PAGE_SIZE]).err(), Some(error));
    assert_eq!(compressor.compress("").err(), Some(error));
    let (mut page, mut scratch) = (Page::ZERO, Scratch::new());
    assert_eq!(
        compressor.compress_into(&page.clone(), &mut *page, &mut scratch),
        None
    );
    assert_eq!(
        compressor.decompress_into(&[], &mut page, &mut scratch),
        Err(error)
    );
    let error = Compressor::builder()
        .algorithm(Algorithm::Zstd { level: 40 })
        .build()
        .unwrap_err();
    assert_eq!(error, Error::Level(40));
    assert!(error.to_string().contains("40"), "{error}");
}

#[test]
fn the_fast_path_restores_its_own_blocks() {
    for algorithm in ALGORITHMS {
        let (compressor, mut scratch) = (Compressor::new(algorithm), Scratch::new());
        for (name, page) in pages::one_of_each(8) {
            let mut out = [0; 2 * PAGE_SIZE];
            let Some(length) = compressor.compress_into(&page, &mut out, &mut scratch) else {
                assert_eq!(algorithm, Algorithm::SameFill, "{name}");
                continue;
            };
            let mut restored = Page::ZERO;
            compressor
                .decompress_into(&out[..length], &mut restored, &mut scratch)
                .unwrap();
            assert!(restored == page, "{algorithm} {name}");
            let result =
                compressor.decompress_into(&out[..length - 1], &mut restored, &mut scratch);
            assert_eq!(result, Err(Error::Corrupt), "{algorithm} {name}");
        }
    }
}

#[test]
fn a_page_above_the_limit_stays_raw() {
    let limits = [
        0,
        7,
        8,
        1000,
        PAGE_SIZE / 2,
        PageCompressor::DEFAULT_LIMIT,
        PAGE_SIZE,
        usize::MAX,
    ];
    for limit in limits {
        for algorithm in ALGORITHMS {
            let compressor = PageCompressor::from(Compressor::new(algorithm)).limit(limit);
            for (name, page) in pages::one_of_each(7) {
                let free = Compressor::new(algorithm).compress(&page).unwrap();
                let compressed = compressor.compress_page(&page).unwrap();
                if free.len() <= limit {
                    // A word too long for the limit leaves room for nothing shorter.
                    assert_eq!(compressed, free, "{algorithm} {name} {limit}");
                } else {
                    assert_eq!(
                        compressed.algorithm(),
                        Algorithm::None,
                        "{algorithm} {name} {limit}"
                    );
                    assert_eq!(
                        compressed.as_bytes(),
                        &page[..],
                        "{algorithm} {name} {limit}"
                    );
                }
                assert!(compressor.decompress_page(&compressed).unwrap() == page);
            }
        }
    }
    let short = Compressor::new(Algorithm::Lz4).compress("short").unwrap();
    assert_eq!(
        PageCompressor::new().decompress_page(&short).err(),
        Some(Error::Corrupt)
    );
}

#[test]
fn many_threads_share_one_compressor() {
    let compressor = Compressor::new(Algorithm::Zstd1);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let compressor = &compressor;
            scope.spawn(move || {
                for (name, page) in pages::one_of_each(seed) {
                    let compressed = compressor.compress(&page).unwrap();
                    assert!(
                        compressor.decompress(&compressed).unwrap() == page,
                        "{name}"
                    );
                }
            });
        }
    });
}
