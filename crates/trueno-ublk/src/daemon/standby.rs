//! The worker's hold on its standby: a second process that has everything ready, and takes over when
//! this one dies.
//!
//! ```text
//! worker:  launch ── "standing" ── looks now and then ── died? ── launch
//!                                                     └─ end on purpose: kill it, then go
//! standby: all mapped, made and locked ── waits for the worker's death ── is the worker
//! ```
//! An upgrade is the same: a standby is launched from another program, and the worker ends. That is
//! the way which every death takes, so there is no second one to get right.
//!
//! What the standby does stands beside the other ways into a life (`mod.rs`).
#![forbid(unsafe_code)]

use super::{Errand, Report, RunDir, launch};
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
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

/// What a keeper is asked for.
#[derive(Debug)]
pub enum Request {
    /// A standby from this program in the place of the one there is; its process.
    Replace(PathBuf, Sender<anyhow::Result<u32>>),
    /// No standby any more.
    End,
}

/// Keeps a standby, always or when asked for. Dropping it ends that.
#[derive(Debug)]
pub struct Keeper {
    requests: Sender<Request>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts a standby for device `id` and waits until it is ready.
    pub fn with_standby(id: u32, run_dir: &RunDir, standby: &Standby) -> anyhow::Result<Keeper> {
        let child = start(Path::new(launch::OURSELVES), id, run_dir)?;
        standby.store(child.id(), Relaxed);
        Keeper::spawn(id, run_dir, standby, true, Some(child))
    }

    /// Starts one soon.
    pub fn without_standby(id: u32, run_dir: &RunDir, standby: &Standby) -> anyhow::Result<Keeper> {
        Keeper::spawn(id, run_dir, standby, true, None)
    }

    /// Starts one when it is asked for.
    pub fn idle(id: u32, run_dir: &RunDir, standby: &Standby) -> anyhow::Result<Keeper> {
        Keeper::spawn(id, run_dir, standby, false, None)
    }

    /// Where to ask it.
    pub fn requests(&self) -> Sender<Request> {
        self.requests.clone()
    }

    fn spawn(
        id: u32,
        run_dir: &RunDir,
        standby: &Standby,
        always: bool,
        child: Option<Child>,
    ) -> anyhow::Result<Keeper> {
        let (requests, asked) = channel();
        let (run_dir, standby) = (run_dir.clone(), standby.clone());
        let thread = std::thread::Builder::new()
            .name("standby".to_string())
            .spawn(move || keep(id, &run_dir, &standby, always, child, &asked))
            .context("cannot start a thread")?;
        Ok(Keeper {
            requests,
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // A thread that is gone needs not be told.
        let _ = self.requests.send(Request::End);
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}

/// The thread: a standby at all times, if `always`, and none at the end.
fn keep(
    id: u32,
    run_dir: &RunDir,
    standby: &Standby,
    always: bool,
    mut child: Option<Child>,
    asked: &Receiver<Request>,
) {
    loop {
        match &mut child {
            None if !always => {}
            None => match start(Path::new(launch::OURSELVES), id, run_dir) {
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
        let request = if always || child.is_some() {
            asked.recv_timeout(PERIOD)
        } else {
            asked.recv().map_err(RecvTimeoutError::from)
        };
        match request {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Request::Replace(program, reply)) => {
                // Two would race for the device.
                end(child.take());
                standby.store(0, Relaxed);
                let started = start(&program, id, run_dir).map(|started| {
                    let pid = started.id();
                    standby.store(pid, Relaxed);
                    child = Some(started);
                    pid
                });
                // Who asked waits for it.
                let _ = reply.send(started);
            }
            Ok(Request::End) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    end(child);
}

/// Ends a standby: it must not take an end on purpose for a death.
fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        // One that is gone already is fine.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Starts one from `program` and waits until it is ready.
fn start(program: &Path, id: u32, run_dir: &RunDir) -> anyhow::Result<Child> {
    let errand = Errand::StandBy {
        id,
        worker: std::process::id(),
    };
    let (mut child, report) =
        launch::launch(program, &errand, run_dir).context("cannot start a standby")?;
    match report {
        Report::Standing => Ok(child),
        Report::Failed(sentence) => {
            let _ = child.wait();
            bail!("the standby is not possible: {sentence}")
        }
        Report::Ready(_) => bail!("the standby serves, and the worker lives"),
    }
}
