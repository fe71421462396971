//! The raw system calls that the daemon makes, each behind a checked function.
//!
//! Nothing here decides anything; what is called when, and why, stands in the modules beside it.

use std::ffi::{CStr, CString, c_int, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;
use std::time::Duration;

/// `PR_SET_IO_FLUSHER` and `PR_GET_IO_FLUSHER` of `linux/prctl.h`.
const PR_SET_IO_FLUSHER: c_int = 57;
const PR_GET_IO_FLUSHER: c_int = 58;
/// `MLOCK_ONFAULT` of `asm-generic/mman-common.h`.
const MLOCK_ONFAULT: u32 = 1;
/// Flags of `swapon(2)`, from `linux/swap.h`.
const SWAP_FLAG_PREFER: c_int = 0x8000;
const SWAP_FLAG_DISCARD: c_int = 0x1_0000;
/// `BLKDISCARD` of `linux/fs.h`: `_IO(0x12, 119)`.
const BLKDISCARD: c_ulong = 0x1277;
/// `LOOP_CLR_FD` of `linux/loop.h`.
const LOOP_CLR_FD: c_ulong = 0x4c01;

/// The result of a call that returns -1 and sets `errno`.
fn checked(result: c_int) -> io::Result<c_int> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A path as the kernel takes it.
fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// The id of the user that this process acts as.
pub fn user() -> u32 {
    // SAFETY: takes nothing, changes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether this process acts as root.
pub fn is_root() -> bool {
    user() == 0
}

/// Leaves the caller's session, directory and terminal: what a daemon does once, before threads.
pub fn leave_session() -> io::Result<()> {
    std::env::set_current_dir("/")?;
    // SAFETY: no memory is involved. It fails only for a process group leader, which is reported.
    checked(unsafe { libc::setsid() }).map(drop)
}

/// Files made from now on are the owner's alone.
pub fn private_umask() {
    // SAFETY: changes one number of the process, cannot fail.
    unsafe { libc::umask(0o077) };
}

/// Closes what the caller left open above standard error.
///
/// Only for the first moment of a process, when nothing of ours has a descriptor there yet.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: by the condition above no `File` of ours owns one of these descriptors.
    checked(unsafe { libc::close_range(3, libc::c_uint::MAX, 0) }).map(drop)
}

/// Makes `target` (0, 1 or 2) mean what `file` means.
pub fn redirect(file: &impl AsRawFd, target: c_int) -> io::Result<()> {
    assert!((0..=2).contains(&target));
    // SAFETY: standard descriptors belong to the process, not to any owner in Rust; the standard
    // library uses them by number.
    checked(unsafe { libc::dup2(file.as_raw_fd(), target) }).map(drop)
}

/// The descriptor 1, duplicated, so that it survives a [`redirect`] of standard output.
pub fn take_stdout() -> io::Result<File> {
    // SAFETY: duplicating a descriptor by number; a closed one is an error.
    let fd = checked(unsafe { libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Mounts a file system that lives in memory, `tmpfs` or `ramfs`, with its `options`.
pub fn mount_in_memory(target: &Path, kind: &CStr, options: &CStr) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: all pointers are to strings that end with a zero and live through the call.
    checked(unsafe {
        libc::mount(
            c"trueno-ublk".as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            options.as_ptr().cast(),
        )
    })
    .map(drop)
}

/// Whether `path` lies on a tmpfs.
pub fn on_tmpfs(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    // SAFETY: statfs is plain data, for which zeros are valid.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the pointers are to a string that ends with a zero and to a place for the answer.
    checked(unsafe { libc::statfs(path.as_ptr(), &mut found) })?;
    Ok(found.f_type == libc::TMPFS_MAGIC)
}

/// Unmounts `target`, or, if it is still in use, takes it out of the tree at once and lets it end
/// with its last user.
pub fn unmount(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: the pointer is to a string that ends with a zero and lives through the call.
    match checked(unsafe { libc::umount2(target.as_ptr(), 0) }) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            // SAFETY: as above.
            checked(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
        }
        other => other.map(drop),
    }
}

/// A file in memory without a name in any file system.
pub fn memfd(name: &CStr) -> io::Result<File> {
    // SAFETY: the pointer is to a string that ends with a zero and lives through the call.
    let fd = checked(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A System V segment of one page, which [`open_segment`] lets grow. It belongs to no process. Its number.
pub fn create_segment() -> io::Result<c_int> {
    let flags = libc::IPC_CREAT | libc::SHM_NORESERVE | 0o600;
    // SAFETY: takes plain numbers and makes a segment.
    checked(unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, flags) })
}

/// From now on no page of the segment `number` is swapped out. Its size must not change any more: the
/// kernel counts the bytes now and when the segment ends.
pub fn lock_segment(number: c_int) -> io::Result<()> {
    // SAFETY: plain numbers; this command takes no structure.
    checked(unsafe { libc::shmctl(number, libc::SHM_LOCK, ptr::null_mut()) }).map(drop)
}

/// The file whose pages are those of the segment `number`. It can be sized, mapped and punched like one
/// of a tmpfs.
pub fn open_segment(number: c_int) -> io::Result<File> {
    // SAFETY: the kernel chooses an address where nothing is mapped.
    let address = unsafe { libc::shmat(number, ptr::null(), 0) };
    if address as isize == -1 {
        return Err(io::Error::last_os_error());
    }
    let start = format!("{:x}-", address as usize);
    let opened = std::fs::read_dir("/proc/self/map_files").and_then(|mappings| {
        for mapping in mappings {
            let mapping = mapping?;
            if mapping.file_name().to_string_lossy().starts_with(&start) {
                let mut options = std::fs::OpenOptions::new();
                return options.read(true).write(true).open(mapping.path());
            }
        }
        Err(io::ErrorKind::NotFound.into())
    });
    // SAFETY: mapped above, and nothing refers to it: who uses the segment maps the file.
    checked(unsafe { libc::shmdt(address) })?;
    opened
}

/// Gives the segment `number` back as soon as nobody has it open.
pub fn remove_segment(number: c_int) -> io::Result<()> {
    // SAFETY: plain numbers; this command takes no structure.
    checked(unsafe { libc::shmctl(number, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
}

/// Takes IO_FLUSHER, which goes on to started processes, from the calling thread.
pub fn clear_io_flusher() -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0) }).map(drop)
}

/// Marks the calling thread as one that memory reclaim may wait for, and reads it back: its own
/// allocations then never start I/O. Threads made later inherit it.
pub fn set_io_flusher() -> io::Result<()> {
    // SAFETY: prctl with plain numbers.
    checked(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) })?;
    if io_flusher()? {
        Ok(())
    } else {
        Err(io::Error::other("IO_FLUSHER did not stay set"))
    }
}

