//! `trueno-zram`: what the kernel's own zram devices are and hold.

#![forbid(unsafe_code)]

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use trueno_zram_cli::human::{format_ratio, format_size};
use trueno_zram_cli::sysfs::{SYS_BLOCK, ZramDevice, zram_devices};
use trueno_zram_cli::table::{Align, Table};

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
    let Command::List(list) = Cli::parse().command;
    match run(&list) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If not even this can be written, the status still says it.
            let _ = writeln!(std::io::stderr(), "trueno-zram: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(list: &List) -> anyhow::Result<()> {
    let devices = zram_devices(Path::new(SYS_BLOCK))?;
    let text = if list.json {
        serde_json::to_string_pretty(&devices).context("cannot write JSON")? + "\n"
    } else {
        table(&devices, list.bytes).render(!list.noheadings)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
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
