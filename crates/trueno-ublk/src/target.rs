//! A block request becomes store calls: byte ranges of any block size on top of whole pages.
#![forbid(unsafe_code)]

use std::sync::{Arc, OnceLock};
use trueno_zram_core::PAGE_SIZE;
use trueno_zram_store::{ReadError, Store, Worker, WriteError};

/// Bytes of a page, as offsets are counted.
const PAGE: u64 = PAGE_SIZE as u64;

/// An error number as the block layer understands it (`EIO`, `ENOSPC`, `EINVAL`, …), positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl From<ReadError> for Errno {
    fn from(error: ReadError) -> Errno {
        Errno(match error {
            ReadError::OutOfRange => libc::EINVAL,
            _ => libc::EIO,
        })
    }
}

impl From<WriteError> for Errno {
    fn from(error: WriteError) -> Errno {
        Errno(match error {
            WriteError::OutOfRange => libc::EINVAL,
            WriteError::Limit | WriteError::NoMemory => libc::ENOSPC,
            _ => libc::EIO,
        })
    }
}

/// What a transport brings requests to. [`Target`] is the one that keeps data; `examples/ublk_null`
/// has one that keeps nothing, to measure the way.
pub trait Serve: Send + Sync {
    /// Bytes of the device.
    fn size(&self) -> u64;
    /// Bytes of a logical block: 512 or 4096.
    fn block_size(&self) -> u32;
    /// What one I/O thread works with. May allocate; the calls of the result must not.
    fn serve(&self) -> Box<dyn Handle>;
}

/// One I/O thread's access to what it serves: offsets and lengths in bytes.
pub trait Handle {
    /// Runs before the first request, and may still allocate.
    fn begin(&mut self) {}
    /// Fills `buf` from `offset` on.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Errno>;
    /// Stores `data` from `offset` on.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno>;
    /// Forgets a range, which reads as zeros from now on: discard and write-zeroes.
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), Errno>;
    /// Returns when all that was written is safe.
    fn flush(&mut self) -> Result<(), Errno>;
}

/// What a block device serves: a store seen as bytes. Shared by all I/O threads, each of which
/// takes its own [`Handler`].
#[derive(Debug)]
pub struct Target {
    store: Arc<Store>,
    block_size: u32,
}

impl Target {
    /// The bytes of `store`, in logical blocks of 512 or 4096 bytes.
    ///
    /// # Panics
    /// If `block_size` is neither.
    pub fn new(store: Arc<Store>, block_size: u32) -> Target {
        assert!(
            block_size == 512 || block_size == 4096,
            "block size {block_size}"
        );
        Target { store, block_size }
    }

    /// Bytes of the device.
    pub fn size(&self) -> u64 {
        self.store.size()
    }

    /// Bytes of a logical block: 512 or 4096.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Where the pages are.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What one I/O thread works with. Allocates; the calls of the handler do not.
    pub fn handler(&self) -> Handler {
        Handler {
            worker: self.store.worker(),
            page: Box::new([0; PAGE_SIZE]),
        }
    }
}

impl Serve for Target {
    fn size(&self) -> u64 {
        self.size()
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn serve(&self) -> Box<dyn Handle> {
        Box::new(self.handler())
    }
}

/// A target that is still to come: a standby has its threads ready before it has a store. Nothing is
/// asked of it before it is there.
#[derive(Debug)]
pub struct Awaited {
    size: u64,
    block_size: u32,
    target: Arc<OnceLock<Target>>,
}

impl Awaited {
    /// What will serve a store of `size` bytes in logical blocks of `block_size`.
    pub fn new(size: u64, block_size: u32) -> Awaited {
        Awaited {
            size,
            block_size,
            target: Arc::default(),
        }
    }

    /// The target is there.
    pub fn arrive(&self, target: Target) {
        // A second one would be a mistake of ours; the first one is in use.
        assert!(self.target.set(target).is_ok(), "a second target");
    }
}

impl Serve for Awaited {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn serve(&self) -> Box<dyn Handle> {
        Box::new(AwaitedHandler {
            target: self.target.clone(),
            handler: None,
        })
    }
}

/// One I/O thread's access to an [`Awaited`] target.
struct AwaitedHandler {
    target: Arc<OnceLock<Target>>,
    handler: Option<Handler>,
}

impl AwaitedHandler {
    fn handler(&mut self) -> Result<&mut Handler, Errno> {
        self.handler.as_mut().ok_or(Errno(libc::EIO))
    }
}

impl Handle for AwaitedHandler {
    fn begin(&mut self) {
        self.handler = self.target.get().map(Target::handler);
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.handler()?.read(offset, buf)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.handler()?.write(offset, data)
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<(), Errno> {
        self.handler()?.discard(offset, len)
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.handler()?.flush()
    }
}

/// One I/O thread's access to a [`Target`].
///
/// Offsets and lengths are in bytes and need not be
/// multiples of anything; ranges beyond the end are `EINVAL`, and are counted. A request that
/// fails half-way has done its first pages, as with any disk.
pub struct Handler {
    worker: Worker,
    /// For reading parts of a page.
    page: Box<[u8; PAGE_SIZE]>,
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler")
            .field("store", self.worker.store())
            .finish()
    }
}

impl Handler {
    /// Fills `buf` from `offset` on.
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let Handler { worker, page } = self;
        let len = buf.len();
        for_each_page(offset, len, |index, part, range| {
            if range.end < len {
                worker.expect(index + 1);
            }
            let bytes = &mut buf[range];
            if let Ok(whole) = <&mut [u8; PAGE_SIZE]>::try_from(&mut *bytes) {
                worker.read(index, whole)?;
            } else {
                worker.read(index, page)?;
                bytes.copy_from_slice(&page[part..part + bytes.len()]);
            }
            Ok(())
        })
    }

