//! The life of one device: from a [`Plan`] to the block device and back, leaving nothing behind.
//!
//! ```text
//! number taken → transport chosen → measures on the process → memory → store → threads parked
//!   → memory locked → block device → memory locked again → swap → ready
//!   → signals and `remove`, until one of them finds the device unused → all of it backwards
//! ```
//! A daemon that dies leaves the memory and the plan in the run directory, and on ublk the block
//! device, whose requests wait. `recover` goes on from there: its store is attached instead of
//! made, its ublk device taken over, its loop device made anew. Swap cannot wait for somebody to do
//! so: beside its daemon, the worker, a second process stands by (`standby.rs`).
//!
//! Threads: this one (signals, life, the log's lines on damage), four of the control socket, one for a
//! scrub while there is one, one for maintenance, and the transport's. The last two kinds are on the
//! way of pages and are hardened ([`harden`]).
#![deny(unsafe_code)]

pub mod choose;
mod compaction;
mod damage;
pub mod harden;
#[allow(unsafe_code)] // It is a heap.
pub mod heap;
pub mod in_use;
pub mod launch;
mod maintenance;
pub mod memory;
pub mod plan;
pub mod policy;
pub mod rundir;
pub mod scrub;
mod serving;
mod standby;
pub mod swap;
#[allow(unsafe_code)] // Its only purpose.
pub mod sys;

use self::choose::{Chosen, choose};
use self::harden::{Guard, StoreMapping};
use self::in_use::{Claim, claim, explain};
use self::maintenance::Maintenance;
use self::memory::StoreMemory;
use self::plan::PlanError;
pub use self::plan::{Memory, Plan, Wishes};
pub use self::rundir::RunDir;
use self::rundir::{Notes, Phase, Record, Taken};
use self::scrub::Scrubs;
use self::serving::{Removal, Serving};
use self::standby::{Keeper, Standby};
use crate::control::protocol::{Info, Removed};
use crate::control::server::{Handler, Mailbox, Server};
use crate::target::{Awaited, Serve, Target};
use crate::transport::{Device, Kind, ThreadHooks};
use crate::{loopdev, ublk};
use anyhow::{Context as _, bail, ensure};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::iter::once;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use trueno_zram_cli::usage::Usage;
use trueno_zram_store::{Growth, Memory as StoreMapped, Store};

/// Bytes of the largest request in swap mode, where every buffer is populated and locked.
const MAX_IO_SWAP: u32 = 128 << 10;

/// Signals that ask the daemon to end; and the one by which its own threads call the main thread.
const END_SIGNALS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
const MAIL_SIGNAL: i32 = libc::SIGUSR1;

/// How long the main thread waits for its last answer to be written.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// What a process that serves is called, and one that stands by.
const NAME: &str = "trueno-ublk";
const STANDBY_NAME: &str = "trueno-standby";

/// Heap that a standby takes in advance for attaching the store, and what it takes for each I/O thread,
/// which works with all codecs of the device: up to 0.9 MiB.
const STANDBY_HEAP: usize = 4 << 20;
const STANDBY_HEAP_PER_QUEUE: usize = 1 << 20;

/// The one line that a daemon writes to whoever started it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The device is there.
    Ready(Box<Info>),
    /// There is no device; why.
    Failed(String),
    /// It will take over when its worker dies.
    Standing,
}

/// What a daemon is started for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Errand {
    /// To make this device.
    Create(Box<Plan>),
    /// To go on with the device of this number, whose daemon is dead.
    Recover(u32),
    /// To go on with device `id` as soon as its daemon, the process `worker`, is dead.
    StandBy {
        /// The device.
        id: u32,
        /// The process that started this one.
        worker: u32,
    },
}

