//! `cargo bench -p trueno-zram-adaptive`: what choosing costs, beside what is chosen among.
//!
//! On the sample of pages in `tests/data`, one thread. All take turns on batches of 256 pages; of each
//! batch the fastest of the rounds counts, since the machine may do other work. What they write goes
//! to memory that is in no cache, as a store's is: to the next place in 128 MiB.

#[path = "../tests/sample/mod.rs"]
mod sample;

use std::hint::black_box;
use std::time::Instant;
use trueno_zram_adaptive::{
    EntropySelector, Favour, Features, ModelSelector, entropy, entropy_sampled, model::CANDIDATES,
};
use trueno_zram_core::samefill::page_same_filled;
use trueno_zram_core::{
    Algorithm, Choice, PAGE_SIZE, Page, PageBytes, Scratch, Selector, codec_for,
};

const BATCH: usize = 256;
const ROUNDS: usize = 31;
/// More than any cache holds, and a multiple of a batch.
const COLD: usize = 128 << 20;
/// The longest block that the store keeps.
const BLOCK_MAX: usize = 3832;

/// What is done with a page, and where a block may go.
type Work<'a> = Box<dyn FnMut(&PageBytes, &mut [u8]) + 'a>;

fn main() {
    let pages = sample::pages();
    println!("{} pages of five programs", pages.len());
    table(&pages);
    let mut seed = 1u64;
    let mut byte = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8
    };
    let noise = || Page(std::array::from_fn(|_| byte()));
    let noise: Vec<Page> = std::iter::repeat_with(noise).take(1024).collect();
    println!("\n{} pages of noise", noise.len());
    table(&noise);
}

fn table(pages: &[Page]) {
    let mut work: Vec<(&str, Work<'_>)> = vec![
        (
            "same-filled?",
            Box::new(|page, _| _ = black_box(page_same_filled(page))),
        ),
        (
            "copy into the pool",
            Box::new(|page, out| out.copy_from_slice(page)),
        ),
        ("lz4", compress(Algorithm::Lz4)),
        (
            "zstd(price=24)",
            compress(Algorithm::ZstdAtPrice { price: 24 }),
        ),
        ("zstd3", compress(Algorithm::Zstd3)),
        ("entropy", Box::new(|page, _| _ = black_box(entropy(page)))),
        (
            "entropy, sampled",
            Box::new(|page, _| _ = black_box(entropy_sampled(page))),
        ),
        (
            "features",
            Box::new(|page, _| _ = black_box(Features::of(page))),
        ),
    ];
    let by_entropy = EntropySelector::new(7.0, Choice::Codec(0));
    work.push((
        "select: entropy",
        Box::new(move |page, _| _ = black_box(by_entropy.select(page))),
    ));
    let names = ["select: speed", "select: balanced", "select: memory"];
    let favours = [Favour::Speed, Favour::Balanced, Favour::Memory];
    for (name, favour) in names.into_iter().zip(favours) {
        let selector = selector(favour);
        work.push((
            name,
            Box::new(move |page, _| _ = black_box(selector.select(page))),
        ));
    }
    let names = [
        "write: lz4 alone",
        "write: speed",
        "write: balanced",
        "write: memory",
    ];
    work.push((names[0], write(Box::new(Choice::Codec(0)))));
    for (name, favour) in names[1..].iter().zip(favours) {
        work.push((name, write(Box::new(selector(favour)))));
    }
    let times = measure(pages, &mut work);
    let lz4 = times[2];
    let copy = times[1];
    println!(
        "{:20} {:>8} {:>8} {:>8}",
        "", "ns/page", "of lz4", "of copy"
    );
    for ((name, _), ns) in work.iter().zip(times) {
        println!("{name:20} {ns:8.0} {:8.3} {:8.2}", ns / lz4, ns / copy);
    }
}

fn selector(favour: Favour) -> ModelSelector {
    ModelSelector::new(favour, &CANDIDATES).expect("all of them are known")
}

fn compress(algorithm: Algorithm) -> Work<'static> {
    let codec = codec_for(algorithm)
        .expect("it is known")
        .expect("it has one");
    let mut scratch = Scratch::new();
    codec.prepare(&mut scratch);
    Box::new(move |page, out| {
        black_box(codec.compress(page, &mut out[..BLOCK_MAX], &mut scratch));
    })
}

/// What a store does with a page but for its table: look whether it is same-filled, choose, compress
/// or copy.
fn write(selector: Box<dyn Selector>) -> Work<'static> {
    let codecs = CANDIDATES.map(|algorithm| codec_for(algorithm).expect("known").expect("has one"));
    let mut scratch = Scratch::new();
    codecs.iter().for_each(|codec| codec.prepare(&mut scratch));
    Box::new(move |page, out| {
        if black_box(page_same_filled(page)).is_some() {
            return;
        }
        let length = match selector.select(page) {
            Choice::Raw => None,
            Choice::Codec(place) => {
                codecs[usize::from(place)].compress(page, &mut out[..BLOCK_MAX], &mut scratch)
            }
        };
        if length.is_none() {
            out.copy_from_slice(page);
        }
    })
}

/// Nanoseconds a page.
fn measure(pages: &[Page], work: &mut [(&str, Work<'_>)]) -> Vec<f64> {
    let mut arena = vec![0xffu8; COLD];
    let mut at = 0;
    let mut sums = vec![0.0; work.len()];
    for batch in pages.chunks(BATCH) {
        let mut best = vec![f64::INFINITY; work.len()];
        for round in 0..ROUNDS {
            for turn in 0..work.len() {
                let which = (round + turn) % work.len();
                at = (at + BATCH * PAGE_SIZE) % COLD;
                let places = arena[at..][..BATCH * PAGE_SIZE].chunks_exact_mut(PAGE_SIZE);
                let begin = Instant::now();
                for (page, out) in batch.iter().zip(places) {
                    (work[which].1)(black_box(page), out);
                }
                best[which] = best[which].min(begin.elapsed().as_nanos() as f64);
            }
        }
        sums.iter_mut()
            .zip(best)
            .for_each(|(sum, best)| *sum += best);
    }
    sums.into_iter()
        .map(|sum| sum / pages.len() as f64)
        .collect()
}
