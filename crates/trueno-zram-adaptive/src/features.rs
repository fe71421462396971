//! What a page looks like: eleven numbers, in a tenth of the time of LZ4.
//!
//! Every second line of 64 bytes is looked at, for words every fourth. The loops are plain Rust,
//! compiled for each instruction set; the numbers are the same on all of them.

#![deny(unsafe_code)] // Allowed once, for the choice of the instruction set.

use std::fmt;
use trueno_zram_core::PageBytes;

/// How many there are.
pub const COUNT: usize = 11;

/// Their names, in order.
pub const NAMES: [&str; COUNT] = [
    "zero-bytes",
    "text-bytes",
    "high-bytes",
    "as-1-before",
    "as-4-before",
    "as-8-before",
    "as-16-before",
    "as-64-before",
    "distinct-halves",
    "distinct-uppers",
    "distinct-odd",
];

/// The features of a page, each from 0 to 255:
///
/// | name | what is counted |
/// |---|---|
/// | `zero-bytes` | bytes that are 0: small numbers, empty fields, the upper bytes of pointers |
/// | `text-bytes` | printable ASCII |
/// | `high-bytes` | bytes of 128 and more |
/// | `as-N-before` | bytes that equal the one `N` before: runs, tables of 32- and 64-bit numbers, records |
/// | `distinct-halves` | different aligned words of 4 bytes, by a hash of nine bits |
/// | `distinct-uppers` | the same for the upper 44 bits of words of 8: pointers into one MiB are one |
/// | `distinct-odd` | the same for 4 bytes from the fourth on of every 8 |
///
/// The first eight are an eighth of the count among 2048 bytes, the others the number among
/// 256 halves, and twice the number among 128 words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub [u8; COUNT]);

impl Features {
    /// Looks at `page`.
    pub fn of(page: &PageBytes) -> Features {
        look(page, false).unwrap_or(Features([0; COUNT]))
    }

    /// The same, but `None` for a page that looks like noise: in 512 of its bytes zeros, text, high
    /// bytes and repeats are as rare or as common as among random bytes. That takes a fraction of
    /// the time, and no candidate makes such a page smaller, but for repeats from far away.
    pub fn unless_noise(page: &PageBytes) -> Option<Features> {
        look(page, true)
    }

    /// Each with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u8)> {
        NAMES.into_iter().zip(self.0)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.named().enumerate() {
            let blank = if i == 0 { "" } else { " " };
            write!(f, "{blank}{name} {value}")?;
        }
        Ok(())
    }
}

/// Compiled for each instruction set.
fn look(page: &PageBytes, or_noise: bool) -> Option<Features> {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn with_avx2(page: &PageBytes, or_noise: bool) -> Option<Features> {
            plain(page, or_noise)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn with_avx512(page: &PageBytes, or_noise: bool) -> Option<Features> {
            plain(page, or_noise)
        }
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the CPU was just asked for all three.
            #[allow(unsafe_code)]
            return unsafe { with_avx512(page, or_noise) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU was just asked for AVX2.
            #[allow(unsafe_code)]
            return unsafe { with_avx2(page, or_noise) };
        }
    }
    plain(page, or_noise)
}

const LINE: usize = 64;
/// Slots of a table of what was seen.
const SEEN: usize = 512;

/// The features, in whatever instructions the caller is compiled for.
#[inline(always)]
fn plain(page: &PageBytes, or_noise: bool) -> Option<Features> {
    if or_noise && is_noise(page) {
        return None;
    }
    let eighth = |count: u32| (count / 8).min(255) as u8;
    let as_before = |back| eighth(count::<2>(page, back, |byte, before| byte == before));
    let [mut halves, mut uppers, mut odd] = [[0u8; SEEN]; 3];
    for at in lines::<4>() {
        for word in lanes(page, at).as_chunks::<8>().0 {
            let word = u64::from_le_bytes(*word);
            uppers[slot(word >> 20)] = 1;
            halves[slot(word & 0xffff_ffff)] = 1;
            halves[slot(word >> 32)] = 1;
            odd[slot(word >> 24 & 0xffff_ffff)] = 1;
        }
    }
    Some(Features([
        eighth(count::<2>(page, 0, |byte, _| byte == 0)),
        eighth(count::<2>(page, 0, |byte, _| is_text(byte))),
        eighth(count::<2>(page, 0, |byte, _| byte >= 0x80)),
        as_before(1),
        as_before(4),
        as_before(8),
        as_before(16),
        as_before(64),
        seen(&halves).min(255) as u8,
        (2 * seen(&uppers)).min(255) as u8,
        (2 * seen(&odd)).min(255) as u8,
    ]))
}

/// Whether 8 lines look random. The bounds are four standard deviations and more from what random
/// bytes have.
#[inline(always)]
fn is_noise(page: &PageBytes) -> bool {
    let repeats = |back| count::<8>(page, back, |byte, before| byte == before);
    (200..=312).contains(&count::<8>(page, 0, |byte, _| byte >= 0x80))
        && (140..=240).contains(&count::<8>(page, 0, |byte, _| is_text(byte)))
        && count::<8>(page, 0, |byte, _| byte == 0) <= 9
        && [1, 4, 8, 16].into_iter().all(|back| repeats(back) <= 9)
}

#[inline(always)]
fn is_text(byte: u8) -> bool {
    byte.wrapping_sub(0x20) < 0x5f
}

/// The last of each `EVERY` lines; there is one before it.
#[inline(always)]
fn lines<const EVERY: usize>() -> impl Iterator<Item = usize> {
    (1..=64 / EVERY).map(|line| LINE * (EVERY * line - 1))
}

