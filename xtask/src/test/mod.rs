//! Runs every test and says what passed, failed and was skipped.
//!
//! Three kinds: Rust tests (`cargo test --workspace`); `tests/native/*.sh`, system tests on this
//! machine; `tests/vm/*.sh`, system tests in guests. System tests run one after the other: two at
//! a time would disturb each other's timing.

mod header;
mod summary;

use crate::initramfs::Content;
use crate::vm::{self, End, Guest};
use crate::{corpus, guest_bins, packages, process, workspace};
use anyhow::{Context as _, Result, bail};
use header::Header;
pub use header::Tier;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use summary::{Outcome, Summary};

#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name contains this; the Rust tests are called `rust`
    #[arg(long)]
    only: Option<String>,
    /// The longest tier to run: short, medium or long
    #[arg(long, default_value = "long")]
    pub tier: Tier,
    /// Show what system tests print while they run
    #[arg(long, short)]
    verbose: bool,
    /// Name the tests and their claims, and run none
    #[arg(long)]
    list: bool,
}

impl Args {
    /// Every test up to a tier.
    pub fn up_to(tier: Tier) -> Self {
        Self {
            only: None,
            tier,
            verbose: false,
            list: false,
        }
    }

    fn selects(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|part| name.contains(part.as_str()))
    }
}

/// A system test: a script with its header.
struct Script {
    name: String,
    path: PathBuf,
    header: Header,
}

/// The `test` task.
pub fn run(args: &Args) -> Result<()> {
    let native = scripts("tests/native", "native", args)?;
    let guests = scripts("tests/vm", "vm", args)?;
    if args.list {
        for script in native.iter().chain(&guests) {
            println!(
                "{} ({}): {}",
                script.name, script.header.tier, script.header.claim
            );
        }
        return Ok(());
    }
    let mut summary = Summary::default();
    if args.selects("rust") {
        rust(&mut summary)?;
    }
    if !native.is_empty() {
        run_native(&native, args, &mut summary)?;
    }
    for script in &guests {
        run_in_guests(script, args, &mut summary);
    }
    if summary.is_empty() {
        bail!(
            "no test is called like `{}`",
            args.only.as_deref().unwrap_or_default()
        );
    }
    print!("{summary}");
    if summary.failed() > 0 {
        bail!("{} failed", summary.failed());
    }
    if summary.skipped() > 0 && workspace::is_ci() {
        bail!(
            "{} skipped, which CI=true does not allow",
            summary.skipped()
        );
    }
    Ok(())
}

