//! The `entropy` policy: pages that look like noise are not even tried.

use crate::entropy::histogram;
use trueno_zram_core::{Choice, PAGE_SIZE, PageBytes, Selector};

/// Keeps pages above an entropy threshold as they are, and makes one choice for all others.
#[derive(Clone, Debug)]
pub struct EntropySelector {
    below: Choice,
    /// `Σ c·log2 c` over the byte counts `c` of a page at the threshold; less means noisier.
    weight_min: f32,
    /// `c·log2 c` for every count a page can have, so that selecting takes no logarithm.
    weights: Box<[f32]>,
}

impl EntropySelector {
    /// Pages of more than `threshold` bits per byte are [`Choice::Raw`]; all others are `below`.
    /// A threshold of 8 or more skips nothing.
    pub fn new(threshold: f64, below: Choice) -> EntropySelector {
        let page = PAGE_SIZE as f64;
        let weights = (0..=PAGE_SIZE).map(|count| match count {
            0 => 0.0,
            count => (count as f64 * (count as f64).log2()) as f32,
        });
        EntropySelector {
            below,
            weight_min: (page * (page.log2() - threshold)) as f32,
            weights: weights.collect(),
        }
    }
}

impl Selector for EntropySelector {
    fn select(&self, page: &PageBytes) -> Choice {
        let weight: f32 = histogram(page)
            .iter()
            .map(|count| self.weights[*count as usize])
            .sum();
        if weight < self.weight_min {
            Choice::Raw
        } else {
            self.below
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy;

    /// `distinct` byte values, equally often.
    fn page_with(distinct: usize) -> PageBytes {
        std::array::from_fn(|at| (at % distinct) as u8)
    }

    #[test]
    fn the_threshold_divides_pages_as_their_entropy_does() {
        let codec = Choice::Codec(2);
        for threshold in [0.5, 4.0, 6.5, 7.0, 7.5] {
            let selector = EntropySelector::new(threshold, codec);
            for distinct in 1..=256 {
                let page = page_with(distinct);
                let entropy = entropy(&page);
                if (entropy - threshold).abs() > 1e-4 {
                    let expected = if entropy > threshold {
                        Choice::Raw
                    } else {
                        codec
                    };
                    assert_eq!(
                        selector.select(&page),
                        expected,
                        "{entropy} against {threshold}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_above_eight_bits() {
        let selector = EntropySelector::new(8.0, Choice::Codec(0));
        assert_eq!(selector.select(&page_with(256)), Choice::Codec(0));
    }
}