impl Errand {
    /// Does it: serves the device until it is removed. An error means that this process serves no
    /// device; nothing is left of one that was to be made, and one whose daemon is dead is as it was.
    ///
    /// To be called in the main thread, while it is the only one.
    pub fn run(&self, run_dir: &RunDir, surroundings: &mut dyn Surroundings) -> anyhow::Result<()> {
        ensure!(
            sys::is_root(),
            "a block device needs root: run it with sudo"
        );
        heap::arm();
        // The standard library's uses the heap and takes a lock, which the main thread may hold while
        // it waits for a reader of ours, who may wait for the thread that panics.
        std::panic::set_hook(Box::new(|panic| sys::emergency(format_args!("{panic}\n"))));
        sys::private_umask();
        let signals = block_signals()?;
        let life = match self {
            Errand::Create(plan) => create(plan, run_dir, surroundings),
            Errand::Recover(id) => recover(*id, run_dir, surroundings),
            Errand::StandBy { id, worker } => {
                let life = stand_by(*id, *worker, run_dir, surroundings)?;
                // The worker may have died before it said that it is ready.
                tell_systemd(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);
                return life.serve(&signals);
            }
        }?;
        if let Err(error) = surroundings.ready(&life.info) {
            tracing::warn!("nobody was told that the device is ready: {error:#}");
        }
        tell_systemd(&[NotifyState::Ready]);
        tracing::info!("{} is ready", life.info.name.display());
        life.serve(&signals)
    }
}

/// How a daemon stands to its surroundings.
pub trait Surroundings {
    /// The number is known: from now on the log may go to this file, behind what a dead daemon of
    /// the device wrote there where this one `goes_on` with it.
    fn numbered(&mut self, log: &Path, goes_on: bool) -> anyhow::Result<()>;
    /// The device is there and serves.
    fn ready(&mut self, info: &Info) -> anyhow::Result<()>;
    /// This process is ready to take over.
    fn standing(&mut self) -> anyhow::Result<()>;
}

/// Makes the device that `plan` describes.
fn create(
    plan: &Plan,
    run_dir: &RunDir,
    surroundings: &mut dyn Surroundings,
) -> anyhow::Result<Life> {
    let chosen = choose(plan.transport)?;
    if chosen.kind == Kind::Loop {
        loop_permits(plan, &chosen)?;
    }
    let run_dir = run_dir.create()?;
    if plan.swap.is_some() && sys::on_tmpfs(run_dir.path()).unwrap_or(false) {
        tracing::warn!(
            "{} is on a tmpfs, which can be swapped out: if the daemon is killed while it writes \
             there, nobody may be able to go on with the device",
            run_dir.path().display()
        );
    }
    let number = take_number(plan, &run_dir, chosen.kind)?;
    let name = (chosen.kind == Kind::Ublk).then(|| ublk_node('b', number.id()));
    let record = Record {
        phase: Phase::Starting,
        transport: chosen.kind,
        pid: std::process::id(),
        maker: std::process::id(),
        name,
        failure: None,
    };
    let notes = number
        .begin(record)
        .context("cannot write to the run directory")?;
    surroundings.numbered(&run_dir.log(number.id()), false)?;
    Life::start(plan, chosen, &run_dir, number, notes, None)
}

/// Goes on with device `id`, whose daemon is dead.
fn recover(id: u32, run_dir: &RunDir, surroundings: &mut dyn Surroundings) -> anyhow::Result<Life> {
    let run_dir = run_dir.create()?;
    let mut number = run_dir.hold(id)?.with_context(|| {
        format!("device {id} is being served, or somebody else is about to recover it")
    })?;
    let left = number
        .left()
        .with_context(|| format!("nobody has written down what device {id} was"))?
        .clone();
    let plan = run_dir.read_plan(id)?;
    let record = Record {
        phase: Phase::Starting,
        pid: std::process::id(),
        failure: None,
        ..left.clone()
    };
    let notes = number
        .begin(record)
        .context("cannot write to the run directory")?;
    surroundings.numbered(&run_dir.log(id), true)?;
    tracing::info!("going on with what process {} has left", left.pid);
    number.clear_but_memory()?;
    for sentence in number.remains() {
        tracing::warn!("{sentence}");
    }
    let chosen = Chosen {
        kind: left.transport,
        reason: format!("recovered from process {}, which is dead", left.pid),
    };
    let life = Life::start(&plan, chosen, &run_dir, number, notes.clone(), Some(&left));
    if life.is_err() {
        notes.change(|record| *record = left);
    }
    life
}

