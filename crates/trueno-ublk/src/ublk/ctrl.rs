//! The control device: makes, starts, stops and deletes ublk devices, one method a command.

use std::fmt;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::sys::{self, CtrlCmd, DevInfo, Encoding, Params};

/// Bytes of the CPU mask that `GET_QUEUE_AFFINITY` fills.
const CPU_MASK_BYTES: usize = size_of::<libc::cpu_set_t>();

/// Linux's `ENOTSUPP`, which the driver returns for commands it does not know and which libc
/// has no name for.
const ENOTSUPP: i32 = 524;

/// Why the control device did not do what it was asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no control device: the driver is not loaded, or this kernel has none.
    NoDriver,
    /// `modprobe ublk_drv` did not succeed; what it said.
    LoadModule(String),
    /// `modprobe` could not be run, so whether there is a driver is not known.
    NoModprobe(io::Error),
    /// The control device could not be opened.
    Open(io::Error),
    /// No io_uring for commands.
    Ring(io::Error),
    /// No thread for a command that waits.
    Thread(io::Error),
    /// The driver refused a command.
    Command {
        /// The kernel's name of the command.
        command: &'static str,
        /// The device meant; `None` where the kernel was to choose a number.
        id: Option<u32>,
        /// What was asked, for commands with sizes.
        detail: String,
        /// The error number, positive.
        errno: i32,
    },
}

impl Error {
    /// The driver's error number, where it is the driver that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Command { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the driver knows no device of the number.
    pub fn is_no_device(&self) -> bool {
        self.errno() == Some(libc::ENODEV)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoDriver => write!(
                f,
                "this kernel has no ublk driver loaded (no {}): try `modprobe ublk_drv` (Linux \
                 6.0 or later with CONFIG_BLK_DEV_UBLK)",
                sys::CONTROL_PATH
            ),
            Error::LoadModule(said) => {
                write!(
                    f,
                    "this kernel has no ublk driver (modprobe ublk_drv: {said})"
                )
            }
            Error::NoModprobe(e) if e.kind() == io::ErrorKind::NotFound => f.write_str(
                "the ublk driver is not loaded, and there is no program `modprobe` to load it: \
                 install kmod, or load ublk_drv another way",
            ),
            Error::NoModprobe(e) => write!(
                f,
                "the ublk driver is not loaded, and `modprobe ublk_drv` cannot be run: {e}"
            ),
            Error::Open(e) if is_permission(e.raw_os_error()) => {
                write!(f, "cannot open {}: needs root", sys::CONTROL_PATH)
            }
            Error::Open(e) => write!(f, "cannot open {}: {e}", sys::CONTROL_PATH),
            Error::Ring(e) => write!(f, "{}", RingError(e)),
            Error::Thread(e) => write!(f, "cannot start a thread: {e}"),
            Error::Command {
                command,
                id,
                detail,
                errno,
            } => {
                let device = Named(*id);
                match *errno {
                    e if is_permission(Some(e)) => {
                        write!(f, "{command} on {device} is not permitted: needs root")
                    }
                    libc::EEXIST => {
                        write!(f, "{device} exists already: choose another id, or none")
                    }
                    libc::ENODEV | libc::ENOENT => write!(f, "there is no {device}"),
                    libc::EBUSY if *command == START_RECOVERY => {
                        write!(f, "{device} is still served by another process")
                    }
                    libc::EINVAL if *command == START_RECOVERY => write!(
                        f,
                        "an earlier attempt to take {device} over died half-way, which this \
                         kernel cannot mend"
                    ),
                    libc::EBUSY => write!(f, "{device} is in use ({command}): unmount it first"),
                    libc::ENOMEM => {
                        write!(
                            f,
                            "{command} on {device}: the kernel has no memory for {detail}"
                        )
                    }
                    libc::EINVAL => {
                        write!(
                            f,
                            "{command} on {device}: the kernel does not accept {detail}"
                        )
                    }
                    e if is_unknown(Some(e)) => {
                        write!(f, "this kernel's ublk driver does not know {command}")
                    }
                    e => write!(
                        f,
                        "{command} on {device}: {}",
                        io::Error::from_raw_os_error(e)
                    ),
                }
            }
        }
    }
}

