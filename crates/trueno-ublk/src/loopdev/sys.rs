//! The kernel's side of the loop transport: loop ioctls, mounts, and the few calls std lacks.
//!
//! Structures and numbers are those of `linux/loop.h`, written down here with checks of their
//! layout. Everything above this file is safe code.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the FUSE driver is reached.
pub const DEV_FUSE: &str = "/dev/fuse";
/// Where loop devices are asked for.
pub const DEV_LOOP_CONTROL: &str = "/dev/loop-control";

const LOOP_CLR_FD: libc::Ioctl = 0x4C01;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_SET_DIRECT_IO: libc::Ioctl = 0x4C08;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

const LO_FLAGS_DIRECT_IO: u32 = 16;
const LO_NAME_SIZE: usize = 64;
const LO_KEY_SIZE: usize = 32;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; LO_NAME_SIZE],
    crypt_name: [u8; LO_NAME_SIZE],
    encrypt_key: [u8; LO_KEY_SIZE],
    init: [u64; 2],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);
const _: () = assert!(std::mem::offset_of!(LoopInfo64, flags) == 52);
const _: () = assert!(std::mem::offset_of!(LoopInfo64, file_name) == 56);
const _: () = assert!(std::mem::offset_of!(LoopInfo64, init) == 216);

impl LoopInfo64 {
    const ZERO: LoopInfo64 = LoopInfo64 {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; LO_NAME_SIZE],
        crypt_name: [0; LO_NAME_SIZE],
        encrypt_key: [0; LO_KEY_SIZE],
        init: [0; 2],
    };
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);
const _: () = assert!(std::mem::offset_of!(LoopConfig, info) == 8);

