//! The library's block device: one claim a test.

use std::sync::Arc;
use trueno_ublk::BlockDevice;
use trueno_zram_core::{Algorithm, CompressorBuilder, PAGE_SIZE};

fn device(algorithm: Algorithm) -> BlockDevice {
    let compressor = CompressorBuilder::new()
        .algorithm(algorithm)
        .build()
        .unwrap();
    BlockDevice::new(64 << 20, compressor)
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut seed = 7u64;
    let next = || {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn zero_pages_are_stored_and_take_nothing() {
    let device = device(Algorithm::Lz4);
    for page in 0..3 {
        device
            .write(page * PAGE_SIZE as u64, &[0; PAGE_SIZE])
            .unwrap();
    }
    let stats = device.stats();
    assert_eq!(
        (stats.zero_pages, stats.same_pages, stats.pages_stored),
        (3, 3, 3)
    );
    assert_eq!((stats.bytes_written, stats.bytes_compressed), (3 * 4096, 0));
    assert_eq!(stats.compression_ratio(), f64::INFINITY);
}

#[test]
fn what_was_done_is_what_is_counted() {
    let device = device(Algorithm::Zstd1);
    let text: Vec<u8> = b"compressed memory "
        .iter()
        .copied()
        .cycle()
        .take(PAGE_SIZE)
        .collect();
    device.write(0, &text).unwrap();
    device.write(1 << 20, &noise(PAGE_SIZE)).unwrap();
    device.write(2 << 20, &[0xcc; PAGE_SIZE]).unwrap();
    let stats = device.stats();
    assert_eq!(
        (stats.simd_pages, stats.scalar_pages, stats.gpu_pages),
        (1, 1, 0)
    );
    assert_eq!(
        (stats.pages_stored, stats.same_pages, stats.zero_pages),
        (3, 1, 0)
    );
    assert!(stats.bytes_compressed > 4096 && stats.bytes_compressed < 4096 + 200);
    assert!(stats.compression_ratio() > 2.5);
}

#[test]
fn a_threshold_of_eight_tries_every_page() {
    let compressor = CompressorBuilder::new()
        .algorithm(Algorithm::Lz4)
        .build()
        .unwrap();
    let device = BlockDevice::with_entropy_threshold(1 << 20, compressor, 8.0);
    device.write(0, &noise(PAGE_SIZE)).unwrap();
    assert_eq!(
        (device.stats().simd_pages, device.stats().scalar_pages),
        (1, 0)
    );
}

#[test]
fn every_algorithm_gives_back_what_was_written() {
    for algorithm in [
        Algorithm::None,
        Algorithm::SameFill,
        Algorithm::Lz4,
        Algorithm::Lz4Hc,
        Algorithm::Zstd3,
    ] {
        let device = device(algorithm);
        let data = [noise(5000), vec![b'x'; 9000], vec![0; 8192]].concat();
        device.write(1234, &data).unwrap();
        let mut back = vec![0; data.len()];
        device.read(1234, &mut back).unwrap();
        assert!(back == data, "{algorithm}");
        device.sync().unwrap();
        device.discard(0, device.size()).unwrap();
        device.read(1234, &mut back).unwrap();
        assert!(back.iter().all(|byte| *byte == 0), "{algorithm}");
        assert_eq!(device.stats().pages_stored, 0, "{algorithm}");
    }
}

#[test]
fn beyond_the_end_is_invalid_input_and_changes_nothing() {
    let device = device(Algorithm::Lz4);
    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    assert_eq!(
        kind(device.write(64 << 20, &[1])),
        std::io::ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(device.read(u64::MAX, &mut [0; 2])),
        std::io::ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(device.discard(0, (64 << 20) + 1)),
        std::io::ErrorKind::InvalidInput
    );
    assert_eq!(device.stats().pages_stored, 0);
    let compressor = CompressorBuilder::new().build().unwrap();
    assert!(BlockDevice::try_new(0, compressor, 7.0).is_err());
}

#[test]
fn threads_share_a_device() {
    let device = Arc::new(device(Algorithm::Lz4));
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let device = Arc::clone(&device);
            std::thread::spawn(move || {
                for round in 0..500u64 {
                    let offset = (thread * 500 + round) * 5000;
                    let data = vec![(thread + round) as u8 | 1; 4999];
                    device.write(offset, &data).unwrap();
                    let mut back = vec![0; 4999];
                    device.read(offset, &mut back).unwrap();
                    assert!(back == data);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
