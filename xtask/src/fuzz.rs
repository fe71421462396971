//! Fuzzing: the targets of `fuzz/` look for inputs for which a property does not hold.
//!
//! libFuzzer asks the compiler for nothing but LLVM's coverage pass, which a stable one has as well.
//! Everything lies in `target/fuzz`:
//!
//! ```text
//! build/  address/     what cargo makes, without and with AddressSanitizer
//! seeds/               pages of the committed sample, and blocks of them
//! corpus/TARGET/       inputs that reached something new: the next run begins with them
//! findings/TARGET/     inputs for which the property does not hold
//! log/TARGET.log       what libFuzzer says
//! ```
//! All targets begin with the same inputs, those in `fuzz/seeds` among them.

use crate::{corpus, packages, process, vm, workspace};
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use trueno_zram_core::{Algorithm, PAGE_SIZE, Scratch, codec_for};

#[derive(clap::Args)]
pub struct Args {
    /// Targets, each a file in fuzz/fuzz_targets; all of them if none is named
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// How many targets run at a time; one for each processor if not given
    #[arg(long)]
    jobs: Option<usize>,
    /// With AddressSanitizer, which needs a nightly compiler
    #[arg(long)]
    address: bool,
    /// Run the targets with this input alone, to repeat a finding
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

impl Args {
    /// Every target for some seconds.
    pub fn all_for(seconds: u32) -> Self {
        Self {
            targets: Vec::new(),
            seconds,
            jobs: None,
            address: false,
            input: None,
        }
    }
}

/// What rustc is told: count the edges of the program, and show the fuzzer what is compared.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What libFuzzer is told. Blocks and pages are shorter than the longest input, and no input takes
/// more than milliseconds.
const OPTIONS: [&str; 3] = ["-max_len=5000", "-timeout=20", "-print_final_stats=1"];

/// How many pages of the sample are taken.
const SAMPLE_PAGES: usize = 50;

/// The `fuzz` task.
pub fn run(args: &Args) -> Result<()> {
    packages::ensure(&["cc", "c++"])?;
    let targets = chosen(&args.targets)?;
    let programs = build(args.address)?;
    if let Some(input) = &args.input {
        for target in &targets {
            process::run(Command::new(programs.join(target)).arg(input))?;
        }
        return Ok(());
    }

    let seeds = seeds()?;
    let jobs = match args.jobs {
        Some(0) => bail!("--jobs 0 runs nothing; 1 is the least"),
        Some(jobs) => jobs,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut findings = Vec::new();
    for group in targets.chunks(jobs) {
        let started: Vec<_> = group
            .iter()
            .map(|target| start(target, &programs, &seeds, args.seconds))
            .collect();
        for (target, child) in group.iter().zip(started) {
            findings.extend(finding(target, child?, args.address)?);
        }
    }
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    Ok(())
}

fn directory() -> PathBuf {
    workspace::target().join("fuzz")
}

fn log(target: &str) -> PathBuf {
    directory().join("log").join(format!("{target}.log"))
}

/// The targets called `names`, or all of them.
fn chosen(names: &[String]) -> Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    for entry in fs::read_dir(workspace::root().join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        all.extend(path.file_stem().map(|stem| stem.to_string_lossy().into()));
    }
    all.sort();
    if let Some(name) = names.iter().find(|name| !all.contains(name)) {
        bail!("no target `{name}`; there are {}", all.join(", "));
    }
    Ok(if names.is_empty() {
        all
    } else {
        names.to_vec()
    })
}

/// Builds all targets and says in which directory they are.
fn build(address: bool) -> Result<PathBuf> {
    let mut flags = COVERAGE.to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    if address {
        flags.push_str(" -Zsanitizer=address");
        cargo = Command::new("rustup");
        cargo.args(["run", "nightly", "cargo"]);
        // Otherwise GCC's part of it takes a constant of libzstd for a variable out of scope.
        cargo.env("CFLAGS", "-fno-sanitize-address-use-after-scope");
    }
    let built = directory().join(if address { "address" } else { "build" });
    // A target that is named keeps the flags away from build scripts.
    let machine = machine()?;
    cargo
        .current_dir(workspace::root())
        .args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml"])
        .args(["--target", &machine])
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", &built);
    process::run(&mut cargo).with_context(|| {
        if address {
            "AddressSanitizer needs a nightly compiler: rustup toolchain install nightly"
        } else {
            "the fuzz targets cannot be built"
        }
    })?;
    Ok(built.join(machine).join("release"))
}

/// What rustc calls this machine.
fn machine() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = process::text(Command::new(rustc).arg("-vV"))?;
    let mut lines = said.lines();
    let host = lines.find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// Makes the inputs that all targets begin with: pages of the sample, and blocks of them.
fn seeds() -> Result<PathBuf> {
    let seeds = directory().join("seeds");
    fs::create_dir_all(&seeds)?;
    let sample = fs::read(corpus::unpacked()?)?;
    let (pages, _) = sample.as_chunks::<PAGE_SIZE>();
    let (mut scratch, mut out) = (Scratch::new(), [0; 2 * PAGE_SIZE]);
    let each = pages.len().div_ceil(SAMPLE_PAGES).max(1);
    for (number, page) in pages.iter().enumerate().step_by(each) {
        fs::write(seeds.join(format!("page-{number}")), page)?;
        for algorithm in [Algorithm::Lz4, Algorithm::Zstd1] {
            let codec = codec_for(algorithm)?.context("it has a codec")?;
            if let Some(length) = codec.compress(page, &mut out, &mut scratch) {
                fs::write(seeds.join(format!("{algorithm}-{number}")), &out[..length])?;
            }
        }
    }
    Ok(seeds)
}

/// Starts a target.
fn start(target: &str, programs: &Path, seeds: &Path, seconds: u32) -> Result<Child> {
    let corpus = directory().join("corpus").join(target);
    let findings = directory().join("findings").join(target);
    for path in [&corpus, &findings, &directory().join("log")] {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let log = File::create(log(target))?;
    Command::new(programs.join(target))
        .args(OPTIONS)
        .arg(format!("-max_total_time={seconds}"))
        // What libFuzzer begins the name of a finding with: the slash makes it a directory.
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .args([&corpus, seeds, &workspace::root().join("fuzz/seeds")])
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {target}"))
}

/// Waits for a target, and says what it found.
fn finding(target: &str, mut child: Child, address: bool) -> Result<Option<String>> {
    let status = child.wait()?;
    let log = log(target);
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let after = |word: &str| text.lines().find_map(|line| line.split_once(word));
    if status.success() {
        let (_, runs) = after("Done ").unwrap_or_default();
        let (_, reached) = after("DONE ").unwrap_or_default();
        println!("{target}: {runs}; {}", reached.trim());
        return Ok(None);
    }
    println!("{}", vm::tail(&log, 60));
    let Some((_, input)) = after("Test unit written to ") else {
        bail!("{target}: {status}, log {}", log.display());
    };
    let address = if address { " --address" } else { "" };
    Ok(Some(format!(
        "{target} has a finding, {input}\n  repeat it: cargo xtask fuzz {target}{address} --input \
         {input}\n  keep it:   cp {input} fuzz/seeds/, under a name that says what it is"
    )))
}