/// An error with what was being done put before it.
fn context(what: impl std::fmt::Display, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// `ioctl` with an integer or no argument. Gives what the kernel returned, when not negative.
fn ioctl_value(file: &File, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: only called with the requests above that take an integer or nothing, so the kernel
    // reads and writes no memory of ours; the descriptor is open, since `file` is borrowed.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), request, value) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

fn loop_configure(device: &File, config: &LoopConfig) -> io::Result<()> {
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, whose layout `LoopConfig` has
    // (checked above), and keeps no pointer to it; the descriptor is open.
    let rc = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            LOOP_CONFIGURE,
            config as *const LoopConfig,
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn loop_status(device: &File) -> io::Result<LoopInfo64> {
    let mut info = LoopInfo64::ZERO;
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`, whose layout `LoopInfo64` has
    // (checked above) and every bit pattern of which is a value; the descriptor is open.
    let rc = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            LOOP_GET_STATUS64,
            &mut info as *mut LoopInfo64,
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(info)
    }
}

/// A loop device bound to a file.
#[derive(Clone, Debug)]
pub struct Loop {
    number: u32,
    path: PathBuf,
}

/// How many times a free loop device is asked for, when other processes take them first.
const ATTACH_TRIES: u32 = 64;

impl Loop {
    fn of_number(number: u32) -> Loop {
        Loop {
            number,
            path: PathBuf::from(format!("/dev/loop{number}")),
        }
    }

    /// Binds a free loop device to `backing` with direct I/O and logical blocks of `block_size`
    /// bytes. `name` is what `losetup` and `LOOP_GET_STATUS64` show.
    pub fn attach(backing: &File, block_size: u32, name: &str) -> io::Result<Loop> {
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEV_LOOP_CONTROL)
            .map_err(|e| context(DEV_LOOP_CONTROL, e))?;
        let mut info = LoopInfo64 {
            flags: LO_FLAGS_DIRECT_IO,
            ..LoopInfo64::ZERO
        };
        // One byte stays zero: the kernel takes the name as a C string.
        let shown = &name.as_bytes()[..name.len().min(LO_NAME_SIZE - 1)];
        info.file_name[..shown.len()].copy_from_slice(shown);
        let config = LoopConfig {
            fd: backing.as_raw_fd() as u32,
            block_size,
            info,
            reserved: [0; 8],
        };

        let mut tries = 0;
        let (device, this) = loop {
            let number = ioctl_value(&control, LOOP_CTL_GET_FREE, 0)
                .map_err(|e| context("no free loop device", e))?;
            let this = Loop::of_number(number as u32);
            let device = open_node(&this)?;
            match loop_configure(&device, &config) {
                Ok(()) => break (device, this),
                // Someone bound it between the question and the answer's use.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && tries < ATTACH_TRIES => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(u64::from(tries)));
                }
                Err(e) => {
                    return Err(context(
                        format_args!("attaching {}", this.path.display()),
                        e,
                    ));
                }
            }
        };
        // Bound: from here on a failure gives the device back.
        this.ensure_direct_io(&device).inspect_err(|_| {
            let _ = ioctl_value(&device, LOOP_CLR_FD, 0);
        })?;
        Ok(this)
    }

    /// The kernel may drop the direct I/O flag without an error, and then keeps every page a
    /// second time in its page cache, uncompressed.
    fn ensure_direct_io(&self, device: &File) -> io::Result<()> {
        let direct = || Ok::<bool, io::Error>(loop_status(device)?.flags & LO_FLAGS_DIRECT_IO != 0);
        if direct()? {
            return Ok(());
        }
        let refused = ioctl_value(device, LOOP_SET_DIRECT_IO, 1).err();
        if direct()? {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} does not take direct I/O ({}): this kernel's FUSE or loop driver is too old, \
             use a kernel of 6.0 or later",
            self.path.display(),
            refused.map_or_else(|| "no reason given".to_string(), |e| e.to_string()),
        )))
    }

    /// `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file this device is bound to, as the kernel names it now. `None` when it is free.
    /// Does not open the device, so it does not keep it busy either.
    pub fn backing_file(&self) -> Option<PathBuf> {
        let shown = fs::read(format!("/sys/block/loop{}/loop/backing_file", self.number)).ok()?;
        let shown = shown.strip_suffix(b"\n").unwrap_or(&shown);
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(shown)))
    }

    /// Tells the kernel to unbind the device when the last user closes it, which may be now.
    pub fn clear(&self) -> io::Result<()> {
        let device = match open_node(self) {
            // Gone altogether.
            Err(_) if self.backing_file().is_none() => return Ok(()),
            other => other?,
        };
        match ioctl_value(&device, LOOP_CLR_FD, 0) {
            Ok(_) => Ok(()),
            // Already free, or on its way.
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(()),
            Err(e) => Err(context(
                format_args!("detaching {}", self.path.display()),
                e,
            )),
        }
    }

    /// Unbinds the device from `backing` and waits until it is free, at most `limit`.
    /// `false`: someone still has it open; the kernel unbinds it when they let go.
    ///
    /// LOOP_CLR_FD never says which of the two happened: it marks the device, and the last close
    /// does the work. So our own descriptor is closed first, and then we watch sysfs.
    pub fn detach(&self, backing: &Path, limit: Duration) -> io::Result<bool> {
        let free = || self.backing_file().is_none_or(|now| now != backing);
        if free() {
            return Ok(true);
        }
        self.clear()?;
        let deadline = Instant::now() + limit;
        while !free() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(true)
    }

    /// Whether the file behind the device has lost its server. The kernel asks the FUSE server
    /// for the attributes of the file to answer LOOP_GET_STATUS64, and there is none.
    fn is_orphan(&self) -> bool {
        open_node(self)
            .and_then(|device| loop_status(&device))
            .is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN))
    }

    /// The loop devices bound to `backing` whose server is dead.
    pub fn orphans_of(backing: &Path) -> Vec<Loop> {
        let Ok(entries) = fs::read_dir("/sys/block") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                let number = name.to_str()?.strip_prefix("loop")?.parse().ok()?;
                let this = Loop::of_number(number);
                (this.backing_file()? == backing && this.is_orphan()).then_some(this)
            })
            .collect()
    }
}

fn open_node(device: &Loop) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device.path)
        .map_err(|e| {
            let path = device.path.display();
            match e.kind() {
                io::ErrorKind::NotFound => io::Error::new(
                    e.kind(),
                    format!(
                        "{path} does not exist although the kernel has the device; make it with \
                     `mknod {path} b 7 {}`",
                        device.number
                    ),
                ),
                _ => context(path, e),
            }
        })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Opens `/dev/fuse`: one connection to the FUSE driver.
