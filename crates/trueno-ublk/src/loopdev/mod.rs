//! The loop transport: a FUSE file of ours below a loop device with direct I/O.
//!
//! ```text
//! /dev/loopN ── loop driver ── FUSE driver ── fuser threads ── Target
//!               direct I/O,     one file        loop-io-0…
//!               asynchronous
//! ```
//!
//! For machines whose kernel has no ublk: FUSE and loop devices are on every Linux. Only root
//! uses it, and it mounts by itself, so the `fuse3` package is not needed.
//!
//! Order, and its mirror in [`stop`](LoopDevice::stop): directory, mount, threads, roll call
//! (see `fuse.rs`), loop device. Whatever step fails, those before it are undone. Whatever a
//! killed process of ours left behind under the same id, the next [`LoopDevice::prepare`] with
//! that id takes away.

#![deny(unsafe_code)]

mod fuse;
#[allow(unsafe_code)]
mod sys;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::target::Target;
use crate::transport::{Device, IoThread, Kind, ThreadHooks};

/// What a loop device is made from.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Our number of the device; not the N of `/dev/loopN`, which the kernel chooses.
    pub id: u32,
    /// The directory of all running devices; the mount point is `<run_dir>/<id>/fuse`.
    pub run_dir: PathBuf,
    /// Threads that serve I/O, at least 1. Each keeps 512 KiB of buffers.
    pub threads: usize,
}

impl Spec {
    /// The device `id` below `run_dir`, with one thread a CPU, at least 2 and at most 8: fewer
    /// and a long request delays the short ones behind it, more and they only wait for the loop
    /// driver, which submits from one worker.
    pub fn new(id: u32, run_dir: impl Into<PathBuf>) -> Spec {
        let cpus = std::thread::available_parallelism().map_or(2, |n| n.get());
        Spec {
            id,
            run_dir: run_dir.into(),
            threads: cpus.clamp(2, 8),
        }
    }
}

/// How long a loop device may stay busy after it was told to go. Whoever looks at new and
/// leaving block devices (udev) holds it for milliseconds.
const DETACH_LIMIT: Duration = Duration::from_secs(3);

/// Whether this machine can run the loop transport; if not, why, and what mends it.
pub fn available() -> Result<(), String> {
    if !sys::is_root() {
        return Err("the loop transport needs root: run it with sudo".to_string());
    }
    for (node, module) in [(sys::DEV_FUSE, "fuse"), (sys::DEV_LOOP_CONTROL, "loop")] {
        // Opening, and not looking: the node may be there without its driver, and opening it
        // makes the kernel load one that is not.
        if let Err(error) = OpenOptions::new().read(true).write(true).open(node) {
            return Err(format!(
                "the loop transport cannot open {node} ({error}): load it with `modprobe {module}`"
            ));
        }
    }
    Ok(())
}

/// A mount of ours, and the threads that serve it.
/// Dropped, it unmounts.
struct Session {
    point: PathBuf,
    shared: Arc<fuse::Shared>,
    server: Option<JoinHandle<io::Result<()>>>,
    ended: Arc<AtomicBool>,
}

impl Session {
    fn start(point: &Path, shared: Arc<fuse::Shared>, threads: usize) -> anyhow::Result<Session> {
        let connection = sys::open_fuse()?;
        sys::mount_fuse(&connection, point)?;
        // Made now, so that every way out of here unmounts.
        let mut session = Session {
            point: point.to_path_buf(),
            shared,
            server: None,
            ended: Arc::default(),
        };
        let mut config = fuser::Config::default();
        config.n_threads = Some(threads);
        config.clone_fd = true;
        // The kernel has sent its INIT with the mount; this answers it.
        let fs = session.shared.file_system();
        let served = fuser::Session::from_fd(fs, connection, fuser::SessionACL::Owner, config)
            .context("the FUSE handshake failed")?;
        let (shared, ended) = (session.shared.clone(), session.ended.clone());
        session.server = Some(
            std::thread::Builder::new()
                .name("loop-session".to_string())
                .spawn(move || {
                    let result = served.run();
                    if !ended.load(SeqCst) {
                        let cause = result.as_ref().err().map(ToString::to_string);
                        let cause = cause.unwrap_or_else(|| "it was unmounted".to_string());
                        shared.failed(&format!("the FUSE file system has ended: {cause}"));
                    }
                    result
                })
                .context("starting the FUSE threads")?,
        );
        Ok(session)
    }

