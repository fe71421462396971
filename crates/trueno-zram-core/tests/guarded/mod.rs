//! Memory between pages that nobody may touch: what reads or writes outside it ends the process.

use trueno_zram_core::PAGE_SIZE;

/// Two pages of memory.
pub struct Guarded(*mut u8);

impl Guarded {
    /// How much that is.
    pub const BYTES: usize = 2 * PAGE_SIZE;

    /// A new mapping, which stays until the process ends.
    #[allow(clippy::new_without_default)] // It is not plain data.
    pub fn new() -> Guarded {
        let bytes = Guarded::BYTES + 2 * PAGE_SIZE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, which no other pointer leads to; its middle is then opened.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            let middle = start.add(PAGE_SIZE);
            let open = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::mprotect(middle, Guarded::BYTES, open), 0);
            Guarded(middle.cast())
        }
    }

    /// The first or last `length` bytes.
    pub fn edge(&mut self, length: usize, at_end: bool) -> &mut [u8] {
        assert!(length <= Guarded::BYTES);
        let start = if at_end { Guarded::BYTES - length } else { 0 };
        // SAFETY: inside the middle, which is never unmapped, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), length) }
    }
}