/// Goes on with device `id` when the process `worker` is dead, with everything made ready before.
///
/// From that death until the device serves again, memory can be short and everything swappable lie
/// on this device: no file of the run directory is read or written, nothing is logged, and the heap
/// uses what it was given before.
fn stand_by(
    id: u32,
    worker: u32,
    run_dir: &RunDir,
    surroundings: &mut dyn Surroundings,
) -> anyhow::Result<Life> {
    let worker = sys::open_parent(worker).context("the worker is dead")?;
    let run_dir = run_dir.create()?;
    let waiting = run_dir.wait(id)?;
    let left = waiting.left().clone();
    let mut plan = run_dir.read_plan(id)?;
    let (guard, compaction) = if plan.swap.is_some() {
        sys::keep_heap();
        (
            Guard::standing(left.transport == Kind::Ublk)?,
            forbid_compaction(&run_dir),
        )
    } else {
        measures(&plan, left.transport, &run_dir)?
    };
    let mut memory = StoreMemory::open(&run_dir.memory(id))?;
    let file = memory.take_file().context("the store's file is taken")?;
    let mapping = StoreMapping::of(&file).context("cannot look at the store's file")?;
    let config = plan.store_config()?;
    let mapped = StoreMapped::attach(file).context("cannot map the store")?;
    let prepared = Store::prepare(config, mapped).context("cannot go on with the store")?;

    let notes = waiting.begin(Record {
        phase: Phase::Serving,
        pid: std::process::id(),
        failure: None,
        ..left.clone()
    });
    let target = Arc::new(Awaited::new(plan.size, plan.block_size));
    let hooks = hooks(&guard, &notes);
    let spec = ublk_spec(&plan, &memory)?;
    let mut device = take_over(&spec, id, left.maker, target.clone(), hooks)?;
    let maintenance =
        Maintenance::spawn(guard.clone()).context("cannot start the maintenance thread")?;
    if plan.swap.is_some() {
        let queues = usize::from(plan.ublk_queues());
        guard.keep_heap(STANDBY_HEAP + queues * STANDBY_HEAP_PER_QUEUE);
    }
    guard.lock_memory(&mapping)?;
    sys::set_name(STANDBY_NAME).context("cannot set the name")?;
    surroundings.standing()?;

    sys::wait_for_death(&worker).context("cannot wait for the worker's death")?;
    let begin = Instant::now();
    guard.enter_succession()?;
    let number = waiting
        .hold()?
        .with_context(|| format!("device {id} is somebody else's"))?;
    let store = Arc::new(prepared.attach().context("cannot go on with the store")?);
    let attached = begin.elapsed();
    target.arrive(Target::new(store.clone(), plan.block_size));
    maintenance.begin(&store);
    device.start()?;
    let taken_over = begin.elapsed();
    guard.leave_succession();

    tracing::info!(
        "process {} is dead: its standby serves {} ms after, the store was attached after {} ms",
        left.pid,
        taken_over.as_millis(),
        attached.as_millis()
    );
    if let Err(error) = sys::set_name(NAME) {
        tracing::warn!("cannot set the name: {error}");
    }
    // The limit may have been changed since we read it. From here on no step may fail.
    let current = run_dir.read_plan(id).and_then(|current| {
        store.set_mem_limit(current.mem_limit)?;
        Ok(current)
    });
    match current {
        Ok(current) => plan = current,
        Err(error) => tracing::warn!("the memory limit may be an earlier one: {error:#}"),
    }
    let reason = format!("taken over from process {}, which is dead", left.pid);
    Parts {
        plan: &plan,
        run_dir: &run_dir,
        chosen: Chosen {
            kind: left.transport,
            reason,
        },
        number,
        notes,
        guard,
        compaction,
        mapping,
        memory,
        store,
        device,
        maintenance,
    }
    .live(Origin::Succeeded)
}

