//! `explain`: why `--algorithm adaptive` chooses what it does for one page, and whether it is right.
//!
//! Beside what the model expects stands what is true: each alternative really compresses the page and
//! restores it, in turns with the pages around it. The same page alone, again and again, would be one
//! that the processor's branch prediction knows by heart.

use super::entropy::route;
use super::{Failure, output};
use crate::daemon::sys;
use crate::sample::{self, Sources};
use anyhow::{Context as _, ensure};
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;
use trueno_zram_adaptive::model::CANDIDATES;
use trueno_zram_adaptive::{EntropyLevel, Favour, ModelSelector, entropy};
use trueno_zram_cli::process_memory::ProcessMemory;
use trueno_zram_cli::table::{Align, Table};
use trueno_zram_core::samefill::page_same_filled;
use trueno_zram_core::{Algorithm, Codec, PAGE_SIZE, Page, PageBytes, Scratch, codec_for};
use trueno_zram_store::BLOCK_MAX;
use trueno_zram_store::table::Entry;

/// Show why adaptive chooses what it does for one page, and what each choice really costs
///
/// The cost of a choice is the nanoseconds to compress the page and to restore it once, and the price of
/// the bytes that it leaves. The model expects it, which here has learnt nothing of this machine, as a
/// new device's; then each alternative really compresses and restores
/// the page here, in turns with up to 64 pages around it: the median of 101 rounds, after 10 to warm up.
/// Where there are few pages around it, times are shorter than a device has. What other programs do
/// meanwhile shows in them too: two costs that differ by a few per cent are equal.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or a block device
    #[arg(
        value_name = "PATH",
        required_unless_present = "pid",
        conflicts_with_all = ["pid", "address"],
        value_parser = NonEmptyStringValueParser::new()
    )]
    path: Option<String>,
    /// A process, by its number
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Which page of 4096 bytes, from 0 on; of a process, among those that could be swapped out [default:
    /// 0]
    #[arg(long, value_name = "N", conflicts_with = "address")]
    page: Option<u64>,
    /// The page that holds this address of the process, in hexadecimal, with or without 0x
    #[arg(long, value_name = "HEX", value_parser = address, requires = "pid")]
    address: Option<u64>,
    /// What adaptive is to favour, as for create
    #[arg(long, value_name = "WHAT", default_value = "balanced")]
    favour: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// As the help of [`Args`] says.
const NEIGHBOURS: u64 = 64;
const ROUNDS: usize = 101;
const WARM_UP: usize = 10;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// The file, or the process.
    source: String,
    /// Which page of it; none where an address was given.
    page: Option<u64>,
    /// Where it lies in the process.
    address: Option<u64>,
    /// The word that the page repeats. Such a page has none of what follows.
    same_filled: Option<u64>,
    looks: Option<Looks>,
    choice: Option<Reason>,
}

/// What a page looks like.
#[derive(Debug, Serialize)]
struct Looks {
    /// Bits per byte.
    entropy_bits: f64,
    /// The band of entropy, and what the entropy policy does with it.
    from_bits: f64,
    to_bits: f64,
    route: &'static str,
    /// What the model looks at.
    features: BTreeMap<&'static str, u8>,
}

/// What is chosen, and what would have been right.
#[derive(Debug, Serialize)]
struct Reason {
    favour: String,
    /// Nanoseconds per byte.
    price: f64,
    /// What is chosen unless another is expected to be clearly cheaper.
    usual: String,
    chosen: String,
    /// What was the cheapest of all when it was measured.
    cheapest: String,
    /// What the choice cost beyond that one, in per cent.
    excess_percent: f64,
    /// How often each was measured, and in turns with how many other pages.
    rounds: usize,
    neighbours: usize,
    alternatives: Vec<Alternative>,
}

