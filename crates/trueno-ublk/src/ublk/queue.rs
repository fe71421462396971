//! One queue of a ublk device: a thread that fetches requests, answers them and commits.
//!
//! ```text
//! hooks.start → ring, buffers, handler → park ──────────────▶ end
//!                                          │ Order::Serve
//!                                          ▼
//! hooks.called → map descriptors → FETCH every tag → hooks.live → ┌───────────────────────────────┐
//!                                                  │ enter the ring: commit, fetch │
//!                                                  │ answer each tag that came     │◀┐
//!                                                  └───────────────┬───────────────┘ │
//!                                     every tag aborted │          └─────────────────┘
//!                                                       ▼
//!                                               hooks.end → end
//! ```
//!
//! Between `hooks.live` and `hooks.end` nothing here allocates, maps, locks or logs: the device
//! may be the swap that an allocation waits for. A request costs one `io_uring_enter` at most,
//! shared by all requests that came together.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::ctrl::RingError;
use super::sys::{self, Encoding, IoCmd, IoDesc};
use crate::target::{Errno, Handle, Serve};
use crate::transport::ThreadHooks;

/// Bytes answered after which finished requests are handed back although more have come.
///
/// Requests come in batches, and a batch answered whole keeps its first client waiting for the
/// last request; then client and server take turns instead of working side by side. Eight pages
/// take tens of microseconds to compress, beside which the extra system call is small. A batch
/// of one never pays for it.
const EARLY_BYTES: usize = 8 * 4096;

/// Stack of a queue thread. It is locked as a whole in swap mode; the hooks touch a part of it.
const STACK_BYTES: usize = 1 << 20;

/// Index of `/dev/ublkcN` among the ring's registered files.
const CHAR_FILE: types::Fixed = types::Fixed(0);

/// What a queue thread has to know before it starts.
pub(super) struct Plan {
    pub queue: u16,
    pub depth: u16,
    pub max_io: usize,
    pub user_copy: bool,
    pub populate: bool,
    /// Where the buffers of all queues lie, if not in memory of this process alone.
    pub buffers: Option<Arc<File>>,
    pub encoding: Encoding,
    /// The CPUs to stay on; `None` leaves it to the scheduler.
    pub cpus: Option<libc::cpu_set_t>,
    pub name: String,
}

/// Starts the thread of one queue; `crew` learns how it fares.
pub(super) fn spawn(
    plan: Plan,
    target: Arc<dyn Serve>,
    hooks: ThreadHooks,
    crew: Arc<Crew>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(plan.name.clone())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let seat = Seat {
                crew,
                index: usize::from(plan.queue),
                hooks: hooks.clone(),
            };
            match work(&plan, &target, &hooks, &seat) {
                Ok(()) => seat.report(Phase::Ended(None)),
                Err(e) => {
                    let e = e.context(format!("queue thread {}", plan.name));
                    seat.report(Phase::Ended(Some(e)));
                }
            }
        })
}

/// How far a queue thread has come.
pub(super) enum Phase {
    /// Making its ring and buffers.
    Starting,
    /// Has everything, and waits for an [`Order`]; its thread id.
    Parked(i32),
    /// Every tag is fetched.
    Serving,
    /// Gone, and why if not by order.
    Ended(Option<anyhow::Error>),
}

/// What parked queue threads are to do next.
#[derive(Clone)]
pub(super) enum Order {
    Wait,
    /// Serve the device whose `/dev/ublkcN` this is.
    Serve(Arc<File>),
    End,
}

/// The queue threads of a device and the one that leads them.
pub(super) struct Crew {
    state: Mutex<CrewState>,
    changed: Condvar,
}

struct CrewState {
    order: Order,
    phases: Vec<Phase>,
}

