//! The daemon's own entry: `create` and `recover` start it, with its errand on its standard input,
//! and read the one line that it writes to standard output.

use crate::control::protocol::Info;
use crate::daemon::{Errand, Report, RunDir, Surroundings, launch, rundir, sys};
use anyhow::{Context as _, bail};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Starts a daemon and waits until its device is there.
pub fn start(errand: &Errand) -> anyhow::Result<Info> {
    let (mut child, report) = launch::launch(
        Path::new(launch::OURSELVES),
        errand,
        &RunDir::from_environment(),
    )?;
    match report {
        Report::Ready(info) => Ok(*info),
        Report::Failed(sentence) => {
            // It is ending: let it finish, so that nothing is left when we say no.
            let _ = child.wait();
            bail!(sentence)
        }
        Report::Standing => bail!("the daemon stands by, which nobody asked for"),
    }
}

/// The errand on standard input, done.
pub fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(()) => ExitCode::FAILURE,
    }
}

/// An error has been reported to whom it concerns.
fn serve() -> Result<(), ()> {
    // Before anything of ours is open.
    let closed = sys::close_inherited().context("cannot close inherited files");
    start_log();
    let mut detached = match closed.and_then(|()| Detached::new()) {
        Ok(detached) => detached,
        Err(error) => {
            tracing::error!("{error:#}");
            return Err(());
        }
    };
    let result =
        read_errand().and_then(|errand| errand.run(&RunDir::from_environment(), &mut detached));
    result.map_err(|error| {
        let failed = Report::Failed(format!("{error:#}"));
        // Either who started us still listens, or it is a matter for the log.
        if detached.report(&failed).is_err() {
            tracing::error!("{error:#}");
        }
    })
}

fn read_errand() -> anyhow::Result<Errand> {
    serde_json::from_reader(std::io::stdin().lock())
        .context("standard input holds no errand: use `trueno-ublk create`")
}

/// Sends what is logged to standard error, wherever that leads.
pub fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    // Fails only where there is a log already.
    let _ = log.try_init();
}

/// A process that is nobody's: own session, no terminal, a log instead of standard error.
struct Detached {
    /// To who started us; closed when there is nothing more to say.
    parent: Option<File>,
}

impl Detached {
    fn new() -> anyhow::Result<Detached> {
        let parent = sys::take_stdout().context("standard output is closed")?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.context("cannot open /dev/null")?;
        sys::redirect(&null, 1).context("cannot redirect standard output")?;
        sys::leave_session().context("cannot leave the session")?;
        // The name that `ps` and `pidof` see would be that of /proc/self/exe.
        sys::set_name("trueno-ublk").context("cannot set the name")?;
        Ok(Detached {
            parent: Some(parent),
        })
    }

    fn report(&mut self, report: &Report) -> anyhow::Result<()> {
        let mut parent = self.parent.take().context("it has been told already")?;
        let line = serde_json::to_string(report).context("cannot write JSON")?;
        parent
            .write_all((line + "\n").as_bytes())
            .context("cannot tell who started the daemon")
    }
}

impl Surroundings for Detached {
    fn numbered(&mut self, log: &Path, goes_on: bool) -> anyhow::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).append(goes_on).write(true);
        let file = rundir::open(log, options.truncate(!goes_on))
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        sys::redirect(&file, 2).context("cannot redirect standard error")?;
        let null = File::open("/dev/null").context("cannot open /dev/null")?;
        sys::redirect(&null, 0).context("cannot redirect standard input")
    }

    fn ready(&mut self, info: &Info) -> anyhow::Result<()> {
        self.report(&Report::Ready(Box::new(info.clone())))
    }

    fn standing(&mut self) -> anyhow::Result<()> {
        self.report(&Report::Standing)
    }
}
