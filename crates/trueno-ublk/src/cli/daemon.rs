//! The daemon's own entry: `create` starts it, with the plan on its standard input, and reads the
//! one line that it writes to standard output.

use crate::control::protocol::Info;
use crate::daemon::{self, Plan, Report, RunDir, Surroundings, rundir, sys};
use anyhow::Context as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The plan on standard input, carried out.
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
        read_plan().and_then(|plan| daemon::run(&plan, &RunDir::from_environment(), &mut detached));
    result.map_err(|error| {
        let failed = Report::Failed(format!("{error:#}"));
        // Either who started us still listens, or it is a matter for the log.
        if detached.report(&failed).is_err() {
            tracing::error!("{error:#}");
        }
    })
}

fn read_plan() -> anyhow::Result<Plan> {
    serde_json::from_reader(std::io::stdin().lock())
        .context("standard input holds no plan: use `trueno-ublk create`")
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
        std::fs::write("/proc/self/comm", "trueno-ublk").context("cannot set the name")?;
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
    fn numbered(&mut self, log: &Path) -> anyhow::Result<()> {
        let mut options = OpenOptions::new();
        let file = rundir::open(log, options.create(true).write(true).truncate(true))
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        sys::redirect(&file, 2).context("cannot redirect standard error")?;
        let null = File::open("/dev/null").context("cannot open /dev/null")?;
        sys::redirect(&null, 0).context("cannot redirect standard input")
    }

    fn ready(&mut self, info: &Info) -> anyhow::Result<()> {
        self.report(&Report::Ready(Box::new(info.clone())))
    }
}
