//! Finite state entropy, the writer's side: distributions and tables (RFC 8878, section 4.1).

#![forbid(unsafe_code)]

use super::bits::Bits;

/// The most states are 1 << this.
const LOG_MAX: u32 = 8;
const STATES: usize = 1 << LOG_MAX;

/// More than there are symbols in any of the alphabets.
pub(super) const SYMBOLS: usize = 64;

/// The shares of an alphabet's symbols in the states.
pub(super) type Shares = [u16; SYMBOLS];

/// By symbol and state, what to write and which state comes next.
#[derive(Clone)]
pub(super) struct Table {
    log: u32,
    /// The states of the first symbol, then those of the second, and so on.
    states: [u16; STATES],
    symbols: [Symbol; SYMBOLS],
}

#[derive(Clone, Copy, Default)]
struct Symbol {
    /// (state + this) >> 16 is the number of bits to write.
    bits: u32,
    /// (state >> bits) + this is the place of the next state.
    place: i32,
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            log: 0,
            states: [0; STATES],
            symbols: [Symbol::default(); SYMBOLS],
        }
    }

    /// The table of `shares`, whose sum is 1 << log.
    pub(super) fn build(&mut self, shares: &[u16], log: u32) {
        let (size, mask) = (1 << log, (1 << log) - 1);
        self.log = log;
        // Each symbol as often as it has states; sixteen are written at once, and mostly too many.
        let mut sorted = [0u8; STATES + 16];
        let mut next = [0u16; SYMBOLS];
        let mut total = 0;
        let symbols = self.symbols.iter_mut().zip(&mut next);
        for (symbol, (&share, (out, next))) in shares.iter().zip(symbols).enumerate() {
            let share = usize::from(share);
            *next = total as u16;
            let place = total % STATES;
            sorted[place..place + 16].fill(symbol as u8);
            if share > 16 {
                sorted[place..place + share].fill(symbol as u8);
            }
            // `log` bits for a share of 1, and for a share of 0, which is never asked for.
            let bits = log - (share as u32).saturating_sub(1).max(1).ilog2();
            *out = Symbol {
                bits: (bits << 16).wrapping_sub((share as u32) << bits),
                place: total as i32 - share as i32,
            };
            total += share;
        }
        debug_assert_eq!(total, size, "the shares do not make a whole");

        // The steps by which the format scatters them.
        let step = (size >> 1) + (size >> 3) + 3;
        let mut scattered = [0u8; STATES];
        let mut at = 0;
        for &symbol in &sorted[..size] {
            scattered[at % STATES] = symbol;
            at = (at + step) & mask;
        }
        for (state, &symbol) in scattered[..size].iter().enumerate() {
            let next = &mut next[usize::from(symbol) % SYMBOLS];
            self.states[usize::from(*next) % STATES] = (size + state) as u16;
            *next += 1;
        }
    }

    /// The table of one symbol that is always the one, and takes no bits.
    pub(super) fn build_single(&mut self, symbol: usize) {
        self.log = 0;
        self.states[0] = 0;
        self.symbols[symbol] = Symbol::default();
    }

    /// A state that stands for `symbol` and is cheap to come to: the last symbol takes no bits.
    #[inline(always)]
    pub(super) fn start(&self, symbol: u8) -> u32 {
        let symbol = self.symbols[usize::from(symbol) % SYMBOLS];
        let bits = symbol.bits.wrapping_add(1 << 15) >> 16;
        let value = (bits << 16).wrapping_sub(symbol.bits);
        self.state((value >> bits) as i32 + symbol.place)
    }

    /// Writes what leads from the state of `symbol`, that comes to stand before, to `state`.
    #[inline(always)]
    pub(super) fn step(&self, state: &mut u32, symbol: u8, bits: &mut Bits<'_>) {
        let symbol = self.symbols[usize::from(symbol) % SYMBOLS];
        let count = state.wrapping_add(symbol.bits) >> 16;
        bits.put(u64::from(*state) & ((1 << count) - 1), count);
        *state = self.state((*state >> count) as i32 + symbol.place);
    }

    /// Writes the state itself, from which the reader starts.
    #[inline(always)]
    pub(super) fn end(&self, state: u32, bits: &mut Bits<'_>) {
        bits.put(u64::from(state) & ((1 << self.log) - 1), self.log);
    }

    #[inline(always)]
    fn state(&self, place: i32) -> u32 {
        u32::from(self.states[place as usize % STATES])
    }
}

