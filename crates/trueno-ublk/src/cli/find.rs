//! `find`: the number that the next device will get.

use super::device::{refine, unreadable};
use super::{Failure, output};
use crate::daemon::{self, RunDir};
use crate::transport::Kind;
use crate::ublk;
use anyhow::Context as _;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let run_dir = RunDir::from_environment();
    // Only looks: loading the driver is a matter of `create`.
    let kind = if ublk::ctrl::available() {
        Kind::Ublk
    } else {
        Kind::Loop
    };
    let id = daemon::free_id(&run_dir, kind)
        .map_err(refine)
        .with_context(|| unreadable(&run_dir))?;
    if args.json {
        output::print_json(&serde_json::json!({ "id": id }))?;
    } else {
        output::print(&format!("{id}\n"))?;
    }
    Ok(())
}