/// What systemd follows a service by, where it started this process or one that we succeed.
fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd was not told: {error}");
    }
}

fn block_signals() -> anyhow::Result<sys::SignalSet> {
    let mut signals = END_SIGNALS.to_vec();
    signals.push(MAIL_SIGNAL);
    sys::SignalSet::block(&signals).context("cannot block signals")
}

/// What was asked for and the loop transport, found to be the only one, has not.
fn loop_permits(plan: &Plan, chosen: &Chosen) -> anyhow::Result<()> {
    let refused = |error: PlanError| anyhow::anyhow!("{error} ({})", chosen.reason);
    if plan.swap.is_some() && !plan.force {
        return Err(refused(PlanError::SwapOnLoop));
    }
    match plan.depth {
        Some(depth) => Err(refused(PlanError::DepthOnLoop(depth.into()))),
        None => Ok(()),
    }
}

/// Takes the number that the plan names, or the lowest free one.
fn take_number(plan: &Plan, run_dir: &RunDir, kind: Kind) -> anyhow::Result<Taken> {
    if let Some(id) = plan.id {
        let taken = run_dir.take_new(id)?;
        let number = taken.with_context(|| {
            format!("device id {id} is in use: choose another, or `trueno-ublk remove {id}` first")
        })?;
        clear_dead(run_dir, &number)?;
        let node = ublk_node('c', id);
        ensure!(
            kind != Kind::Ublk || !node.exists(),
            "device id {id} is in use by another ublk server ({} exists): choose another",
            node.display()
        );
        return Ok(number);
    }
    loop {
        let id = free_id(run_dir, kind).context("cannot look for a free device id")?;
        // Another one may have been quicker.
        if let Some(number) = run_dir.take_new(id)? {
            clear_dead(run_dir, &number)?;
            return Ok(number);
        }
    }
}

/// The lowest number that a new device of this kind can have.
pub fn free_id(run_dir: &RunDir, kind: Kind) -> std::io::Result<u32> {
    if kind != Kind::Ublk {
        return run_dir.lowest_free(|_| false);
    }
    // A device that was removed while somebody had it open keeps its number, and has no node. Who
    // may not ask the driver only misses those.
    let mut control = ublk::ctrl::Control::open().ok();
    let mut held = |id| {
        let control = control.as_mut();
        control.is_some_and(|control| control.exists(id).unwrap_or(false))
    };
    run_dir.lowest_free(|id| ublk_node('c', id).exists() || held(id))
}

/// Takes away what a dead daemon left under a number that is ours now, as far as it was written
/// down. Gives what remains, in words.
pub fn clear_dead(run_dir: &RunDir, number: &Taken) -> anyhow::Result<Vec<String>> {
    let mut remains = number.remains().to_vec();
    if let Some(left) = number.left() {
        // A ublk device of the same number may be somebody else's.
        if left.transport == Kind::Ublk {
            remains.extend(ublk::delete_dead(number.id(), left.maker)?);
        }
        compaction::clear_dead(&run_dir.compaction())
            .context("cannot set vm.compact_unevictable_allowed back")?;
    }
    Ok(remains)
}

/// An empty store in `file`.
fn new_store(config: trueno_zram_store::Config, file: File) -> anyhow::Result<Store> {
    let bytes = config.memory_bytes()?;
    let mapped = StoreMapped::from_file(file, bytes)
        .with_context(|| format!("cannot map {bytes} bytes for the store"))?;
    enough_memory(&config)?;
    Store::create(config, mapped).context("cannot make the store")
}

/// The store that a dead process has left in `file`.
fn old_store(config: trueno_zram_store::Config, file: File) -> anyhow::Result<Store> {
    let begin = Instant::now();
    let mapped = StoreMapped::attach(file).context("cannot map the store")?;
    let store = Store::attach(config, mapped).context("cannot go on with the store")?;
    tracing::info!("the store is attached after {:?}", begin.elapsed());
    Ok(store)
}