// The sentences tell the cause, so there is no `source` that would tell it again.
impl std::error::Error for Error {}

/// A device in a sentence.
struct Named(Option<u32>);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "ublk device {id}"),
            None => write!(f, "a new ublk device"),
        }
    }
}

/// Why a ring could not be made, with the remedy.
pub(super) struct RingError<'a>(pub(super) &'a io::Error);

impl fmt::Display for RingError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.raw_os_error() {
            Some(libc::ENOSYS) => write!(f, "this kernel has no io_uring, which ublk needs"),
            Some(libc::EPERM) => write!(
                f,
                "io_uring is switched off: set the sysctl kernel.io_uring_disabled to 0, and allow \
                 io_uring in the seccomp filter of the container or service"
            ),
            _ => write!(f, "cannot set up io_uring: {}", self.0),
        }
    }
}

/// Whether the driver refused a command since it does not know it.
fn is_unknown(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EOPNOTSUPP | ENOTSUPP))
}

fn is_permission(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EPERM | libc::EACCES))
}

/// Whether the driver is there, loaded or built in.
pub fn available() -> bool {
    Path::new(sys::CONTROL_PATH).exists()
}

/// Loads the driver with `modprobe ublk_drv`. Worth one try where [`available`] says no.
pub fn load_module() -> Result<(), Error> {
    let output = Command::new("modprobe")
        .arg("ublk_drv")
        .output()
        .map_err(Error::NoModprobe)?;
    if !output.status.success() {
        // It speaks of itself and of the program that called it; its last words are the cause.
        let said = String::from_utf8_lossy(&output.stderr);
        let cause = said.trim().lines().last().unwrap_or("it said nothing");
        return Err(Error::LoadModule(cause.trim().to_string()));
    }
    if available() {
        Ok(())
    } else {
        Err(Error::NoDriver)
    }
}

/// What became of [`Control::delete`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// Nothing is left.
    Gone,
    /// Somebody still has the block device open. Nothing more has to be done: the kernel frees the
    /// number when they let go.
    Held,
}

/// How long [`Control::delete`] waits. What holds a device that nobody uses is let go in
/// milliseconds.
const DELETE_LIMIT: Duration = Duration::from_secs(3);

/// The command that means something else by some error numbers than the others.
const START_RECOVERY: &str = "START_USER_RECOVERY";

/// How long [`Control::start_recovery`] waits. A dead process is let go of in 10 to 15 ms, later on
/// a machine that is busy.
const RECOVERY_LIMIT: Duration = Duration::from_secs(20);

/// How long it waits from one attempt to the next. All requests of the device wait with it.
const RECOVERY_PAUSE: Duration = Duration::from_millis(1);

/// The open control device with its ring.
pub struct Control {
    device: File,
    // Kept for the life of the device: its kernel worker, made with the first command, is then
    // there when memory is short.
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    features: Option<u64>,
}

impl Control {
    /// Opens the control device and asks the driver what it can do.
    pub fn open() -> Result<Control, Error> {
        Control::open_at(Path::new(sys::CONTROL_PATH))
    }

