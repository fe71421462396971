//! `remove`: takes a device away, or what a dead daemon left of one.

use super::device::{self, Found, Standing};
use super::{Failure, output};
use crate::control::client::{self, ClientError};
use crate::control::protocol::{Info, Op, Removed};
use crate::daemon::in_use::explain;
use crate::daemon::rundir::State;
use crate::daemon::{self, RunDir, sys};
use anyhow::{Context as _, bail, ensure};
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};
use trueno_zram_cli::usage::Usage;

/// How long another `remove` of the same device may take from its end to ours.
const END_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: device::Named,
    /// Also while it is mounted; swap of a living daemon is brought back to memory first
    #[arg(long)]
    force: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let run_dir = RunDir::from_environment();
    let found = device::find(&run_dir, &args.device.name)?;
    match &found.standing {
        Standing::Serving(info) => serving(&run_dir, info, args.force)?,
        Standing::Starting => return Err(anyhow::anyhow!(found.explain()).into()),
        Standing::Ending => others_end(&run_dir, &found)?,
        Standing::Dead | Standing::Failed(_) => dead(&run_dir, &found, args.force)?,
    }
    Ok(())
}

fn serving(run_dir: &RunDir, info: &Info, force: bool) -> anyhow::Result<()> {
    if force {
        // Here and not in the daemon: the kernel ends first of all who calls swapoff, should
        // memory not suffice.
        for area in Usage::of(&info.name).map_or_else(|_| Vec::new(), |usage| usage.swaps) {
            sys::swapoff(&area)
                .with_context(|| format!("cannot take {} out of swap", area.display()))?;
        }
    }
    let socket = run_dir.socket(info.id);
    match client::request_last::<Removed>(&socket, &Op::Remove { force }) {
        Ok((removed, connection)) => {
            if let Some(warning) = removed.warning {
                // It goes, whoever hears it.
                let _ = writeln!(std::io::stderr(), "trueno-ublk: {warning}");
            }
            connection.wait_for_end();
            say(&info.name, &removed.remains)
        }
        // Its end broke the conversation off: somebody else removed it.
        Err(error) if is_end(&error) && ended(run_dir, info.id)? => say(&info.name, &[]),
        Err(error) => Err(error.into()),
    }
}

/// Whether a conversation failed as it does when the daemon ends.
fn is_end(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } => true,
        ClientError::Talk(source) => matches!(
            source.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        ),
        _ => false,
    }
}

/// Waits for a device that somebody else removes.
fn others_end(run_dir: &RunDir, found: &Found) -> anyhow::Result<()> {
    if !ended(run_dir, found.id)? {
        bail!(
            "device {} is being removed, and has not ended within {} s",
            found.id,
            END_LIMIT.as_secs()
        );
    }
    match &found.name {
        Some(name) => say(name, &[]),
        None => Ok(output::print(&format!("device {} is gone\n", found.id))?),
    }
}

/// Whether nothing is left of a device whose daemon ends, waiting for that.
fn ended(run_dir: &RunDir, id: u32) -> anyhow::Result<bool> {
    let begin = Instant::now();
    loop {
        match run_dir.state(id)? {
            State::Free => return Ok(true),
            State::Alive if begin.elapsed() < END_LIMIT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            State::Alive | State::Dead => return Ok(false),
        }
    }
}

fn dead(run_dir: &RunDir, found: &Found, force: bool) -> anyhow::Result<()> {
    let id = found.id;
    if let (Some(name), true, false) = (&found.name, found.kept, force) {
        // Opening it to ask could wait for requests that nobody serves.
        let usage = Usage::of(name).unwrap_or_default();
        ensure!(
            usage.is_free(),
            "{}; or go on with its data by `trueno-ublk recover {id}`, or give it up by \
             `trueno-ublk remove --force {id}`",
            explain(name, &usage)
        );
    }
    let number = run_dir
        .take(id)?
        .with_context(|| format!("device {id} is just being made"))?;
    let remains = daemon::clear_dead(run_dir, &number)?;
    drop(number);
    if remains.is_empty() {
        output::print(&format!(
            "what the dead daemon of device {id} left behind is gone\n"
        ))?;
        return Ok(());
    }
    output::print(&(remains.join("\n") + "\n"))?;
    Ok(())
}

/// That the device is gone, or what remains of it.
fn say(name: &Path, remains: &[String]) -> anyhow::Result<()> {
    if remains.is_empty() {
        output::print(&format!("{} is gone\n", name.display()))?;
        return Ok(());
    }
    output::print(&(remains.join("\n") + "\n"))?;
    Ok(())
}