/// Whether the calling thread is marked so.
pub fn io_flusher() -> io::Result<bool> {
    // SAFETY: prctl with plain numbers.
    checked(unsafe { libc::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) }).map(|value| value == 1)
}

/// The calling thread's id, as in `/proc/PID/task`.
pub fn thread_id() -> i32 {
    // SAFETY: takes nothing, changes nothing, cannot fail.
    unsafe { libc::gettid() }
}

/// How long the calling thread has run on a processor.
pub fn thread_time() -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer.
    checked(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) })?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Puts the calling thread into the class SCHED_FIFO with this priority, and reads it back.
pub fn set_fifo(priority: c_int) -> io::Result<()> {
    let wanted = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: `wanted` is a valid parameter block that lives through the call; 0 is this thread.
    checked(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &wanted) })?;
    if scheduling(0)? == (libc::SCHED_FIFO, priority) {
        Ok(())
    } else {
        Err(io::Error::other("the scheduling class did not stay set"))
    }
}

/// Sets the name of this process, to be called in its main thread: what `ps` and `pidof` see.
pub fn set_name(name: &str) -> io::Result<()> {
    std::fs::write("/proc/self/comm", name)
}

/// Puts the calling thread under the ordinary scheduler.
pub fn set_ordinary() -> io::Result<()> {
    let wanted = libc::sched_param { sched_priority: 0 };
    // SAFETY: `wanted` is a valid parameter block that lives through the call; 0 is this thread.
    checked(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &wanted) }).map(drop)
}

