//! The ublk transport: a device's requests, brought to what serves them by the kernel's ublk driver.
//!
//! ```text
//! prepare: ADD_DEV, SET_PARAMS, one thread a queue ── everything that needs memory
//! start:   open /dev/ublkcN, FETCH all tags, START_DEV ── /dev/ublkbN is there
//! stop:    STOP_DEV, threads end ── no block device, no requests, no buffers
//! delete:  DEL_DEV ── the number is free
//! ```
//! With `recovery` the block device outlives the process: requests wait, and those that were under
//! way are issued again, for a successor.
//! ```text
//! take_over: GET_DEV_INFO, one thread a queue ── as prepare, and the device is only looked at
//! start:     START_USER_RECOVERY, open, FETCH all tags, END_USER_RECOVERY ── requests go on
//! ```
//!
//! This knows the kernel's protocol and nothing of pages or codecs.

pub mod ctrl;
mod queue;
pub mod sys;

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use self::ctrl::{Control, Deleted};
use self::queue::{Crew, Order, Phase, Plan};
use self::sys::{BasicParams, DevInfo, DiscardParams, Params};
use crate::target::Serve;
use crate::transport::{Device, IoThread, Kind, ThreadHooks};

/// io_uring keeps this many commands for reuse (`IO_ALLOC_CACHE_MAX`); a deeper queue would have
/// it allocate while requests are served.
pub const DEPTH_MAX: u16 = 128;

/// The driver has this many minor numbers (`UBLK_MINORS`), less one.
pub const ID_MAX: u32 = (1 << 20) - 1;

/// The physical block, and the unit of discard: a page of the store.
const PAGE_SHIFT: u32 = 12;

/// Sectors of the largest discard or write-zeroes: 128 MiB. Large, since there is no data to
/// carry, yet a queue answers one request at a time and the next one waits for it.
const DISCARD_SECTORS_MAX: u32 = (128 << 20) >> sys::SECTOR_SHIFT;

/// What makes a device outlive its server. Writing a request twice is no harm, so those that were
/// under way can be issued again.
const RECOVERY: u64 = sys::F_USER_RECOVERY | sys::F_USER_RECOVERY_REISSUE;

/// How long `/dev/ublkcN` and `/dev/ublkbN` may take to appear. devtmpfs makes them at once; a
/// container that populates `/dev` in another way takes longer, or never does.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a program may have the device open that only looks at it, as udev does at every device
/// that a writer has closed.
const LOOK: Duration = Duration::from_secs(2);

/// What kind of ublk device to make.
#[derive(Clone, Debug)]
pub struct Spec {
    /// N of `/dev/ublkbN`; `None` takes the first free one.
    pub id: Option<u32>,
    /// Queues, each with a thread. The kernel lowers it to the number of CPUs.
    pub queues: u16,
    /// Requests under way in a queue, 1 to [`DEPTH_MAX`].
    pub depth: u16,
    /// Bytes of the largest read or write: a multiple of 4096, at most 32 MiB.
    pub max_io_bytes: u32,
    /// Data is copied by our `pread` and `pwrite`, with one buffer a queue instead of one a
    /// request: `depth` times less memory for one more system call a request (Linux 6.5).
    pub user_copy: bool,
    /// Buffers have all their pages from the start; otherwise they get them with use.
    pub populate_buffers: bool,
    /// A file for the buffers, which a process that is ready to succeed this one maps too; without
    /// it they are this process's alone. It must keep its pages, as a file on a tmpfs does.
    pub buffers: Option<Arc<File>>,
    /// The device survives its server: requests wait, and are issued again, for a successor. Where
    /// the kernel can do that (Linux 6.1).
    pub recovery: bool,
}

impl Default for Spec {
    /// For a RAM disk. With 256 KiB a request costs a few per cent beside the compression of its
    /// 64 pages, so a larger limit would win little and let one request hold the queue for longer.
    /// 64 such buffers are 16 MiB a queue, reached only by a device that is kept so busy: a page of
    /// a buffer costs nothing until it is first used.
    fn default() -> Spec {
        Spec {
            id: None,
            queues: 1,
            depth: 64,
            max_io_bytes: 256 << 10,
            user_copy: false,
            populate_buffers: false,
            buffers: None,
            recovery: false,
        }
    }
}

