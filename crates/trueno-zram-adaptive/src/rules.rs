//! The `entropy` policy: two thresholds decide, and nothing else about a page is looked at.

#![forbid(unsafe_code)]

use crate::entropy::histogram;
use trueno_zram_core::{Choice, PAGE_SIZE, PageBytes, Selector};

/// One choice for pages of low entropy, one for those between, and pages above the upper threshold
/// are kept as they are: what looks like noise is not even tried.
///
/// ```
/// use trueno_zram_adaptive::EntropySelector;
/// use trueno_zram_core::{Choice, Page, Selector};
///
/// // Number 1 of the store's codecs below 4 bits per byte, number 0 up to 7, raw above.
/// let selector = EntropySelector::new(EntropySelector::SKIP_ABOVE, Choice::Codec(0))
///     .low(EntropySelector::LOW_BELOW, Choice::Codec(1));
/// let mut page = Page::ZERO;
/// assert_eq!(selector.select(&page), Choice::Codec(1));
/// for (i, byte) in page.iter_mut().enumerate() {
///     *byte = i as u8;
/// }
/// assert_eq!(selector.select(&page), Choice::Raw);
/// ```
#[derive(Clone, Debug)]
pub struct EntropySelector {
    below: Choice,
    /// `Σ c·log2 c` over the byte counts `c` of a page at the threshold; less means noisier.
    weight_min: f32,
    low: Choice,
    /// The same for the lower threshold; what has more is `low`.
    weight_low: f32,
    /// `c·log2 c` for every count a page can have, so that selecting takes no logarithm.
    weights: Box<[f32]>,
}

impl EntropySelector {
    /// Above so many bits per byte the policy keeps a page as it is, unless told otherwise.
    pub const SKIP_ABOVE: f64 = 7.0;
    /// Above so many bits per byte hardly a page gets smaller at all.
    pub const NOISE_ABOVE: f64 = 7.5;
    /// Below so many bits per byte a page is of low entropy, unless told otherwise.
    pub const LOW_BELOW: f64 = 4.0;

    /// Pages of more than `threshold` bits per byte are [`Choice::Raw`]; all others are `below`.
    /// A threshold of 8 or more skips nothing.
    pub fn new(threshold: f64, below: Choice) -> EntropySelector {
        let weights = (0..=PAGE_SIZE).map(|count| match count {
            0 => 0.0,
            count => (count as f64 * (count as f64).log2()) as f32,
        });
        EntropySelector {
            below,
            weight_min: weight_at(threshold),
            low: below,
            weight_low: f32::INFINITY,
            weights: weights.collect(),
        }
    }

    /// Pages of less than `threshold` bits per byte are `choice`. It does not matter where this
    /// threshold is above the upper one: those pages are kept as they are.
    pub fn low(mut self, threshold: f64, choice: Choice) -> EntropySelector {
        self.weight_low = weight_at(threshold);
        self.low = choice;
        self
    }
}

/// `Σ c·log2 c` of a page of so many bits per byte.
fn weight_at(bits: f64) -> f32 {
    let page = PAGE_SIZE as f64;
    (page * (page.log2() - bits)) as f32
}

impl Selector for EntropySelector {
    fn select(&self, page: &PageBytes) -> Choice {
        let weight: f32 = histogram(page)
            .iter()
            .map(|count| self.weights[*count as usize])
            .sum();
        if weight < self.weight_min {
            Choice::Raw
        } else if weight > self.weight_low {
            self.low
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
    fn the_thresholds_divide_pages_as_their_entropy_does() {
        let (low, codec) = (Choice::Codec(1), Choice::Codec(2));
        for threshold in [0.5, 4.0, 6.5, 7.0, 7.5] {
            let one = EntropySelector::new(threshold, codec);
            let two = one.clone().low(3.0, low);
            for distinct in 1..=256 {
                let page = page_with(distinct);
                let entropy = entropy(&page);
                if (entropy - threshold).abs() < 1e-4 || (entropy - 3.0).abs() < 1e-4 {
                    continue;
                }
                let expected = match entropy > threshold {
                    true => [Choice::Raw; 2],
                    false if entropy < 3.0 => [codec, low],
                    false => [codec; 2],
                };
                let chosen = [one.select(&page), two.select(&page)];
                assert_eq!(chosen, expected, "{entropy} against {threshold}");
            }
        }
    }

    #[test]
    fn nothing_is_above_eight_bits() {
        let selector = EntropySelector::new(8.0, Choice::Codec(0));
        assert_eq!(selector.select(&page_with(256)), Choice::Codec(0));
    }
}