    /// Stores `data` from `offset` on.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        for_each_page(offset, data.len(), |index, part, range| {
            let bytes = &data[range];
            match <&[u8; PAGE_SIZE]>::try_from(bytes) {
                Ok(whole) => self.worker.write(index, whole)?,
                Err(_) => self.worker.write_part(index, part, bytes)?,
            }
            Ok(())
        })
    }

    /// Forgets a range: it reads as zeros from now on, and the memory of whole pages is free at
    /// once. This is both discard and write-zeroes.
    pub fn discard(&mut self, offset: u64, len: u64) -> Result<(), Errno> {
        let end = offset.checked_add(len);
        let size = self.worker.store().size();
        let end = end.filter(|end| *end <= size);
        if len == 0 {
            return Ok(());
        }
        let Some(end) = end else {
            // Refused as a whole, and counted, before anything is forgotten.
            self.worker.discard(size / PAGE, 1)?;
            return Err(Errno(libc::EINVAL));
        };
        let (first, last) = (offset.div_ceil(PAGE), end / PAGE);
        if first > last {
            // Within one page.
            self.worker
                .zero_part(end / PAGE, (offset % PAGE) as usize, len as usize)?;
            return Ok(());
        }
        self.worker.discard(first, last - first)?;
        let head = first * PAGE - offset;
        if head > 0 {
            self.worker
                .zero_part(first - 1, (offset % PAGE) as usize, head as usize)?;
        }
        if !end.is_multiple_of(PAGE) {
            self.worker.zero_part(last, 0, (end % PAGE) as usize)?;
        }
        Ok(())
    }

    /// All that was acknowledged is in the store already: there is nothing to wait for.
    pub fn flush(&mut self) -> Result<(), Errno> {
        Ok(())
    }
}

impl Handle for Handler {
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        self.read(offset, buf)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.write(offset, data)
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<(), Errno> {
        self.discard(offset, len)
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.flush()
    }
}

/// Calls `f` with page number, offset in that page, and range of the buffer, for each page that
/// `len` bytes from `offset` on touch.
fn for_each_page(
    offset: u64,
    len: usize,
    mut f: impl FnMut(u64, usize, std::ops::Range<usize>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    offset.checked_add(len as u64).ok_or(Errno(libc::EINVAL))?;
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let part = (at % PAGE) as usize;
        let next = (done + PAGE_SIZE - part).min(len);
        f(at / PAGE, part, done..next)?;
        done = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use trueno_zram_core::codec::lz4::Lz4;
    use trueno_zram_store::{Config, Memory};

    fn handler(size: u64) -> Handler {
        let config = Config::new(size, Arc::new(Lz4::new()));
        let memory = Memory::anonymous(config.memory_bytes().unwrap()).unwrap();
        let store = Store::create(config, memory).unwrap();
        Target::new(Arc::new(store), 512).handler()
    }

    #[test]
    fn any_byte_range_reads_back_what_was_written() {
        let size = 64 * PAGE;
        let mut handler = handler(size);
        let mut model = vec![0u8; size as usize];
        let mut seed = 1u64;
        let mut random = |bound: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % bound
        };
        for round in 0..3000 {
            let offset = random(size);
            let len = 1 + random((size - offset).min(5 * PAGE));
            let range = offset as usize..(offset + len) as usize;
            match random(4) {
                0 => {
                    let data: Vec<u8> = (0..len).map(|at| (at * random(9)) as u8).collect();
                    handler.write(offset, &data).unwrap();
                    model[range].copy_from_slice(&data);
                }
                1 => {
                    handler.discard(offset, len).unwrap();
                    model[range].fill(0);
                }
                _ => {
                    let mut buf = vec![0xaa; len as usize];
                    handler.read(offset, &mut buf).unwrap();
                    assert!(
                        buf == model[range],
                        "round {round}, {len} bytes at {offset}"
                    );
                }
            }
        }
    }

    #[test]
    fn ranges_beyond_the_end_are_invalid() {
        let mut handler = handler(4 * PAGE);
        let invalid = Err(Errno(libc::EINVAL));
        assert_eq!(handler.write(4 * PAGE, &[1]), invalid);
        assert_eq!(handler.read(4 * PAGE - 1, &mut [0; 2]), invalid);
        assert_eq!(handler.write(u64::MAX, &[1; 2]), invalid);
        assert_eq!(handler.discard(PAGE, 4 * PAGE), invalid);
        assert_eq!(handler.discard(2, u64::MAX), invalid);
        assert_eq!(handler.write(0, &[]), Ok(()));
    }
}