impl Crew {
    pub(super) fn new(queues: u16) -> Arc<Crew> {
        let phases = (0..queues).map(|_| Phase::Starting).collect();
        let state = Mutex::new(CrewState {
            order: Order::Wait,
            phases,
        });
        Arc::new(Crew {
            state,
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, CrewState> {
        // Every change is a single assignment, so a panic elsewhere leaves nothing half done.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn order(&self, order: Order) {
        self.lock().order = order;
        self.changed.notify_all();
    }

    /// Waits until every thread has come to `phase` as `wanted` reads it, and gives what it
    /// reads; the error of the first thread that has ended instead.
    pub(super) fn wait_for<T>(
        &self,
        wanted: impl Fn(&Phase) -> Option<T>,
    ) -> anyhow::Result<Vec<T>> {
        let mut state = self.lock();
        loop {
            for phase in &mut state.phases {
                if let Phase::Ended(why) = phase {
                    return Err(why
                        .take()
                        .unwrap_or_else(|| anyhow!("a queue thread has ended")));
                }
            }
            if let Some(all) = state.phases.iter().map(&wanted).collect() {
                return Ok(all);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Waits until each of the first `threads` threads is serving or has ended. Meant for after
    /// [`Order::End`]: a thread caught amid its fetches would fetch tags of a stopped device,
    /// which nobody ever gives back.
    pub(super) fn settle(&self, threads: usize) {
        let settled = |phase: &Phase| matches!(phase, Phase::Serving | Phase::Ended(_));
        let mut state = self.lock();
        while !state.phases[..threads].iter().all(settled) {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// The errors of threads that ended other than by order.
    pub(super) fn take_errors(&self) -> Vec<anyhow::Error> {
        let mut state = self.lock();
        let ended = state.phases.iter_mut();
        ended
            .filter_map(|p| {
                if let Phase::Ended(why) = p {
                    why.take()
                } else {
                    None
                }
            })
            .collect()
    }
}

/// A thread's place in the crew.
struct Seat {
    crew: Arc<Crew>,
    index: usize,
    hooks: ThreadHooks,
}

impl Seat {
    fn report(&self, phase: Phase) {
        self.crew.lock().phases[self.index] = phase;
        self.crew.changed.notify_all();
    }

    /// Whether the thread serves, and was not told to end.
    fn should_serve(&self) -> bool {
        let state = self.crew.lock();
        matches!(state.phases[self.index], Phase::Serving) && !matches!(state.order, Order::End)
    }

    /// Parks until there is something to do.
    fn wait(&self) -> Option<Arc<File>> {
        let mut state = self.crew.lock();
        loop {
            match &state.order {
                Order::Wait => {}
                Order::Serve(file) => return Some(file.clone()),
                Order::End => return None,
            }
            state = self
                .crew
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // A thread that panics must not leave its leader waiting for it.
        if std::thread::panicking() {
            (self.hooks.end)();
            if self.should_serve() {
                (self.hooks.failed)("a queue thread panicked");
            }
            self.report(Phase::Ended(Some(anyhow!("a queue thread panicked"))));
        }
    }
}

/// The life of a queue thread.
fn work(
    plan: &Plan,
    target: &Arc<dyn Serve>,
    hooks: &ThreadHooks,
    seat: &Seat,
) -> anyhow::Result<()> {
    (hooks.start)().context("preparing an I/O thread")?;
    if let Some(cpus) = &plan.cpus {
        pin(cpus).context("setting the CPU affinity")?;
    }
    let ring = make_ring(plan.depth).map_err(|e| anyhow!("{}", RingError(&e)))?;
    let slots = if plan.user_copy {
        1
    } else {
        usize::from(plan.depth)
    };
    let file = plan.buffers.as_deref();
    let shared = file.map(|file| (file, usize::from(plan.queue) * slots * plan.max_io));
    let buffers = Buffers::map(slots, plan.max_io, plan.populate, shared)
        .with_context(|| format!("cannot map {slots} buffers of {} bytes", plan.max_io))?;
    let mut handler = target.serve();
    // SAFETY: gettid takes nothing and cannot fail.
    let tid = unsafe { libc::gettid() };
    seat.report(Phase::Parked(tid));

    let Some(file) = seat.wait() else {
        return Ok(());
    };
    (hooks.called)().context("preparing an I/O thread")?;
    handler.begin();
    let descriptors = Descriptors::map(&file, plan.queue, plan.depth)
        .with_context(|| format!("cannot map the descriptors of queue {}", plan.queue))?;
    ring.submitter()
        .register_files(&[file.as_raw_fd()])
        .context("cannot register a file")?;
    let mut queue = Queue {
        plan,
        char_fd: file.as_raw_fd(),
        descriptors,
        buffers,
        handler,
    };
    // Declared after the queue, so dropped before its buffers: the kernel writes to them until the
    // ring is closed.
    let mut ring = ring;
    let served = queue.serve(&mut ring, hooks, seat);
    // Told before the ring is closed: that makes the driver end the other queues' threads too, and
    // theirs is not the cause.
    if seat.should_serve() {
        let cause = match &served {
            Ok(()) => "the driver has stopped the device".to_string(),
            Err(error) => format!("waiting for requests: {error}"),
        };
        (hooks.failed)(&format!("queue thread {}: {cause}", plan.name));
    }
    // Puts the reference to `/dev/ublkcN` at once, not when the kernel gets round to the ring:
    // deleting the device waits for it. A failure leaves it to the ring. So does an end with tags
    // still fetched: this would wait for those, and they for the ring's end.
    if served.is_ok() {
        let _ = ring.submitter().unregister_files();
    }
    served.context("waiting for requests")
}

/// Keeps the calling thread on `cpus`.
fn pin(cpus: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: the mask and its size belong together; 0 is the calling thread.
    let rc = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cpus) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A ring for `depth` commands under way, as cheap as this kernel has it.
///
/// With deferred task work (6.1) a request waits for us to enter the ring instead of interrupting
/// the request being answered; with cooperative task work (5.19) it waits for any system call.
fn make_ring(depth: u16) -> io::Result<IoUring> {
    let entries = u32::from(depth);
    let invalid = |e: &io::Error| e.raw_os_error() == Some(libc::EINVAL);
    let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
    match builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(entries)
    {
        Err(e) if invalid(&e) => {}
        made => return made,
    }
    match IoUring::builder().setup_coop_taskrun().build(entries) {
        Err(e) if invalid(&e) => {}
        made => return made,
    }
    IoUring::builder().build(entries)
}

/// A queue being served.
struct Queue<'a> {
    plan: &'a Plan,
    char_fd: RawFd,
    descriptors: Descriptors,
    buffers: Buffers,
    handler: Box<dyn Handle>,
}

impl Queue<'_> {
    /// Fetches every tag and answers requests until the device is stopped.
    fn serve(&mut self, ring: &mut IoUring, hooks: &ThreadHooks, seat: &Seat) -> io::Result<()> {
        let (mut submitter, mut submissions, mut completions) = ring.split();
        // Saves the kernel looking the ring up at each entry; without it all is the same.
        let _ = submitter.register_ring_fd();
        for tag in 0..self.plan.depth {
            let entry = self.command(sys::FETCH_REQ, tag, 0);
            // SAFETY: the tag's buffer stays mapped while the ring lives: see `push`.
            unsafe { push(&mut submissions, &entry) };
        }
        submissions.sync();
        while !submissions.is_empty() {
            submitter.submit()?;
            submissions.sync();
        }
        // The kernel refuses a fetch at once or not before the device is stopped.
        completions.sync();
        if let Some(refused) = completions.next() {
            return Err(io::Error::from_raw_os_error(-refused.result()));
        }

        (hooks.live)();
        seat.report(Phase::Serving);
        let served = self.answer_all(&submitter, &mut submissions, &mut completions);
        (hooks.end)();
        let _ = submitter.unregister_ring_fd();
        served
    }

    /// The loop of the module's head, from the first request to the last.
    fn answer_all(
        &mut self,
        submitter: &io_uring::Submitter<'_>,
        submissions: &mut squeue::SubmissionQueue<'_>,
        completions: &mut cqueue::CompletionQueue<'_>,
    ) -> io::Result<()> {
        let mut fetched = self.plan.depth;
        while fetched > 0 {
            patient(submitter.submit_and_wait(1))?;
            submissions.sync();
            completions.sync();
            let mut finished_bytes = 0;
            while let Some(completion) = completions.next() {
                let tag = completion.user_data() as u16;
                match completion.result() {
                    sys::RES_OK => {
                        let (result, bytes) = self.answer(tag);
                        let entry = self.command(sys::COMMIT_AND_FETCH_REQ, tag, result);
                        // SAFETY: as in `serve`.
                        unsafe { push(submissions, &entry) };
                        finished_bytes += bytes;
                    }
                    sys::RES_ABORT => fetched -= 1,
                    // A tag we cannot get back would hang its next request for ever. Ending the
                    // thread makes the driver fail the queue's requests instead.
                    refused => return Err(io::Error::from_raw_os_error(-refused)),
                }
                let more = !cqueue::CompletionQueue::is_empty(completions);
                if finished_bytes >= EARLY_BYTES && more {
                    submissions.sync();
                    patient(submitter.submit())?;
                    submissions.sync();
                    finished_bytes = 0;
                }
            }
            submissions.sync();
        }
        Ok(())
    }

    /// The ring entry for a command about `tag`.
    fn command(&self, command: u32, tag: u16, result: i32) -> squeue::Entry {
        let addr = if self.plan.user_copy {
            0
        } else {
            self.buffers.slot(usize::from(tag)) as u64
        };
        let cmd = IoCmd {
            q_id: self.plan.queue,
            tag,
            result,
            addr,
        };
        opcode::UringCmd16::new(CHAR_FILE, self.plan.encoding.number(command))
            .cmd(cmd.to_bytes())
            .build()
            .user_data(u64::from(tag))
    }

    /// Does what the request of `tag` asks. Gives what to commit, bytes or a negative error
    /// number, and how many bytes the work was about.
    fn answer(&mut self, tag: u16) -> (i32, usize) {
        let request = self.descriptors.read(tag);
        let offset = request.start_sector << sys::SECTOR_SHIFT;
        let len = (request.nr_sectors as usize) << sys::SECTOR_SHIFT;
        let done = match (request.op_flags & 0xff) as u8 {
            sys::OP_READ => self.read(tag, offset, len),
            sys::OP_WRITE => self.write(tag, offset, len),
            sys::OP_FLUSH => self.handler.flush().map(|()| 0),
            sys::OP_DISCARD | sys::OP_WRITE_ZEROES => {
                self.handler.discard(offset, len as u64).map(|()| 0)
            }
            _ => Err(Errno(libc::EOPNOTSUPP)),
        };
        (done.unwrap_or_else(|e| -e.0), len)
    }

    fn read(&mut self, tag: u16, offset: u64, len: usize) -> Result<i32, Errno> {
        let data = self.buffers.data(self.slot_of(tag), len)?;
        self.handler.read(offset, data)?;
        if self.plan.user_copy {
            let at = sys::request_data_offset(self.plan.queue, tag) as libc::off_t;
            // SAFETY: `data` is memory of ours for the length of the call.
            let copied = unsafe { libc::pwrite(self.char_fd, data.as_ptr().cast(), len, at) };
            whole(copied, len)?;
        }
        Ok(len as i32)
    }

    fn write(&mut self, tag: u16, offset: u64, len: usize) -> Result<i32, Errno> {
        let data = self.buffers.data(self.slot_of(tag), len)?;
        if self.plan.user_copy {
            let at = sys::request_data_offset(self.plan.queue, tag) as libc::off_t;
            // SAFETY: `data` is memory of ours for the length of the call.
            let copied = unsafe { libc::pread(self.char_fd, data.as_mut_ptr().cast(), len, at) };
            whole(copied, len)?;
        }
        self.handler.write(offset, data)?;
        Ok(len as i32)
    }

    /// The buffer that serves `tag`: its own, or the one there is.
    fn slot_of(&self, tag: u16) -> usize {
        if self.plan.user_copy {
            0
        } else {
            usize::from(tag)
        }
    }
}

/// Queues an entry.
///
/// # Safety
/// Buffers that `entry` names stay mapped for as long as the kernel may use them. Here that is
/// while this thread, whose system calls do all the copying, still enters the ring.
unsafe fn push(submissions: &mut squeue::SubmissionQueue<'_>, entry: &squeue::Entry) {
    // SAFETY: passed on to the caller.
    unsafe { submissions.push(entry) }.expect("each tag has one entry, and the ring room for all");
}

/// Lets pass what only means "again": the loop comes back to what was not submitted.
fn patient(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
            ) =>
        {
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// A copy to or from a request has to be complete.
fn whole(copied: isize, len: usize) -> Result<(), Errno> {
    if copied == len as isize {
        Ok(())
    } else {
        Err(Errno(libc::EIO))
    }
}

/// A mapping of ours, unmapped when dropped.
struct Mapping {
    start: *mut u8,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize, protection: i32, flags: i32, fd: RawFd, at: i64) -> io::Result<Mapping> {
        // SAFETY: a new mapping at a place the kernel chooses touches nothing of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, at) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping {
            start: start.cast(),
            bytes,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever owned this value can no longer reach it.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

/// The I/O buffers of a queue: one a tag, which the kernel copies to and from, or one in all.
struct Buffers {
    memory: Mapping,
    slot_bytes: usize,
}

impl Buffers {
    /// `populate` has every page there on return; otherwise a page costs nothing until a request
    /// uses it. They lie in memory of their own, or in a `shared` file from an offset on.
    fn map(
        slots: usize,
        slot_bytes: usize,
        populate: bool,
        shared: Option<(&File, usize)>,
    ) -> io::Result<Buffers> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (flags, fd, at) = match shared {
            Some((file, at)) => (libc::MAP_SHARED, file.as_raw_fd(), at as i64),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
        };
        let flags = flags | libc::MAP_NORESERVE;
        let memory = Mapping::new(slots * slot_bytes, protection, flags, fd, at)?;
        if populate {
            // SAFETY: the range is the mapping just made.
            let rc = unsafe {
                libc::madvise(memory.start.cast(), memory.bytes, libc::MADV_POPULATE_WRITE)
            };
            if rc != 0 {
                return Err(io::Error::last_os_error());
            }
        } else {
            // A 4 KiB request would otherwise bring a huge page. A kernel without huge pages
            // refuses this advice and needs it not.
            // SAFETY: the range is the mapping just made, and the advice does not change contents.
            unsafe { libc::madvise(memory.start.cast(), memory.bytes, libc::MADV_NOHUGEPAGE) };
        }
        Ok(Buffers { memory, slot_bytes })
    }

    /// The start of a slot.
    fn slot(&self, slot: usize) -> *mut u8 {
        debug_assert!((slot + 1) * self.slot_bytes <= self.memory.bytes);
        // SAFETY: callers name slots below the count in `map`, so the start lies inside.
        unsafe { self.memory.start.add(slot * self.slot_bytes) }
    }

    /// The first `len` bytes of a slot, whose request is in our hands.
    fn data(&mut self, slot: usize, len: usize) -> Result<&mut [u8], Errno> {
        if len > self.slot_bytes {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: `len` bytes from a slot's start lie inside the mapping, which is writable and
        // starts out as zeros. The kernel copies to or from a slot in a system call of this
        // thread, so not while this borrow lives; another process that maps the same file uses it
        // only when this one is dead.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.slot(slot), len) })
    }
}

/// The descriptor area of a queue, which the kernel writes and we read.
///
/// These are the kernel's own pages, all mapped at once: they cannot fault nor be swapped, locked
/// or not.
struct Descriptors {
    memory: Mapping,
    depth: u16,
}

impl Descriptors {
    fn map(file: &File, queue: u16, depth: u16) -> io::Result<Descriptors> {
        // SAFETY: sysconf takes a number and has no memory to misuse.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        // The driver lays queues out for the greatest depth, but maps what this one has.
        let stride = (sys::MAX_QUEUE_DEPTH * size_of::<IoDesc>()).next_multiple_of(page);
        let bytes = (usize::from(depth) * size_of::<IoDesc>()).next_multiple_of(page);
        let at = (usize::from(queue) * stride) as i64;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let memory = Mapping::new(bytes, libc::PROT_READ, flags, file.as_raw_fd(), at)?;
        Ok(Descriptors { memory, depth })
    }

    /// The request of a tag whose fetch has completed.
    fn read(&self, tag: u16) -> IoDesc {
        assert!(tag < self.depth);
        let entry = self.memory.start.cast::<IoDesc>().cast_const();
        // SAFETY: `tag` is inside the area, which is page-aligned. The kernel wrote the entry
        // before it completed the fetch, and leaves it until we commit; the read is volatile as
        // the memory changes behind the compiler's back from one request to the next.
        unsafe { entry.add(usize::from(tag)).read_volatile() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_do_not_overlap_and_refuse_more_than_they_hold() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let shared = Some((&file, 8192));
        for (populate, shared) in [(false, None), (true, None), (true, shared)] {
            let mut buffers = Buffers::map(3, 8192, populate, shared).unwrap();
            for slot in 0..3 {
                let data = buffers.data(slot, 8192).unwrap();
                assert!(
                    data.iter().all(|&b| b == 0),
                    "slot {slot} was written by another"
                );
                data.fill(slot as u8 + 1);
            }
            assert!(buffers.data(0, 8192).unwrap().iter().all(|&b| b == 1));
            assert_eq!(buffers.data(0, 8193), Err(Errno(libc::EINVAL)));
        }
        let mut ends = [0; 4];
        for (end, at) in ends.iter_mut().zip([8191, 8192, 4 * 8192 - 1, 4 * 8192]) {
            std::os::unix::fs::FileExt::read_exact_at(&file, std::slice::from_mut(end), at)
                .unwrap();
        }
        assert_eq!(ends, [0, 1, 3, 0], "a queue's part of the file");
    }

    #[test]
    fn the_leader_learns_why_a_thread_ended() {
        let crew = Crew::new(2);
        let seat = |index| Seat {
            crew: crew.clone(),
            index,
            hooks: ThreadHooks::none(),
        };
        seat(0).report(Phase::Parked(11));
        let parked = |phase: &Phase| match phase {
            Phase::Parked(tid) => Some(*tid),
            _ => None,
        };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| crew.wait_for(parked));
            seat(1).report(Phase::Parked(12));
            assert_eq!(waiting.join().unwrap().unwrap(), [11, 12]);
        });
        seat(1).report(Phase::Ended(Some(anyhow!("no ring"))));
        assert_eq!(crew.wait_for(parked).unwrap_err().to_string(), "no ring");
        assert!(crew.take_errors().is_empty(), "an error is told once");
    }
}
