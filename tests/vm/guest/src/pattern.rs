//! Blocks whose content can be made again from a number.

/// A good mixture of the bits of `x` (the finaliser of SplitMix64, Steele, Lea, Flood 2014).
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Numbers that look random, repeatable from a seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub fn next(&mut self) -> u64 {
        // SplitMix64's step.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

/// Fill a block so that it says which number it was made from in its first word. By number, it is
/// one word repeated, half random and half repeated, or random throughout.
pub fn fill(block: &mut [u8], number: u64) {
    let kind = mix(number) % 4;
    for (i, word) in block.chunks_exact_mut(8).enumerate() {
        let value = match (kind, i) {
            (0, _) | (_, 0) => number,
            (1 | 2, i) if i % 2 == 1 => number,
            (_, i) => mix(number ^ mix(i as u64)),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// The number that a block says it was made from.
pub fn number_of(block: &[u8]) -> u64 {
    u64::from_le_bytes(
        block[..8]
            .try_into()
            .expect("a block is longer than a word"),
    )
}

/// A permutation of `0..count` that needs no memory: a Feistel network of four rounds over the next
/// power of four, walked again while its result is too large.
pub struct Shuffle {
    count: u64,
    half_bits: u32,
    seed: u64,
}

impl Shuffle {
    pub fn new(count: u64, seed: u64) -> Self {
        let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
        Self {
            count,
            half_bits: bits.div_ceil(2).max(1),
            seed,
        }
    }

    pub fn at(&self, index: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let mut at = index;
        loop {
            let (mut left, mut right) = (at >> self.half_bits, at & mask);
            for round in 0..4 {
                let mixed = mix(right ^ self.seed.wrapping_add(round << 56)) & mask;
                (left, right) = (right, left ^ mixed);
            }
            at = left << self.half_bits | right;
            if at < self.count {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_visits_every_index_once() {
        for count in [1, 2, 3, 5, 64, 1000, 4097] {
            let shuffle = Shuffle::new(count, 9);
            let mut seen = vec![false; count as usize];
            for index in 0..count {
                let at = shuffle.at(index) as usize;
                assert!(
                    !std::mem::replace(&mut seen[at], true),
                    "{count}: {at} twice"
                );
            }
        }
    }

    #[test]
    fn blocks_of_two_numbers_differ_and_say_their_number() {
        let (mut a, mut b) = ([0u8; 4096], [0u8; 4096]);
        for number in 1..100 {
            fill(&mut a, number);
            fill(&mut b, number + 1);
            assert_eq!(number_of(&a), number);
            assert_ne!(a, b);
        }
    }

    #[test]
    fn numbers_below_a_limit_reach_all_of_it() {
        let mut random = Random::new(1);
        let mut seen = [false; 10];
        (0..1000).for_each(|_| seen[random.below(10) as usize] = true);
        assert_eq!(seen, [true; 10]);
    }
}
