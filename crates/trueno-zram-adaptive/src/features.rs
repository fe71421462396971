//! What a page looks like: five numbers, in a hundredth of the time of LZ4.
//!
//! Eight lines of 64 bytes are looked at, one in each 512 bytes of the page. The loops are plain Rust,
//! compiled for each instruction set; the numbers are the same on all of them.

#![deny(unsafe_code)] // Allowed once, for the choice of the instruction set.

use std::fmt;
use trueno_zram_core::PageBytes;

/// How many there are.
pub const COUNT: usize = 5;

/// Their names, in order.
pub const NAMES: [&str; COUNT] = [
    "text-bytes",
    "as-4-before",
    "distinct-middles",
    "distinct-seconds",
    "noise",
];

/// The place of `noise` among them.
pub const NOISE: usize = 4;

/// The features of a page, each from 0 to 64:
///
/// | name | what is counted |
/// |---|---|
/// | `text-bytes` | printable ASCII |
/// | `as-4-before` | bytes that equal the one 4 before: runs, and tables of 32- and 64-bit numbers |
/// | `distinct-middles` | different values, by a hash of six bits, of the bytes 3 to 6 of every aligned 8 |
/// | `distinct-seconds` | different values of the upper six bits of the second byte of every 8 |
/// | `noise` | 64 if all of these, and what equals the byte 1 or 8 before, are as in random bytes; else 0 |
///
/// The first two are an eighth of the count among 512 bytes, the next two the number among 64 words.
/// Nothing makes a page of noise smaller, but for repeats from far away, which are not looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub [u8; COUNT]);

impl Features {
    /// Looks at `page`.
    #[inline]
    pub fn of(page: &PageBytes) -> Features {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,popcnt")]
            fn with_avx2(page: &PageBytes) -> Features {
                plain(page)
            }
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
            fn with_avx512(page: &PageBytes) -> Features {
                plain(page)
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the CPU was just asked for all of them.
                    #[allow(unsafe_code)]
                    return unsafe { with_avx512(page) };
                }
                // SAFETY: the CPU was just asked for both.
                #[allow(unsafe_code)]
                return unsafe { with_avx2(page) };
            }
        }
        plain(page)
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

const LINE: usize = 64;

/// Where the lines begin: one in each eighth of the page, each time at another place in it, so that
/// tables whose rows have 512 bytes do not show the same field eight times. There is a line before
/// the first one.
const LINES: [usize; 8] = {
    let mut lines = [0; 8];
    let mut eighth = 0;
    while eighth < 8 {
        lines[eighth] = LINE * (8 * eighth + (3 * eighth + 5) % 8);
        eighth += 1;
    }
    lines
};

/// The features, in whatever instructions the caller is compiled for.
#[inline(always)]
fn plain(page: &PageBytes) -> Features {
    let as_before = |back| count(page, back, |byte, before| byte == before);
    let text = count(page, 0, |byte, _| byte.wrapping_sub(0x20) < 0x5f);
    let as_4_before = as_before(4);
    // Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4).
    let middles = distinct(page, |word| {
        (word >> 24 & 0xffff_ffff).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58
    });
    let seconds = distinct(page, |word| word >> 10 & 0x3f);
    // Random bytes have 23.75 ± 1.4 (one standard deviation) for text, 0.25 ± 0.18 for bytes as before,
    // and 40.6 ± 2.4 different values: the bounds are four of these and more away.
    let noise = as_4_before == 0
        && (16..=30).contains(&text)
        && (28..=50).contains(&middles)
        && (28..=50).contains(&seconds)
        && as_before(1) <= 1
        && as_before(8) <= 1;
    Features([text, as_4_before, middles, seconds, 64 * u8::from(noise)])
}

/// An eighth of how many bytes pass `test`, which is given each byte and the one `back` before it.
#[inline(always)]
fn count(page: &PageBytes, back: usize, test: impl Fn(u8, u8) -> bool) -> u8 {
    let mut passed = [0u8; LINE];
    for at in LINES {
        let (line, before) = (lanes(page, at), lanes(page, at - back));
        for i in 0..LINE {
            passed[i] += u8::from(test(line[i], before[i]));
        }
    }
    // No lane is above 8, so eight of them add up in a byte.
    let words = passed.as_chunks::<8>().0.iter();
    let sums: u64 = words.map(|word| u64::from_le_bytes(*word)).sum();
    // Four sums of 16 bits side by side, of 128 at most.
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let pairs = (sums & EVEN) + (sums >> 8 & EVEN);
    (pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48 >> 3) as u8
}