/// What is populated at the start must be there: with this process safe from the out-of-memory
/// killer, everyone else would be killed for it.
fn enough_memory(config: &trueno_zram_store::Config) -> anyhow::Result<()> {
    let table = config.size / 512;
    let needed = match config.growth {
        Growth::OnDemand => return Ok(()),
        Growth::Reserve(bytes) => bytes + table,
        Growth::Populated => config.size + table,
    };
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .context("/proc/meminfo does not say MemAvailable")?
        * 1024;
    ensure!(
        needed <= available,
        "{needed} bytes of memory are to be taken at once, and {available} are available: \
         choose a smaller size or reserve, or leave --populate out"
    );
    Ok(())
}

/// `/dev/ublkcN` or `/dev/ublkbN`.
fn ublk_node(kind: char, id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublk{kind}{id}"))
}

/// The measures on the process, before anything else.
fn measures(
    plan: &Plan,
    kind: Kind,
    run_dir: &RunDir,
) -> anyhow::Result<(Arc<Guard>, Option<compaction::Forbidden>)> {
    let swap = plan.swap.is_some();
    if swap {
        sys::keep_heap();
    }
    // FUSE allocates for each request: there is nothing to guard.
    let guard = Guard::new(swap, kind == Kind::Ublk)?;
    let compaction = swap.then(|| forbid_compaction(run_dir)).flatten();
    Ok((guard, compaction))
}

/// Without it there are some short faults, which is no reason to refuse.
fn forbid_compaction(run_dir: &RunDir) -> Option<compaction::Forbidden> {
    compaction::forbid(&run_dir.compaction()).unwrap_or_else(|error| {
        tracing::warn!("the kernel may move locked memory: {error}");
        None
    })
}

/// What I/O threads run.
fn hooks(guard: &Arc<Guard>, notes: &Arc<Notes>) -> ThreadHooks {
    let failing = notes.clone();
    ThreadHooks {
        failed: Arc::new(move |cause| fail(&failing, cause)),
        ..guard.hooks()
    }
}

/// How a process came to its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It has made it.
    New,
    /// It was told to go on with what a dead process left.
    Recovered,
    /// It stood by.
    Succeeded,
}

/// A device whose transport is ready to be started, or has been by a standby.
struct Parts<'a> {
    plan: &'a Plan,
    run_dir: &'a RunDir,
    chosen: Chosen,
    number: Taken,
    notes: Arc<Notes>,
    guard: Arc<Guard>,
    compaction: Option<compaction::Forbidden>,
    mapping: StoreMapping,
    memory: StoreMemory,
    store: Arc<Store>,
    maintenance: Maintenance,
    device: Box<dyn Device>,
}

