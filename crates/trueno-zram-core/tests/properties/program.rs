//! Pages and blocks made by little programs, so that a fuzzer which changes a few bytes changes how
//! a page repeats itself, or which sequences a block has, and not noise alone.

use trueno_zram_core::{PAGE_SIZE, Page};

/// The page that `input` stands for.
///
/// A page or more is taken as it is. Anything shorter is a program, which starts over until the page
/// is full; an empty one leaves zeros. An instruction is a byte: the low three bits say what to do,
/// the high five for how long, see [`length`].
///
/// ```text
/// 0 1  literals     that many bytes follow
/// 2    near copy    u8: from so far back, plus 1
/// 3 4  copy         u16, LE: from so far back, plus 1
/// 5    words        8 bytes: repeated, that many bytes in all
/// 6    counters     8 bytes, u8: the word, the word plus the u8, and so on, that many bytes in all
/// 7    noise        u8: seeds it
/// ```
/// A copy from before the page is one from its beginning; what the program lacks at its end is zero.
pub fn page_of(input: &[u8]) -> Page {
    let mut page = Page::ZERO;
    if let Some(whole) = input.first_chunk::<PAGE_SIZE>() {
        page.copy_from_slice(whole);
        return page;
    }
    let (mut at, mut program) = (0, input.iter().copied());
    while at < PAGE_SIZE && !input.is_empty() {
        let Some(instruction) = program.next() else {
            program = input.iter().copied();
            continue;
        };
        let mut next = || program.next().unwrap_or(0);
        let end = (at + length(instruction >> 3)).min(PAGE_SIZE);
        match instruction & 7 {
            0 | 1 => page[at..end].fill_with(next),
            kind @ 2..=4 => {
                let back = u16::from_le_bytes([next(), if kind == 2 { 0 } else { next() }]);
                let distance = (usize::from(back) + 1).min(at);
                (at..end).for_each(|i| page[i] = page[i - distance]);
            }
            5 => {
                let word = [(); 8].map(|()| next());
                (at..end).for_each(|i| page[i] = word[(i - at) % 8]);
            }
            6 => {
                let mut word = u64::from_le_bytes([(); 8].map(|()| next()));
                let step = u64::from(next());
                for bytes in page[at..end].chunks_mut(8) {
                    bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
                    word = word.wrapping_add(step);
                }
            }
            _ => {
                // Vigna's xorshift64*, seeded with anything but zero.
                let mut state = u64::from(next()) + 1;
                page[at..end].fill_with(|| {
                    state ^= state >> 12;
                    state ^= state << 25;
                    state ^= state >> 27;
                    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
                });
            }
        }
        at = end;
    }
    page
}

/// 1 to 24 bytes, by one; then 32, 64, ... 4096.
fn length(high: u8) -> usize {
    match usize::from(high) {
        few @ 0..24 => few + 1,
        many => 32 << (many - 24),
    }
}

/// The LZ4 block that `input` stands for: whatever its sequences, it fills a page.
///
/// ```text
/// u16, LE     a literal and a match of 1 byte back fill the page up to here, modulo its length
/// u8          the next literals: bits 3-7 say how many, see [`length`], less 1
/// u16, LE     how far back the match begins, modulo all there is, so that it may be 0; the lower
///             byte alone if bit 0 of the one before is set
/// u8          the match: bits 3-7 say how long, plus 3
/// u8, u16...  and so on
/// ```
/// What is left of the page are literals.
pub fn block_of(input: &[u8]) -> Vec<u8> {
    let (begin, sequences) = input.split_first_chunk().unwrap_or((&[0; 2], &[]));
    let (mut block, mut at) = (Vec::new(), 0);
    let mut sequence = |literals: usize, back: u16, length: usize| {
        let more = length.saturating_sub(4);
        block.push((literals.min(15) << 4 | more.min(15)) as u8);
        extend(&mut block, literals);
        block.extend((at..at + literals).map(|i| ((i * i) >> 3) as u8));
        at += literals;
        if length > 0 {
            block.extend(((usize::from(back) % (at + 1)) as u16).to_le_bytes());
            extend(&mut block, more);
        }
        at += length;
        PAGE_SIZE - at
    };
    let begin = 5 + usize::from(u16::from_le_bytes(*begin)) % (PAGE_SIZE - 5);
    let mut left = sequence(1, 1, begin - 1);
    for [literals, low, high, match_length] in sequences.as_chunks().0 {
        let high = if literals & 1 == 1 { 0 } else { *high };
        let literals = length(literals >> 3) - 1;
        let length = (length(match_length >> 3) + 3).min(left.saturating_sub(literals));
        if length < 4 {
            break;
        }
        left = sequence(literals, u16::from_le_bytes([*low, high]), length);
    }
    sequence(left, 0, 0);
    block
}

/// The bytes that a length needs beyond its half of a token.
fn extend(block: &mut Vec<u8>, length: usize) {
    if let Some(more) = length.checked_sub(15) {
        block.extend(std::iter::repeat_n(255, more / 255));
        block.push((more % 255) as u8);
    }
}