pub fn open_fuse() -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(DEV_FUSE)
        .map_err(|e| context(DEV_FUSE, e))?;
    Ok(file.into())
}

/// What `mount` and `/proc/mounts` show as the type of our file system.
const FS_TYPE: &std::ffi::CStr = c"fuse.trueno-zram";

/// Mounts the connection `fuse` at `point` for root alone, with no help of `fusermount3`, which
/// a fresh machine lacks.
pub fn mount_fuse(fuse: &OwnedFd, point: &Path) -> io::Result<()> {
    let target = c_path(point)?;
    let options = CString::new(format!(
        "fd={},rootmode=40700,user_id=0,group_id=0",
        fuse.as_raw_fd()
    ))?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_NOATIME;
    // SAFETY: all four pointers are to NUL-terminated strings that outlive the call, and the
    // kernel copies them.
    let rc = unsafe {
        libc::mount(
            c"trueno-zram".as_ptr(),
            target.as_ptr(),
            FS_TYPE.as_ptr(),
            flags,
            options.as_ptr().cast(),
        )
    };
    if rc == 0 {
        return Ok(());
    }
    Err(context(
        format_args!("mounting FUSE at {}", point.display()),
        io::Error::last_os_error(),
    ))
}

/// Ends the FUSE connection mounted at `point` and takes the mount away, also while something
/// uses it. MNT_FORCE makes the driver refuse every further request, so that the threads that
/// serve it end even where a copy of the mount lives on in another mount namespace.
pub fn unmount_fuse(point: &Path) -> io::Result<()> {
    match umount2(point, libc::MNT_FORCE) {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => umount2(point, libc::MNT_DETACH),
        done => done,
    }
}

fn umount2(point: &Path, flags: libc::c_int) -> io::Result<()> {
    let target = c_path(point)?;
    // SAFETY: `target` is a NUL-terminated string that outlives the call.
    let rc = unsafe { libc::umount2(target.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What lies at a mount point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountState {
    /// No FUSE file system.
    Free,
    /// A FUSE file system that answers.
    Alive,
    /// A FUSE file system whose server is dead.
    Dead,
}

/// `FUSE_SUPER_MAGIC` of `linux/magic.h`.
const FUSE_SUPER_MAGIC: i128 = 0x6573_5546;

/// Asks the file system at `point` whether it is FUSE and has a server. `statfs` is never
/// answered from a cache, `stat` may be.
pub fn mount_state(point: &Path) -> io::Result<MountState> {
    let target = c_path(point)?;
    let mut answer = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `target` is a NUL-terminated string and `answer` has room for one `statfs`.
    let rc = unsafe { libc::statfs(target.as_ptr(), answer.as_mut_ptr()) };
    if rc != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // ECONNABORTED: the connection was ended while the question was under way.
            Some(libc::ENOTCONN | libc::ECONNABORTED) => Ok(MountState::Dead),
            Some(libc::ENOENT) => Ok(MountState::Free),
            _ => Err(context(point.display(), error)),
        };
    }
    // SAFETY: statfs succeeded, so it wrote the structure.
    let answer = unsafe { answer.assume_init() };
    // The width and sign of `f_type` differ from one libc to the next.
    let fuse = i128::from(answer.f_type) == FUSE_SUPER_MAGIC;
    Ok(if fuse {
        MountState::Alive
    } else {
        MountState::Free
    })
}

/// Whether this process may mount and attach.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// The id of the calling thread, as in `/proc/PID/task`.
pub fn thread_id() -> i32 {
    // SAFETY: gettid has no preconditions.
    unsafe { libc::gettid() }
}

/// Names the calling thread; the kernel keeps 15 bytes.
pub fn name_thread(name: &str) {
    let Ok(name) = CString::new(name) else { return };
    // SAFETY: PR_SET_NAME reads at most 16 bytes of the NUL-terminated string, which outlives
    // the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}
