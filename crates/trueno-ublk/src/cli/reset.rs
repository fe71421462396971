//! `reset`: wipes all data of a device that nobody uses.

use super::{Failure, device, output};
use crate::control::client;
use crate::control::protocol::Op;
use crate::daemon::RunDir;
use serde_json::Value;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: device::Named,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let run_dir = RunDir::from_environment();
    let info = device::find_serving(&run_dir, &args.device.name)?;
    client::request_as::<Value>(&run_dir.socket(info.id), &Op::Reset)?;
    output::print(&format!("{} is empty\n", info.name.display()))?;
    Ok(())
}
