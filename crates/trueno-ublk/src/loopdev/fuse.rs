//! The FUSE file system behind the loop device: one file, `device`, that is a [`Target`].
//!
//! ```text
//! /            root's directory, mode 0700
//! ├── device   the target's bytes; what the loop device is bound to
//! └── call-N   not listed: where the roll call (below) is written to, one file a thread
//! ```
//!
//! # Roll call
//!
//! The threads that serve us belong to `fuser`, which starts them without asking. But each must
//! have its buffers, its scheduling class and its resident memory before the first request, and
//! must be released after the last. So we call the roll: as many writers as there are threads
//! each write the longest possible request to a `call-N` file, and each thread that gets one
//! does what is asked and *stays in the call* until all are in it. No thread can thus answer
//! twice, and none can be left out. The long request makes the receive buffer of each thread
//! resident, which is why it is a write.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, WriteFlags,
};

use super::sys;
use crate::target::{Errno, Handler, Target};
use crate::transport::{IoThread, ThreadHooks};

/// Bytes of the longest read or write; FUSE splits what is longer. It could be 1 MiB (the
/// kernel's `fs.fuse.max_pages_limit`), but compressing 64 pages takes far longer than the
/// way of a request, so longer ones only cost memory and keep other threads idle.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;

/// Asynchronous requests the kernel may have under way. The loop device has 128 tags, and a
/// request of its largest size (1280 KiB) becomes five of ours, or six where its memory does not
/// begin with a page; the next power of two.
const BACKGROUND_MAX: u16 = 1024;

/// The name of the file the loop device is bound to.
pub const DEVICE_NAME: &str = "device";
const CALL_PREFIX: &str = "call-";

const DEVICE: INodeNo = INodeNo(2);
/// The inode of `call-0`; `call-N` follow.
const CALL_FIRST: u64 = 3;

/// Attributes are never kept: nobody asks often, and a kept answer would hide a dead server.
const TTL: Duration = Duration::ZERO;

/// How long a roll call may take. Only a machine in deep trouble needs more than milliseconds.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// What a roll call asks of each thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// Get ready to serve.
    Enter,
    /// Give back all you have.
    Leave,
}

struct Roll {
    call: Option<Call>,
    present: Vec<IoThread>,
    failed: Option<io::Error>,
    deadline: Instant,
}

/// What the file system, its threads and the device that owns them share.
pub struct Shared {
    target: Arc<Target>,
    hooks: ThreadHooks,
    thread_count: usize,
    roll: Mutex<Roll>,
    changed: Condvar,
}

/// What one thread serves requests with. Dropping it runs [`ThreadHooks::end`] first, since the
/// thread must not free anything before.
struct Worker {
    handler: Handler,
    buffer: Box<[u8]>,
    hooks: ThreadHooks,
}

impl Drop for Worker {
    fn drop(&mut self) {
        (self.hooks.end)();
    }
}