/// How many bytes of these lines pass `test`, which is given each byte and the one `back` before it.
#[inline(always)]
fn count<const EVERY: usize>(page: &PageBytes, back: usize, test: impl Fn(u8, u8) -> bool) -> u32 {
    const {
        assert!(
            EVERY >= 2,
            "no more than 32 lines, or lanes overflow in `total`"
        )
    }
    let mut passed = [0u8; LINE];
    for at in lines::<EVERY>() {
        let (line, before) = (lanes(page, at), lanes(page, at - back));
        for i in 0..LINE {
            passed[i] += u8::from(test(line[i], before[i]));
        }
    }
    total(&passed)
}

/// How many slots are 1.
#[inline(always)]
fn seen(slots: &[u8; SEEN]) -> u32 {
    let mut sums = [0u8; LINE];
    for line in slots.as_chunks::<LINE>().0 {
        for i in 0..LINE {
            sums[i] += line[i];
        }
    }
    total(&sums)
}

/// The sum of lanes of which none is above 32. In words, four sums of 16 bits side by side: the plain
/// sum compiles to hundreds of shuffles.
#[inline(always)]
fn total(lanes: &[u8; LINE]) -> u32 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let words = lanes.as_chunks::<8>().0.iter();
    let sums = words.map(|word| u64::from_le_bytes(*word));
    let sums: u64 = sums.map(|word| (word & EVEN) + (word >> 8 & EVEN)).sum();
    // At most 2048 together.
    (sums.wrapping_mul(0x0001_0001_0001_0001) >> 48) as u32
}

/// The 64 bytes at `at`.
#[inline(always)]
fn lanes(page: &PageBytes, at: usize) -> &[u8; LINE] {
    page[at..].first_chunk().expect("a line lies in the page")
}

/// Where a word is noted: Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4).
#[inline(always)]
fn slot(word: u64) -> usize {
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SEEN.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use trueno_zram_core::PAGE_SIZE;

    /// The same, said another way.
    fn naive(page: &PageBytes) -> Features {
        let places = (0..PAGE_SIZE).filter(|at| at / LINE % 2 == 1);
        let share = |test: &dyn Fn(usize) -> bool| {
            (places.clone().filter(|at| test(*at)).count() / 8).min(255) as u8
        };
        let as_before = |back: usize| share(&|at| page[at] == page[at - back]);
        let distinct = |every: usize, of: &dyn Fn(u64) -> u64| {
            let places = (0..PAGE_SIZE).filter(|at| at / LINE % 4 == 3 && at % every == 0);
            let words = places.map(|at| {
                let mut word = [0; 8];
                word[..every].copy_from_slice(&page[at..at + every]);
                slot(of(u64::from_le_bytes(word)))
            });
            words.collect::<std::collections::HashSet<_>>().len()
        };
        Features([
            share(&|at| page[at] == 0),
            share(&|at| (0x20..0x7f).contains(&page[at])),
            share(&|at| page[at] >= 0x80),
            as_before(1),
            as_before(4),
            as_before(8),
            as_before(16),
            as_before(64),
            distinct(4, &|half| half).min(255) as u8,
            (2 * distinct(8, &|word| word >> 20)).min(255) as u8,
            (2 * distinct(8, &|word| word << 8 >> 32)).min(255) as u8,
        ])
    }

    #[test]
    fn every_instruction_set_counts_what_is_there() {
        let mut seed = 1u64;
        for round in 0..300 {
            let page: PageBytes = std::array::from_fn(|at| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match round % 4 {
                    0 => (seed >> 56) as u8,
                    1 => (seed >> 62) as u8,
                    2 => (at >> 3) as u8 & (seed >> 60) as u8,
                    _ => b"0x7f12 next: \0\0\0"[(at + (seed >> 63) as usize) % 16],
                }
            });
            assert_eq!(plain(&page, false).unwrap(), naive(&page), "{round}");
            assert_eq!(Features::of(&page), naive(&page), "{round}");
        }
    }

    #[test]
    fn a_page_of_one_byte_is_as_before_and_nothing_else() {
        for byte in [0, b'a', 0xff] {
            let Features(f) = Features::of(&[byte; PAGE_SIZE]);
            let full = |is: bool| if is { 255 } else { 0 };
            assert_eq!(
                f[..3],
                [full(byte == 0), full(byte == b'a'), full(byte == 0xff)]
            );
            assert_eq!(f[3..8], [255; 5]);
            assert_eq!(f[8..], [1, 2, 2]);
        }
    }

    #[test]
    fn noise_is_known_and_what_only_resembles_it_is_not() {
        let mut seed = 3u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        };
        let mut found = 0;
        for _ in 0..1000 {
            let page: PageBytes = std::array::from_fn(|_| next());
            found += u32::from(Features::unless_noise(&page).is_none());
        }
        assert!(found >= 990, "{found} of 1000");
        for byte in [0, b'a', 0xff] {
            assert!(Features::unless_noise(&[byte; PAGE_SIZE]).is_some());
        }
        // Random numbers below one, as floats: sign and exponent repeat.
        let mut floats = [0; PAGE_SIZE];
        for float in floats.chunks_exact_mut(8) {
            let number = f64::from(next()) / 256.0 + f64::from(next()) / 65536.0;
            float.copy_from_slice(&(number * 0.771).to_le_bytes());
        }
        let features = Features::unless_noise(&floats);
        assert_eq!(features, Some(Features::of(&floats)));
    }
}
