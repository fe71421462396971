//! Logarithms by table: what a distribution costs, in sixteenths of a bit.
//!
//! Computed in integers, since the choices that rest on them must be the same on every machine.

#![forbid(unsafe_code)]

use crate::PAGE_SIZE;

/// Sixteenths of a bit.
pub(super) const UNIT: u32 = 16;

/// log2 of `number`, which is not 0, in sixteenths, rounded down.
pub(super) const fn log2(number: u32) -> u32 {
    let whole = number.ilog2();
    // From 1 to 2, with 31 bits behind the point: squaring doubles the logarithm.
    let mut mantissa = (number as u64) << (31 - whole);
    let mut result = whole;
    let mut bit = 1;
    while bit < UNIT {
        mantissa = (mantissa * mantissa) >> 31;
        let doubled = mantissa >> 32;
        mantissa >>= doubled;
        result = result << 1 | doubled as u32;
        bit <<= 1;
    }
    result
}

/// count · log2(count), for every count in a page. What n things cost of which some are alike, at
/// best, is the entry of n less the entries of each kind's count.
pub(super) static WEIGHT: [u32; PAGE_SIZE + 1] = {
    let mut table = [0; PAGE_SIZE + 1];
    let mut count = 1;
    while count <= PAGE_SIZE {
        table[count] = count as u32 * log2(count as u32);
        count += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_to_a_sixteenth() {
        for number in 1..=1 << 16 {
            let exact = f64::from(number).log2() * f64::from(UNIT);
            let error = exact - f64::from(log2(number));
            assert!((-1e-6..1.0).contains(&error), "{number}: {error}");
        }
    }
}