impl Spec {
    /// Bounds that the kernel would only answer with EINVAL, or that are ours.
    fn check(&self) -> anyhow::Result<()> {
        if let Some(id) = self.id {
            ensure!(
                id <= ID_MAX,
                "ublk device id {id}: must be at most {ID_MAX}"
            );
        }
        ensure!(self.queues >= 1, "0 queues: a device needs at least 1");
        ensure!(
            (1..=DEPTH_MAX).contains(&self.depth),
            "queue depth {}: must be 1 to {DEPTH_MAX}",
            self.depth
        );
        ensure!(
            self.max_io_bytes >= 1 << PAGE_SHIFT
                && self.max_io_bytes.is_multiple_of(1 << PAGE_SHIFT)
                && self.max_io_bytes <= 1 << sys::IO_BUF_BITS,
            "requests of {} bytes: must be a multiple of 4096, at most {}",
            self.max_io_bytes,
            1 << sys::IO_BUF_BITS
        );
        Ok(())
    }

    /// The `F_…` flags this needs, and those it asks for of a driver that `has` these.
    fn flags(&self, has: u64) -> (u64, u64) {
        let needed = if self.user_copy { sys::F_USER_COPY } else { 0 };
        let recovery = self.recovery && has & RECOVERY == RECOVERY;
        (needed, needed | if recovery { RECOVERY } else { 0 })
    }
}

/// The parameters of a device of ours.
fn params(target: &dyn Serve, max_io_bytes: u32) -> Params {
    Params {
        len: size_of::<Params>() as u32,
        types: sys::PARAM_TYPE_BASIC | sys::PARAM_TYPE_DISCARD,
        basic: BasicParams {
            attrs: 0,
            logical_bs_shift: target.block_size().trailing_zeros() as u8,
            physical_bs_shift: PAGE_SHIFT as u8,
            io_opt_shift: PAGE_SHIFT as u8,
            io_min_shift: PAGE_SHIFT as u8,
            max_sectors: max_io_bytes >> sys::SECTOR_SHIFT,
            chunk_sectors: 0,
            dev_sectors: target.size() >> sys::SECTOR_SHIFT,
            virt_boundary_mask: 0,
        },
        discard: DiscardParams {
            discard_alignment: 0,
            discard_granularity: 1 << PAGE_SHIFT,
            max_discard_sectors: DISCARD_SECTORS_MAX,
            max_write_zeroes_sectors: DISCARD_SECTORS_MAX,
            max_discard_segments: 1,
            reserved: 0,
        },
        ..Params::default()
    }
}

/// A ublk device and the threads that serve it. Dropped, it is stopped.
pub struct UblkDevice {
    control: Control,
    info: DevInfo,
    buffer_bytes: u64,
    crew: Arc<Crew>,
    joins: Vec<JoinHandle<()>>,
    threads: Vec<IoThread>,
    char_file: Option<Arc<File>>,
    path: Option<PathBuf>,
    /// Whether the device is still a dead process's, which we are about to succeed.
    taking_over: bool,
    stopped: bool,
    deleted: bool,
}

impl UblkDevice {
    /// Makes `/dev/ublkcN` and everything that needs memory. On return every queue thread exists,
    /// has run `hooks.start`, and is parked with its ring and buffers made. If a step fails, the
    /// steps before it are undone.
    pub fn prepare(
        spec: &Spec,
        target: Arc<dyn Serve>,
        hooks: ThreadHooks,
    ) -> anyhow::Result<UblkDevice> {
        spec.check()?;
        let mut control = Control::open()?;
        // A driver that cannot be asked knows no recovery worth having: its kernel keeps no memory
        // that outlives a process.
        let (needed, wanted) = spec.flags(control.features().unwrap_or(0));
        if let Some(features) = control.features() {
            check_features(features, needed)?;
        }
        let encode = control.features().map_or(0, |_| sys::F_CMD_IOCTL_ENCODE);
        let info = control.add_dev(DevInfo {
            nr_hw_queues: spec.queues,
            queue_depth: spec.depth,
            max_io_buf_bytes: spec.max_io_bytes,
            dev_id: spec.id.unwrap_or(sys::ANY_ID),
            ublksrv_pid: std::process::id() as i32,
            ublksrv_flags: mark(std::process::id()),
            flags: wanted | encode,
            ..DevInfo::default()
        })?;
        // From here on dropping `device` undoes all that was done.
        let mut device = UblkDevice::of(control, info, false);
        check_features(info.flags, wanted)?;
        device
            .control
            .set_params(info.dev_id, &params(&*target, spec.max_io_bytes))?;
        device.spawn_all(spec, &target, &hooks)?;
        Ok(device)
    }

