//! `estimate`: what a device would make of the memory of running processes.
//!
//! A sample of their pages is written to a store like a device's, and read back, once for each
//! algorithm. What is printed was measured on these pages, and multiplied by how many there are.

mod gains;

use super::{Failure, Sample, output};
use crate::daemon::policy::{Asked, Policy};
use crate::daemon::sys;
use crate::sample::Sources;
use anyhow::{Context as _, ensure};
use serde::Serialize;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use trueno_zram_adaptive::ModelSelector;
use trueno_zram_adaptive::model::CANDIDATES;
use trueno_zram_cli::human::format_size;
use trueno_zram_cli::table::{Align, Table};
use trueno_zram_core::samefill::page_same_filled;
use trueno_zram_core::{Algorithm, PAGE_SIZE, PageBytes};
use trueno_zram_store::{ClassStats, Config, Memory, Stats, Store};

/// Estimate what a device would make of the memory of processes
///
/// Private pages that the kernel could swap out are sampled, compressed by each algorithm as a device
/// does it, and read back. Nothing is stopped or changed. EXPECTED is what the model of adaptive says of
/// the same pages without compressing one: bytes, and the seconds to write and read, on the machine that
/// it was trained on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A process, by its number; may be given several times
    #[arg(
        long,
        value_name = "PID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pid: Vec<u32>,
    /// All processes
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    sample: Sample,
    /// An algorithm, as for create; may be given several times [default: lz4, lz4hc,
    /// zstd(price=24), zstd1, zstd3, adaptive]
    #[arg(long, value_name = "NAME")]
    algorithm: Vec<String>,
    /// What adaptive is to favour, as for create [default: balanced]
    #[arg(long, value_name = "WHAT")]
    favour: Option<String>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What is looked at where nothing else is asked for.
const ALGORITHMS: [&str; 6] = [
    "lz4",
    "lz4hc",
    "zstd(price=24)",
    "zstd1",
    "zstd3",
    "adaptive",
];

/// Pages that are compressed before the time is taken.
const WARM_UP: usize = 1024;

/// Bytes of page table for a page.
const ENTRY_BYTES: u64 = 8;

const GIB: f64 = (1u64 << 30) as f64;

/// What `--json` prints. What an algorithm makes of pages is told for all pages, by what it made of the
/// sample.
#[derive(Debug, Serialize)]
struct Report {
    /// Processes that were looked at.
    processes: usize,
    /// Processes that could not be looked at, in a container for instance; not in the rest.
    forbidden_processes: usize,
    /// Their private pages that could be swapped out.
    pages: u64,
    /// Pages that were compressed.
    sampled_pages: u64,
    /// Those of the sample that are one repeated word.
    same_pages: u64,
    algorithms: Vec<Estimate>,
    /// What a dictionary would bring; none where that is nothing: pages are too few, or have too little
    /// in common.
    dictionary: Option<gains::Learnt>,
    /// What compressing pages together would bring that follow each other in a process; none where no run
    /// of them is so long.
    clusters: Vec<gains::Cluster>,
}

/// What a device would do with all the pages.
#[derive(Debug, Serialize)]
struct Estimate {
    #[serde(flatten)]
    asked: Asked,
    /// Bytes of the pages for each compressed byte; pages that are one repeated word take none. None
    /// where all are.
    ratio: Option<f64>,
    /// Bytes of compressed pages: `compr_data_size`.
    compressed_bytes: u64,
    /// Bytes of memory that they take: `mem_used_total` and the page table.
    memory_bytes: u64,
    /// Pages that no codec makes small enough to compress them.
    huge_pages: u64,
    /// Processor seconds to write 2^30 bytes of pages that are not one repeated word, and to read them
    /// back. None where all are.
    write_cpu_seconds: Option<f64>,
    read_cpu_seconds: Option<f64>,
    /// What the model says; none of algorithms that it does not know.
    expected: Option<Expected>,
}

