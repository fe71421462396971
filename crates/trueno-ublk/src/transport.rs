//! How block requests reach us: one trait, two transports.
//!
//! A device is made in two steps, so that the daemon can lock its memory in between:
//! `prepare` makes everything that needs memory (buffers, rings, threads parked), then
//! [`Device::start`] makes the block device appear.

use std::path::Path;
use std::sync::Arc;

/// The kinds of transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Runs in each I/O thread when it has all it needs: from here on it must not allocate.
    pub live: Arc<dyn Fn() + Send + Sync>,
    /// Runs in each I/O thread when it has served its last request: it may allocate and free again.
    pub end: Arc<dyn Fn() + Send + Sync>,
}

impl ThreadHooks {
    /// Hooks that do nothing.
    pub fn none() -> ThreadHooks {
        ThreadHooks {
            start: Arc::new(|| Ok(())),
            live: Arc::new(|| ()),
            end: Arc::new(|| ()),
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
    /// Takes the block device away, ends the threads, leaves nothing behind. Whether the device
    /// is in use has been asked before; here a mounted device just goes.
    fn stop(&mut self) -> anyhow::Result<()>;
}