impl Parts<'_> {
    /// From the started transport to a device that answers.
    fn live(self, origin: Origin) -> anyhow::Result<Life> {
        let Parts {
            plan,
            run_dir,
            chosen,
            mut number,
            notes,
            guard,
            compaction,
            mapping,
            mut memory,
            store,
            maintenance,
            device,
        } = self;
        let id = number.id();
        let new = origin == Origin::New;
        if !new
            && plan.swap.is_some()
            && let Err(error) = store.show_memory()
        {
            // Who touches it first waits for memory, with an entry locked.
            tracing::error!("cannot map the store's memory in advance: {error}");
        }
        // The transport has mapped what it shares with the kernel only now.
        let locked = guard.lock_memory(&mapping);
        if new {
            locked?;
        } else if let Err(error) = locked {
            // It serves already, and others need it.
            tracing::error!("{error:#}");
        }
        number.own();
        memory.own();
        let info = Info {
            id,
            name: device
                .path()
                .map_or_else(|| ublk_node('b', id), Path::to_path_buf),
            transport: chosen.kind.as_str().to_string(),
            transport_reason: chosen.reason,
            disksize: plan.size,
            block_size: plan.block_size,
            asked: plan.policy.asked(),
            streams: device.threads().len(),
            swap: plan.swap,
            memory: memory.describe().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_string(),
        };
        let socket = run_dir.socket(id);
        // That of the process that a standby succeeds.
        let _ = std::fs::remove_file(&socket);
        let bound = Server::bind(&socket)
            .with_context(|| format!("cannot make the socket {}", socket.display()));
        let server = match bound {
            Err(error) if !new => {
                tracing::error!("{error:#}");
                None
            }
            other => Some(other?),
        };
        let standby = Standby::default();
        let mut keeper = None;
        if device.can_be_succeeded() && chosen.kind == Kind::Ublk {
            let kept = match (plan.swap, new) {
                (Some(_), true) => Keeper::with_standby(id, run_dir, &standby),
                (Some(_), false) => Keeper::without_standby(id, run_dir, &standby),
                (None, _) => Keeper::idle(id, run_dir, &standby),
            };
            keeper = match kept {
                Err(error) if !new => {
                    tracing::error!("{error:#}");
                    None
                }
                other => Some(other?),
            };
        }
        if let (true, Some(priority)) = (new, plan.swap) {
            swap::enable(&info.name, plan.size, priority)?;
        }
        // The kernel may be swapping from here on: no step below may fail.
        if let Err(error) = guard.mark_start(device.threads()) {
            tracing::warn!("cannot read the threads' page faults: {error}");
        }
        let found = store.stats().damaged_objects;
        if found > 0 && !new {
            tracing::warn!("{found} damaged objects were found when going on with the store");
        }
        let scrubs = Scrubs::new(id);
        let inbox = Arc::new(Mailbox::default());
        let leaving = Arc::new(AtomicBool::new(false));
        let serving: Arc<dyn Handler> = Arc::new(Serving {
            info: info.clone(),
            store: Arc::downgrade(&store),
            guard,
            run_dir: run_dir.clone(),
            plan: Mutex::new(plan.clone()),
            io_threads: device.threads().to_vec(),
            buffer_bytes: device.buffer_bytes(),
            inbox: inbox.clone(),
            standby,
            keeper: keeper.as_ref().map(Keeper::requests),
            leaving: leaving.clone(),
            compacting: Mutex::default(),
            scrub: scrubs.job(),
        });
        if let Some(server) = server {
            server.open(&serving);
        }
        notes.change(|record| {
            record.phase = Phase::Serving;
            record.name = Some(info.name.clone());
        });
        Ok(Life {
            info,
            notes,
            inbox,
            leaving,
            keeper,
            scrubs: Some(scrubs),
            device,
            maintenance: Some(maintenance),
            store,
            memory,
            _compaction: compaction,
            number,
        })
    }
}

/// A device that serves. Dropping it undoes everything, in the order of the fields.
struct Life {
    info: Info,
    notes: Arc<Notes>,
    inbox: Arc<Mailbox<Removal>>,
    /// Whether the device is being removed, or handed over to another process.
    leaving: Arc<AtomicBool>,
    keeper: Option<Keeper>,
    scrubs: Option<Scrubs>,
    device: Box<dyn Device>,
    maintenance: Option<Maintenance>,
    store: Arc<Store>,
    memory: StoreMemory,
    _compaction: Option<compaction::Forbidden>,
    number: Taken,
}

