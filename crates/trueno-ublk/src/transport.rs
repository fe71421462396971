//! How block requests reach us: one trait, two transports.
//!
//! A device is made in two steps, so that the daemon can lock its memory in between:
//! `prepare` makes everything that needs memory (buffers, rings, threads parked), then
//! [`Device::start`] makes the block device appear.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The kinds of transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The kernel's ublk driver: `/dev/ublkbN`.
    Ublk,
    /// A FUSE file below a loop device with direct I/O: `/dev/loopN`.
    Loop,
}

impl Kind {
    /// `ublk` or `loop`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Ublk => "ublk",
            Kind::Loop => "loop",
        }
    }
}

/// What the daemon does to every thread that serves I/O.
#[derive(Clone)]
pub struct ThreadHooks {
    /// Runs first in each I/O thread, before it serves anything: touches the stack, sets
    /// IO_FLUSHER and the scheduling class. An error ends `prepare` with it.
    pub start: Arc<dyn Fn() -> std::io::Result<()> + Send + Sync>,
    /// Runs in each I/O thread when it is told to serve, before anything else that this takes.
    pub called: Arc<dyn Fn() -> std::io::Result<()> + Send + Sync>,
    /// Runs in each I/O thread when it has all it needs: from here on it must not allocate.
    pub live: Arc<dyn Fn() + Send + Sync>,
    /// Runs in each I/O thread when it has served its last request: it may allocate and free again.
    pub end: Arc<dyn Fn() + Send + Sync>,
    /// Runs in a thread that can serve no longer although the device is to live on; with the
    /// cause. Requests it had may wait for ever, unless the process ends.
    pub failed: Arc<dyn Fn(&str) + Send + Sync>,
}

impl ThreadHooks {
    /// Hooks that do nothing.
    pub fn none() -> ThreadHooks {
        ThreadHooks {
            start: Arc::new(|| Ok(())),
            called: Arc::new(|| Ok(())),
            live: Arc::new(|| ()),
            end: Arc::new(|| ()),
            failed: Arc::new(|_| ()),
        }
    }
}

/// One thread that serves I/O.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoThread {
    /// Its name, at most 15 bytes: `ublk0-q1`, `loop-io-0`.
    pub name: String,
    /// Its thread id as in `/proc/PID/task`.
    pub tid: i32,
}

/// A block device of ours.
pub trait Device: Send {
    /// Which transport this is.
    fn kind(&self) -> Kind;
    /// Whether another process can go on with the device when this one is dead.
    fn can_be_succeeded(&self) -> bool;
    /// Our number of the device (`--dev-id`): the N of `/dev/ublkbN`; for a loop transport the
    /// number the daemon chose.
    fn id(&self) -> u32;
    /// The block device. Known after [`start`](Device::start).
    fn path(&self) -> Option<&Path>;
    /// The threads that serve I/O; all exist when `prepare` has returned.
    fn threads(&self) -> &[IoThread];
    /// Locked bytes for I/O buffers, as far as the transport reserved them.
    fn buffer_bytes(&self) -> u64;
    /// Makes the block device appear and serves it.
    fn start(&mut self) -> anyhow::Result<()>;
    /// Takes the block device from everyone who might begin to use it. `claim` is that device,
    /// opened by us alone: it is held until the kernel lets nobody else in. `false`: somebody was
    /// quicker, and nothing has changed. [`stop`](Device::stop) has to follow.
    fn withdraw(&mut self, claim: File) -> anyhow::Result<bool>;
    /// Takes the block device away, whoever uses it, ends the threads and lets go of everything
    /// that was served. Gives what remains, in words: somebody who uses the device can keep the
    /// kernel from ending it.
    fn stop(&mut self) -> anyhow::Result<Option<String>>;
    /// After [`stop`](Device::stop): gives the number back. Gives what remains, as there.
    fn delete(&mut self) -> anyhow::Result<Option<String>>;
}
