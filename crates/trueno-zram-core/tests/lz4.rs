//! Our LZ4 blocks are what the format allows, liblz4 reads them, and no encoder and no decoder
//! touches memory that is not theirs.

mod guarded;
mod pages;
mod random;

use guarded::Guarded;
use random::Random;
use std::ops::Range;
use trueno_zram_core::codec::lz4::{Lz4, Lz4Hc};
use trueno_zram_core::{
    Algorithm, Codec, Compressor, PAGE_SIZE, Page, PageBytes, Scratch, SimdBackend,
};

/// The longest block: a page of literals.
const LONGEST: usize = 1 + (PAGE_SIZE - 15) / 255 + 1 + PAGE_SIZE;

/// A page on which an encoder may stumble: repetitions near and far, short and long.
fn repetitive(random: &mut Random) -> Page {
    let mut page = Page::ZERO;
    let mut at = 0;
    while at < PAGE_SIZE {
        let longest = [4, 20, 60, 700][random.below(4)];
        let end = (at + 1 + random.below(longest)).min(PAGE_SIZE);
        let near = [8, 70, PAGE_SIZE][random.below(3)];
        if at > 0 && random.below(3) > 0 {
            let distance = 1 + random.below(near.min(at));
            (at..end).for_each(|i| page[i] = page[i - distance]);
        } else {
            page[at..end].fill_with(|| random.byte());
        }
        at = end;
    }
    page
}

/// A compressor for each backend that this CPU has.
fn backends() -> Vec<Compressor> {
    let of = |backend| Compressor::builder().backend(backend).build();
    SimdBackend::ALL.into_iter().flat_map(of).collect()
}

fn all_pages(random: &mut Random) -> Vec<Page> {
    let kinds = (0..4).flat_map(pages::one_of_each).map(|(_, page)| page);
    (0..3000).map(|_| repetitive(random)).chain(kinds).collect()
}

/// Where in the page the matches of a block lie, and how many literals follow the last one.
fn matches(block: &[u8]) -> (Vec<Range<usize>>, usize) {
    let (mut matches, mut at, mut next) = (Vec::new(), 0, 0);
    let length = |half: u8, next: &mut usize| {
        let mut sum = usize::from(half);
        let mut more = half == 15;
        while more {
            let byte = block[*next];
            *next += 1;
            sum += usize::from(byte);
            more = byte == 255;
        }
        sum
    };
    loop {
        let token = block[next];
        next += 1;
        let literals = length(token >> 4, &mut next);
        next += literals;
        at += literals;
        if next == block.len() {
            return (matches, literals);
        }
        next += 2;
        let end = at + 4 + length(token & 15, &mut next);
        matches.push(at..end);
        at = end;
    }
}

#[test]
fn liblz4_reads_our_blocks_which_keep_the_rules_of_the_format() {
    for encoder in [&Lz4::new() as &dyn Codec, &Lz4Hc] {
        check_blocks(encoder);
    }
}

fn check_blocks(encoder: &dyn Codec) {
    let mut scratch = Scratch::new();
    let (mut out, mut longest) = ([0; LONGEST], 0);
    for page in all_pages(&mut Random(1)) {
        let length = encoder.compress(&page, &mut out, &mut scratch);
        let block = &out[..length.expect("no block is longer")];
        longest = longest.max(block.len());

        let (matches, literals) = matches(block);
        if let Some(last) = matches.last() {
            assert!(last.start <= PAGE_SIZE - 12, "the last match: {last:?}");
            assert!(literals >= 5, "the block ends with {literals} literals");
        }

        let mut restored = Page::ZERO;
        // SAFETY: both buffers are as long as is said.
        let bytes = unsafe {
            lz4_sys::LZ4_decompress_safe(
                block.as_ptr().cast(),
                restored.as_mut_ptr().cast(),
                block.len() as i32,
                PAGE_SIZE as i32,
            )
        };
        assert_eq!(bytes, PAGE_SIZE as i32);
        assert!(restored == page);
    }
    assert_eq!(longest, LONGEST, "a page of noise takes the most");
}

#[test]
fn a_block_is_the_same_on_every_backend() {
    let mut scratch = Scratch::new();
    let backends = backends();
    for page in all_pages(&mut Random(3)) {
        let blocks: Vec<_> = (backends.iter())
            .map(|compressor| {
                let mut out = [0; LONGEST];
                let length = compressor.compress_into(&page, &mut out, &mut scratch);
                out[..length.expect("no block is longer")].to_vec()
            })
            .collect();
        assert!(blocks.iter().all(|block| *block == blocks[0]));
    }
}

#[test]
fn nothing_but_page_and_block_is_touched() {
    let mut encoders = backends();
    encoders.push(Compressor::new(Algorithm::Lz4Hc));
    let mut random = Random(2);
    let mut scratch = Scratch::new();
    let (mut page_memory, mut block_memory) = (Guarded::new(), Guarded::new());
    for (i, page) in all_pages(&mut random).iter().enumerate() {
        let at_end = i % 2 == 0;
        let given: &mut PageBytes = page_memory.edge(PAGE_SIZE, at_end).try_into().unwrap();
        given.copy_from_slice(&page[..]);
        // What a block is written to in place, and what a store gives.
        let room = [LONGEST + 16, 3800][i % 3 % 2];
        let out = block_memory.edge(room, at_end);
        let encoder = &encoders[i / 6 % encoders.len()];
        let Some(length) = encoder.compress_into(given, out, &mut scratch) else {
            continue;
        };
        let block = out[..length].to_vec();
        for damaged in 0..4 {
            let block_here = block_memory.edge(length, damaged % 2 == 0);
            block_here.copy_from_slice(&block);
            for _ in 0..damaged {
                block_here[random.below(length)] = random.byte();
            }
            let restored: &mut PageBytes = page_memory.edge(PAGE_SIZE, at_end).try_into().unwrap();
            let result = Lz4::new().decompress(block_here, restored, &mut scratch);
            assert!(damaged > 0 || result.is_ok() && restored[..] == page[..]);
        }
    }
}

/// Over many pages, of a kind that is harder than those of programs: liblz4 tries 256 candidates where
/// we try a few, and may be luckier.
#[test]
fn the_thorough_encoder_is_as_good_as_liblz4_at_level_9() {
    let mut scratch = Scratch::new();
    let mut out = [0; 2 * PAGE_SIZE];
    let (mut ours, mut theirs, mut greedy) = (0, 0, 0);
    for page in all_pages(&mut Random(3)) {
        ours += Lz4Hc.compress(&page, &mut out, &mut scratch).unwrap();
        greedy += Lz4::new().compress(&page, &mut out, &mut scratch).unwrap();
        // SAFETY: both buffers are as long as is said.
        let length = unsafe {
            lz4_sys::LZ4_compress_HC(
                page.as_ptr().cast(),
                out.as_mut_ptr().cast(),
                PAGE_SIZE as i32,
                out.len() as i32,
                9,
            )
        };
        theirs += usize::try_from(length).unwrap();
    }
    assert!(ours <= theirs + theirs / 500, "{ours} and {theirs} bytes");
    assert!(ours < greedy, "{ours} and {greedy} bytes");
}