/// The selected scripts of a directory, by name.
fn scripts(directory: &str, prefix: &str, args: &Args) -> Result<Vec<Script>> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(workspace::root().join(directory)) else {
        return Ok(found);
    };
    for entry in entries {
        let path = entry?.path();
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.extension().is_none_or(|extension| extension != "sh") || stem == "lib" {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let header = Header::parse(&text)
            .with_context(|| format!("bad header in {}", workspace::relative(&path).display()))?;
        let name = format!("{prefix}/{stem}");
        if args.selects(&name) && header.tier <= args.tier {
            found.push(Script { name, path, header });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// `cargo test`, its output shown as it comes and its counts taken from it.
fn rust(summary: &mut Summary) -> Result<()> {
    println!("== rust");
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO"))
        .current_dir(workspace::root())
        .args(["test", "--workspace", "--no-fail-fast"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut counts = summary::RustCounts::default();
    let output = child
        .stdout
        .take()
        .context("cargo's output is not connected")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        counts.add_line(&line);
    }
    let success = child.wait()?.success();
    summary.add_rust(&counts, success, start.elapsed());
    Ok(())
}

fn run_native(scripts: &[Script], args: &Args, summary: &mut Summary) -> Result<()> {
    // In CI everything is built; by hand a build failure should not hide the other tests' verdicts.
    let built = packages::ensure(&["cc"]).and_then(|()| {
        process::run(
            Command::new(env!("CARGO"))
                .current_dir(workspace::root())
                .args(["build", "--quiet", "--release", "--package", "trueno-ublk"])
                .args(["--package", "trueno-zram-cli", "--package", "vm-guest"]),
        )
    });
    let logs = workspace::vm().join("log");
    std::fs::create_dir_all(&logs)?;
    for script in scripts {
        println!("== {}: {}", script.name, script.header.claim);
        let start = Instant::now();
        let outcome = match &built {
            Err(error) => Outcome::Failed(format!("{error:#}")),
            Ok(()) => native(script, args.verbose, &logs)
                .unwrap_or_else(|error| Outcome::Failed(format!("{error:#}"))),
        };
        summary.add(&script.name, outcome, start.elapsed());
    }
    Ok(())
}

/// Run one script on this machine with bash. It finds our programs first in `PATH`, the path of one
/// in `TRUENO_UBLK`, a directory of its own in `SCRATCH` (removed afterwards), and the page sample
/// in `PAGES` if its header asks for it. A line `report …` that it prints goes into the table.
fn native(script: &Script, verbose: bool, logs: &Path) -> Result<Outcome> {
    if !packages::is_root() {
        return Ok(Outcome::Skipped("needs root".into()));
    }
    let mut tools: Vec<&str> = vec!["timeout"];
    tools.extend(script.header.tools.iter().map(String::as_str));
    if let Err(error) = packages::ensure(&tools) {
        return Ok(Outcome::Skipped(format!("{error:#}")));
    }
    let log = logs.join(format!("{}.log", script.name.replace('/', "-")));
    let scratch = workspace::target().join(format!("scratch-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let release = workspace::target().join("release");
    let program = release.join("trueno-ublk");
    let mut path = release.into_os_string();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin:");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new("timeout");
    command
        .args([
            "--kill-after=10",
            &script.header.timeout.as_secs().to_string(),
            "bash",
        ])
        .arg(&script.path)
        .current_dir(workspace::root())
        .env("PATH", path)
        .env("TRUENO_UBLK", program)
        .env("SCRATCH", &scratch)
        .stdin(Stdio::null());
    if script.header.pages {
        command.env("PAGES", corpus::unpacked()?);
    }
    let output = std::fs::File::create(&log)?;
    command.stdout(output.try_clone()?).stderr(output);
    let status = command.status().context("cannot start timeout")?;
    std::fs::remove_dir_all(&scratch).ok();
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let reports = text.lines().filter_map(|line| line.strip_prefix("report "));
    if verbose {
        print!("{text}");
    } else if !status.success() {
        println!("{}", vm::tail(&log, 40));
    }
    Ok(match status.code() {
        Some(0) => Outcome::Passed(reports.map(str::to_owned).collect()),
        Some(124 | 137) => Outcome::Failed(format!("timed out, log {}", log.display())),
        _ => Outcome::Failed(format!("{status}, log {}", log.display())),
    })
}

/// Run one script on each kernel and memory size that its header names.
fn run_in_guests(script: &Script, args: &Args, summary: &mut Summary) {
    println!("== {}: {}", script.name, script.header.claim);
    for series in &script.header.kernels {
        for memory_mib in &script.header.memory_mib {
            let start = Instant::now();
            let name = format!("{} {series} {memory_mib}M", script.name);
            let outcome = if let Err(error) = vm::prepare(&script.header.tools) {
                Outcome::Skipped(format!("{error:#}"))
            } else if let Err(error) = crate::kernel::fetch(*series) {
                Outcome::Skipped(format!("{error:#}"))
            } else {
                content(script)
                    .and_then(|content| {
                        guest(&Guest {
                            series: *series,
                            memory_mib: *memory_mib,
                            cpus: script.header.cpus,
                            timeout: script.header.timeout,
                            content,
                            append: script.header.append.clone(),
                            name: script.name.replace('/', "-"),
                            verbose: args.verbose,
                        })
                    })
                    .unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")))
            };
            println!(
                "   {name}: {outcome} ({:.0} s)",
                start.elapsed().as_secs_f64()
            );
            summary.add(&name, outcome, start.elapsed());
        }
    }
}

fn content(script: &Script) -> Result<Content> {
    let header = &script.header;
    let mut content = Content {
        script: script.path.clone(),
        arguments: header.arguments.clone(),
        modules: header.modules.clone(),
        tools: header.tools.clone(),
        ..Content::default()
    };
    for bin in &header.bins {
        content.bins.push(guest_bins::resolve(bin)?);
    }
    if header.pages {
        content
            .files
            .push((corpus::unpacked()?, "/test/pages.raw".into()));
    }
    Ok(content)
}

/// A script's status for "too slow": a limit of time was missed, and nothing else. So much hangs
/// on what else the machine does that it may try once more.
const TOO_SLOW: i32 = 75;

/// What a kernel says that met the breakpoint it was patching itself with, which no program of ours
/// can make it do.
const PATCHED: &str = "Oops: int3";

/// How often a guest is booted whose kernel tripped over its own patching.
const BOOTS: u32 = 4;

/// Boot, and boot once more if the guest was too slow, or up to four times if it never came to its
/// script or panicked since emulated processors sometimes trip over a kernel that patches itself.
/// Anything else stands.
fn guest(guest: &Guest) -> Result<Outcome> {
    let mut verdict = vm::boot(guest)?;
    let tripped = |verdict: &vm::Verdict| {
        let log = std::fs::read(&verdict.log).unwrap_or_default();
        verdict.boot.is_none() || String::from_utf8_lossy(&log).contains(PATCHED)
    };
    for boot in 1..BOOTS {
        let again = match verdict.end {
            End::Exit(TOO_SLOW) => boot == 1,
            End::Panicked => tripped(&verdict),
            _ => false,
        };
        if !again {
            break;
        }
        let first = verdict.end.to_string();
        println!("   once more: {first}");
        verdict = vm::boot(guest)?;
        verdict
            .reports
            .push(format!("another_attempt_after={first:?}"));
    }
    if verdict.end == End::Exit(0) {
        return Ok(Outcome::Passed(verdict.reports));
    }
    if !guest.verbose {
        println!("{}", vm::tail(&verdict.log, 40));
    }
    let waited = Duration::from_secs(verdict.wall.as_secs());
    let log = workspace::relative(&verdict.log).display();
    Ok(Outcome::Failed(format!(
        "{} after {waited:?}, log {log}",
        verdict.end
    )))
}