/// A descriptor of the process that started this one, if that is `pid`: an error if it is dead.
pub fn open_parent(pid: u32) -> io::Result<OwnedFd> {
    let number = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes plain numbers and makes a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
    let fd = checked(c_int::try_from(fd).unwrap_or(-1))?;
    // SAFETY: the descriptor was just made and nobody else owns it.
    let process = unsafe { OwnedFd::from_raw_fd(fd) };
    // A number can be used again: while it is our parent's, it was not.
    if std::os::unix::process::parent_id() == pid {
        Ok(process)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Sleeps until the process of a descriptor is dead.
pub fn wait_for_death(process: &OwnedFd) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: process.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: one valid structure, which lives through the call.
        match checked(unsafe { libc::poll(&mut poll, 1, -1) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

/// Scheduling class and priority of a thread (0: the calling one).
pub fn scheduling(tid: i32) -> io::Result<(c_int, c_int)> {
    let mut found = libc::sched_param { sched_priority: 0 };
    // SAFETY: plain numbers.
    let class = checked(unsafe { libc::sched_getscheduler(tid) })?;
    // SAFETY: `found` is a valid place for the answer.
    checked(unsafe { libc::sched_getparam(tid, &mut found) })?;
    Ok((class, found.sched_priority))
}

/// Makes `bytes` of the caller's stack present, so that calls that deep never fault.
///
/// The caller's stack must be larger than that by some pages.
#[inline(never)]
pub fn touch_stack<const BYTES: usize>() {
    let mut area = [0u8; BYTES];
    for byte in area.iter_mut().step_by(4096) {
        // SAFETY: a write to a local variable that the compiler may not leave out.
        unsafe { ptr::write_volatile(byte, 1) };
    }
    std::hint::black_box(&area);
}

/// Makes the heap keep what it has: one arena, no separate mappings, nothing given back. What is
/// locked once then serves all later use. To be called before there is a second thread.
pub fn keep_heap() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_MAX, 0),
        (libc::M_TRIM_THRESHOLD, c_int::MAX),
    ] {
        // SAFETY: the only thread changes parameters of its allocator by plain numbers.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Brings the pages of a mapping in and locks them.
///
/// `range` may be any addresses: what is not mapped or not accessible is an error.
pub fn lock_range(range: &std::ops::Range<usize>) -> io::Result<()> {
    // SAFETY: locking changes no byte and no address.
    checked(unsafe { libc::mlock(range.start as *const _, range.len()) }).map(drop)
}

/// Locks the pages of a mapping that are there, and those to come when they come.
pub fn lock_range_on_fault(range: &std::ops::Range<usize>) -> io::Result<()> {
    // SAFETY: locking changes no byte and no address.
    checked(unsafe { libc::mlock2(range.start as *const _, range.len(), MLOCK_ONFAULT as _) })
        .map(drop)
}

/// Mappings made from now on, stacks and heap among them, have their pages locked when they come.
pub fn lock_future_on_fault() -> io::Result<()> {
    // SAFETY: locking changes no byte and no address.
    checked(unsafe { libc::mlockall(libc::MCL_FUTURE | libc::MCL_ONFAULT) }).map(drop)
}

/// Has no core dump made of this process, whatever it dies of, and reads that back.
pub fn forbid_core_dump() -> io::Result<()> {
    // SAFETY: prctl with plain numbers.
    checked(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    // SAFETY: the same.
    match checked(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) })? {
        0 => Ok(()),
        _ => Err(io::Error::other("the process stayed dumpable")),
    }
}

/// Swaps to `device` from now on: by priority, and with discards when pages are freed.
pub fn swapon(device: &Path, priority: u16) -> io::Result<()> {
    let device = c_path(device)?;
    let flags = SWAP_FLAG_PREFER | SWAP_FLAG_DISCARD | c_int::from(priority);
    // SAFETY: the pointer is to a string that ends with a zero and lives through the call.
    match unsafe { libc::syscall(libc::SYS_swapon, device.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes `device` out of swap; every page on it comes back to memory first.
pub fn swapoff(device: &Path) -> io::Result<()> {
    let device = c_path(device)?;
    // SAFETY: the pointer is to a string that ends with a zero and lives through the call.
    match unsafe { libc::syscall(libc::SYS_swapoff, device.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Discards the first `len` bytes of a block device, and the kernel's cached copies of them.
pub fn discard(device: &File, len: u64) -> io::Result<()> {
    let range: [u64; 2] = [0, len];
    // SAFETY: BLKDISCARD reads two 64-bit numbers from the pointer, which live through the call.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD as _, range.as_ptr()) }).map(drop)
}

/// Detaches a loop device from its file, now or when its last user is gone.
pub fn loop_clear(device: &File) -> io::Result<()> {
    // SAFETY: LOOP_CLR_FD takes no argument.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _, 0) }).map(drop)
}

/// The signals that the main thread waits for.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Blocks `signals` in this thread and in all that it makes from now on.
    pub fn block(signals: &[c_int]) -> io::Result<SignalSet> {
        // SAFETY: sigset_t is plain data, and sigemptyset makes it valid whatever it held.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is a valid place.
        unsafe { libc::sigemptyset(&mut set) };
        for signal in signals {
            // SAFETY: `set` is a valid set; a wrong number is an error.
            checked(unsafe { libc::sigaddset(&mut set, *signal) })?;
        }
        // SAFETY: `set` is a valid set; the old mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) } {
            0 => Ok(SignalSet(set)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Sleeps until one of the signals comes and returns it; `None` when `timeout` is over first, or
    /// the sleep is interrupted.
    pub fn wait(&self, timeout: Duration) -> io::Result<Option<c_int>> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: set and time are valid; what else is known about the signal is not asked for.
        match checked(unsafe { libc::sigtimedwait(&self.0, ptr::null_mut(), &timeout) }) {
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(None),
                _ => Err(error),
            },
            Ok(signal) => Ok(Some(signal)),
        }
    }
}

/// Sends `signal` to this process.
pub fn raise_in_process(signal: c_int) -> io::Result<()> {
    // SAFETY: plain numbers.
    checked(unsafe { libc::kill(libc::getpid(), signal) }).map(drop)
}

/// Ends the process at once: nothing is cleaned up.
pub fn exit_now(status: c_int) -> ! {
    // SAFETY: takes a plain number and does not return.
    unsafe { libc::_exit(status) }
}

/// Text of bounded length, on the stack.
struct Line {
    bytes: [u8; 1024],
    len: usize,
}

impl std::fmt::Write for Line {
    /// Leaves out what does not fit.
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        Ok(())
    }
}

/// Writes at most 1024 bytes to standard error, without the heap and without a lock. Where a pipe or
/// socket is full, nothing is written: its reader may himself wait for our device.
pub fn emergency(text: std::fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; 1024],
        len: 0,
    };
    let _ = std::fmt::write(&mut line, text);
    let mut poll = libc::pollfd {
        fd: 2,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid structure, which lives through the call.
    if unsafe { libc::poll(&mut poll, 1, 0) } != 1 || poll.revents & libc::POLLOUT == 0 {
        return;
    }
    // SAFETY: the pointer and length are those of bytes that live through the call.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.len) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn last_words_have_a_bound() {
        let mut line = Line {
            bytes: [0; 1024],
            len: 0,
        };
        let words = "x".repeat(1020);
        write!(line, "{words}{}", 12345).unwrap();
        assert_eq!(line.len, 1024);
        assert!(line.bytes.ends_with(b"x1234"));
        line.write_str("no room").unwrap();
        assert_eq!(line.len, 1024);
    }
}
