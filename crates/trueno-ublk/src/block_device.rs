//! A compressed block device inside this process, without any kernel.
#![forbid(unsafe_code)]

use crate::target::{Errno, Handler, Target};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use trueno_zram_adaptive::EntropySelector;
use trueno_zram_core::codec::lz4::Lz4;
use trueno_zram_core::{Choice, Codec, Compressor, PAGE_SIZE, codec_for};
use trueno_zram_store::{Config, CreateError, Memory, Store};

/// The default entropy threshold, in bits per byte: noisier pages are kept as they are.
pub const ENTROPY_THRESHOLD: f64 = EntropySelector::SKIP_ABOVE;

/// A compressed RAM disk in this process: bytes in, bytes out, kept compressed in between.
///
/// Any offset and length works; whole aligned pages are fastest. All methods take `&self`: threads
/// share a device freely, and a read of a page sees one write or another, never a mixture.
///
/// ```
/// use trueno_ublk::BlockDevice;
/// use trueno_zram_core::{Algorithm, CompressorBuilder};
///
/// let compressor = CompressorBuilder::new().algorithm(Algorithm::Lz4).build()?;
/// let device = BlockDevice::new(1 << 30, compressor);
/// device.write(4096, b"hello")?;
/// let mut back = [0; 5];
/// device.read(4096, &mut back)?;
/// assert_eq!(&back, b"hello");
///
/// device.discard(0, 1 << 20)?;
/// assert_eq!(device.stats().pages_stored, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BlockDevice {
    target: Target,
    /// Handlers that nobody uses at the moment. As many come to exist as threads meet.
    idle: Mutex<Vec<Handler>>,
}

impl BlockDevice {
    /// A device of `size` bytes, rounded up to whole pages, that compresses as `compressor` does
    /// and keeps pages above [`ENTROPY_THRESHOLD`] as they are.
    ///
    /// # Panics
    /// If the size is 0 or above 16 TiB, or the system has no address space for it;
    /// [`try_new`](BlockDevice::try_new) returns these as errors.
    pub fn new(size: u64, compressor: Compressor) -> BlockDevice {
        BlockDevice::with_entropy_threshold(size, compressor, ENTROPY_THRESHOLD)
    }

    /// Like [`new`](BlockDevice::new), with another threshold in bits per byte; at 8 every page
    /// is tried.
    ///
    /// # Panics
    /// As [`new`](BlockDevice::new).
    pub fn with_entropy_threshold(
        size: u64,
        compressor: Compressor,
        threshold: f64,
    ) -> BlockDevice {
        match BlockDevice::try_new(size, compressor, threshold) {
            Ok(device) => device,
            Err(error) => panic!("no block device of {size} bytes: {error}"),
        }
    }

    /// Like [`with_entropy_threshold`](BlockDevice::with_entropy_threshold), without panic.
    pub fn try_new(
        size: u64,
        compressor: Compressor,
        threshold: f64,
    ) -> Result<BlockDevice, CreateError> {
        let size = size
            .checked_next_multiple_of(PAGE_SIZE as u64)
            .unwrap_or(u64::MAX);
        // A compressor exists, so its algorithm is valid; without a codec it keeps pages as they
        // are, same-filled ones excepted. A store has at least one codec, if only to read with.
        let (codec, choice) = match codec_for(compressor.algorithm()) {
            Ok(Some(codec)) => (codec, Choice::Codec(0)),
            _ => (Arc::new(Lz4::new()) as Arc<dyn Codec>, Choice::Raw),
        };
        let mut config = Config::new(size, codec);
        config.selector = Arc::new(EntropySelector::new(threshold, choice));
        let memory = Memory::anonymous(config.memory_bytes()?).map_err(CreateError::Os)?;
        let store = Store::create(config, memory)?;
        let target = Target::new(Arc::new(store), 512);
        Ok(BlockDevice {
            target,
            idle: Mutex::default(),
        })
    }

    /// Bytes of the device.
    pub fn size(&self) -> u64 {
        self.target.size()
    }

    /// Bytes of the unit in which the device works best: a page.
    pub fn block_size(&self) -> u32 {
        PAGE_SIZE as u32
    }

    /// Stores `data` from byte `offset` on. Fails with [`io::ErrorKind::InvalidInput`] beyond the
    /// end, and with `ENOSPC` when the system has no memory; pages before the failing one are
    /// written then, and no other page has changed.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|handler| handler.write(offset, data))
    }

    /// Fills `buf` from byte `offset` on; what was never written is zeros. Fails with
    /// [`io::ErrorKind::InvalidInput`] beyond the end, and with `EIO` for a damaged page.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.with(|handler| handler.read(offset, buf))
    }

    /// Makes `len` bytes from `offset` on zeros and frees the memory of the whole pages in them.
    pub fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.with(|handler| handler.discard(offset, len))
    }

    /// Waits until all that was written is safe: it is when `write` returns.
    pub fn sync(&self) -> io::Result<()> {
        self.with(Handler::flush)
    }

    /// What the device holds.
    pub fn stats(&self) -> BlockDeviceStats {
        let stats = self.target.store().stats();
        BlockDeviceStats {
            pages_stored: stats.pages_stored,
            zero_pages: stats.zero_pages,
            same_pages: stats.same_pages,
            gpu_pages: 0,
            simd_pages: stats.pages_tried,
            scalar_pages: stats.skipped_pages,
            bytes_written: stats.pages_stored * PAGE_SIZE as u64,
            bytes_compressed: stats.compr_data_size,
        }
    }

    /// Runs `f` with a handler of its own.
    fn with(&self, f: impl FnOnce(&mut Handler) -> Result<(), Errno>) -> io::Result<()> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut handler = taken.unwrap_or_else(|| self.target.handler());
        let result = f(&mut handler);
        idle().push(handler);
        result.map_err(|Errno(number)| io::Error::from_raw_os_error(number))
    }
}

/// What a [`BlockDevice`] holds and has done. The `…_pages` of an engine count what really was
/// done: a page is one of `gpu_pages` only if a GPU compressed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockDeviceStats {
    /// Pages that hold data, same-filled ones included.
    pub pages_stored: u64,
    /// Of these, pages of zeros.
    pub zero_pages: u64,
    /// Of these, pages that repeat one 64-bit word, zeros included.
    pub same_pages: u64,
    /// Pages that a GPU compressed, ever. This device has none: 0.
    pub gpu_pages: u64,
    /// Pages that were given to the codec, ever.
    pub simd_pages: u64,
    /// Pages that were kept as they are, untried, for their entropy, ever.
    pub scalar_pages: u64,
    /// Uncompressed bytes of the pages that are stored.
    pub bytes_written: u64,
    /// Bytes that these take compressed, without the pool's overhead; same-filled pages take none.
    pub bytes_compressed: u64,
}

impl BlockDeviceStats {
    /// `bytes_written` per byte of `bytes_compressed`; 1 while nothing is stored, and infinite
    /// when all that is stored is same-filled.
    pub fn compression_ratio(&self) -> f64 {
        if self.bytes_written == 0 {
            return 1.0;
        }
        self.bytes_written as f64 / self.bytes_compressed as f64
    }
}