/// What the model of `adaptive` expects of all the pages, before any of them is compressed.
#[derive(Debug, Serialize)]
struct Expected {
    /// As in [`Estimate`].
    ratio: Option<f64>,
    compressed_bytes: u64,
    /// Writing and reading together, on the machine that the model was trained on.
    cpu_seconds: Option<f64>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let names: Vec<&str> = if args.algorithm.is_empty() {
        ALGORITHMS.to_vec()
    } else {
        args.algorithm.iter().map(String::as_str).collect()
    };
    if let (Some(favour), false) = (&args.favour, names.contains(&"adaptive")) {
        return Err(Failure::Usage(format!(
            "--favour {favour} is for adaptive, which is not among the algorithms: add \
             --algorithm adaptive, or leave --favour out"
        )));
    }
    let mut policies = Vec::new();
    for name in names {
        let policy = Policy::new(
            name,
            args.favour.as_deref().filter(|_| name == "adaptive"),
            None,
        );
        policies.push(policy.map_err(|error| Failure::Usage(error.to_string()))?);
    }
    let mut sources = Sources::default();
    if args.all {
        sources.add_all_processes()?;
    }
    for pid in &args.pid {
        sources.add_process(*pid)?;
    }
    let sample = sources.take(args.sample.pages)?;
    let mut report = estimate(sources.len(), sources.pages(), &sample, &policies)?;
    report.forbidden_processes = sources.forbidden();
    report.clusters = gains::clusters(&sources, args.sample.pages)?;
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&describe(&report))?;
    }
    Ok(())
}

/// What the codecs make of `sample`, multiplied to `pages`.
fn estimate(
    processes: usize,
    pages: u64,
    sample: &[PageBytes],
    policies: &[Policy],
) -> anyhow::Result<Report> {
    ensure!(
        !sample.is_empty(),
        "all pages were gone when they were to be read: try again"
    );
    let whole =
        |sampled: u64| (u128::from(sampled) * u128::from(pages) / sample.len() as u128) as u64;
    if let Some(policy) = policies.first() {
        // What is done for the first time takes longer.
        let few = &sample[..sample.len().min(WARM_UP)];
        measure(few.iter(), policy.store_config(bytes_of(few))?)?;
    }
    let mut same_pages = 0;
    let mut algorithms = Vec::new();
    for policy in policies {
        let measured = measure(sample.iter(), policy.store_config(bytes_of(sample))?)?;
        let stats = measured.stats;
        same_pages = stats.same_pages;
        let bytes = (stats.pages_stored - same_pages) * PAGE_SIZE as u64;
        let per_gib = |time: Duration| (bytes > 0).then(|| time.as_secs_f64() * GIB / bytes as f64);
        // Slabs of the sample are not full, which would count once for each multiple.
        let slots: u64 = measured
            .classes
            .iter()
            .map(|class| {
                whole(class.objects) * class.frames * PAGE_SIZE as u64 / class.slots.max(1)
            })
            .sum();
        algorithms.push(Estimate {
            asked: policy.asked(),
            ratio: (stats.compr_data_size > 0)
                .then(|| stats.orig_data_size as f64 / stats.compr_data_size as f64),
            compressed_bytes: whole(stats.compr_data_size),
            memory_bytes: slots + whole(stats.huge_pages) * PAGE_SIZE as u64 + pages * ENTRY_BYTES,
            huge_pages: whole(stats.huge_pages),
            write_cpu_seconds: per_gib(measured.write),
            read_cpu_seconds: per_gib(measured.read),
            expected: expect(&policy.asked(), sample)?.map(|(bytes, time)| Expected {
                ratio: (bytes > 0).then(|| stats.orig_data_size as f64 / bytes as f64),
                compressed_bytes: whole(bytes),
                cpu_seconds: per_gib(time),
            }),
        });
    }
    Ok(Report {
        processes,
        forbidden_processes: 0,
        pages,
        sampled_pages: sample.len() as u64,
        same_pages,
        algorithms,
        dictionary: gains::dictionary(sample)?,
        clusters: Vec::new(),
    })
}

/// Bytes and time that the model expects for the pages of `sample` that are not one repeated word, if it
/// knows the algorithm.
fn expect(asked: &Asked, sample: &[PageBytes]) -> anyhow::Result<Option<(u64, Duration)>> {
    let algorithm: Algorithm = asked.algorithm.parse()?;
    if algorithm != Algorithm::Adaptive && !CANDIDATES.contains(&algorithm) {
        return Ok(None);
    }
    let favour = asked.favour.as_deref().unwrap_or("balanced").parse()?;
    let selector = ModelSelector::new(favour, &CANDIDATES)?;
    let (mut bytes, mut ns) = (0, 0);
    for page in sample
        .iter()
        .filter(|page| page_same_filled(page).is_none())
    {
        let explanation = selector.explain(page);
        let one = match algorithm {
            Algorithm::Adaptive => explanation.chosen,
            one => one,
        };
        let mut considered = explanation.considered.iter();
        if let Some((_, expected, _)) = considered.find(|(name, ..)| *name == one) {
            bytes += u64::from(expected.bytes);
            ns += u64::from(expected.ns);
        }
    }
    Ok(Some((bytes, Duration::from_nanos(ns))))
}