/// How many different numbers from 0 to 63 `of` makes of the words.
#[inline(always)]
fn distinct(page: &PageBytes, of: impl Fn(u64) -> u64) -> u8 {
    let mut seen = [0u64; 8];
    for at in LINES {
        let words = lanes(page, at).as_chunks::<8>().0;
        for i in 0..8 {
            seen[i] |= 1 << of(u64::from_le_bytes(words[i]));
        }
    }
    seen.iter().fold(0, |all, seen| all | seen).count_ones() as u8
}

/// The 64 bytes at `at`.
#[inline(always)]
fn lanes(page: &PageBytes, at: usize) -> &[u8; LINE] {
    page[at..].first_chunk().expect("a line lies in the page")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use trueno_zram_core::PAGE_SIZE;

    /// The same, said another way.
    fn naive(page: &PageBytes) -> Features {
        let sampled = |at: &usize| [5, 8, 19, 30, 33, 44, 55, 58].contains(&(at / LINE));
        let places = (0..PAGE_SIZE).filter(sampled);
        let share = |test: &dyn Fn(usize) -> bool| {
            (places.clone().filter(|at| test(*at)).count() / 8) as u8
        };
        let distinct = |of: &dyn Fn(usize) -> u64| {
            let words = places.clone().filter(|at| at % 8 == 0);
            words.map(of).collect::<HashSet<_>>().len() as u8
        };
        let middle = |at: usize| u32::from_le_bytes(page[at + 3..at + 7].try_into().unwrap());
        let as_before = |back| share(&|at| page[at] == page[at - back]);
        let text = share(&|at| (0x20..0x7f).contains(&page[at]));
        let middles =
            distinct(&|at| u64::from(middle(at)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58);
        let seconds = distinct(&|at| u64::from(page[at + 1] / 4));
        let noise = [
            text.abs_diff(23) <= 7,
            as_before(4) < 1,
            middles.abs_diff(39) <= 11,
        ];
        let noise = noise == [true; 3] && seconds.abs_diff(39) <= 11;
        let noise = noise && as_before(1).max(as_before(8)) < 2;
        Features([
            text,
            as_before(4),
            middles,
            seconds,
            if noise { 64 } else { 0 },
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
            assert_eq!(plain(&page), naive(&page), "{round}");
            assert_eq!(Features::of(&page), naive(&page), "{round}");
        }
    }

    #[test]
    fn a_page_of_one_byte_is_as_before_and_nothing_else() {
        for byte in [0, b'a', 0xff] {
            let Features(f) = Features::of(&[byte; PAGE_SIZE]);
            let full = |is: bool| if is { 64 } else { 0 };
            assert_eq!(f, [full(byte == b'a'), 64, 1, 1, 0]);
        }
    }

    #[test]
    fn noise_is_known_and_what_only_resembles_it_is_not() {
        let mut seed = 3u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        };
        let noise = |page: &PageBytes| Features::of(page).0[NOISE] == 64;
        let random = (0..1000).filter(|_| noise(&std::array::from_fn(|_| next())));
        let found = random.count();
        assert!(found >= 995, "{found} of 1000");
        // Random numbers below one, as floats: sign and exponent repeat.
        let mut floats = [0; PAGE_SIZE];
        for float in floats.chunks_exact_mut(8) {
            let number = f64::from(next()) / 256.0 + f64::from(next()) / 65536.0;
            float.copy_from_slice(&(number * 0.771).to_le_bytes());
        }
        assert!(!noise(&floats));
        // Random letters, and random bytes of which each comes twice.
        assert!(!noise(&std::array::from_fn(|_| b'a' + next() % 26)));
        let mut twice = [0; PAGE_SIZE];
        twice.chunks_exact_mut(2).for_each(|pair| pair.fill(next()));
        assert!(!noise(&twice));
    }
}
