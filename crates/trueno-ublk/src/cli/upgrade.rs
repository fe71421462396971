//! `upgrade`: has this program go on with a device that an earlier version of it serves.

use super::{Failure, device, output};
use crate::control::client;
use crate::control::protocol::{Info, Op};
use crate::daemon::RunDir;
use anyhow::{Context as _, bail};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the new process may take from the old one's end to its first answer.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: device::Named,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let run_dir = RunDir::from_environment();
    let info = device::find_serving(&run_dir, &args.device.name)?;
    let program = std::env::current_exe().context("cannot find out which program this is")?;
    let socket = run_dir.socket(info.id);
    let successor: u32 = client::request_as(&socket, &Op::HandOver { program })?;
    let info = first_answer(&socket, info.id, successor)?;
    if args.json {
        output::print_json(&info)?;
    } else {
        output::print(&format!(
            "{} is served by process {}, version {}\n",
            info.name.display(),
            info.pid,
            info.version
        ))?;
    }
    Ok(())
}

/// What the process `successor` says, when it serves.
fn first_answer(socket: &Path, id: u32, successor: u32) -> anyhow::Result<Info> {
    let begin = Instant::now();
    loop {
        match client::request_as::<Info>(socket, &Op::Info) {
            Ok(info) if info.pid == successor => return Ok(info),
            _ if begin.elapsed() > LIMIT => bail!(
                "process {successor} has not gone on with device {id} within {} s: see its log, \
                 and try `trueno-ublk recover {id}`",
                LIMIT.as_secs()
            ),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
