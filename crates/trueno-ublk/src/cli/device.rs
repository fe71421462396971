//! Which device is meant: `0`, `ublkb0`, `/dev/ublkb0`, `/dev/loop3`.

use crate::control::client;
use crate::control::protocol::{Info, Op};
use crate::daemon::RunDir;
use crate::daemon::rundir::{Phase, State};
use anyhow::{Context as _, bail};
use clap::builder::NonEmptyStringValueParser;
use std::io;
use std::path::{Path, PathBuf};

// The argument of commands that are about one device. A doc comment would become theirs.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// The device: its number or its path
    #[arg(
        id = "device",
        value_name = "DEVICE",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub name: String,
}

/// A device that is there.
pub struct Found {
    /// Our number of it.
    pub id: u32,
    /// The block device, where that is known.
    pub name: Option<PathBuf>,
    /// How it is.
    pub standing: Standing,
    /// Whether its data is there for another daemon, should its own be dead.
    pub kept: bool,
}

/// How a device is.
pub enum Standing {
    /// Its daemon answers; what it says it is.
    Serving(Box<Info>),
    /// Its daemon makes it.
    Starting,
    /// Its daemon takes it away.
    Ending,
    /// Its daemon could serve no longer, and is gone; why.
    Failed(String),
    /// Its daemon is gone and has left things behind.
    Dead,
}

impl Standing {
    /// The `state` of `list --json`, for those that cannot be asked.
    pub fn word(&self) -> &'static str {
        match self {
            Standing::Serving(_) => "alive",
            Standing::Starting => "starting",
            Standing::Ending => "ending",
            Standing::Failed(_) => "failed",
            Standing::Dead => "dead",
        }
    }
}

impl Found {
    /// What its daemon says it is, or a sentence on why nobody can say so.
    pub fn serving(self) -> anyhow::Result<Info> {
        match self.standing {
            Standing::Serving(info) => Ok(*info),
            _ => bail!(self.explain()),
        }
    }

    /// How a device that does not serve is, and what to do.
    pub fn explain(&self) -> String {
        let id = self.id;
        let name = self.name.as_ref();
        let name = name.map_or_else(String::new, |name| format!(" ({})", name.display()));
        let remedy = if self.kept {
            format!(
                "its data is kept, `trueno-ublk recover {id}` goes on with it, and `trueno-ublk \
                 remove {id}` gives it up"
            )
        } else {
            format!("`trueno-ublk remove {id}` cleans up after it")
        };
        match &self.standing {
            Standing::Serving(_) => format!("device {id} serves"),
            Standing::Starting => format!("device {id} is just being made: try again in a moment"),
            Standing::Ending => format!("device {id} is just being removed"),
            Standing::Failed(cause) => format!("device {id}{name} has failed ({cause}): {remedy}"),
            Standing::Dead => format!("the daemon of device {id}{name} is dead: {remedy}"),
        }
    }
}

/// All devices, by number.
pub fn all(run_dir: &RunDir) -> anyhow::Result<Vec<Found>> {
    let unreadable = || unreadable(run_dir);
    let mut found = Vec::new();
    for id in run_dir.ids().map_err(refine).with_context(unreadable)? {
        let state = run_dir.state(id).map_err(refine).with_context(unreadable)?;
        let record = run_dir.record(id);
        let failure = record.as_ref().and_then(|record| record.failure.clone());
        let standing = match (state, record.as_ref().map(|record| record.phase)) {
            (State::Free, _) => continue,
            (_, Some(Phase::Failed)) => Standing::Failed(failure.unwrap_or_default()),
            (State::Dead, _) => Standing::Dead,
            // It would answer when it is ready, and not before.
            (State::Alive, None | Some(Phase::Starting)) => Standing::Starting,
            (State::Alive, Some(Phase::Ending)) => Standing::Ending,
            (State::Alive, Some(Phase::Serving)) => {
                match client::request_as(&run_dir.socket(id), &Op::Info) {
                    Ok(info) => Standing::Serving(Box::new(info)),
                    // It has ended since we looked.
                    Err(_) if run_dir.state(id).is_ok_and(|state| state == State::Free) => continue,
                    Err(_) => Standing::Ending,
                }
            }
        };
        let kept = run_dir.keeps(id);
        let name = record.and_then(|record| record.name);
        found.push(Found {
            id,
            name,
            standing,
            kept,
        });
    }
    Ok(found)
}

/// The device that `text` means, however it is.
pub fn find(run_dir: &RunDir, text: &str) -> anyhow::Result<Found> {
    let name = text.strip_prefix("/dev/").unwrap_or(text);
    let path = Path::new("/dev").join(name);
    for found in all(run_dir)? {
        // `/dev/loop3` names one thing, `3` another.
        if found.name.as_ref() == Some(&path) || (name == text && name.parse() == Ok(found.id)) {
            return Ok(found);
        }
    }
    bail!("there is no device {text:?} of ours: `trueno-ublk list` shows those that exist")
}

/// Like [`find`], but it must serve.
pub fn find_serving(run_dir: &RunDir, text: &str) -> anyhow::Result<Info> {
    find(run_dir, text)?.serving()
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