#[derive(Debug, Serialize)]
struct Alternative {
    algorithm: String,
    /// What the model expects. Its time is that of the machine it was trained on.
    expected_bytes: u32,
    expected_ns: u32,
    expected_cost: f64,
    /// What was measured: bytes of the block, of a page where it is longer than a store keeps.
    bytes: usize,
    compress_ns: u64,
    restore_ns: u64,
    cost: f64,
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    // What `from_str_radix` takes beside digits.
    let digits = Some(digits).filter(|digits| !digits.starts_with('+'));
    digits
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| "no address in hexadecimal".to_string())
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let favour: Favour = match args.favour.parse() {
        Ok(favour) => favour,
        Err(error) => return Err(Failure::Usage(format!("--favour: {error}"))),
    };
    let looked = look(args, favour);
    let report = looked.map_err(|error| match sample::is_forbidden(&error) {
        true if !sys::is_root() => anyhow::anyhow!("{error:#}: run it with sudo"),
        _ => error,
    })?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&describe(&report))?;
    }
    Ok(())
}

/// Finds the page, and those around it.
fn look(args: &Args, favour: Favour) -> anyhow::Result<Report> {
    let mut sources = Sources::default();
    let mut index = args.page.unwrap_or(0);
    let source = match (&args.path, args.pid) {
        (Some(path), _) => {
            sources.add_path(Path::new(path))?;
            path.clone()
        }
        (None, Some(pid)) => {
            ensure!(
                Path::new(&format!("/proc/{pid}")).exists(),
                "there is no process {pid}"
            );
            if let Some(address) = args.address {
                let page = address / PAGE_SIZE as u64;
                // Neighbours are private memory too: other mappings may be a device's, where to look
                // is to do something.
                let range = ProcessMemory::open(pid)?.private_range_of(address)?;
                let (start, end) = range.map_or((page, page + 1), |(start, end)| {
                    (start / PAGE_SIZE as u64, end / PAGE_SIZE as u64)
                });
                let first = page.saturating_sub(NEIGHBOURS / 2).max(start);
                let behind = (page + NEIGHBOURS / 2 + 1).min(end);
                let addresses = (first..behind).map(|page| page * PAGE_SIZE as u64);
                sources.add_addresses(pid, addresses.collect());
                index = page - first;
            } else {
                sources.add_process(pid)?;
            }
            format!("process {pid}")
        }
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let pages = sources.pages();
    ensure!(pages > 0, "{source} has no pages");
    ensure!(
        index < pages,
        "{source} has no page {index}: give --page 0 to {}",
        pages - 1
    );
    let page = sources.page(index)?;
    let page = page.with_context(|| match args.address {
        Some(address) => format!("{source} has no memory at {address:#x}"),
        None => format!("page {index} of {source} is gone"),
    })?;
    let mut around = Vec::new();
    let first = index.saturating_sub(NEIGHBOURS / 2);
    for other in first..(index + NEIGHBOURS / 2 + 1).min(pages) {
        if other != index
            && let Some(page) = sources.page(other)?
            && page_same_filled(&page).is_none()
        {
            around.push(Page(page));
        }
    }
    let mut report = explain(&page, &around, favour)?;
    report.source = source;
    report.address = sources.address(index);
    report.page = args.address.is_none().then_some(index);
    Ok(report)
}

/// What is to be said of `page`, but for where it comes from.
fn explain(page: &PageBytes, around: &[Page], favour: Favour) -> anyhow::Result<Report> {
    let mut report = Report {
        source: String::new(),
        page: None,
        address: None,
        same_filled: page_same_filled(page),
        looks: None,
        choice: None,
    };
    if report.same_filled.is_some() {
        return Ok(report);
    }
    let explanation = ModelSelector::new(favour, &CANDIDATES)?.explain(page);
    let bits = entropy(page);
    let band = EntropyLevel::of(bits);
    report.looks = Some(Looks {
        entropy_bits: bits,
        from_bits: band.bits().start,
        to_bits: band.bits().end,
        route: route(band),
        features: explanation.features.named().collect(),
    });
    let algorithms: Vec<Algorithm> = explanation.considered.iter().map(|one| one.0).collect();
    let measured = measure(page, around, &algorithms)?;
    let price = favour.price();
    let alternatives: Vec<Alternative> = explanation
        .considered
        .iter()
        .zip(&measured)
        .map(
            |((algorithm, predicted, expected_cost), measured)| Alternative {
                algorithm: algorithm.to_string(),
                expected_bytes: predicted.bytes,
                expected_ns: predicted.ns,
                expected_cost: *expected_cost,
                bytes: measured.bytes,
                compress_ns: measured.compress_ns,
                restore_ns: measured.restore_ns,
                cost: (measured.compress_ns + measured.restore_ns) as f64
                    + price * measured.bytes as f64,
            },
        )
        .collect();
    let chosen = explanation.chosen.to_string();
    let of_chosen = alternatives.iter().find(|one| one.algorithm == chosen);
    let of_chosen = of_chosen.context("what is chosen was not considered")?;
    let cheapest = alternatives
        .iter()
        .min_by(|a, b| a.cost.total_cmp(&b.cost))
        .context("nothing was considered")?;
    report.choice = Some(Reason {
        favour: favour.to_string(),
        price,
        usual: explanation.usual.to_string(),
        cheapest: cheapest.algorithm.clone(),
        excess_percent: 100.0 * (of_chosen.cost - cheapest.cost) / cheapest.cost.max(1.0),
        chosen,
        rounds: ROUNDS,
        neighbours: around.len(),
        alternatives,
    });
    Ok(report)
}

/// What an algorithm made of the page.
struct Measured {
    bytes: usize,
    compress_ns: u64,
    restore_ns: u64,
}

/// Compresses and restores `page` and those `around` it, by all algorithms in turn, and takes the times of
/// `page`: medians.
fn measure(
    page: &PageBytes,
    around: &[Page],
    algorithms: &[Algorithm],
) -> anyhow::Result<Vec<Measured>> {
    let mut scratch = Scratch::new();
    let mut codecs = Vec::new();
    for algorithm in algorithms {
        let codec = codec_for(*algorithm)?;
        if let Some(codec) = &codec {
            codec.prepare(&mut scratch);
        }
        codecs.push(codec);
    }
    // The page is the last one, so that the others are between two looks at it.
    let pages: Vec<Page> = around.iter().cloned().chain([Page(*page)]).collect();
    let mut slots = vec![[0xffu8; PAGE_SIZE]; pages.len()];
    let mut lengths = vec![0; pages.len()];
    let mut restored = Page::boxed();
    let mut times = vec![[const { Vec::new() }; 2]; codecs.len()];
    let mut bytes = vec![0; codecs.len()];
    let clock = clock_ns();
    let since = |begin: Instant| (begin.elapsed().as_nanos() as u64).saturating_sub(clock);
    for round in 0..WARM_UP + ROUNDS {
        for turn in 0..codecs.len() {
            let which = (round + turn) % codecs.len();
            let codec = codecs[which].as_deref();
            let [mut compress_ns, mut restore_ns] = [0; 2];
            for ((page, slot), length) in pages.iter().zip(&mut slots).zip(&mut lengths) {
                let begin = Instant::now();
                *length = compress(codec, black_box(page), slot, &mut scratch);
                compress_ns = since(begin);
            }
            for (slot, length) in slots.iter().zip(&lengths) {
                let begin = Instant::now();
                restore(
                    codec,
                    black_box(&slot[..*length]),
                    &mut restored,
                    &mut scratch,
                )?;
                restore_ns = since(begin);
            }
            ensure!(
                *page == **restored,
                "{} gave other bytes back: that must not be",
                algorithms[which]
            );
            bytes[which] = lengths[around.len()];
            if round >= WARM_UP {
                times[which][0].push(compress_ns);
                times[which][1].push(restore_ns);
            }
        }
    }
    let measured = times.into_iter().zip(bytes).map(|(times, bytes)| {
        let [compress_ns, restore_ns] = times.map(median);
        Measured {
            bytes,
            compress_ns,
            restore_ns,
        }
    });
    Ok(measured.collect())
}

/// As a store does it: a page whose block is too long is kept as it is.
fn compress(
    codec: Option<&dyn Codec>,
    page: &PageBytes,
    slot: &mut PageBytes,
    scratch: &mut Scratch,
) -> usize {
    let block = &mut slot[..BLOCK_MAX];
    match codec.and_then(|codec| codec.compress(page, block, scratch)) {
        Some(length) => length,
        None => {
            slot.copy_from_slice(page);
            PAGE_SIZE
        }
    }
}

fn restore(
    codec: Option<&dyn Codec>,
    block: &[u8],
    page: &mut PageBytes,
    scratch: &mut Scratch,
) -> anyhow::Result<()> {
    match codec {
        Some(codec) if block.len() < PAGE_SIZE => codec.decompress(block, page, scratch)?,
        _ => page.copy_from_slice(block),
    }
    Ok(())
}

/// What reading the clock twice takes.
fn clock_ns() -> u64 {
    let between = || Instant::now().elapsed().as_nanos() as u64;
    (0..1000).map(|_| between()).min().unwrap_or(0)
}

fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(0)
}