thread_local! {
    /// A FUSE thread serves one file system for all its life, so one place is enough.
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

impl Shared {
    pub fn new(target: Arc<Target>, hooks: ThreadHooks, thread_count: usize) -> Arc<Shared> {
        Arc::new(Shared {
            target,
            hooks,
            thread_count,
            roll: Mutex::new(Roll {
                call: None,
                present: Vec::new(),
                failed: None,
                deadline: Instant::now(),
            }),
            changed: Condvar::new(),
        })
    }

    /// Tells the owner that the threads have ended, although nobody asked them to.
    pub fn failed(&self, cause: &str) {
        (self.hooks.failed)(cause);
    }

    /// The file system that `fuser` is to serve.
    pub fn file_system(self: &Arc<Shared>) -> DeviceFs {
        DeviceFs {
            shared: self.clone(),
        }
    }

    /// Makes every thread ready to serve; gives their names and ids. Not from a FUSE thread.
    pub fn enter_all(&self, mount_point: &Path) -> io::Result<Vec<IoThread>> {
        self.call(Call::Enter, mount_point)
    }

    /// Makes every thread give back what it has. Not from a FUSE thread.
    pub fn leave_all(&self, mount_point: &Path) -> io::Result<()> {
        self.call(Call::Leave, mount_point).map(drop)
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, call: Call, mount_point: &Path) -> io::Result<Vec<IoThread>> {
        {
            let mut roll = self.roll();
            roll.call = Some(call);
            roll.present = Vec::with_capacity(self.thread_count);
            roll.failed = None;
            roll.deadline = Instant::now() + CALL_LIMIT;
        }
        // Page aligned: FUSE counts the pages it touches, and one more would split the request.
        let page = 4096;
        let memory = vec![0u8; REQUEST_BYTES_MAX + page];
        let skew = memory.as_ptr().align_offset(page);
        let longest = &memory[skew..skew + REQUEST_BYTES_MAX];
        let write = |number: usize| {
            let path = mount_point.join(format!("{CALL_PREFIX}{number}"));
            OpenOptions::new()
                .write(true)
                .open(path)?
                .write_all_at(longest, 0)
        };
        let written: io::Result<()> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..self.thread_count)
                .map(|number| {
                    std::thread::Builder::new()
                        .name(format!("loop-call-{number}"))
                        .spawn_scoped(scope, move || write(number))
                })
                .collect::<io::Result<_>>()
                .inspect_err(|_| {
                    // The writers that did start would wait for the others in vain.
                    let mut roll = self.roll();
                    roll.deadline = Instant::now();
                    self.changed.notify_all();
                })?;
            writers.into_iter().try_for_each(|writer| {
                writer
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a roll call writer died")))
            })
        });
        let mut roll = self.roll();
        roll.call = None;
        if let Some(error) = roll.failed.take() {
            return Err(error);
        }
        written?;
        if roll.present.len() != self.thread_count {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "{} of {} FUSE threads answered within {} s",
                    roll.present.len(),
                    self.thread_count,
                    CALL_LIMIT.as_secs()
                ),
            ));
        }
        let mut threads = std::mem::take(&mut roll.present);
        threads.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(threads)
    }

    /// Answers a roll call in a FUSE thread.
    fn answer(&self) {
        let tid = sys::thread_id();
        let call = {
            let roll = self.roll();
            match roll.call {
                // The second part of a split request: this thread has answered.
                Some(_) if roll.present.iter().any(|thread| thread.tid == tid) => return,
                Some(call) => call,
                // Late: nobody waits any more.
                None => return,
            }
        };
        match call {
            Call::Enter => {
                let worker = self.new_worker();
                self.stay(|roll| {
                    let name = format!("loop-io-{}", roll.present.len());
                    sys::name_thread(&name);
                    roll.present.push(IoThread { name, tid });
                    match worker {
                        Ok(worker) => WORKER.set(Some(worker)),
                        Err(error) => roll.failed = Some(error),
                    }
                });
                if WORKER.with_borrow(|worker| worker.is_some()) {
                    (self.hooks.live)();
                }
            }
            Call::Leave => {
                // `end` first, then the buffers.
                WORKER.set(None);
                self.stay(|roll| {
                    roll.present.push(IoThread {
                        name: String::new(),
                        tid,
                    })
                });
            }
        }
    }

    fn new_worker(&self) -> io::Result<Worker> {
        (self.hooks.start)()?;
        let handler = self.target.handler();
        let mut buffer = vec![0u8; REQUEST_BYTES_MAX].into_boxed_slice();
        // Zeroed memory may not be there yet: what is written is.
        buffer.fill(1);
        Ok(Worker {
            handler,
            buffer,
            hooks: self.hooks.clone(),
        })
    }

    /// Says that this thread is present and waits for the others.
    fn stay(&self, arrive: impl FnOnce(&mut Roll)) {
        let mut roll = self.roll();
        arrive(&mut roll);
        self.changed.notify_all();
        while roll.present.len() < self.thread_count {
            let left = roll.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            roll = self
                .changed
                .wait_timeout(roll, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Bytes of I/O buffers that `threads` threads keep resident: for each, one for reads and the
/// part of its receive buffer that the longest write fills.
pub fn buffer_bytes(threads: usize) -> u64 {
    (threads * 2 * REQUEST_BYTES_MAX) as u64
}

/// The file system. Everything it does not mention is refused by `fuser` with ENOSYS.
pub struct DeviceFs {
    shared: Arc<Shared>,
}

impl DeviceFs {
    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let calls = CALL_FIRST..CALL_FIRST + self.shared.thread_count as u64;
        let (kind, perm, nlink, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o700, 2, 0),
            DEVICE => (FileType::RegularFile, 0o600, 1, self.shared.target.size()),
            INodeNo(n) if calls.contains(&n) => {
                (FileType::RegularFile, 0o200, 1, REQUEST_BYTES_MAX as u64)
            }
            _ => return None,
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

/// Runs `work` with this thread's worker. EIO where there is none: the roll was not called yet,
/// or the device is going away.
fn with_worker<T>(work: impl FnOnce(&mut Worker) -> Result<T, Errno>) -> Result<T, Errno> {
    WORKER.with_borrow_mut(|worker| worker.as_mut().ok_or(Errno(libc::EIO)).and_then(work))
}

fn refusal(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.0)
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(refusal(error)),
    }
}

impl fuser::Filesystem for DeviceFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without FUSE_ASYNC_DIO the loop driver's requests would be served one after another;
        // without FUSE_MAX_PAGES none could be longer than 128 KiB.
        let wanted = InitFlags::FUSE_ASYNC_DIO | InitFlags::FUSE_MAX_PAGES;
        config.add_capabilities(wanted).map_err(|missing| {
            io::Error::other(format!(
                "this kernel's FUSE lacks {missing:?}: use a kernel of 6.0 or later"
            ))
        })?;
        let refused = |what: &str, nearest: u32| {
            io::Error::other(format!(
                "FUSE refuses the {what} we need, and offers {nearest}"
            ))
        };
        config
            .set_max_write(REQUEST_BYTES_MAX as u32)
            .map_err(|nearest| refused("longest write", nearest))?;
        config
            .set_max_background(BACKGROUND_MAX)
            .and_then(|_| config.set_congestion_threshold(BACKGROUND_MAX))
            .map_err(|nearest| refused("number of requests under way", nearest.into()))?;
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.to_str() {
            _ if parent != INodeNo::ROOT => None,
            Some(DEVICE_NAME) => Some(DEVICE),
            Some(name) => name
                .strip_prefix(CALL_PREFIX)
                .and_then(|number| number.parse::<u32>().ok())
                .map(|number| INodeNo(CALL_FIRST + u64::from(number))),
            None => None,
        };
        match ino.and_then(|ino| self.attributes(ino)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(fuser::Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(fuser::Errno::ENOENT),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Direct: the page cache would hold everything a second time, uncompressed. Parallel: the
        // file never grows, so writes need not wait for each other. No flush: close means nothing.
        let flags = FopenFlags::FOPEN_DIRECT_IO
            | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if ino != DEVICE {
            return reply.error(fuser::Errno::EACCES);
        }
        WORKER.with_borrow_mut(|worker| {
            let Some(worker) = worker else {
                return reply.error(fuser::Errno::EIO);
            };
            let Some(buffer) = worker.buffer.get_mut(..size as usize) else {
                return reply.error(fuser::Errno::EINVAL);
            };
            match worker.handler.read(offset, buffer) {
                Ok(()) => reply.data(buffer),
                Err(error) => reply.error(refusal(error)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if ino != DEVICE {
            self.shared.answer();
            return reply.written(data.len() as u32);
        }
        match with_worker(|worker| worker.handler.write(offset, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(refusal(error)),
        }
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        if ino != DEVICE {
            return reply.ok();
        }
        empty(reply, with_worker(|worker| worker.handler.flush()));
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // Discard reaches us as PUNCH_HOLE, write-zeroes as either. Plain preallocation has no
        // meaning here.
        if ino != DEVICE || mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) == 0 {
            return reply.error(fuser::Errno::EOPNOTSUPP);
        }
        empty(
            reply,
            with_worker(|worker| worker.handler.discard(offset, length)),
        );
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // The loop driver takes the block size as the granularity of discards.
        let pages = self.shared.target.size() / 4096;
        reply.statfs(pages, 0, 0, 1, 0, 4096, 255, 4096);
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (DEVICE, FileType::RegularFile, DEVICE_NAME),
        ];
        for (next, (ino, kind, name)) in (1u64..).zip(entries).skip(offset as usize) {
            if reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
