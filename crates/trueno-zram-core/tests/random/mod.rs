//! Numbers for tests that are the same every time.

/// Vigna's xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % end
    }

    pub fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }
}
