//! `create`: from what was typed to a plan, and from the plan to a daemon that serves it.

use super::{Failure, daemon as daemon_command, output};
use crate::control::protocol::Info;
use crate::daemon::plan::{ALGORITHM, QUEUES_MAX, SWAP_PRIORITY, TransportWish};
use crate::daemon::policy::Policy;
use crate::daemon::{Errand, Plan, RunDir, Surroundings, Wishes, sys};
use crate::ublk::DEPTH_MAX;
use anyhow::Context as _;
use std::io;
use std::path::Path;
use trueno_zram_cli::human::{format_size, parse_size};
use trueno_zram_core::Algorithm;

/// What was typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size of the device: 8G, 512M, bytes, or a part of this machine's memory: ram/2
    #[arg(long)]
    size: String,
    /// How pages are compressed
    #[arg(
        long,
        default_value = ALGORITHM,
        help = format!(
            "How pages are compressed: adaptive, {}; with price=N Zstandard takes no more than N \
             nanoseconds for each byte that this saves",
            Algorithm::CODECS
        )
    )]
    algorithm: String,
    /// With --algorithm adaptive: speed, balanced (if not given), memory, or what a byte is worth in
    /// nanoseconds
    #[arg(long, value_name = "WHAT")]
    favour: Option<String>,
    /// Keep pages of more than so many bits of entropy per byte as they are; without BITS: 7
    #[arg(
        long,
        value_name = "BITS",
        value_parser = bits,
        num_args = 0..=1,
        default_missing_value = "7"
    )]
    entropy_routing: Option<f64>,
    /// I/O threads
    #[arg(
        long,
        value_name = "N",
        value_parser = number,
        help = format!("I/O threads, 1 to {QUEUES_MAX} [default: by the number of CPUs]")
    )]
    queues: Option<u64>,
    /// Requests under way per queue
    #[arg(
        long,
        value_name = "N",
        value_parser = number,
        help = format!("Requests under way per queue, 1 to {DEPTH_MAX} (ublk only)")
    )]
    depth: Option<u64>,
    /// The most memory that compressed data may take; writes beyond it fail
    #[arg(long, value_name = "SIZE")]
    mem_limit: Option<String>,
    /// Number of the device [default: the lowest that is free]
    #[arg(long, value_name = "N", value_parser = number)]
    dev_id: Option<u64>,
    /// Bytes of a logical block: 512 or 4096
    #[arg(long, value_name = "BYTES", value_parser = number, default_value_t = 4096)]
    block_size: u64,
    /// How the kernel reaches the device [default: ublk where there is one, else loop]
    #[arg(long, value_enum)]
    transport: Option<Transport>,
    /// Serve in this process, until it is told to end
    #[arg(long)]
    foreground: bool,
    /// Lock all memory and use the device as swap, with this priority [default: 100]
    #[arg(
        long,
        value_name = "PRIORITY",
        value_parser = number,
        num_args = 0..=1,
        default_missing_value = PRIORITY
    )]
    swap: Option<u64>,
    /// Memory to keep ready ahead of need [default with --swap: 32M]
    #[arg(long, value_name = "SIZE", conflicts_with = "populate")]
    reserve: Option<String>,
    /// Take all memory that the device can ever need at once
    #[arg(long)]
    populate: bool,
    /// With --swap: also on the loop transport
    #[arg(long)]
    force: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// `SWAP_PRIORITY`, as if typed.
const PRIORITY: &str = "100";
const _: () = assert!(SWAP_PRIORITY == 100);

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Transport {
    /// The kernel's ublk driver
    Ublk,
    /// A FUSE file below a loop device
    Loop,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let plan = plan(&args)?;
    if !sys::is_root() {
        return Err(anyhow::anyhow!("making a block device needs root: run it with sudo").into());
    }
    if args.foreground {
        daemon_command::start_log();
        let mut foreground = Foreground { json: args.json };
        Errand::Create(Box::new(plan)).run(&RunDir::from_environment(), &mut foreground)?;
    } else {
        let info = daemon_command::start(&Errand::Create(Box::new(plan)))?;
        announce(&info, args.json)?;
    }
    Ok(())
}

/// A whole number. Which ones are possible is for the plan to say.
fn number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "no whole number below 2^64".to_string())
}

/// A number of bits, with or without a fraction. Which ones are possible is for the policy to say.
fn bits(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "no number of bits".to_string())
}

