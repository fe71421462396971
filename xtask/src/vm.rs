//! Boots a kernel in QEMU, runs a script in it, and returns the script's verdict.
//!
//! The guest has two serial lines, both written to files: the console is the log, the second one
//! carries the lines that decide (`up UPTIME RELEASE`, `report KEY VALUE`, `exit STATUS`).

use crate::accel::{self, Accel};
use crate::initramfs::{self, Content};
use crate::kernel::{self, Series};
use crate::{packages, process, workspace};
use anyhow::{Context as _, Result, bail};
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How many lines of the log are shown when something went wrong.
const TAIL_LINES: usize = 40;

#[derive(clap::Args)]
pub struct Args {
    /// The kernel: 6.12 or 7.x
    #[arg(long, default_value = "6.12")]
    kernel: Series,
    /// Memory in MiB
    #[arg(long, default_value_t = 512)]
    mem: u32,
    /// Processors
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Seconds after which the guest is ended and the run has failed
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Put a file or directory of this machine into the guest
    #[arg(long = "file", value_name = "HOST:GUEST")]
    files: Vec<String>,
    /// Put a program into the guest's /usr/bin; `trueno-ublk` and `vm-guest` are built first
    #[arg(long = "bin", value_name = "PATH")]
    bins: Vec<String>,
    /// Programs of this machine to put into the guest, installed here when missing
    #[arg(long, value_delimiter = ',')]
    tools: Vec<String>,
    /// Modules to load before the script starts
    #[arg(long, value_delimiter = ',', default_value = "ublk_drv,zram")]
    modules: Vec<String>,
    /// More words for the kernel's command line
    #[arg(long, default_value = "")]
    append: String,
    /// Show the log while the guest runs
    #[arg(long, short)]
    verbose: bool,
    /// The script, run by busybox sh
    script: PathBuf,
    /// For the script: NAME=VALUE is exported, anything else is an argument
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// A guest to boot.
pub struct Guest {
    pub series: Series,
    pub memory_mib: u32,
    pub cpus: u32,
    pub timeout: Duration,
    pub content: Content,
    /// More words for the kernel's command line.
    pub append: String,
    /// Names the log.
    pub name: String,
    pub verbose: bool,
}

/// How a guest ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The script ended with this status.
    Exit(i32),
    /// It had not ended when its time was up.
    TimedOut,
    /// The kernel panicked.
    Panicked,
    /// The guest went away without a word.
    Vanished,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(0) => f.write_str("passed"),
            Self::Exit(status) => write!(f, "script ended with status {status}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Panicked => f.write_str("kernel panic"),
            Self::Vanished => f.write_str("the guest ended without a verdict"),
        }
    }
}

/// What came of a guest.
pub struct Verdict {
    pub end: End,
    /// From the start of QEMU to the start of the script, if it got there.
    pub boot: Option<Duration>,
    /// `uname -r` in the guest.
    pub release: String,
    pub wall: Duration,
    /// What the script reported: `KEY VALUE`.
    pub reports: Vec<String>,
    pub log: PathBuf,
}

/// The `vm` task.
pub fn run(args: &Args) -> Result<()> {
    prepare(&args.tools)?;
    let mut content = Content {
        script: args.script.clone(),
        arguments: args.arguments.clone(),
        modules: args.modules.clone(),
        tools: args.tools.clone(),
        ..Content::default()
    };
    for bin in &args.bins {
        content.bins.push(crate::guest_bins::resolve(bin)?);
    }
    for pair in &args.files {
        let (here, there) = pair
            .split_once(':')
            .with_context(|| format!("--file {pair} is not of the form HOST:GUEST"))?;
        content.files.push((here.into(), there.into()));
    }
    let stem = args
        .script
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    let verdict = boot(&Guest {
        series: args.kernel,
        memory_mib: args.mem,
        cpus: args.cpus,
        timeout: Duration::from_secs(args.timeout),
        content,
        append: args.append.clone(),
        name: format!("vm-{stem}"),
        verbose: args.verbose,
    })?;
    if verdict.end != End::Exit(0) && !args.verbose {
        eprintln!("{}", tail(&verdict.log, TAIL_LINES));
    }
    for report in &verdict.reports {
        println!("{report}");
    }
    let boot = verdict.boot.map_or("never".into(), |time| {
        format!("{:.1} s", time.as_secs_f64())
    });
    eprintln!(
        "[{} · kernel {} · {} · script started after {boot} · {:.1} s in all · log {}]",
        verdict.end,
        verdict.release,
        accel::chosen()?.name(),
        verdict.wall.as_secs_f64(),
        workspace::relative(&verdict.log).display(),
    );
    match verdict.end {
        End::Exit(0) => Ok(()),
        End::Exit(status) => std::process::exit(status),
        end => bail!("{end}"),
    }
}

