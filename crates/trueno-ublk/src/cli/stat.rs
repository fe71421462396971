//! `stat`: everything a device says of itself.

use super::device::{self, Standing};
use super::{Failure, output};
use crate::control::client;
use crate::control::protocol::{Info, Op, ScrubPhase, Stat};
use crate::daemon::RunDir;
use crate::daemon::harden;
use clap::builder::NonEmptyStringValueParser;
use trueno_zram_cli::human::{format_ratio, format_size};
use trueno_zram_cli::table::{Align, Table};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The device: its number or its path; may be left out if there is only one
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    device: Option<String>,
    /// Print the nine numbers of the kernel's mm_stat
    #[arg(long, group = "form")]
    mm_stat: bool,
    /// Print the four numbers of the kernel's io_stat
    #[arg(long, group = "form")]
    io_stat: bool,
    /// Print a JSON object with everything
    #[arg(long, group = "form")]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let run_dir = RunDir::from_environment();
    let info = match &args.device {
        Some(text) => device::find_serving(&run_dir, text)?,
        None => the_only_one(&run_dir)?,
    };
    let stat: Stat = client::request_as(&run_dir.socket(info.id), &Op::Stat)?;
    if args.json {
        output::print_json(&stat)?;
    } else if args.mm_stat {
        output::print(&(stat.mm_stat.line() + "\n"))?;
    } else if args.io_stat {
        output::print(&(stat.io_stat.line() + "\n"))?;
    } else {
        output::print(&describe(&stat))?;
    }
    Ok(())
}

fn the_only_one(run_dir: &RunDir) -> Result<Info, Failure> {
    let mut serving = Vec::new();
    let mut others = Vec::new();
    for found in device::all(run_dir)? {
        match found.standing {
            Standing::Serving(info) => serving.push(*info),
            _ => others.push(found),
        }
    }
    match (serving.pop(), serving.len()) {
        (Some(info), 0) => Ok(info),
        (None, _) => Err(anyhow::Error::msg(match others.first() {
            Some(found) => found.explain(),
            None => "there are no devices: `trueno-ublk create` makes one".to_string(),
        })
        .into()),
        (Some(_), others) => Err(Failure::Usage(format!(
            "there are {} devices: name one of those that `trueno-ublk list` shows",
            others + 1
        ))),
    }
}

/// The numbers for people, a line each.
fn describe(stat: &Stat) -> String {
    let Stat {
        device,
        mm_stat: mm,
        io_stat: io,
        store,
        classes: _,
        chosen,
        hardening,
        standby,
        scrub,
    } = stat;
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let mut line = |name: &str, value: String| table.row(vec![name.to_string(), value]);
    let limit = if mm.mem_limit == 0 {
        "none".to_string()
    } else {
        format_size(mm.mem_limit)
    };
    line(
        "device",
        format!("{} (id {})", device.name.display(), device.id),
    );
    line(
        "transport",
        format!("{}: {}", device.transport, device.transport_reason),
    );
    line("disksize", format_size(device.disksize));
    line("algorithm", device.asked.to_string());
    line(
        "data",
        format!(
            "{} in {} pages",
            format_size(mm.orig_data_size),
            store.pages_stored
        ),
    );
    line("compressed", format_size(mm.compr_data_size));
    line(
        "memory used",
        format!(
            "{} (most {}, limit {limit})",
            format_size(mm.mem_used_total),
            format_size(mm.mem_used_max)
        ),
    );
    line("ratio", format_ratio(mm.orig_data_size, mm.mem_used_total));
    line(
        "same-filled pages",
        format!("{} (zero {})", mm.same_pages, store.zero_pages),
    );
    line(
        "compressed pages",
        format!("{} ({} objects)", store.compressed_pages, store.objects),
    );
    line(
        "huge pages",
        format!("{} (ever {})", mm.huge_pages, mm.huge_pages_since),
    );
    if chosen.len() > 1 || store.skipped_pages > 0 {
        for one in chosen {
            // Counted while they change: one may be ahead.
            let made = one.pages.saturating_sub(one.in_vain) * 4096;
            line(
                &format!("chosen {}", one.algorithm),
                format!(
                    "{} pages, ratio {}, {} in vain",
                    one.pages,
                    format_ratio(made, one.bytes),
                    one.in_vain
                ),
            );
        }
        line("chosen none", format!("{} pages", store.skipped_pages));
    }
    line("pages read", store.pages_read.to_string());
    line("pages written", store.pages_written.to_string());
    line("pages discarded", io.notify_free.to_string());
    line(
        "failed reads",
        format!(
            "{} ({} times an object was found damaged)",
            io.failed_reads, store.damaged_objects
        ),
    );
    line(
        "failed writes",
        format!(
            "{} ({} for the limit, {} for want of memory)",
            io.failed_writes, store.failed_limit, store.failed_memory
        ),
    );
    line("invalid requests", io.invalid_io.to_string());
    if let Some(scrub) = scrub {
        let phase = match scrub.phase {
            ScrubPhase::Running => {
                let passed = u128::from(scrub.position) * 100;
                format!("{} % passed", passed / u128::from(device.disksize.max(1)))
            }
            ScrubPhase::Done => "done".to_string(),
            ScrubPhase::Stopped => "stopped".to_string(),
        };
        line("scrub", format!("{phase}: {scrub}"));
    }
    if let Some(pid) = standby {
        line("standby", format!("process {pid}"));
    }
    line("page table", format_size(store.table_bytes));
    line("slab states", format_size(store.overhead_bytes));
    line("resident", format_size(hardening.resident_bytes));
    describe_hardening(hardening, &mut line);
    table.render(false)
}

fn describe_hardening(hardening: &harden::Report, line: &mut impl FnMut(&str, String)) {
    if hardening.reserve_target > 0 {
        line(
            "reserve",
            format!(
                "{} of {} (lowest {})",
                format_size(hardening.reserve_bytes),
                format_size(hardening.reserve_target),
                format_size(hardening.reserve_lowest)
            ),
        );
    }
    line("out-of-memory score", hardening.oom_score_adj.to_string());
    if let (true, Some(bytes)) = (hardening.swap_mode, hardening.locked_bytes) {
        line("locked", format_size(bytes));
    }
    for thread in &hardening.threads {
        let flusher = if thread.io_flusher {
            ", IO_FLUSHER"
        } else {
            ""
        };
        line(
            &format!("thread {}", thread.name),
            format!("{} {}{flusher}", thread.scheduling, thread.priority),
        );
    }
    for faults in &hardening.queue_thread_faults {
        line(
            &format!("faults {}", faults.name),
            format!(
                "{} minor, {} major since the start",
                faults.minor.saturating_sub(faults.minor_at_start),
                faults.major.saturating_sub(faults.major_at_start)
            ),
        );
    }
    if let Some(uses) = hardening.heap_uses_on_io_threads {
        line("heap uses on I/O threads", uses.to_string());
    }
}