    fn open_at(path: &Path) -> Result<Control, Error> {
        let device = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| {
                // ENXIO and ENODEV: a node left by a driver that has been unloaded.
                match e.raw_os_error() {
                    Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Error::NoDriver,
                    _ => Error::Open(e),
                }
            })?;
        let ring = IoUring::builder().build(1).map_err(Error::Ring)?;
        let mut control = Control {
            device,
            ring,
            features: None,
        };
        control.features = control.get_features()?;
        Ok(control)
    }

    /// The driver's `F_…` flags; `None` on Linux 6.0 to 6.4, which cannot be asked.
    pub fn features(&self) -> Option<u64> {
        self.features
    }

    /// How to write commands to this driver.
    pub fn encoding(&self) -> Encoding {
        // A driver that cannot be asked (up to 6.4) understands the plain form.
        if self.features.is_some() {
            Encoding::Ioctl
        } else {
            Encoding::Plain
        }
    }

    fn get_features(&mut self) -> Result<Option<u64>, Error> {
        let mut features = 0u64;
        let cmd = CtrlCmd {
            queue_id: sys::NO_QUEUE,
            addr: &raw mut features as u64,
            len: size_of::<u64>() as u16,
            ..CtrlCmd::default()
        };
        // Always in the ioctl form: a driver too old for the command answers with an error to it.
        // SAFETY: `addr` and `len` describe `features`, which lives on.
        match unsafe { self.submit(sys::GET_FEATURES, cmd) }.map_err(Error::Ring)? {
            0.. => Ok(Some(features)),
            e if is_permission(Some(-e)) => {
                Err(Error::Open(io::Error::from_raw_os_error(libc::EPERM)))
            }
            _ => Ok(None),
        }
    }

    /// Makes `/dev/ublkcN`. `info.dev_id` is the number wanted or [`sys::ANY_ID`]. Gives back
    /// what the kernel made of it: queues lowered to the number of CPUs, flags it knows.
    pub fn add_dev(&mut self, mut info: DevInfo) -> Result<DevInfo, Error> {
        let id = (info.dev_id != sys::ANY_ID).then_some(info.dev_id);
        let detail = format!(
            "{} queues of {} requests of {} bytes, flags {:#x}",
            info.nr_hw_queues, info.queue_depth, info.max_io_buf_bytes, info.flags
        );
        let cmd = CtrlCmd {
            addr: &raw mut info as u64,
            len: size_of::<DevInfo>() as u16,
            ..about(info.dev_id)
        };
        // SAFETY: `addr` and `len` describe `info`, which lives on.
        let result = unsafe { self.submit(sys::ADD_DEV, cmd) };
        verdict(result, "ADD_DEV", id, detail)?;
        Ok(info)
    }

    /// Sets size, block sizes and limits; possible until the device is started.
    pub fn set_params(&mut self, id: u32, params: &Params) -> Result<(), Error> {
        let cmd = CtrlCmd {
            addr: std::ptr::from_ref(params) as u64,
            len: size_of::<Params>() as u16,
            ..about(id)
        };
        let basic = &params.basic;
        let detail = format!(
            "{} sectors in blocks of {} bytes, requests of {} sectors",
            basic.dev_sectors,
            1u64 << basic.logical_bs_shift,
            basic.max_sectors
        );
        // SAFETY: `addr` and `len` describe `params`, which the driver only reads.
        let result = unsafe { self.submit(sys::SET_PARAMS, cmd) };
        verdict(result, "SET_PARAMS", Some(id), detail)
    }

    /// The parameters in force, with the device numbers.
    pub fn get_params(&mut self, id: u32) -> Result<Params, Error> {
        // The driver reads `len` from the structure too.
        let mut params = Params {
            len: size_of::<Params>() as u32,
            ..Params::default()
        };
        let cmd = CtrlCmd {
            addr: &raw mut params as u64,
            len: size_of::<Params>() as u16,
            ..about(id)
        };
        // SAFETY: `addr` and `len` describe `params`, which lives on.
        let result = unsafe { self.submit(sys::GET_PARAMS, cmd) };
        verdict(
            result,
            "GET_PARAMS",
            Some(id),
            "the parameters' size".to_string(),
        )?;
        Ok(params)
    }

    /// What a device was made with, its state and its server.
    pub fn get_dev_info(&mut self, id: u32) -> Result<DevInfo, Error> {
        let mut info = DevInfo::default();
        let cmd = CtrlCmd {
            addr: &raw mut info as u64,
            len: size_of::<DevInfo>() as u16,
            ..about(id)
        };
        // SAFETY: `addr` and `len` describe `info`, which lives on.
        let result = unsafe { self.submit(sys::GET_DEV_INFO, cmd) };
        verdict(
            result,
            "GET_DEV_INFO",
            Some(id),
            "the information's size".to_string(),
        )?;
        Ok(info)
    }

    /// The CPUs whose requests go to `queue`.
    pub fn get_queue_affinity(&mut self, id: u32, queue: u16) -> Result<libc::cpu_set_t, Error> {
        // SAFETY: a CPU set is an array of integers, for which zeros are a value: no CPU.
        let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        let cmd = CtrlCmd {
            addr: &raw mut cpus as u64,
            len: CPU_MASK_BYTES as u16,
            data: u64::from(queue),
            ..about(id)
        };
        // SAFETY: `addr` and `len` describe `cpus`, which lives on.
        let result = unsafe { self.submit(sys::GET_QUEUE_AFFINITY, cmd) };
        verdict(
            result,
            "GET_QUEUE_AFFINITY",
            Some(id),
            format!("queue {queue}"),
        )?;
        Ok(cpus)
    }

    /// Makes `/dev/ublkbN`. Waits for every queue to have fetched its tags, and reads the
    /// partition table through them: the queues must be served meanwhile.
    pub fn start_dev(&mut self, id: u32) -> Result<(), Error> {
        let cmd = CtrlCmd {
            data: u64::from(std::process::id()),
            ..about(id)
        };
        // SAFETY: the command has no address.
        let result = unsafe { self.submit(sys::START_DEV, cmd) };
        verdict(result, "START_DEV", Some(id), "its parameters".to_string())
    }

    /// Makes the queues of a device whose server died ready for this process, which is to fetch
    /// every tag next. Waits for the kernel to have let go of the dead process.
    pub fn start_recovery(&mut self, id: u32) -> Result<(), Error> {
        let deadline = Instant::now() + RECOVERY_LIMIT;
        loop {
            // SAFETY: the command has no address.
            let result = unsafe { self.submit(sys::START_USER_RECOVERY, about(id)) };
            match verdict(result, START_RECOVERY, Some(id), "it".to_string()) {
                Err(e) if e.errno() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(RECOVERY_PAUSE);
                }
                other => return other,
            }
        }
    }

    /// Lets requests go on, those included that the dead server had begun. Waits for every queue to
    /// have fetched its tags.
    pub fn end_recovery(&mut self, id: u32) -> Result<(), Error> {
        let cmd = CtrlCmd {
            data: u64::from(std::process::id()),
            ..about(id)
        };
        // SAFETY: the command has no address.
        let result = unsafe { self.submit(sys::END_USER_RECOVERY, cmd) };
        verdict(result, "END_USER_RECOVERY", Some(id), "it".to_string())
    }

    /// Takes `/dev/ublkbN` away, mounted or not, once the requests under way are served.
    pub fn stop_dev(&mut self, id: u32) -> Result<(), Error> {
        // SAFETY: the command has no address.
        let result = unsafe { self.submit(sys::STOP_DEV, about(id)) };
        verdict(result, "STOP_DEV", Some(id), "it".to_string())
    }

    /// Whether the driver has [`stop_if_unused`](Control::stop_if_unused).
    pub fn can_stop_if_unused(&self) -> bool {
        self.features.is_some_and(|f| f & sys::F_SAFE_STOP_DEV != 0)
    }

    /// [`stop_dev`](Control::stop_dev) unless somebody has the block device open, decided by the
    /// kernel in one step. `false`: somebody has, and nothing has changed.
    pub fn stop_if_unused(&mut self, id: u32) -> Result<bool, Error> {
        // SAFETY: the command has no address.
        match unsafe { self.submit(sys::TRY_STOP_DEV, about(id)) } {
            Ok(e) if e == -libc::EBUSY => Ok(false),
            result => verdict(result, "TRY_STOP_DEV", Some(id), "it".to_string()).map(|()| true),
        }
    }

    /// Removes `/dev/ublkcN` and frees the number, after stopping the device if need be. The
    /// kernel does so when nobody has either device open any more: close your own descriptor
    /// first. Whoever does not let go is not waited for beyond some seconds.
    pub fn delete(&mut self, id: u32) -> Result<Deleted, Error> {
        // SAFETY: the command has no address.
        let result = unsafe { self.submit(sys::DEL_DEV_ASYNC, about(id)) };
        let deleted = match verdict(result, "DEL_DEV_ASYNC", Some(id), "it".to_string()) {
            Err(e) if is_unknown(e.errno()) => return delete_and_wait(id),
            other => other,
        };
        let deadline = Instant::now() + DELETE_LIMIT;
        match deleted {
            Err(e) if e.is_no_device() => return Ok(Deleted::Gone),
            other => other?,
        }
        while self.exists(id)? {
            if Instant::now() > deadline {
                return Ok(Deleted::Held);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Deleted::Gone)
    }

    /// Whether the driver has a device of this number, be it without any node in `/dev`.
    pub fn exists(&mut self, id: u32) -> Result<bool, Error> {
        match self.get_dev_info(id) {
            Ok(_) => Ok(true),
            Err(e) if e.is_no_device() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Hands one command to the driver and waits for its result, zero or a negative error number.
    ///
    /// # Safety
    /// Where the command reads or writes memory, `cmd.addr` and `cmd.len` must describe memory
    /// that may be so used until this returns.
    unsafe fn submit(&mut self, command: u32, cmd: CtrlCmd) -> io::Result<i32> {
        let fd = types::Fd(self.device.as_raw_fd());
        let number = match command {
            sys::GET_FEATURES => command,
            _ => self.encoding().number(command),
        };
        let entry = opcode::UringCmd80::new(fd, number)
            .cmd(cmd.to_bytes())
            .build();
        // SAFETY: the caller vouches for the memory, and this does not return while the driver
        // has the command: an error below comes before it was submitted.
        unsafe { self.ring.submission().push(&entry) }
            .expect("the ring is empty between commands, and has room for one");
        while self.ring.submit()? == 0 {}
        loop {
            if let Some(answer) = self.ring.completion().next() {
                return Ok(answer.result());
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Waiting on a sound ring cannot fail otherwise, and returning would leave the
                // driver an address of ours.
                Err(e) => panic!("waiting for a ublk control command: {e}"),
            }
        }
    }
}

/// [`Control::delete`] on Linux 6.0 to 6.8, where the driver knows only a command that waits. It
/// waits in a thread of its own, which goes on doing so when we do not.
fn delete_and_wait(id: u32) -> Result<Deleted, Error> {
    let mut control = Control::open()?;
    let (tell, told) = channel();
    std::thread::Builder::new()
        .name(format!("ublk{id}-delete"))
        .spawn(move || {
            // SAFETY: the command has no address.
            let result = unsafe { control.submit(sys::DEL_DEV, about(id)) };
            // The other end may have given up.
            let _ = tell.send(verdict(result, "DEL_DEV", Some(id), "it".to_string()));
        })
        .map_err(Error::Thread)?;
    match told.recv_timeout(DELETE_LIMIT) {
        Ok(Err(e)) if !e.is_no_device() => Err(e),
        Ok(_) => Ok(Deleted::Gone),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(Deleted::Held),
    }
}

/// The head of a command about device `id`.
fn about(id: u32) -> CtrlCmd {
    CtrlCmd {
        dev_id: id,
        queue_id: sys::NO_QUEUE,
        ..CtrlCmd::default()
    }
}

/// A command's result as an error of ours.
fn verdict(
    result: io::Result<i32>,
    command: &'static str,
    id: Option<u32>,
    detail: String,
) -> Result<(), Error> {
    match result.map_err(Error::Ring)? {
        0.. => Ok(()),
        e => Err(Error::Command {
            command,
            id,
            detail,
            errno: -e,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(command: &'static str, id: Option<u32>, errno: i32) -> String {
        verdict(Ok(-errno), command, id, "9 queues".to_string())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_refusal_has_its_sentence() {
        assert_eq!(
            refused("ADD_DEV", Some(3), libc::EEXIST),
            "ublk device 3 exists already: choose another id, or none"
        );
        assert_eq!(
            refused("ADD_DEV", None, libc::EPERM),
            "ADD_DEV on a new ublk device is not permitted: needs root"
        );
        assert_eq!(
            refused("ADD_DEV", None, libc::EINVAL),
            "ADD_DEV on a new ublk device: the kernel does not accept 9 queues"
        );
        assert_eq!(
            refused("STOP_DEV", Some(7), libc::ENODEV),
            "there is no ublk device 7"
        );
        assert_eq!(
            refused("TRY_STOP_DEV", Some(7), ENOTSUPP),
            "this kernel's ublk driver does not know TRY_STOP_DEV"
        );
        assert_eq!(
            refused(START_RECOVERY, Some(7), libc::EBUSY),
            "ublk device 7 is still served by another process"
        );
        assert!(verdict(Ok(0), "STOP_DEV", Some(7), String::new()).is_ok());
    }

    #[test]
    fn a_missing_control_device_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Control::open_at(&dir.path().join("ublk-control"))
            .err()
            .unwrap();
        assert!(matches!(error, Error::NoDriver), "{error:?}");
        assert!(error.to_string().contains("modprobe ublk_drv"), "{error}");
    }
}
