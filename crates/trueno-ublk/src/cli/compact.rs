//! `compact`: moves what is stored together.

use super::{Failure, device, output};
use crate::control::client;
use crate::control::protocol::Op;
use crate::daemon::RunDir;
use trueno_zram_cli::human::format_size;

/// Move objects together wherever that frees memory, while the device is used
///
/// Where it frees much the daemon does so by itself; this looks everywhere, for single pages too.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    device: device::Named,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let run_dir = RunDir::from_environment();
    let info = device::find_serving(&run_dir, &args.device.name)?;
    let bytes: u64 = client::request_as(&run_dir.socket(info.id), &Op::Compact)?;
    let name = info.name.display();
    output::print(&format!("{name}: {} became free\n", format_size(bytes)))?;
    Ok(())
}