    /// Everything that needs memory to go on with device `id`, which the process `maker` has made
    /// and whose server is dead. Of `spec` only what concerns this process counts. Until
    /// [`start`](Device::start) has succeeded the device is left as it is, whatever goes wrong.
    pub fn take_over(
        id: u32,
        maker: u32,
        spec: &Spec,
        target: Arc<dyn Serve>,
        hooks: ThreadHooks,
    ) -> anyhow::Result<UblkDevice> {
        let mut control = Control::open()?;
        let info = control.get_dev_info(id)?;
        ensure!(
            info.ublksrv_flags == mark(maker),
            "ublk device {id} is another program's"
        );
        ensure!(
            info.flags & RECOVERY == RECOVERY && info.state != sys::S_DEV_DEAD,
            "ublk device {id} has no block device that waits for a new server"
        );
        let bytes = control.get_params(id)?.basic.dev_sectors << sys::SECTOR_SHIFT;
        ensure!(
            bytes == target.size(),
            "ublk device {id} has {bytes} bytes, and the store {}",
            target.size()
        );
        let spec = Spec {
            max_io_bytes: info.max_io_buf_bytes,
            user_copy: info.flags & sys::F_USER_COPY != 0,
            ..spec.clone()
        };
        let mut device = UblkDevice::of(control, info, true);
        device.spawn_all(&spec, &target, &hooks)?;
        Ok(device)
    }

    fn of(control: Control, info: DevInfo, taking_over: bool) -> UblkDevice {
        UblkDevice {
            control,
            info,
            buffer_bytes: 0,
            crew: Crew::new(info.nr_hw_queues),
            joins: Vec::new(),
            threads: Vec::new(),
            char_file: None,
            path: None,
            taking_over,
            stopped: false,
            deleted: false,
        }
    }

    fn spawn_all(
        &mut self,
        spec: &Spec,
        target: &Arc<dyn Serve>,
        hooks: &ThreadHooks,
    ) -> anyhow::Result<()> {
        let DevInfo {
            dev_id: id,
            nr_hw_queues: queues,
            queue_depth: depth,
            ..
        } = self.info;
        let slots = if spec.user_copy { 1 } else { u64::from(depth) };
        if let Some(file) = &spec.buffers {
            let bytes = u64::from(queues) * slots * u64::from(spec.max_io_bytes);
            file.set_len(bytes)
                .with_context(|| format!("cannot make a file of {bytes} bytes for buffers"))?;
        }
        for queue in 0..queues {
            let mut name = format!("ublk{id}-q{queue}");
            name.truncate(15);
            let plan = Plan {
                queue,
                depth,
                max_io: spec.max_io_bytes as usize,
                user_copy: spec.user_copy,
                populate: spec.populate_buffers,
                buffers: spec.buffers.clone(),
                encoding: self.control.encoding(),
                cpus: self.cpus_for(queue)?,
                name: name.clone(),
            };
            self.buffer_bytes += slots * u64::from(spec.max_io_bytes);
            let join = queue::spawn(plan, target.clone(), hooks.clone(), self.crew.clone())
                .with_context(|| format!("cannot start thread {name}"))?;
            self.joins.push(join);
            self.threads.push(IoThread { name, tid: 0 });
        }
        let tids = self.crew.wait_for(|phase| match phase {
            Phase::Parked(tid) => Some(*tid),
            _ => None,
        })?;
        for (thread, tid) in self.threads.iter_mut().zip(tids) {
            thread.tid = tid;
        }
        Ok(())
    }

