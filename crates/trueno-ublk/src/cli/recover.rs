//! `recover`: goes on with a device whose daemon died.

use super::create::announce;
use super::device::{self, Found, Standing};
use super::{Failure, daemon as daemon_command};
use crate::daemon::{Errand, RunDir, sys};
use anyhow::bail;
use std::io::Write as _;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: device::Named,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    if !sys::is_root() {
        return Err(anyhow::anyhow!("recovering a device needs root: run it with sudo").into());
    }
    let run_dir = RunDir::from_environment();
    let found = device::find(&run_dir, &args.device.name)?;
    possible(&found)?;
    let info = daemon_command::start(&Errand::Recover(found.id))?;
    if let Some(old) = found.name.filter(|old| *old != info.name) {
        // A loop device: what it served is there, and what used it is not.
        let _ = writeln!(
            std::io::stderr(),
            "trueno-ublk: the data of {} is at {} now: unmount whatever uses the old device, which \
             answers with I/O errors, and mount the new one",
            old.display(),
            info.name.display()
        );
    }
    announce(&info, args.json)?;
    Ok(())
}

/// Refuses a device that nobody has to recover, or that nobody can.
fn possible(found: &Found) -> anyhow::Result<()> {
    let id = found.id;
    match &found.standing {
        Standing::Serving(info) => bail!(
            "device {id} needs no recovery: it is served by process {}",
            info.pid
        ),
        Standing::Starting | Standing::Ending => bail!(found.explain()),
        Standing::Dead | Standing::Failed(_) if !found.kept => bail!(
            "nothing of device {id} is left to go on with: `trueno-ublk remove {id}` cleans up \
             after it"
        ),
        Standing::Dead | Standing::Failed(_) => Ok(()),
    }
}