/// What was typed, turned into what is meant. Touches nothing.
fn plan(args: &Args) -> Result<Plan, Failure> {
    let option = |name: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(parse_size).transpose();
        parsed.map_err(|error| Failure::Usage(format!("{name}: {error}")))
    };
    let policy = Policy::new(
        &args.algorithm,
        args.favour.as_deref(),
        args.entropy_routing,
    );
    let policy = policy.map_err(|error| Failure::Usage(error.to_string()))?;
    let wishes = Wishes {
        size: device_size(&args.size)?,
        policy: Some(policy),
        queues: args.queues,
        depth: args.depth,
        mem_limit: option("--mem-limit", &args.mem_limit)?,
        id: args.dev_id,
        block_size: args.block_size,
        transport: match args.transport {
            None => TransportWish::Auto,
            Some(Transport::Ublk) => TransportWish::Ublk,
            Some(Transport::Loop) => TransportWish::Loop,
        },
        swap: args.swap,
        reserve: option("--reserve", &args.reserve)?,
        populate: args.populate,
        force: args.force,
    };
    Plan::new(wishes).map_err(|error| Failure::Usage(error.to_string()))
}

/// Bytes that `--size` means: a size, or `ram` or `ram/N` in whole pages.
fn device_size(text: &str) -> Result<u64, Failure> {
    let usage = |sentence: String| Failure::Usage(format!("--size: {sentence}"));
    let Some(part) = text.strip_prefix("ram") else {
        return parse_size(text).map_err(|error| usage(error.to_string()));
    };
    let divisor = match part.strip_prefix('/') {
        None if part.is_empty() => Some(1),
        None => None,
        Some(number) => number.parse::<u64>().ok().filter(|n| *n > 0),
    };
    let Some(divisor) = divisor else {
        return Err(usage(format!(
            "{text:?} is no part of the memory: give ram, ram/2, ram/4, …"
        )));
    };
    let total = memory_total().context("cannot find out how much memory there is")?;
    Ok(total / divisor / 4096 * 4096)
}

/// Bytes of memory of this machine.
fn memory_total() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    Ok(kib.context("no MemTotal in /proc/meminfo")? << 10)
}

/// The daemon's code in this process.
struct Foreground {
    json: bool,
}

impl Surroundings for Foreground {
    fn numbered(&mut self, _log: &Path, _goes_on: bool) -> anyhow::Result<()> {
        Ok(())
    }

    fn ready(&mut self, info: &Info) -> anyhow::Result<()> {
        Ok(announce(info, self.json)?)
    }

    fn standing(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// The device's name, its transport and why that one, and what to do next.
pub fn announce(info: &Info, json: bool) -> io::Result<()> {
    if json {
        output::print_json(info)
    } else {
        output::print(&announcement(info))
    }
}

/// The first line is the name alone, for scripts.
fn announcement(info: &Info) -> String {
    let Info {
        id,
        transport,
        transport_reason,
        asked,
        ..
    } = info;
    let name = info.name.display();
    let size = format_size(info.disksize);
    let mut text = format!(
        "{name}\n\
         device {id}: {size}, {asked}\n\
         {transport}: {transport_reason}\n"
    );
    match info.swap {
        Some(priority) => text.push_str(&format!(
            "swap is on, with priority {priority}\n\
             \n\
             look:    trueno-ublk stat {id}\n\
             remove:  swapoff {name} && trueno-ublk remove {id}\n"
        )),
        None => {
            text.push_str(&format!(
                "\n\
                 files:   mkfs.ext4 {name} && mount -o discard {name} /mnt\n"
            ));
            if info.transport == "ublk" {
                text.push_str(
                    "swap:    remove it, and create it with --swap, which locks its memory\n",
                );
            }
            text.push_str(&format!(
                "look:    trueno-ublk stat {id}\n\
                 remove:  umount {name}; trueno-ublk remove {id}\n"
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_memory_are_whole_pages() {
        let whole = device_size("ram").ok().unwrap();
        assert!(whole > 0 && whole.is_multiple_of(4096));
        let third = device_size("ram/3").ok().unwrap();
        assert!(third.is_multiple_of(4096) && whole / 3 - third < 4096);
        assert_eq!(device_size("8G").ok(), Some(8 << 30));
        for wrong in ["ram/0", "ram/x", "ramp", "ram/", "rom"] {
            assert!(
                matches!(device_size(wrong), Err(Failure::Usage(_))),
                "{wrong}"
            );
        }
    }
}
