//! `trueno-zram`: what the kernel's own zram devices are and hold.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use trueno_zram_cli::list::Row;
use trueno_zram_cli::sysfs::{SYS_BLOCK, ZramDevice, zram_devices};
use trueno_zram_cli::{arguments, list, output};

/// Shows the kernel's zram devices
#[derive(Parser)]
#[command(name = "trueno-zram", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the zram devices with their memory and users
    List(list::Args),
}

fn main() -> ExitCode {
    let (sentence, status) = match arguments::parse::<Cli>() {
        Ok(cli) => match run(&cli.command) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (format!("{error:#}"), 1),
        },
        Err(usage) => (usage, 2),
    };
    // If not even this can be written, the status still says it.
    let _ = writeln!(std::io::stderr(), "trueno-zram: {sentence}");
    ExitCode::from(status)
}

fn run(Command::List(args): &Command) -> anyhow::Result<()> {
    let devices = zram_devices(Path::new(SYS_BLOCK))?;
    if args.json {
        output::print_json(&devices)?;
    } else {
        let rows = devices.into_iter().map(row).collect();
        output::print(&list::table(&[], rows, args.bytes).render(!args.noheadings))?;
    }
    Ok(())
}

fn row(device: ZramDevice) -> Row {
    Row {
        name: device.name,
        disksize: device.disksize,
        algorithm: device.algorithm,
        streams: device.streams,
        mm_stat: device.mm_stat,
        more: Vec::new(),
        mountpoint: device.mountpoint,
    }
}