fn describe(report: &Report) -> String {
    let Report {
        source,
        page,
        address,
        ..
    } = report;
    let mut text = match (page, address) {
        (Some(page), Some(address)) => format!("page {page} of {source}, at {address:#x}\n"),
        (Some(page), None) => format!("page {page} of {source}\n"),
        (None, address) => format!("the page at {:#x} of {source}\n", address.unwrap_or(0)),
    };
    if let Some(word) = report.same_filled {
        let object = match Entry::same(word) {
            Some(_) => "",
            None => ", and an object of 8 bytes, since the word does not fit there",
        };
        // A string takes everything.
        let _ = writeln!(
            text,
            "it repeats the word {word:#018x}: no algorithm is chosen for it, and it costs the \
             8 bytes that each page has in the page table{object}"
        );
    }
    if let Some(looks) = &report.looks {
        let does = match looks.route {
            "skip" => "keeps it as it is",
            _ => "compresses it",
        };
        let _ = writeln!(
            text,
            "entropy: {:.2} bits per byte, in the band {}-{} ({}), so the entropy policy {does}",
            looks.entropy_bits, looks.from_bits, looks.to_bits, looks.route
        );
        let features = looks.features.iter();
        let features: Vec<String> = features
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let _ = writeln!(text, "features: {}", features.join(", "));
    }
    if let Some(choice) = &report.choice {
        describe_choice(choice, &mut text);
    }
    text
}

