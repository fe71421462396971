//! The command line: one file a subcommand, each with its arguments and what it does.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage. Errors are one sentence on standard error.

#![forbid(unsafe_code)]

mod compact;
mod create;
mod daemon;
mod device;
mod entropy;
mod estimate;
mod explain;
mod find;
mod list;
mod recover;
mod remove;
mod reset;
mod scrub;
mod stat;
mod upgrade;

use clap::{Parser, Subcommand};
use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;
use trueno_zram_cli::{arguments, output};

/// Compressed RAM disks and swap devices in user space
#[derive(Debug, Parser)]
#[command(name = "trueno-ublk", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a device and serve it in the background
    Create(create::Args),
    /// Take a device away, with all its data
    Remove(remove::Args),
    /// Go on with a device whose daemon died
    Recover(recover::Args),
    /// Have this version of the program go on with a device that another one serves
    Upgrade(upgrade::Args),
    /// Wipe all data of a device
    Reset(reset::Args),
    /// List the devices
    List(list::Args),
    /// Show how a device does
    Stat(stat::Args),
    Scrub(scrub::Args),
    Compact(compact::Args),
    /// Print the next free device id
    Find(find::Args),
    Entropy(entropy::Args),
    Estimate(estimate::Args),
    Explain(explain::Args),
    /// Serve the device that the errand on standard input describes
    #[command(hide = true)]
    Daemon,
}

// The argument of commands that look at a sample. A doc comment would become theirs.
#[derive(Debug, clap::Args)]
struct Sample {
    /// How many pages to look at, spread evenly over all
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 16384,
        value_parser = clap::value_parser!(u64).range(1..=1 << 20)
    )]
    pages: u64,
}

/// Why a command did not do what it was asked for.
enum Failure {
    /// What was typed makes no sense.
    Usage(String),
    /// It could not be done.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Failed(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(sentence) => f.write_str(sentence),
            Failure::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match arguments::parse::<Cli>().map(|cli| cli.command) {
        Err(usage) => Err(Failure::Usage(usage)),
        Ok(Command::Create(args)) => create::run(args),
        Ok(Command::Remove(args)) => remove::run(&args),
        Ok(Command::Recover(args)) => recover::run(&args),
        Ok(Command::Upgrade(args)) => upgrade::run(&args),
        Ok(Command::Reset(args)) => reset::run(&args),
        Ok(Command::List(args)) => list::run(&args),
        Ok(Command::Stat(args)) => stat::run(&args),
        Ok(Command::Scrub(args)) => scrub::run(&args),
        Ok(Command::Compact(args)) => compact::run(&args),
        Ok(Command::Find(args)) => find::run(&args),
        Ok(Command::Entropy(args)) => entropy::run(&args),
        Ok(Command::Estimate(args)) => estimate::run(&args),
        Ok(Command::Explain(args)) => explain::run(&args),
        // It reports to its parent itself, or to its log.
        Ok(Command::Daemon) => return daemon::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // If not even this can be written, the status still says it.
            let _ = writeln!(std::io::stderr(), "trueno-ublk: {failure}");
            ExitCode::from(if matches!(failure, Failure::Usage(_)) {
                2
            } else {
                1
            })
        }
    }
}
