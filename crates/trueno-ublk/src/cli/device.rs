//! Which device is meant: `0`, `ublkb0`, `/dev/ublkb0`, `/dev/loop3`.

use crate::control::client;
use crate::control::protocol::{Info, Op};
use crate::daemon::RunDir;
use crate::daemon::rundir::State;
use anyhow::{Context as _, bail};
use std::io;
use std::path::Path;

/// A device that is there.
pub struct Found {
    /// Our number of it.
    pub id: u32,
    /// What its daemon says it is; none: its daemon is dead.
    pub info: Option<Info>,
}

/// All devices, by number.
pub fn all(run_dir: &RunDir) -> anyhow::Result<Vec<Found>> {
    let unreadable = || unreadable(run_dir);
    let mut found = Vec::new();
    for id in run_dir.ids().map_err(refine).with_context(unreadable)? {
        match run_dir.state(id).map_err(refine).with_context(unreadable)? {
            State::Alive => {
                // One that is starting does not answer yet, one that ends not any more.
                let info = client::request_as(&run_dir.socket(id), &Op::Info);
                found.extend(info.ok().map(|info| Found {
                    id,
                    info: Some(info),
                }));
            }
            State::Dead => found.push(Found { id, info: None }),
            State::Free => {}
        }
    }
    Ok(found)
}

/// The device that `text` means, dead or alive.
pub fn find(run_dir: &RunDir, text: &str) -> anyhow::Result<Found> {
    let name = text.strip_prefix("/dev/").unwrap_or(text);
    let number: Option<u32> = name.strip_prefix("ublkb").unwrap_or(name).parse().ok();
    let path = Path::new("/dev").join(name);
    for found in all(run_dir)? {
        let meant = match &found.info {
            // `/dev/loop3` names one thing, `3` another.
            Some(info) => {
                info.name == path || (name == text && Some(found.id) == name.parse().ok())
            }
            None => Some(found.id) == number,
        };
        if meant {
            return Ok(found);
        }
    }
    bail!("there is no device {text:?} of ours: `trueno-ublk list` shows those that exist")
}

/// Like [`find`], but alive.
pub fn find_alive(run_dir: &RunDir, text: &str) -> anyhow::Result<Info> {
    let found = find(run_dir, text)?;
    let id = found.id;
    found.info.with_context(|| dead(id))
}

/// What to say of a device whose daemon is gone.
pub fn dead(id: u32) -> String {
    format!("the daemon of device {id} is dead: `trueno-ublk remove {id}` cleans up after it")
}

/// What to say when the run directory cannot be looked into.
pub fn unreadable(run_dir: &RunDir) -> String {
    format!("cannot look into {}", run_dir.path().display())
}

/// Adds the remedy to the most likely cause.
pub fn refine(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            io::Error::new(error.kind(), format!("{error}: run it with sudo"))
        }
        _ => error,
    }
}