fn describe_choice(choice: &Reason, text: &mut String) {
    let Reason {
        favour,
        price,
        usual,
        chosen,
        cheapest,
        ..
    } = choice;
    // A string takes everything.
    let _ = writeln!(
        text,
        "at {price} ns for a byte ({favour}), where {usual} is usual:"
    );
    let mut table = Table::new(&[
        ("ALGORITHM", Align::Left),
        ("EXPECTED BYTES", Align::Right),
        ("NS", Align::Right),
        ("COST", Align::Right),
        ("TRUE BYTES", Align::Right),
        ("NS", Align::Right),
        ("COST", Align::Right),
        ("", Align::Left),
    ]);
    for one in &choice.alternatives {
        let mut marks = Vec::new();
        if one.algorithm == *chosen {
            marks.push("chosen");
        }
        if one.algorithm == *cheapest {
            marks.push("cheapest");
        }
        table.row(vec![
            one.algorithm.clone(),
            one.expected_bytes.to_string(),
            one.expected_ns.to_string(),
            format!("{:.0}", one.expected_cost),
            one.bytes.to_string(),
            (one.compress_ns + one.restore_ns).to_string(),
            format!("{:.0}", one.cost),
            marks.join(", "),
        ]);
    }
    text.push_str(&table.render(true));
    let _ = if chosen == cheapest {
        writeln!(text, "{chosen} is chosen, and is the cheapest here")
    } else {
        writeln!(
            text,
            "{chosen} is chosen, and costs {:.1}% more than {cheapest}, which is the cheapest here",
            choice.excess_percent
        )
    };
    text.push_str("no engine for batches is set up here, and none would get a single page\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(mut seed: u64) -> PageBytes {
        std::array::from_fn(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
    }

    fn text() -> PageBytes {
        std::array::from_fn(|at| b"the quick brown fox jumps over a lazy dog "[at * at % 41])
    }

    #[test]
    fn the_choice_is_held_against_what_is_true() {
        for favour in [Favour::Speed, Favour::Memory, Favour::Price(0.0)] {
            let around = [Page(noise(1)), Page(text())];
            let choice = explain(&text(), &around, favour).unwrap().choice.unwrap();
            let all = 1 + CANDIDATES.len();
            assert_eq!((choice.alternatives.len(), choice.neighbours), (all, 2));
            let cost = |name: &str| {
                let mut all = choice.alternatives.iter();
                all.find(|one| one.algorithm == name).unwrap().cost
            };
            let (chosen, cheapest) = (cost(&choice.chosen), cost(&choice.cheapest));
            assert!(choice.alternatives.iter().all(|one| cheapest <= one.cost));
            let excess = 100.0 * (chosen / cheapest - 1.0);
            assert!((excess - choice.excess_percent).abs() < 1e-6, "{choice:?}");
            for one in &choice.alternatives {
                let ns = (one.compress_ns + one.restore_ns) as f64;
                assert_eq!(one.cost, ns + favour.price() * one.bytes as f64);
                assert_eq!(one.bytes == PAGE_SIZE, one.algorithm == "none");
                assert!(one.algorithm == "none" || one.compress_ns > 0);
            }
        }
        // For nothing, keeping it is right and is chosen.
        let report = explain(&text(), &[], Favour::Price(0.0)).unwrap();
        let shown = describe(&report);
        assert!(shown.contains("chosen, cheapest"), "{shown}");
        assert!(shown.contains("is the cheapest here"), "{shown}");
    }

    #[test]
    fn noise_is_a_whole_page_to_everyone() {
        let report = explain(&noise(2), &[], Favour::Balanced).unwrap();
        let choice = report.choice.as_ref().unwrap();
        assert!(choice.alternatives.iter().all(|one| one.bytes == PAGE_SIZE));
        assert_eq!((&*choice.chosen, &*choice.cheapest), ("none", "none"));
        assert_eq!(report.looks.as_ref().unwrap().route, "skip");
        assert!(describe(&report).contains("keeps it as it is"));
    }

    #[test]
    fn a_repeated_word_never_reaches_the_model() {
        let zeros = explain(&[0; PAGE_SIZE], &[], Favour::Balanced).unwrap();
        assert!(zeros.looks.is_none() && zeros.choice.is_none());
        let shown = describe(&zeros);
        assert!(shown.contains("8 bytes that each page has"), "{shown}");
        assert!(!shown.contains("an object"), "{shown}");
        let word = 0x7123_4567_89ab_cdef_u64.to_ne_bytes();
        let odd: PageBytes = std::array::from_fn(|at| word[at % 8]);
        let shown = describe(&explain(&odd, &[], Favour::Balanced).unwrap());
        assert!(shown.contains("0x7123456789abcdef"), "{shown}");
        assert!(shown.contains("an object of 8 bytes"), "{shown}");
    }

    #[test]
    fn addresses_are_as_proc_maps_writes_them() {
        assert_eq!(address("7f00a000"), Ok(0x7f00_a000));
        assert_eq!(address("0xffffffffffffffff"), Ok(u64::MAX));
        for wrong in ["", "0x", "+1", "-1", "7f00-7f02", "10000000000000000"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
