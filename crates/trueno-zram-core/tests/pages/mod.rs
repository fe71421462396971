//! Generated pages, shared by the tests and the examples: the same seed gives the same pages.
//! They stand for kinds of memory, not for the memory of any program.

use trueno_zram_core::{PAGE_SIZE, Page};

/// One page of each kind, from the emptiest to the fullest, with its name.
pub fn one_of_each(seed: u64) -> Vec<(&'static str, Page)> {
    let mut random = SplitMix(seed);
    let (mut word, mut text, mut records) = (Page::ZERO, Page::ZERO, Page::ZERO);
    let (mut sparse, mut mixed, mut noise) = (Page::ZERO, Page::ZERO, Page::ZERO);

    for bytes in word.chunks_exact_mut(8) {
        bytes.copy_from_slice(&seed.wrapping_add(1).to_ne_bytes());
    }

    for _ in 0..40 {
        let at = random.next() as usize % PAGE_SIZE;
        sparse[at] = random.next() as u8;
    }

    // What a heap of small structures looks like: a pointer, a counter, flags and a float.
    for (i, record) in records.chunks_exact_mut(32).enumerate() {
        let pointer = 0x0000_7f3a_1c00_0000 + (random.next() % 0x4000) * 16;
        record[..8].copy_from_slice(&pointer.to_ne_bytes());
        record[8..16].copy_from_slice(&(i as u64).to_ne_bytes());
        record[16] = random.next() as u8 % 4;
        record[24..32].copy_from_slice(&(random.next() as u32 as f64 / 7.0).to_ne_bytes());
    }

    let words = "the page of a process that nobody reads is written to a device and kept there \
                 smaller than it was until somebody asks for it again";
    let words: Vec<&str> = words.split(' ').collect();
    let mut written = Vec::new();
    while written.len() < PAGE_SIZE {
        written.extend_from_slice(words[random.next() as usize % words.len()].as_bytes());
        written.push(if (random.next() as u8) < 20 {
            b'\n'
        } else {
            b' '
        });
    }
    text.copy_from_slice(&written[..PAGE_SIZE]);

    noise.fill_with(|| random.next() as u8);
    mixed.copy_from_slice(&*noise);
    mixed[..PAGE_SIZE / 2].copy_from_slice(&text[..PAGE_SIZE / 2]);

    vec![
        ("zeros", Page::ZERO),
        ("one word", word),
        ("sparse", sparse),
        ("records", records),
        ("text", text),
        ("half text, half random", mixed),
        ("random", noise),
    ]
}

/// Steele, Lea and Flood: "Fast splittable pseudorandom number generators" (OOPSLA 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
