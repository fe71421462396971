//! The system calls that the standard library does not have, each as a safe function.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Seconds since some fixed moment; unlike `Instant` it can be compared between processes.
pub fn now() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Anonymous memory, zero until it is written, given back when dropped.
pub struct Mapping {
    start: *mut u8,
    bytes: usize,
}

impl Mapping {
    /// Memory of this process alone.
    pub fn private(bytes: usize) -> io::Result<Self> {
        Self::new(bytes, libc::MAP_PRIVATE | libc::MAP_NORESERVE)
    }

    /// Memory that children made by `fork` have in common with this process.
    pub fn shared(bytes: usize) -> io::Result<Self> {
        Self::new(bytes, libc::MAP_SHARED)
    }

    fn new(bytes: usize, flags: i32) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                access,
                flags | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            bytes,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points to `bytes` bytes that are mapped and initialised (to zero) while
        // `self` lives, and only `bytes_mut` with its exclusive borrow writes them.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }

    /// Atomic counters at the start of the mapping, for several processes or threads.
    pub fn counters<const N: usize>(&self) -> &[std::sync::atomic::AtomicU64; N] {
        assert!(N * 8 <= self.bytes);
        // SAFETY: the mapping is page aligned, holds N words, and every bit pattern is a valid
        // AtomicU64, which may be changed through a shared reference by anyone.
        unsafe { &*self.start.cast() }
    }

    /// Keep these pages in memory.
    pub fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is one mapping of ours; locking changes no content.
        check(unsafe { libc::mlock(self.start.cast(), self.bytes) }).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made in `new`, and all borrows of it have ended.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

/// Keep every page that this process has now in memory.
pub fn lock_all() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT) }).map(drop)
}

/// Which side of a fork this is.
pub enum Fork {
    Parent(i32),
    Child,
}

/// Make a copy of this process.
///
/// The process must have one thread only: a lock held by another thread would stay locked for ever.
pub fn fork() -> io::Result<Fork> {
    assert_eq!(
        std::fs::read_dir("/proc/self/task")?.count(),
        1,
        "fork with several threads"
    );
    // SAFETY: there is one thread, as was just checked, so that the child's memory is consistent.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// How a child ended.
pub enum Ended {
    Exit(i32),
    Killed,
}

/// Wait for one child.
pub fn wait(pid: i32) -> io::Result<Ended> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for one integer.
    check(unsafe { libc::waitpid(pid, &mut status, 0) })?;
    Ok(if libc::WIFSIGNALED(status) {
        Ended::Killed
    } else {
        Ended::Exit(libc::WEXITSTATUS(status))
    })
}

/// A handle that becomes readable when the process ends.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = check(fd as i32)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// True when the process behind a `pidfd` has ended.
pub fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut poll = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `poll` is one valid pollfd.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

/// Block the signals that ask a process to end, in this thread and those that it starts.
pub fn block_end_signals() -> Signals {
    // SAFETY: sigset_t is plain data for which all zeros is valid; the set is filled before use,
    // and all pointers are to it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        Signals(set)
    }
}

/// Blocked signals.
pub struct Signals(libc::sigset_t);

impl Signals {
    /// Sleep until one of them comes.
    pub fn wait(&self) {
        // SAFETY: the set is valid; a null pointer says that details are not wanted.
        while unsafe { libc::sigwaitinfo(&self.0, std::ptr::null_mut()) } < 0 {}
    }
}

/// Read from the start of a file without moving its position; the number of bytes, 0 on an error.
pub fn read_at_start(file: &File, buffer: &mut [u8]) -> usize {
    use std::os::unix::fs::FileExt as _;
    file.read_at(buffer, 0).unwrap_or(0)
}

/// Open a device for reading and writing past the page cache.
pub fn open_direct(path: &str) -> Result<File, String> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .map_err(|error| format!("cannot open {path}: {error}"))
}

/// The size of a file or device.
pub fn size(file: &File) -> io::Result<u64> {
    // SAFETY: takes no pointers.
    let end = unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_END) };
    u64::try_from(end).map_err(|_| io::Error::last_os_error())
}

/// Have the `io_uring_enter` in which a thread of another process waits end with `errno`. `false`:
/// it is not in one, and nothing has changed.
#[cfg(target_arch = "x86_64")]
pub fn fail_io_uring_enter(tid: i32, errno: i32) -> io::Result<bool> {
    let trace = |request, data: *mut libc::c_void| {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: of the requests below those that use `data` get a valid place for the registers;
        // the memory of the traced process is not touched.
        check(unsafe { libc::ptrace(request, tid, none, data) } as i32)
    };
    let nothing = std::ptr::null_mut();
    trace(libc::PTRACE_ATTACH, nothing)?;
    // SAFETY: a null pointer says that the status is not wanted.
    check(unsafe { libc::waitpid(tid, std::ptr::null_mut(), libc::__WALL) })?;
    // SAFETY: user_regs_struct is plain integers, for which zeros are a value.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    trace(libc::PTRACE_GETREGS, (&raw mut registers).cast())?;
    // The number of the system call that the attaching interrupted.
    let waits = registers.orig_rax == libc::SYS_io_uring_enter as u64;
    if waits {
        registers.rax = -i64::from(errno) as u64;
        // Not to be started again.
        registers.orig_rax = u64::MAX;
        trace(libc::PTRACE_SETREGS, (&raw mut registers).cast())?;
    }
    trace(libc::PTRACE_DETACH, nothing)?;
    Ok(waits)
}

/// Have the `io_uring_enter` in which a thread of another process waits end with `errno`.
#[cfg(not(target_arch = "x86_64"))]
pub fn fail_io_uring_enter(_: i32, _: i32) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Write to standard output in one call, without a buffer that could allocate.
pub fn say(text: &[u8]) {
    // SAFETY: the pointer and length are those of one slice.
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
}

/// End at once, without running anything else.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: ends the process; takes no pointers.
    unsafe { libc::_exit(status) }
}
