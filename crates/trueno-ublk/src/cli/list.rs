//! `list`: the devices, in zramctl's columns.

use super::device::{self, Found, Standing};
use super::{Failure, output};
use crate::control::client;
use crate::control::protocol::{Op, Stat};
use crate::daemon::RunDir;
use serde_json::{Value, json};
use std::io::Write as _;
use trueno_zram_cli::human::{format_ratio, format_size};
use trueno_zram_cli::table::{Align, Table};
use trueno_zram_cli::usage::Usage;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print a JSON array
    #[arg(long, conflicts_with_all = ["bytes", "noheadings"])]
    json: bool,
    /// Print sizes in bytes
    #[arg(long, short)]
    bytes: bool,
    /// Leave out the heading
    #[arg(long, short)]
    noheadings: bool,
}

/// A device that answers, and who uses it.
struct Row {
    stat: Stat,
    usage: Usage,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let run_dir = RunDir::from_environment();
    let mut rows = Vec::new();
    let mut others = Vec::new();
    for found in device::all(&run_dir)? {
        let Standing::Serving(info) = &found.standing else {
            others.push(found);
            continue;
        };
        // It may have been removed since it was found.
        if let Ok(stat) = client::request_as::<Stat>(&run_dir.socket(info.id), &Op::Stat) {
            let usage = Usage::of(&info.name).unwrap_or_default();
            rows.push(Row { stat, usage });
        }
    }
    if args.json {
        output::print_json(&as_json(&rows, &others)?)?;
        return Ok(());
    }
    output::print(&table(&rows, args.bytes).render(!args.noheadings))?;
    for found in others {
        // The table is what was asked for.
        let _ = writeln!(std::io::stderr(), "trueno-ublk: {}", found.explain());
    }
    Ok(())
}

fn as_json(rows: &[Row], others: &[Found]) -> anyhow::Result<Value> {
    let mut all = Vec::new();
    for Row { stat, usage } in rows {
        let mut object = serde_json::to_value(&stat.device)?;
        object["state"] = "alive".into();
        object["mm_stat"] = serde_json::to_value(stat.mm_stat)?;
        object["zero_pages"] = stat.store.zero_pages.into();
        object["mountpoints"] = json!(usage.mountpoints);
        object["swap_active"] = (!usage.swaps.is_empty()).into();
        object["holders"] = json!(usage.holders);
        all.push(object);
    }
    for found in others {
        let state = found.standing.word();
        let mut object = json!({ "id": found.id, "name": found.name, "state": state });
        if let Standing::Failed(cause) = &found.standing {
            object["failure"] = cause.as_str().into();
        }
        all.push(object);
    }
    Ok(all.into())
}

fn table(rows: &[Row], bytes: bool) -> Table {
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
        ("TRANSPORT", Align::Left),
        ("MOUNTPOINT", Align::Left),
    ]);
    for Row { stat, usage } in rows {
        let (info, mm) = (&stat.device, &stat.mm_stat);
        table.row(vec![
            info.name.display().to_string(),
            size(info.disksize),
            size(mm.orig_data_size),
            size(mm.compr_data_size),
            info.algorithm.clone(),
            info.streams.to_string(),
            // What zramctl calls so are the same-filled ones, zero or not.
            mm.same_pages.to_string(),
            size(mm.mem_used_total),
            size(mm.mem_limit),
            size(mm.mem_used_max),
            format_ratio(mm.orig_data_size, mm.mem_used_total),
            info.transport.clone(),
            usage.column(),
        ]);
    }
    table
}
