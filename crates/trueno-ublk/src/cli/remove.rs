//! `remove`: takes a device away, or what a dead daemon left of one.

use super::device::{self, Found};
use super::{Failure, output};
use crate::control::client;
use crate::control::protocol::{Info, Op, Removed};
use crate::daemon::{self, RunDir, sys};
use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;
use std::io::Write as _;
use trueno_zram_cli::usage::Usage;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The device: its number or its path
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    device: String,
    /// Also while it is mounted; swap is brought back to memory first
    #[arg(long)]
    force: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let run_dir = RunDir::from_environment();
    match device::find(&run_dir, &args.device)? {
        Found {
            info: Some(info), ..
        } => alive(&run_dir, &info, args.force),
        Found { id, info: None } => dead(&run_dir, id),
    }
}

fn alive(run_dir: &RunDir, info: &Info, force: bool) -> Result<(), Failure> {
    if force && Usage::of(&info.name).is_ok_and(|usage| usage.swap) {
        // Here and not in the daemon: the kernel ends first of all who calls swapoff, should
        // memory not suffice.
        sys::swapoff(&info.name)
            .with_context(|| format!("cannot take {} out of swap", info.name.display()))?;
    }
    let socket = run_dir.socket(info.id);
    let (removed, connection) = client::request_last::<Removed>(&socket, &Op::Remove { force })?;
    if let Some(warning) = removed.warning {
        // It goes, whoever hears it.
        let _ = writeln!(std::io::stderr(), "trueno-ublk: {warning}");
        return Ok(());
    }
    connection.wait_for_end();
    output::print(&format!("{} is gone\n", info.name.display()))?;
    Ok(())
}

fn dead(run_dir: &RunDir, id: u32) -> Result<(), Failure> {
    let number = run_dir
        .take(id)?
        .with_context(|| format!("device {id} is just being made"))?;
    daemon::clear_dead_ublk(id)?;
    drop(number);
    output::print(&format!(
        "what the dead daemon of device {id} left behind is gone\n"
    ))?;
    Ok(())
}
