//! Starts this program again, or another version of it, with an errand: as a daemon, or as the
//! standby of one.
#![forbid(unsafe_code)]

use super::{Errand, Report, RunDir, rundir};
use anyhow::{Context as _, bail};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The program that this process runs, be it replaced since.
pub const OURSELVES: &str = "/proc/self/exe";

/// The environment variable that names the socket where systemd hears of a service.
const SYSTEMD: &str = "NOTIFY_SOCKET";

/// Starts `program` for `errand` and waits for the one line that it has to say.
pub fn launch(
    program: &Path,
    errand: &Errand,
    run_dir: &RunDir,
) -> anyhow::Result<(Child, Report)> {
    let mut command = Command::new(program);
    if !matches!(errand, Errand::StandBy { .. }) {
        // The service that the caller belongs to is not ours.
        command.env_remove(SYSTEMD);
    }
    let mut child = command
        .arg0("trueno-ublk")
        .arg("daemon")
        // As we understand it here: the daemon works elsewhere.
        .env(rundir::VARIABLE, run_dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let errand = serde_json::to_string(errand).context("cannot write JSON")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A daemon that does not listen says why below.
        let _ = stdin.write_all(errand.as_bytes());
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("cannot hear the daemon")?;
    }
    match serde_json::from_str(&line) {
        Ok(report) => Ok((child, report)),
        Err(_) => {
            let status = child.wait().context("cannot wait for the daemon")?;
            bail!("the daemon ended without a word ({status})")
        }
    }
}