impl Life {
    /// The steps of the module's first drawing, from the measures on the process to swap. With what
    /// a dead process `left`, goes on with its store and its device, which stay as they are until
    /// no step can fail any more.
    fn start(
        plan: &Plan,
        chosen: Chosen,
        run_dir: &RunDir,
        number: Taken,
        notes: Arc<Notes>,
        left: Option<&Record>,
    ) -> anyhow::Result<Life> {
        let id = number.id();
        let (guard, compaction) = measures(plan, chosen.kind, run_dir)?;
        let directory = run_dir.memory(id);
        let mut memory = match left {
            None => StoreMemory::create(&directory)?,
            Some(_) => StoreMemory::open(&directory)?,
        };
        let file = memory.take_file().context("the store's file is taken")?;
        let mapping = StoreMapping::of(&file).context("cannot look at the store's file")?;
        let config = plan.store_config()?;
        let store = Arc::new(match left {
            None => new_store(config, file)?,
            Some(_) => old_store(config, file)?,
        });
        if left.is_none() {
            memory.lock()?;
        }

        let target = Arc::new(Target::new(store.clone(), plan.block_size));
        let hooks = hooks(&guard, &notes);
        let mut device = match left {
            Some(left) if chosen.kind == Kind::Ublk => {
                take_over(&ublk_spec(plan, &memory)?, id, left.maker, target, hooks)?
            }
            _ => prepare(plan, chosen.kind, id, run_dir, target, hooks, &memory)?,
        };
        let maintenance =
            Maintenance::spawn(guard.clone()).context("cannot start the maintenance thread")?;
        maintenance.begin(&store);

        guard.lock_memory(&mapping)?;
        if left.is_none() && memory.outlives_process() && device.can_be_succeeded() {
            // Before anybody can write a page.
            run_dir.write_plan(id, plan)?;
        }
        device.start()?;
        Parts {
            plan,
            run_dir,
            chosen,
            number,
            notes,
            guard,
            compaction,
            mapping,
            memory,
            store,
            maintenance,
            device,
        }
        .live(if left.is_some() {
            Origin::Recovered
        } else {
            Origin::New
        })
    }

    /// Waits for signals and removals until one ends the device, and looks for damage meanwhile.
    fn serve(mut self, signals: &sys::SignalSet) -> anyhow::Result<()> {
        let mut reporter = damage::Reporter::new(Instant::now());
        loop {
            let signal = signals.wait(damage::PERIOD);
            reporter.look(&self.store, Instant::now(), |line| {
                tracing::error!("{line}")
            });
            let Some(signal) = signal.context("cannot wait for signals")? else {
                continue;
            };
            if signal != MAIL_SIGNAL {
                match self.withdraw(false) {
                    Ok(_) => {
                        tracing::info!("signal {signal}: removing {}", self.info.name.display());
                        return self.end(None, Vec::new());
                    }
                    // A signal must not take a file system from under its users.
                    Err(error) => tracing::warn!("signal {signal} is not followed: {error:#}"),
                }
                continue;
            }
            let mut removals = self.inbox.take().into_iter();
            while let Some(removal) = removals.next() {
                match self.withdraw(removal.force) {
                    Ok(warning) => {
                        return self.end(warning, once(removal).chain(removals).collect());
                    }
                    Err(error) => removal.refuse(&error),
                }
            }
        }
    }

    /// Lets nobody use the device any more: it is unused, or is to go all the same, with a warning.
    fn withdraw(&mut self, force: bool) -> anyhow::Result<Option<String>> {
        ensure!(
            !self.leaving.swap(true, Relaxed),
            "device {} is just being handed over to another process: try again in a moment",
            self.info.id
        );
        let withdrawn = self.withdraw_device(force);
        self.leaving.store(withdrawn.is_ok(), Relaxed);
        withdrawn
    }

    fn withdraw_device(&mut self, force: bool) -> anyhow::Result<Option<String>> {
        let name = &self.info.name;
        if !self.info.is_still_ours() {
            // Whatever it serves now, our end does not touch it.
            return Ok(None);
        }
        match claim(name, false)? {
            Claim::Free(claim) => {
                if !self.device.withdraw(claim)? {
                    bail!(explain(name, &Usage::of(name)?));
                }
                Ok(None)
            }
            Claim::InUse(usage) if force && usage.swaps.is_empty() => Ok(Some(format!(
                "{}; it goes all the same: its users get I/O errors",
                explain(name, &usage)
            ))),
            Claim::InUse(usage) => bail!(explain(name, &usage)),
        }
    }