    /// Unmounts, and waits for the threads, which end as the connection does.
    fn end(&mut self) -> anyhow::Result<()> {
        if self.ended.swap(true, SeqCst) {
            return Ok(());
        }
        match sys::unmount_fuse(&self.point) {
            // Someone unmounted it before us.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {}
            // Where this fails the mount is still there, and its threads would never end: they
            // are not waited for.
            done => done.with_context(|| format!("unmounting {}", self.point.display()))?,
        }
        match self.server.take().map(JoinHandle::join) {
            // The end that we brought about. A thread that asks for its next request just then may
            // be told that the connection was aborted, rather than that it is gone.
            Some(Ok(Err(e))) if e.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            Some(Ok(served)) => served.context("the FUSE threads"),
            Some(Err(_)) => bail!("the FUSE session thread panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("{error:#}");
        }
    }
}

/// A [`Device`] over FUSE and the loop driver.
pub struct LoopDevice {
    spec: Spec,
    block_size: u32,
    point: PathBuf,
    session: Option<Session>,
    threads: Vec<IoThread>,
    attached: Option<sys::Loop>,
    buffer_bytes: u64,
}

impl LoopDevice {
    /// Mounts the file and makes its threads ready; [`start`](Device::start) attaches the loop
    /// device. Takes away what a dead process left under the same id; a living one is an error.
    pub fn prepare(
        spec: Spec,
        target: Arc<Target>,
        hooks: ThreadHooks,
    ) -> anyhow::Result<LoopDevice> {
        available().map_err(anyhow::Error::msg)?;
        if spec.threads == 0 {
            bail!("0 threads cannot serve a device: give at least 1");
        }
        // One spelling for the path, since the kernel's is what we compare with.
        make_dir(&spec.run_dir)?;
        let run_dir = spec
            .run_dir
            .canonicalize()
            .with_context(|| format!("resolving {}", spec.run_dir.display()))?;
        let point = run_dir.join(spec.id.to_string()).join("fuse");
        clear_stale(&point, spec.id)?;

        let threads = spec.threads;
        let mut device = LoopDevice {
            spec: Spec { run_dir, ..spec },
            block_size: target.block_size(),
            point,
            session: None,
            threads: Vec::new(),
            attached: None,
            buffer_bytes: fuse::buffer_bytes(threads),
        };
        // From here on dropping `device` undoes what was done.
        make_dir(&device.point)?;
        let shared = fuse::Shared::new(target, hooks, threads);
        device.session = Some(Session::start(&device.point, shared.clone(), threads)?);
        device.threads = shared
            .enter_all(&device.point)
            .context("the FUSE threads did not get ready")?;
        Ok(device)
    }

    fn file(&self) -> PathBuf {
        self.point.join(fuse::DEVICE_NAME)
    }

    /// Detaches the loop device. Gives what remains: someone may still use it.
    fn detach(&mut self) -> anyhow::Result<Option<String>> {
        let Some(attached) = self.attached.take() else {
            return Ok(None);
        };
        if attached.detach(&self.file(), DETACH_LIMIT)? {
            return Ok(None);
        }
        Ok(Some(format!(
            "{} is still in use: it answers with I/O errors until its user lets go, and is free \
             then",
            attached.path().display()
        )))
    }
}

impl Device for LoopDevice {
    fn kind(&self) -> Kind {
        Kind::Loop
    }

    // Under a new loop device: a FUSE server cannot take over a mount.
    fn can_be_succeeded(&self) -> bool {
        true
    }

    fn id(&self) -> u32 {
        self.spec.id
    }

    fn path(&self) -> Option<&Path> {
        self.attached.as_ref().map(sys::Loop::path)
    }

    fn threads(&self) -> &[IoThread] {
        &self.threads
    }

    fn buffer_bytes(&self) -> u64 {
        self.buffer_bytes
    }

    fn start(&mut self) -> anyhow::Result<()> {
        if self.attached.is_some() {
            return Ok(());
        }
        if self.session.is_none() {
            bail!("device {} was stopped: prepare it again", self.spec.id);
        }
        let path = self.file();
        // Ours for the moment of binding only; the loop driver keeps its own reference. The FUSE
        // threads answer this open, so it must not happen in one of them.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let name = format!("trueno-zram:{}", self.spec.id);
        self.attached = Some(sys::Loop::attach(&file, self.block_size, &name)?);
        Ok(())
    }

    fn withdraw(&mut self, claim: File) -> anyhow::Result<bool> {
        // The kernel detaches it when its last user closes it, and nobody can mount it or swap to
        // it before that: the first two are `claim` and whoever tells the kernel.
        if let Some(attached) = &self.attached {
            attached.clear()?;
        }
        drop(claim);
        Ok(true)
    }

    fn stop(&mut self) -> anyhow::Result<Option<String>> {
        // Every step is taken whatever becomes of the others; the first error is told.
        let detached = self.detach();
        let mut ended = Ok(());
        if let Some(mut session) = self.session.take() {
            // Fails only where the threads are gone already, and then there is nothing to leave.
            let _ = session.shared.leave_all(&self.point);
            ended = session.end();
            self.threads.clear();
        }
        let _ = std::fs::remove_dir(&self.point);
        // Others keep files there: it goes with the last of them.
        if let Some(parent) = self.point.parent() {
            let _ = std::fs::remove_dir(parent);
        }
        ended.and(detached)
    }

    fn delete(&mut self) -> anyhow::Result<Option<String>> {
        Ok(None)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        match self.stop() {
            Ok(None) => {}
            Ok(Some(remains)) => tracing::warn!("{remains}"),
            Err(error) => tracing::warn!("loop device {}: {error:#}", self.spec.id),
        }
    }
}

fn make_dir(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("making the directory {}", path.display()))
}

/// How many dead mounts may lie on top of each other.
const STALE_MAX: u32 = 16;

/// Takes away the loop devices and mounts of a process that died with `point` mounted.
fn clear_stale(point: &Path, id: u32) -> anyhow::Result<()> {
    for _ in 0..STALE_MAX {
        match sys::mount_state(point)? {
            sys::MountState::Free => return Ok(()),
            sys::MountState::Alive => bail!(
                "device id {id} is in use: {} is mounted and served; remove that device or choose \
                 another id",
                point.display()
            ),
            sys::MountState::Dead => {}
        }
        // Before the mount goes, since without it the kernel forgets the path of the file.
        let file = point.join(fuse::DEVICE_NAME);
        for orphan in sys::Loop::orphans_of(&file) {
            if !orphan.detach(&file, DETACH_LIMIT)? {
                tracing::warn!(
                    "{} of a dead process is still in use: it is free when its user lets go",
                    orphan.path().display()
                );
            }
        }
        sys::unmount_fuse(point)
            .with_context(|| format!("unmounting the dead mount at {}", point.display()))?;
    }
    bail!(
        "more than {STALE_MAX} dead mounts lie at {}: unmount them",
        point.display()
    )
}
