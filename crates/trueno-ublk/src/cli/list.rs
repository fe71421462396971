//! `list`: the devices, in zramctl's columns.

use super::device::{self, Found, Standing};
use super::{Failure, output};
use crate::control::client;
use crate::control::protocol::{Op, Stat};
use crate::daemon::RunDir;
use serde_json::{Value, json};
use std::io::Write as _;
use trueno_zram_cli::list;
pub use trueno_zram_cli::list::Args;
use trueno_zram_cli::table::{Align, Table};
use trueno_zram_cli::usage::Usage;

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
        if let Standing::Failed(_) | Standing::Dead = &found.standing {
            object["recoverable"] = found.kept.into();
        }
        all.push(object);
    }
    Ok(all.into())
}

fn table(rows: &[Row], bytes: bool) -> Table {
    let rows = rows.iter().map(|Row { stat, usage }| {
        let info = &stat.device;
        list::Row {
            name: info.name.display().to_string(),
            disksize: info.disksize,
            algorithm: info.asked.to_string(),
            streams: Some(info.streams as u64),
            mm_stat: stat.mm_stat,
            more: vec![info.id.to_string(), info.transport.clone()],
            mountpoint: usage.column(),
        }
    });
    // The number is not that of a loop device, and commands take it.
    let more = [("ID", Align::Right), ("TRANSPORT", Align::Left)];
    list::table(&more, rows.collect(), bytes)
}