    /// Takes everything away: device, threads, store, mounts, files. Tells those who asked for it.
    fn end(mut self, warning: Option<String>, mut removals: Vec<Removal>) -> anyhow::Result<()> {
        // First: an end on purpose is no death.
        drop(self.keeper.take());
        self.notes.change(|record| record.phase = Phase::Ending);
        drop(self.scrubs.take());
        let stopped = self.device.stop();
        let Life {
            mut device,
            inbox,
            maintenance,
            store,
            mut memory,
            number,
            ..
        } = self;
        drop(maintenance);
        drop(store);
        // Whoever still has the device open may keep the number, but not the memory.
        let removed = memory.remove();
        let deleted = device.delete();
        drop(device);
        drop(number);
        let result = stopped
            .and_then(|busy| Ok(busy.into_iter().chain(deleted?).collect()))
            .and_then(|remains: Vec<String>| removed.map(|()| remains));

        let outcome = match &result {
            Ok(remains) => Ok(Removed {
                warning,
                remains: remains.clone(),
            }),
            Err(error) => Err(format!("{error:#}")),
        };
        removals.extend(inbox.take());
        for removal in removals {
            removal.answer(outcome.clone());
        }
        for sentence in result? {
            tracing::warn!("{sentence}");
        }
        Ok(())
    }
}

/// A thread cannot serve any longer: notes why, and ends the process.
///
/// Requests that the thread had would wait for ever, and with them whoever stops the device. When
/// the process is gone, whatever state it was in, the kernel keeps them for a successor, or answers
/// them with errors where there can be none. The store stays until `remove`. Nothing is
/// waited for and little allocated: we may be swap.
fn fail(notes: &Notes, cause: &str) {
    sys::emergency(format_args!("the device serves no longer: {cause}\n"));
    notes.change(|record| {
        record.phase = Phase::Failed;
        record.failure = Some(cause.to_string());
    });
    sys::exit_now(1)
}

/// The transport's first half: everything that needs memory.
fn prepare(
    plan: &Plan,
    kind: Kind,
    id: u32,
    run_dir: &RunDir,
    target: Arc<Target>,
    hooks: ThreadHooks,
    memory: &StoreMemory,
) -> anyhow::Result<Box<dyn Device>> {
    match kind {
        Kind::Ublk => {
            let spec = ublk::Spec {
                id: Some(id),
                recovery: memory.outlives_process(),
                ..ublk_spec(plan, memory)?
            };
            Ok(Box::new(ublk::UblkDevice::prepare(&spec, target, hooks)?))
        }
        Kind::Loop => {
            let mut spec = loopdev::Spec::new(id, run_dir.path());
            if let Some(threads) = plan.queues {
                spec.threads = usize::from(threads);
            }
            Ok(Box::new(loopdev::LoopDevice::prepare(spec, target, hooks)?))
        }
    }
}

/// [`prepare`] for a ublk device that is there, made by the process `maker`.
fn take_over(
    spec: &ublk::Spec,
    id: u32,
    maker: u32,
    target: Arc<dyn Serve>,
    hooks: ThreadHooks,
) -> anyhow::Result<Box<dyn Device>> {
    let device = ublk::UblkDevice::take_over(id, maker, spec, target, hooks)?;
    Ok(Box::new(device))
}

/// What a plan says of a ublk device.
fn ublk_spec(plan: &Plan, memory: &StoreMemory) -> anyhow::Result<ublk::Spec> {
    let usual = ublk::Spec::default();
    let swap = plan.swap.is_some();
    Ok(ublk::Spec {
        queues: plan.ublk_queues(),
        depth: plan.ublk_depth(),
        max_io_bytes: if swap {
            MAX_IO_SWAP
        } else {
            usual.max_io_bytes
        },
        populate_buffers: swap,
        // Where they take memory from the start, a standby shall not take it again.
        buffers: if swap {
            memory.buffers()?.map(Arc::new)
        } else {
            None
        },
        ..usual
    })
}