/// A store that has taken pages and given them back, and how long a processor was busy with those that
/// are not one repeated word.
struct Measured {
    stats: Stats,
    classes: Vec<ClassStats>,
    write: Duration,
    read: Duration,
}

fn measure<'a>(
    pages: impl Iterator<Item = &'a PageBytes>,
    config: Config,
) -> anyhow::Result<Measured> {
    let memory = config
        .memory_bytes()
        .map_err(anyhow::Error::from)
        .and_then(|bytes| Ok(Memory::anonymous(bytes)?))
        .context("no memory for the sample")?;
    let store = Arc::new(Store::create(config, memory).context("cannot make a store")?);
    let mut worker = store.worker();
    let mut write = |(index, page): &(u64, &PageBytes)| {
        worker.write(*index, page).context("cannot store a page")
    };
    let clock = || sys::thread_time().context("cannot tell the time");
    let (same, others): (Vec<_>, Vec<_>) = (0..)
        .zip(pages)
        .partition(|(_, page)| page_same_filled(page).is_some());
    same.iter().try_for_each(&mut write)?;
    let begin = clock()?;
    others.iter().try_for_each(&mut write)?;
    let written = clock()?;
    let mut back = [0; PAGE_SIZE];
    for (index, _) in &others {
        worker
            .read(*index, &mut back)
            .context("cannot read a page back")?;
    }
    let read = clock()?;
    for (index, page) in same.iter().chain(&others) {
        worker
            .read(*index, &mut back)
            .context("cannot read a page back")?;
        ensure!(
            back == **page,
            "a page came back with other bytes: that must not be"
        );
    }
    Ok(Measured {
        stats: store.stats(),
        classes: store.classes(),
        write: written - begin,
        read: read - written,
    })
}

fn bytes_of(pages: &[PageBytes]) -> u64 {
    (pages.len() * PAGE_SIZE) as u64
}

