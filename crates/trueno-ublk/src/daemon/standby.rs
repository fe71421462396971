//! The worker's hold on its standby: a second process that has everything ready, and takes over when
//! this one dies.
//!
//! ```text
//! worker:  launch ── "standing" ── looks now and then ── died? ── launch
//!                                                     └─ end on purpose: kill it, then go
//! standby: all mapped, made and locked ── waits for the worker's death ── is the worker
//! ```
//! What the standby does stands beside the other ways into a life (`mod.rs`).
#![forbid(unsafe_code)]

use super::{Errand, Report, RunDir, launch};
use anyhow::{Context as _, bail};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the worker looks whether its standby is alive, and how long it waits before it starts
/// another one.
const PERIOD: Duration = Duration::from_secs(1);

/// Who takes over: its process, 0 while there is none.
pub type Standby = Arc<AtomicU32>;

/// Keeps a standby. Dropping it ends that.
#[derive(Debug)]
pub struct Keeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts a standby for device `id` and waits until it is ready.
    pub fn with_standby(id: u32, run_dir: &RunDir, standby: &Standby) -> anyhow::Result<Keeper> {
        let child = start(id, run_dir)?;
        standby.store(child.id(), Relaxed);
        Keeper::spawn(id, run_dir, standby, Some(child))
    }

    /// Starts one soon.
    pub fn without_standby(id: u32, run_dir: &RunDir, standby: &Standby) -> anyhow::Result<Keeper> {
        Keeper::spawn(id, run_dir, standby, None)
    }

    fn spawn(
        id: u32,
        run_dir: &RunDir,
        standby: &Standby,
        child: Option<Child>,
    ) -> anyhow::Result<Keeper> {
        let (stop, stopped) = channel();
        let (run_dir, standby) = (run_dir.clone(), standby.clone());
        let thread = std::thread::Builder::new()
            .name("standby".to_string())
            .spawn(move || keep(id, &run_dir, &standby, child, &stopped))
            .context("cannot start a thread")?;
        Ok(Keeper {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}

/// The thread: a standby at all times, and none at the end.
fn keep(
    id: u32,
    run_dir: &RunDir,
    standby: &Standby,
    mut child: Option<Child>,
    stopped: &Receiver<()>,
) {
    loop {
        match &mut child {
            None => match start(id, run_dir) {
                Ok(started) => {
                    standby.store(started.id(), Relaxed);
                    tracing::info!("process {} stands by", started.id());
                    child = Some(started);
                }
                Err(error) => tracing::warn!("nobody stands by: {error:#}"),
            },
            Some(living) => {
                if let Ok(Some(status)) = living.try_wait() {
                    tracing::warn!("the standby, process {}, is gone ({status})", living.id());
                    standby.store(0, Relaxed);
                    child = None;
                }
            }
        }
        if let Err(RecvTimeoutError::Disconnected) = stopped.recv_timeout(PERIOD) {
            break;
        }
    }
    if let Some(mut child) = child {
        // It must not take an end on purpose for a death. One that is gone already is fine.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Starts one and waits until it is ready.
fn start(id: u32, run_dir: &RunDir) -> anyhow::Result<Child> {
    let errand = Errand::StandBy {
        id,
        worker: std::process::id(),
    };
    let (mut child, report) = launch::launch(&errand, run_dir).context("cannot start a standby")?;
    match report {
        Report::Standing => Ok(child),
        Report::Failed(sentence) => {
            let _ = child.wait();
            bail!("the standby is not possible: {sentence}")
        }
        Report::Ready(_) => bail!("the standby serves, and the worker lives"),
    }
}
