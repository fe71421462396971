//! The memory a store lives in: one mapping, anonymous or of a file.
//!
//! A daemon gives a file on a `noswap` tmpfs, which outlives the process; a library user gives
//! anonymous memory. Address space is reserved whole, memory comes when [`Memory::populate`] asks
//! for it and goes back with `Memory::release`. The mapping is never resized and never moves.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// Bytes of a page of the operating system. Fixed like the kernel's zram fixes it: our page.
const OS_PAGE: usize = trueno_zram_core::PAGE_SIZE;

/// A mapping that belongs to one store.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    len: usize,
    file: Option<File>,
}

// SAFETY: `Memory` owns its mapping; the pointer is valid in every thread until `drop`, and all
// access goes through `&self` methods that are atomic, or unsafe with a contract against races.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Reserves `len` bytes of anonymous memory.
    pub fn anonymous(len: u64) -> io::Result<Memory> {
        Memory::map(len, None)
    }

    /// Maps the first `len` bytes of `file`, which is made that long; holes read as zeros. Meant
    /// for tmpfs and memfd: the file must not be shortened by anyone else.
    pub fn from_file(file: File, len: u64) -> io::Result<Memory> {
        file.set_len(len)?;
        Memory::map(len, Some(file))
    }

    /// Maps all of `file`, which holds the memory of a store that another process left. Changes
    /// nothing.
    pub fn attach(file: File) -> io::Result<Memory> {
        let len = file.metadata()?.len();
        Memory::map(len, Some(file))
    }

    fn map(len: u64, file: Option<File>) -> io::Result<Memory> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let (flags, fd) = match &file {
            Some(file) => (libc::MAP_SHARED | libc::MAP_NORESERVE, file.as_raw_fd()),
            None => (
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
            ),
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let memory = Memory { base, len, file };
        // A small object in a fresh slab must not cost 2 MiB. Advice: a kernel without it is fine.
        // SAFETY: the range is our mapping.
        unsafe {
            libc::madvise(
                memory.base.as_ptr().cast(),
                memory.len,
                libc::MADV_NOHUGEPAGE,
            )
        };
        Ok(memory)
    }

    /// Bytes of the mapping.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Whether the mapping has no bytes; it never has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes every page of `range` present and writable now, so that touching it later cannot
    /// fault. Fails, with nothing harmed, when the system has no memory.
    pub fn populate(&self, range: Range<usize>) -> io::Result<()> {
        if crate::step::refused() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bring_in(range, libc::MADV_POPULATE_WRITE)
    }

    /// Populates whole pages of the mapping, for reading or for writing as `advice` says.
    fn bring_in(&self, range: Range<usize>, advice: libc::c_int) -> io::Result<()> {
        let range = self.pages(range);
        loop {
            // SAFETY: `pages` has checked that the range lies in our mapping; populating changes
            // no byte.
            let result = unsafe {
                libc::madvise(
                    self.base.as_ptr().add(range.start).cast(),
                    range.len(),
                    advice,
                )
            };
            if result == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if !matches!(error.raw_os_error(), Some(libc::EINTR)) {
                return Err(error);
            }
        }
    }

    /// Gives the pages of `range` back to the system; they read as zeros afterwards.
    ///
    /// # Safety
    /// Nobody else uses the bytes of `range` during the call, and nobody relies on their content.
    pub(crate) unsafe fn release(&self, range: Range<usize>) -> io::Result<()> {
        let range = self.pages(range);
        if crate::step::refused() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let result = match &self.file {
            // SAFETY: a plain system call on a file of ours; the caller gave up the bytes.
            Some(file) => unsafe {
                libc::fallocate(
                    file.as_raw_fd(),
                    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                    range.start as libc::off_t,
                    range.len() as libc::off_t,
                )
            },
            // SAFETY: `pages` has checked the range; the caller gave up the bytes.
            None => unsafe {
                libc::madvise(
                    self.base.as_ptr().add(range.start).cast(),
                    range.len(),
                    libc::MADV_DONTNEED,
                )
            },
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Tells for each page of `range`, by its number there, whether it has memory: whether the file
    /// has data there. (`mincore` would not do: a page that was swapped out is not in core.)
    pub(crate) fn resident(
        &self,
        range: Range<usize>,
        mut tell: impl FnMut(usize, bool),
    ) -> io::Result<()> {
        let range = self.pages(range);
        if crate::step::refused() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let Some(file) = &self.file else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let seek = |from: usize, what| {
            // SAFETY: a plain system call on a file of ours, whose position nobody uses.
            let found = unsafe { libc::lseek(file.as_raw_fd(), from as libc::off_t, what) };
            let error = io::Error::last_os_error();
            match usize::try_from(found) {
                Ok(found) => Ok(found.clamp(from, range.end)),
                // Nothing of the kind up to the end.
                Err(_) if error.raw_os_error() == Some(libc::ENXIO) => Ok(range.end),
                Err(_) => Err(error),
            }
        };
        let mut at = range.start;
        for present in [false, true].into_iter().cycle() {
            if at == range.end {
                return Ok(());
            }
            let next = if present {
                seek(at, libc::SEEK_HOLE)?
            } else {
                seek(at, libc::SEEK_DATA)?
            };
            for start in (at..next).step_by(OS_PAGE) {
                tell((start - range.start) / OS_PAGE, present);
            }
            at = next;
        }
        Ok(())
    }

    /// Has the page tables of this process show the memory that the file has in `range`, so that
    /// touching it does not fault. Takes memory for page tables only, unless a page is given back
    /// just meanwhile: that one comes again, as zeros.
    pub(crate) fn show(&self, range: Range<usize>) -> io::Result<()> {
        let start = self.pages(range.clone()).start;
        let mut found = start..start;
        let mut shown = Ok(());
        let mut show = |extent: Range<usize>| {
            if !extent.is_empty() && shown.is_ok() {
                shown = self.bring_in(extent, libc::MADV_POPULATE_READ);
            }
        };
        self.resident(range, |page, there| {
            let at = start + page * OS_PAGE;
            if there && at == found.end {
                found.end += OS_PAGE;
            } else if there {
                show(std::mem::replace(&mut found, at..at + OS_PAGE));
            }
        })?;
        show(found);
        shown
    }

    /// What lies at byte `offset`, a multiple of the alignment of `T`.
    ///
    /// # Safety
    /// `T` is made of atomic integers alone, and these bytes are used in no other way than as such.
    pub(crate) unsafe fn at<T>(&self, offset: usize) -> &T {
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.len);
        // SAFETY: in bounds and aligned as asserted (the mapping starts on a page); all bit
        // patterns are valid for integers, and atomics allow shared mutation.
        unsafe { &*self.base.as_ptr().add(offset).cast::<T>() }
    }

    /// Copies `bytes` into the mapping at `offset`.
    ///
    /// # Safety
    /// Nobody else reads or writes these bytes during the call.
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.len && bytes.len() <= self.len - offset);
        // SAFETY: in bounds as asserted; the caller has these bytes to itself.
        unsafe {
            self.base
                .as_ptr()
                .add(offset)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// Copies bytes at `offset` out of the mapping.
    ///
    /// # Safety
    /// Nobody writes these bytes during the call.
    pub(crate) unsafe fn read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset <= self.len && bytes.len() <= self.len - offset);
        // SAFETY: in bounds as asserted; nobody writes meanwhile.
        unsafe {
            self.base
                .as_ptr()
                .add(offset)
                .copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
        }
    }

    /// Has the processor fetch what lies at `offset`, to be used soon. Nothing else happens, wherever
    /// that is.
    pub(crate) fn prefetch(&self, offset: usize) {
        let address = self.base.as_ptr().wrapping_add(offset);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint, valid for any address; SSE is part of the architecture.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: a hint, valid for any address, that changes no register, flag or memory.
        unsafe {
            std::arch::asm!(
                "prfm pldl1keep, [{}]",
                in(reg) address,
                options(nostack, readonly, preserves_flags)
            );
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = address;
    }

    /// `range` widened to whole pages, checked against the mapping.
    fn pages(&self, range: Range<usize>) -> Range<usize> {
        assert!(range.start <= range.end && range.end <= self.len);
        range.start / OS_PAGE * OS_PAGE..range.end.next_multiple_of(OS_PAGE).min(self.len)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