fn describe(report: &Report) -> String {
    let Report {
        processes,
        pages,
        sampled_pages,
        same_pages,
        ..
    } = report;
    let bytes = pages * PAGE_SIZE as u64;
    let plural = if *processes == 1 { "" } else { "es" };
    let mut text = format!(
        "{processes} process{plural}: {pages} pages ({}) could be swapped out; of {sampled_pages} \
         that were looked at {:.1}% are same-filled\n",
        format_size(bytes),
        100.0 * *same_pages as f64 / *sampled_pages as f64
    );
    if report.forbidden_processes > 0 {
        // A string takes everything.
        let _ = writeln!(
            text,
            "{} more could not be looked at: that is not permitted here",
            report.forbidden_processes
        );
    }
    let mut table = Table::new(&[
        ("ALGORITHM", Align::Left),
        ("RATIO", Align::Right),
        ("EXPECTED", Align::Right),
        ("MEMORY", Align::Right),
        ("SAVED", Align::Right),
        ("WRITE s/GiB", Align::Right),
        ("READ s/GiB", Align::Right),
        ("EXPECTED", Align::Right),
    ]);
    let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.2}"));
    for estimate in &report.algorithms {
        table.row(vec![
            estimate.asked.to_string(),
            number(estimate.ratio),
            number(estimate.expected.as_ref().and_then(|one| one.ratio)),
            format_size(estimate.memory_bytes),
            format_size(bytes.saturating_sub(estimate.memory_bytes)),
            number(estimate.write_cpu_seconds),
            number(estimate.read_cpu_seconds),
            number(estimate.expected.as_ref().and_then(|one| one.cpu_seconds)),
        ]);
    }
    text.push_str(&table.render(true));
    if report.algorithms.iter().any(|one| one.expected.is_some()) {
        text.push_str(
            "EXPECTED: by the model of adaptive; its seconds are WRITE and READ of the machine \
             that it was trained on\n",
        );
    }
    if let Some(learnt) = &report.dictionary {
        let _ = writeln!(text, "{learnt}");
    }
    for cluster in &report.clusters {
        let _ = writeln!(text, "{cluster}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use trueno_zram_adaptive::Favour;

    /// Pages of words, of noise, and same-filled ones, in turn.
    pub fn pages(count: usize) -> Vec<PageBytes> {
        let mut random = 1u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let page = |number: usize| match number % 4 {
            0 => [5; PAGE_SIZE],
            1 => std::array::from_fn(|_| next() as u8),
            _ => {
                let words = [
                    "page", "store", "kernel", "swap", "memory", "device", "codec",
                ];
                let mut text = String::new();
                while text.len() < PAGE_SIZE {
                    text.push_str(words[next() as usize % words.len()]);
                }
                std::array::from_fn(|at| text.as_bytes()[at])
            }
        };
        (0..count).map(page).collect()
    }

    fn lz4() -> Policy {
        Policy::new("lz4", None, None).unwrap()
    }

    fn whole(pages: &[PageBytes]) -> Stats {
        let config = lz4().store_config(bytes_of(pages)).unwrap();
        measure(pages.iter(), config).unwrap().stats
    }

    #[test]
    fn a_sample_tells_what_all_pages_take() {
        let all = pages(8192);
        let sample: Vec<PageBytes> = all.iter().skip(512).take(2048).copied().collect();
        let whole = whole(&all);
        let report = estimate(1, all.len() as u64, &sample, &[lz4()]).unwrap();
        let found = &report.algorithms[0];
        let near = |estimated: u64, true_value: u64| {
            let error = estimated as f64 / true_value as f64 - 1.0;
            assert!(error.abs() < 0.05, "{estimated} for {true_value}");
        };
        near(found.compressed_bytes, whole.compr_data_size);
        near(found.memory_bytes, whole.mem_used_total + whole.table_bytes);
        near(found.huge_pages, whole.huge_pages);
        assert_eq!(report.same_pages, 512);
        assert!(found.write_cpu_seconds > Some(0.0) && found.read_cpu_seconds > Some(0.0));
    }

    #[test]
    fn memory_is_told_from_few_pages_that_compress_well() {
        let text = |number: usize| -> PageBytes {
            let words = format!("line {number} of a log that says the same again and again\n");
            std::array::from_fn(|at| words.as_bytes()[at % words.len()])
        };
        let all: Vec<PageBytes> = (0..16384).map(text).collect();
        let whole = whole(&all);
        assert!(whole.orig_data_size > 10 * whole.compr_data_size);
        let sample: Vec<PageBytes> = all.iter().step_by(64).copied().collect();
        let report = estimate(1, all.len() as u64, &sample, &[lz4()]).unwrap();
        let real = (whole.mem_used_total + whole.table_bytes) as f64;
        let error = report.algorithms[0].memory_bytes as f64 / real - 1.0;
        assert!(error.abs() < 0.05, "{error}");
    }

    #[test]
    fn same_filled_pages_have_no_ratio_and_no_speed() {
        let report = estimate(1, 64, &[[3; PAGE_SIZE]; 16], &[lz4()]).unwrap();
        let found = &report.algorithms[0];
        assert_eq!(
            (report.same_pages, found.ratio, found.write_cpu_seconds),
            (16, None, None)
        );
        assert_eq!(found.memory_bytes, 64 * ENTRY_BYTES);
        assert!(describe(&report).contains(" - "));
    }

    #[test]
    fn what_the_model_expects_stands_beside_what_is_true() {
        let sample = pages(256);
        let named = |name, favour| Policy::new(name, favour, None).unwrap();
        let policies = [
            lz4(),
            named("lz4hc", None),
            named("adaptive", Some("speed")),
        ];
        let report = estimate(1, 512, &sample, &policies).unwrap();
        let [one, unknown, adaptive] = &report.algorithms[..] else {
            panic!("{report:?}")
        };
        assert!(unknown.expected.is_none());
        let selector = ModelSelector::new(Favour::Speed, &CANDIDATES).unwrap();
        let (mut bytes, mut ns) = ([0; 2], 0);
        for page in sample
            .iter()
            .filter(|page| page_same_filled(page).is_none())
        {
            let explanation = selector.explain(page);
            for (name, expected, _) in &explanation.considered {
                if *name == Algorithm::Lz4 {
                    bytes[0] += u64::from(expected.bytes);
                    ns += u64::from(expected.ns);
                }
                if *name == explanation.chosen {
                    bytes[1] += u64::from(expected.bytes);
                }
            }
        }
        let expected = one.expected.as_ref().unwrap();
        assert_eq!(expected.compressed_bytes, 2 * bytes[0]);
        let ratio = (256 * PAGE_SIZE) as f64 / bytes[0] as f64;
        assert_eq!(expected.ratio, Some(ratio));
        // 192 pages are not same-filled.
        let seconds = ns as f64 / 1e9 * GIB / (192 * PAGE_SIZE) as f64;
        assert!((expected.cpu_seconds.unwrap() / seconds - 1.0).abs() < 1e-9);
        let expected = adaptive.expected.as_ref().unwrap();
        assert_eq!(expected.compressed_bytes, 2 * bytes[1]);
        assert!(describe(&report).contains("by the model of adaptive"));
    }
}
