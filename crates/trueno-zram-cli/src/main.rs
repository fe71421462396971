//! `trueno-zram`: what the kernel's own zram devices are and hold.

#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use trueno_zram_cli::human::{format_ratio, format_size};
use trueno_zram_cli::sysfs::{SYS_BLOCK, ZramDevice, zram_devices};
use trueno_zram_cli::table::{Align, Table};
use trueno_zram_cli::{arguments, output};

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
    List(List),
}

#[derive(Args)]
struct List {
    /// Print one JSON array instead of a table
    #[arg(long, conflicts_with_all = ["bytes", "noheadings"])]
    json: bool,
    /// Print sizes in bytes
    #[arg(long, short)]
    bytes: bool,
    /// Leave out the heading
    #[arg(long, short)]
    noheadings: bool,
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

fn run(Command::List(list): &Command) -> anyhow::Result<()> {
    let devices = zram_devices(Path::new(SYS_BLOCK))?;
    if list.json {
        output::print_json(&devices)?;
    } else {
        output::print(&table(&devices, list.bytes).render(!list.noheadings))?;
    }
    Ok(())
}

/// zramctl's columns.
fn table(devices: &[ZramDevice], bytes: bool) -> Table {
    let size = |value: u64| {
        if bytes {
            value.to_string()
        } else {
            format_size(value)
        }
    };
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("DISKSIZE", Align::Right),
        ("DATA", Align::Right),
        ("COMPR", Align::Right),
        ("ALGORITHM", Align::Left),
        ("STREAMS", Align::Right),
        ("ZERO-PAGES", Align::Right),
        ("TOTAL", Align::Right),
        ("MEM-LIMIT", Align::Right),
        ("MEM-USED", Align::Right),
        ("RATIO", Align::Right),
        ("MOUNTPOINT", Align::Left),
    ]);
    for device in devices {
        let mm = &device.mm_stat;
        table.row(vec![
            device.name.clone(),
            size(device.disksize),
            size(mm.orig_data_size),
            size(mm.compr_data_size),
            device.algorithm.clone(),
            device.streams.map(|n| n.to_string()).unwrap_or_default(),
            mm.same_pages.to_string(),
            size(mm.mem_used_total),
            size(mm.mem_limit),
            size(mm.mem_used_max),
            format_ratio(mm.orig_data_size, mm.mem_used_total),
            device.mountpoint.clone(),
        ]);
    }
    table
}