/// How many states, as a logarithm, are enough for `count` symbols of which `symbol_max` is the
/// largest: what libzstd takes, which was as good as any other.
pub(super) fn log_for(count: usize, symbol_max: usize) -> u32 {
    let enough = (count.max(2) as u32 - 1).ilog2().saturating_sub(2);
    let needed = (count.ilog2() + 1).min(symbol_max.max(1).ilog2() + 2);
    enough.max(needed)
}

/// Shares in 1 << log states for symbols that occur `counts` times, of which `total` is the sum, at
/// least one for each that occurs. At least two do, and no more than there are states.
pub(super) fn shares_of(counts: &[u16], total: u32, log: u32) -> Shares {
    let mut shares = [0; SYMBOLS];
    let scale = (1u64 << (32 + log)) / u64::from(total);
    let mut left = 1 << log;
    let (mut largest, mut share_max) = (0, 0);
    for (symbol, &count) in counts.iter().enumerate() {
        let exact = u64::from(count) * scale;
        let whole = (exact >> 32) as usize;
        let up = exact as u32 > ROUND_UP[whole.min(ROUND_UP.len() - 1)];
        let share = (whole as u16 + u16::from(up)).max(u16::from(count > 0));
        left -= i32::from(share);
        if share > share_max {
            (largest, share_max) = (symbol, share);
        }
        shares[symbol] = share;
    }
    // What rounding took too much or too little is the largest's, unless that is not large enough.
    while -left > i32::from(shares[largest] / 2) {
        shares[largest] -= 1;
        left += 1;
        for (symbol, &share) in shares.iter().enumerate() {
            if share > shares[largest] {
                largest = symbol;
            }
        }
    }
    shares[largest] = (i32::from(shares[largest]) + left) as u16;
    shares
}

/// By the whole part of a share, the fraction (in 2^32) above which it is rounded up: a little above
/// half of the way for small ones, since being taken for too rare costs more bits than the reverse.
const ROUND_UP: [u32; 9] = [
    0,
    0x6a0a_0000,
    0x7337_0000,
    0x769d_0000,
    0x7a30_0000,
    0x7d2b_0000,
    0x7d2b_0000,
    0x7d2b_0000,
    u32::MAX,
];

/// Writes `shares` in 1 << log states into `out` from `at` on, and returns where they end.
pub(super) fn write_shares(shares: &Shares, log: u32, out: &mut [u8], at: usize) -> usize {
    let mut bits = Bits::new(out, at);
    bits.put(u64::from(log - 5), 4);
    let mut left = (1u32 << log) + 1;
    let mut symbol = 0;
    while left > 1 {
        let share = u32::from(shares[symbol]);
        symbol += 1;
        // A value from 0 to `left`, the smaller half of which takes a bit less.
        let width = left.ilog2() + 1;
        let half = 1 << (width - 1);
        let short = 2 * half - 1 - left;
        let value = share + 1;
        let value = value + if value >= half { short } else { 0 };
        bits.put(u64::from(value), width - u32::from(value < short));
        left -= share;
        if share == 0 {
            // The zeros that follow, by threes.
            let run = shares[symbol..].iter().take_while(|s| **s == 0).count();
            symbol += run;
            for _ in 0..run / 3 {
                bits.put(3, 2);
                bits.flush();
            }
            bits.put(run as u64 % 3, 2);
        }
        bits.flush();
    }
    bits.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_make_a_whole_and_leave_nobody_out() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        for _ in 0..20_000 {
            let symbols = 2 + random() as usize % 51;
            let shape = random() % 12;
            let counts: Vec<u16> = (0..symbols)
                .map(|i| {
                    if i + 1 == symbols {
                        1
                    } else {
                        ((random() % 300) >> (random() % (shape + 1))) as u16
                    }
                })
                .collect();
            let total = counts.iter().map(|c| u32::from(*c)).sum();
            if counts.iter().filter(|c| **c > 0).count() < 2 {
                continue;
            }
            let log = log_for(total as usize, symbols - 1).clamp(5, 7);
            if counts.iter().filter(|c| **c > 0).count() > 1 << log {
                continue;
            }
            let shares = shares_of(&counts, total, log);
            assert_eq!(shares.iter().sum::<u16>(), 1 << log, "{counts:?}");
            for (count, share) in counts.iter().zip(shares) {
                assert_eq!(*count > 0, share > 0, "{counts:?}");
            }
        }
    }
}