    /// The CPUs to keep a queue's thread on: those whose requests come to it, as far as this
    /// process may use them. `None`, the scheduler's choice, for an only queue, and where just one
    /// CPU is left: compressing a page takes far longer than waking another CPU, so a thread tied
    /// to its client's CPU would take turns with it while others idle.
    fn cpus_for(&mut self, queue: u16) -> anyhow::Result<Option<libc::cpu_set_t>> {
        if self.info.nr_hw_queues == 1 {
            return Ok(None);
        }
        let of_queue = self.control.get_queue_affinity(self.info.dev_id, queue)?;
        // SAFETY: a CPU set is an array of integers, for which zeros are a value: no CPU.
        let (mut ours, mut both): (libc::cpu_set_t, libc::cpu_set_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: the mask and its size belong together; 0 is the calling thread.
        let rc = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut ours) };
        if rc != 0 {
            return Ok(None);
        }
        for cpu in 0..libc::CPU_SETSIZE as usize {
            // SAFETY: `cpu` is below the size of the sets.
            unsafe {
                if libc::CPU_ISSET(cpu, &of_queue) && libc::CPU_ISSET(cpu, &ours) {
                    libc::CPU_SET(cpu, &mut both);
                }
            }
        }
        // SAFETY: counts the bits of a set of ours.
        let cpus = unsafe { libc::CPU_COUNT(&both) };
        Ok((cpus > 1).then_some(both))
    }

    /// What the kernel made of the specification: queues, depth, flags in force.
    pub fn info(&self) -> &DevInfo {
        &self.info
    }

    fn serve_and_start(&mut self) -> anyhow::Result<PathBuf> {
        let id = self.info.dev_id;
        if self.taking_over {
            self.control.start_recovery(id)?;
        }
        let char_path = PathBuf::from(format!("/dev/ublkc{id}"));
        wait_for_node(&char_path, |kind| kind.is_char_device())?;
        let char_file = File::options()
            .read(true)
            .write(true)
            .open(&char_path)
            .with_context(|| format!("cannot open {}", char_path.display()))?;
        let char_file = Arc::new(char_file);
        self.char_file = Some(char_file.clone());
        self.crew.order(Order::Serve(char_file));
        self.crew
            .wait_for(|phase| matches!(phase, Phase::Serving).then_some(()))?;
        if self.taking_over {
            self.control.end_recovery(id)?;
            self.taking_over = false;
        } else {
            self.control.start_dev(id)?;
        }
        let path = PathBuf::from(format!("/dev/ublkb{id}"));
        wait_for_node(&path, |kind| kind.is_block_device())?;
        Ok(path)
    }
}

impl Device for UblkDevice {
    fn kind(&self) -> Kind {
        Kind::Ublk
    }

    fn can_be_succeeded(&self) -> bool {
        self.info.flags & RECOVERY == RECOVERY
    }

    fn id(&self) -> u32 {
        self.info.dev_id
    }

    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn threads(&self) -> &[IoThread] {
        &self.threads
    }

    fn buffer_bytes(&self) -> u64 {
        self.buffer_bytes
    }

