//! Bits behind each other, as Zstandard's entropy coders write them (RFC 8878, section 4.1).

#![forbid(unsafe_code)]

/// Writes bits into `out`, the first ones lowest.
pub(super) struct Bits<'a> {
    out: &'a mut [u8],
    at: usize,
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// Begins at byte `at`. Behind the end of what is written, 8 more bytes may be overwritten.
    #[inline(always)]
    pub(super) fn new(out: &'a mut [u8], at: usize) -> Bits<'a> {
        Bits {
            out,
            at,
            held: 0,
            count: 0,
        }
    }

    /// Adds `count` bits, above which `value` has none. There is room for 64; [`Bits::flush`]
    /// leaves at most 7.
    #[inline(always)]
    pub(super) fn put(&mut self, value: u64, count: u32) {
        debug_assert!(self.count + count <= 64 && value.checked_shr(count).unwrap_or(0) == 0);
        self.held |= value << self.count;
        self.count += count;
    }

    /// Writes all whole bytes out. Not for 64 bits, which leave nothing to shift.
    #[inline(always)]
    pub(super) fn flush(&mut self) {
        self.out[self.at..self.at + 8].copy_from_slice(&self.held.to_le_bytes());
        let whole = self.count & !7;
        self.at += (whole / 8) as usize;
        self.held >>= whole;
        self.count &= 7;
    }

    /// Fills the last byte with zeros and returns where the bits end.
    pub(super) fn close(mut self) -> usize {
        self.flush();
        self.at + usize::from(self.count > 0)
    }

    /// As [`Bits::close`], behind the bit that shows a reader who comes from the end where to begin.
    pub(super) fn close_backward(mut self) -> usize {
        self.flush();
        self.put(1, 1);
        self.close()
    }
}