/// Bring whatever a guest with these tools needs.
pub fn prepare(tools: &[String]) -> Result<()> {
    let names: Vec<&str> = packages::FOR_GUESTS
        .iter()
        .copied()
        .chain(tools.iter().map(String::as_str))
        .collect();
    packages::ensure(&names)
}

/// Boot a guest and wait for its end.
pub fn boot(guest: &Guest) -> Result<Verdict> {
    let accel = accel::chosen()?;
    boot_with(guest, accel)
}

/// `boot` under a given accelerator.
pub fn boot_with(guest: &Guest, accel: Accel) -> Result<Verdict> {
    let kernel = kernel::fetch(guest.series)?;
    let directory = guest.series.directory();
    let logs = workspace::vm().join("log");
    std::fs::create_dir_all(&logs)?;
    let name = format!("{}-{}-{}M", guest.name, guest.series, guest.memory_mib);
    let log = logs.join(format!("{name}.log"));
    let line = logs.join(format!("{name}.verdict"));
    File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    File::create(&line)?;
    let initrd = Scratch(directory.join(format!("{name}-{}.cpio", std::process::id())));
    let mut archive = std::fs::read(initramfs::base(&kernel, &directory)?)?;
    archive.extend(initramfs::own(&guest.content)?);
    process::write_atomic(&initrd.0, &archive)?;
    drop(archive);

    // setpriv: the guest ends with us, however we end.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args(accel.arguments())
        .args([
            "-smp",
            &guest.cpus.to_string(),
            "-m",
            &guest.memory_mib.to_string(),
        ])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&initrd.0)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on tsc=reliable {}",
            guest.append
        ))
        .args(["-serial", &format!("file:{}", log.display())])
        .args(["-serial", &format!("file:{}", line.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().context("cannot start qemu-system-x86_64")?;
    let mut shown = File::open(&log)?;
    let mut boot = None;
    let timed_out = loop {
        let ended = child.try_wait()?.is_some();
        if boot.is_none() && Line::read(&line).up.is_some() {
            boot = Some(start.elapsed());
        }
        if guest.verbose {
            let mut text = Vec::new();
            shown.read_to_end(&mut text)?;
            std::io::stderr().write_all(&text)?;
        }
        if ended {
            break false;
        }
        if start.elapsed() > guest.timeout {
            child.kill()?;
            child.wait()?;
            break true;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let wall = start.elapsed();
    let mut complaint = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut complaint).ok();
    }
    if !complaint.trim().is_empty() {
        writeln!(
            File::options().append(true).open(&log)?,
            "qemu: {}",
            complaint.trim()
        )?;
    }
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let line = Line::read(&line);
    let end = if text.contains("Kernel panic - not syncing") {
        End::Panicked
    } else if let Some(status) = line.exit {
        End::Exit(status)
    } else if timed_out {
        End::TimedOut
    } else {
        End::Vanished
    };
    let release = line.up.unwrap_or(kernel.release);
    Ok(Verdict {
        end,
        boot,
        release,
        wall,
        reports: line.reports,
        log,
    })
}

/// A file that is removed when the run ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // If it stays, the next run of this name cannot be hurt by it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What the second serial line said.
#[derive(Default)]
struct Line {
    /// The kernel's release, once the script was about to start.
    up: Option<String>,
    exit: Option<i32>,
    reports: Vec<String>,
}

impl Line {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    /// Only whole lines count.
    fn parse(text: &str) -> Self {
        let mut line = Self::default();
        for words in text
            .split_inclusive('\n')
            .filter_map(|words| words.strip_suffix('\n'))
        {
            match words.trim_end_matches('\r').split_once(' ') {
                Some(("up", rest)) => line.up = rest.split(' ').nth(1).map(str::to_owned),
                Some(("exit", status)) => line.exit = status.parse().ok(),
                Some(("report", rest)) => line.reports.push(rest.to_owned()),
                _ => {}
            }
        }
        line
    }
}

/// The last lines of a log.
pub fn tail(log: &Path, count: usize) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_line_is_read_whole_lines_only() {
        let line = Line::parse("up 1.52 6.12.1-cloud\r\nreport gap_ms 20\nexit 3\n");
        assert_eq!(line.up.as_deref(), Some("6.12.1-cloud"));
        assert_eq!(line.exit, Some(3));
        assert_eq!(line.reports, ["gap_ms 20"]);
        assert_eq!(Line::parse("up 1.5 6.12\nexit 1").exit, None);
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        std::fs::write(&log, "a\r\nb\r\nc\r\n").unwrap();
        assert_eq!(tail(&log, 2), "b\nc");
        assert_eq!(tail(&log, 9), "a\nb\nc");
    }
}