    fn start(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.char_file.is_none() && !self.stopped,
            "ublk device {} has been started before",
            self.info.dev_id
        );
        match self.serve_and_start() {
            Ok(path) => {
                self.path = Some(path);
                Ok(())
            }
            // Threads that serve already end with the process.
            Err(e) if self.taking_over => Err(e),
            Err(e) => match self.stop() {
                Ok(_) => Err(e),
                Err(stuck) => Err(e.context(stuck)),
            },
        }
    }

    fn withdraw(&mut self, claim: File) -> anyhow::Result<bool> {
        let id = self.info.dev_id;
        // From here on the end of a thread is no failure.
        self.crew.order(Order::End);
        if !self.control.can_stop_if_unused() {
            // Nobody can mount the device or swap to it while we have it for ourselves.
            self.control.stop_dev(id)?;
            drop(claim);
            return Ok(true);
        }
        // The kernel does both in one step, and would count us among the users.
        drop(claim);
        let deadline = Instant::now() + LOOK;
        while !self.control.stop_if_unused(id)? {
            if Instant::now() > deadline {
                if let Some(file) = &self.char_file {
                    self.crew.order(Order::Serve(file.clone()));
                }
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(true)
    }

    fn stop(&mut self) -> anyhow::Result<Option<String>> {
        if self.stopped {
            return Ok(None);
        }
        let id = self.info.dev_id;
        // Ends threads that are parked; those that serve end when their tags are aborted.
        self.crew.order(Order::End);
        self.crew.settle(self.joins.len());
        match self.control.stop_dev(id) {
            Err(e) if !e.is_no_device() => return Err(e.into()),
            _ => {}
        }
        for join in self.joins.drain(..) {
            // A thread that panicked has said so to the crew.
            let _ = join.join();
        }
        for error in self.crew.take_errors() {
            tracing::error!("{error:#}");
        }
        self.path = None;
        self.char_file = None;
        self.stopped = true;
        Ok(None)
    }

    fn delete(&mut self) -> anyhow::Result<Option<String>> {
        if self.deleted {
            return Ok(None);
        }
        let remains = delete(&mut self.control, self.info.dev_id)?;
        self.deleted = true;
        Ok(remains)
    }
}

/// Frees the number `id`. Gives what remains, in words.
fn delete(control: &mut Control, id: u32) -> anyhow::Result<Option<String>> {
    Ok(match control.delete(id)? {
        Deleted::Gone => None,
        Deleted::Held => Some(format!(
            "/dev/ublkb{id} is gone, but somebody still has it open: number {id} is free when \
             they let go"
        )),
    })
}

/// What a device of the process `pid` carries as `ublksrv_flags`, which the driver keeps for the
/// server: a number alone does not say whose device it is.
fn mark(pid: u32) -> u64 {
    const TRUENO: u64 = u32::from_be_bytes(*b"trun") as u64;
    TRUENO << 32 | u64::from(pid)
}

/// Deletes device `id` if it is one that the process `pid`, which is dead, has made. Gives what
/// remains, in words.
pub fn delete_dead(id: u32, pid: u32) -> anyhow::Result<Option<String>> {
    if !ctrl::available() {
        return Ok(None);
    }
    let mut control = Control::open()?;
    match control.get_dev_info(id) {
        Ok(info) if info.ublksrv_flags == mark(pid) => {}
        // Nobody's, or somebody else's.
        Ok(_) => return Ok(None),
        Err(e) if e.is_no_device() => return Ok(None),
        Err(e) => return Err(e.into()),
    }
    // It may be stopped already.
    let _ = control.stop_dev(id);
    delete(&mut control, id).with_context(|| format!("cannot delete the dead ublk device {id}"))
}

impl Drop for UblkDevice {
    fn drop(&mut self) {
        if self.taking_over {
            self.crew.order(Order::End);
            return;
        }
        match self.stop().and_then(|_| self.delete()) {
            Ok(None) => {}
            Ok(Some(remains)) => tracing::warn!("{remains}"),
            Err(error) => {
                tracing::error!("ublk device {} is left behind: {error:#}", self.info.dev_id);
            }
        }
    }
}

/// Refuses a device that needs what the driver has not.
fn check_features(has: u64, wanted: u64) -> anyhow::Result<()> {
    let named = [
        (sys::F_USER_COPY, "USER_COPY (Linux 6.5)"),
        (
            sys::F_USER_RECOVERY | sys::F_USER_RECOVERY_REISSUE,
            "USER_RECOVERY (Linux 6.1)",
        ),
    ];
    for (flag, name) in named {
        if wanted & !has & flag != 0 {
            bail!("this kernel's ublk driver lacks {name}");
        }
    }
    Ok(())
}

/// Waits until a device node is there.
fn wait_for_node(path: &Path, is_it: impl Fn(std::fs::FileType) -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + NODE_TIMEOUT;
    loop {
        if std::fs::metadata(path).is_ok_and(|m| is_it(m.file_type())) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!(
                "{} has not appeared within {} s: mount devtmpfs on /dev, or let udev make it",
                path.display(),
                NODE_TIMEOUT.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_out_of_bounds_are_named() {
        let refused = |spec: Spec| spec.check().unwrap_err().to_string();
        let spec = Spec::default;
        assert!(spec().check().is_ok());
        assert_eq!(
            refused(Spec {
                id: Some(1 << 20),
                ..spec()
            }),
            "ublk device id 1048576: must be at most 1048575"
        );
        assert_eq!(
            refused(Spec {
                depth: 129,
                ..spec()
            }),
            "queue depth 129: must be 1 to 128"
        );
        assert_eq!(
            refused(Spec {
                queues: 0,
                ..spec()
            }),
            "0 queues: a device needs at least 1"
        );
        for bytes in [0, 512, 4097, 64 << 20] {
            let said = refused(Spec {
                max_io_bytes: bytes,
                ..spec()
            });
            assert!(
                said.starts_with(&format!("requests of {bytes} bytes")),
                "{said}"
            );
        }
    }

    #[test]
    fn a_missing_feature_is_named() {
        let spec = Spec {
            user_copy: true,
            recovery: true,
            ..Spec::default()
        };
        let (needed, wanted) = spec.flags(u64::MAX);
        assert!(needed & RECOVERY == 0 && wanted & RECOVERY == RECOVERY);
        assert_eq!(spec.flags(sys::F_USER_RECOVERY).1, sys::F_USER_COPY);
        assert!(check_features(wanted, wanted).is_ok());
        let said = check_features(wanted & !sys::F_USER_COPY, needed)
            .unwrap_err()
            .to_string();
        assert_eq!(
            said,
            "this kernel's ublk driver lacks USER_COPY (Linux 6.5)"
        );
    }
}
