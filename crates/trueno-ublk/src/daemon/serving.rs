//! What the daemon answers to its control socket.
#![forbid(unsafe_code)]

use super::harden::{self, Guard};
use super::in_use::{Claim, claim, explain};
use super::scrub::Job;
use super::standby::{self, Standby};
use super::{MAIL_SIGNAL, Plan, RunDir, sys};
use crate::control::protocol::{Chosen, Info, Op, Removed, Scrub, Stat, StoreStat};
use crate::control::server::{Answer, Handler, Mailbox};
use crate::transport::IoThread;
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use trueno_zram_cli::sysfs::{IoStat, MmStat};
use trueno_zram_store::{Stats, Store};

/// All that the control threads know. The store is the main thread's: here it is only looked at.
pub(super) struct Serving {
    pub info: Info,
    pub store: Weak<Store>,
    pub guard: Arc<Guard>,
    pub run_dir: RunDir,
    /// What a successor would be told.
    pub plan: Mutex<Plan>,
    pub io_threads: Vec<IoThread>,
    pub buffer_bytes: u64,
    pub inbox: Arc<Mailbox<Removal>>,
    pub standby: Standby,
    /// Whom to ask for a standby; none where nobody can go on with the device.
    pub keeper: Option<Sender<standby::Request>>,
    /// Whether the device is being removed, or handed over.
    pub leaving: Arc<AtomicBool>,
    pub scrub: Arc<Job>,
    /// Held by the one thread that compacts.
    pub compacting: Mutex<()>,
}

/// A request to end, on its way to the main thread.
#[derive(Debug)]
pub(super) struct Removal {
    pub force: bool,
    reply: Sender<Result<Removed, String>>,
    written: Receiver<()>,
}

impl Removal {
    /// Says no.
    pub fn refuse(self, error: &anyhow::Error) {
        // Who asked may be gone.
        let _ = self.reply.send(Err(format!("{error:#}")));
    }

    /// Says what became of it, and waits until that has been written.
    pub fn answer(self, result: Result<Removed, String>) {
        let _ = self.reply.send(result);
        let _ = self.written.recv_timeout(super::LAST_ANSWER);
    }
}

impl Handler for Serving {
    fn handle(&self, op: Op) -> Answer {
        let result = match op {
            Op::Ping => Ok("pong".into()),
            Op::Info => json(&self.info),
            Op::Stat => self.stat().and_then(|stat| json(&stat)),
            Op::Reset => self.reset().map(|()| Value::Null),
            Op::MemLimit { bytes } => self.mem_limit(bytes).map(|()| Value::Null),
            Op::Remove { force } => return self.remove(force),
            Op::Compact => self.compact().and_then(|bytes| json(&bytes)),
            Op::Scrub { rate } => self.scrub(rate).and_then(|scrub| json(&scrub)),
            Op::ScrubState => json(&self.scrub.last()),
            Op::ScrubStop => self.scrub.stop().and_then(|scrub| json(&scrub)),
            Op::HandOver { program } => return self.hand_over(program),
        };
        Answer::from(result.map_err(|error| format!("{error:#}")))
    }
}

impl Serving {
    fn store(&self) -> anyhow::Result<Arc<Store>> {
        self.store.upgrade().context("the device is being removed")
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stat(&self) -> anyhow::Result<Stat> {
        let codecs = self.plan().policy.names();
        let (stats, classes, chosen) = {
            let store = self.store()?;
            (store.stats(), classes(&store), store.chosen())
        };
        let mut hardening: harden::Report = self
            .guard
            .report(&self.io_threads)
            .context("cannot read back the measures")?;
        hardening.reserve_bytes = stats.reserve_bytes;
        hardening.reserve_target = stats.reserve_target;
        hardening.reserve_lowest = stats.reserve_min;
        hardening.buffer_bytes = self.buffer_bytes;
        hardening.table_bytes = stats.table_bytes;
        Ok(Stat {
            device: self.info.clone(),
            mm_stat: mm_stat(&stats),
            io_stat: io_stat(&stats),
            store: store_stat(&stats),
            classes,
            chosen: codecs.into_iter().zip(chosen).map(Chosen::from).collect(),
            hardening,
            standby: Some(self.standby.load(Relaxed)).filter(|pid| *pid != 0),
            scrub: self.scrub.last(),
        })
    }

    /// Discards everything through the block device, so that the kernel forgets its copies too.
    fn reset(&self) -> anyhow::Result<()> {
        let name = &self.info.name;
        ensure!(
            self.info.is_still_ours(),
            "{} serves something else now: somebody detached our file from it; \
             `trueno-ublk remove {}` takes the rest away",
            name.display(),
            self.info.id
        );
        match claim(name, true)? {
            Claim::Free(device) => {
                sys::discard(&device, self.info.disksize)
                    .with_context(|| format!("cannot discard {}", name.display()))?;
                self.store()?.reset_mem_used_max();
                tracing::info!("reset: all data is gone");
                Ok(())
            }
            Claim::InUse(usage) => bail!(explain(name, &usage)),
        }
    }

    fn mem_limit(&self, bytes: Option<u64>) -> anyhow::Result<()> {
        self.store()?.set_mem_limit(bytes)?;
        let mut plan = self.plan();
        plan.mem_limit = bytes;
        if self.run_dir.keeps(self.info.id) {
            self.run_dir.write_plan(self.info.id, &plan)?;
        }
        tracing::info!("the memory limit is {bytes:?} bytes now");
        Ok(())
    }

    /// Not beside swap: this thread holds what writes wait for when memory is short, and is neither
    /// urgent nor sure to get any itself. Maintenance, which is, compacts there.
    fn compact(&self) -> anyhow::Result<u64> {
        let id = self.info.id;
        ensure!(
            self.info.swap.is_none(),
            "device {id} serves swap: its daemon moves objects together by itself, and doing it \
             from outside could hold up swapping"
        );
        let _one = self.compacting.try_lock().ok().with_context(|| {
            format!("device {id} is just being compacted: wait until that is done")
        })?;
        let bytes = self.store()?.compact();
        tracing::info!("compacted: {bytes} bytes became free");
        Ok(bytes)
    }

    fn scrub(&self, rate: u64) -> anyhow::Result<Scrub> {
        self.scrub.begin(self.store()?, rate)
    }

    fn remove(&self, force: bool) -> Answer {
        let (reply, replied) = channel();
        let (written, is_written) = channel();
        self.inbox.put(Removal {
            force,
            reply,
            written: is_written,
        });
        let asked = sys::raise_in_process(MAIL_SIGNAL).context("cannot reach the main thread");
        let result = asked.and_then(|()| {
            let outcome = replied.recv().context("the main thread gave no answer")?;
            outcome.map_err(anyhow::Error::msg)
        });
        let result = result.and_then(|removed| json(&removed));
        Answer {
            result: result.map_err(|error| format!("{error:#}")),
            written: Some(written),
        }
    }
}

impl Serving {
    /// Has `program` stand by, and then ends this process, once the answer has been written.
    fn hand_over(&self, program: PathBuf) -> Answer {
        if self.leaving.swap(true, Relaxed) {
            let id = self.info.id;
            return Answer::from(Err(format!(
                "device {id} is just being removed or handed over"
            )));
        }
        match self.successor(program) {
            Ok(pid) => {
                let (written, is_written) = channel();
                std::thread::spawn(move || {
                    // However that goes: the other one waits for our end.
                    let _ = is_written.recv_timeout(super::LAST_ANSWER);
                    tracing::info!("process {pid} is to go on: ending");
                    sys::exit_now(0)
                });
                Answer {
                    result: Ok(pid.into()),
                    written: Some(written),
                }
            }
            Err(error) => {
                self.leaving.store(false, Relaxed);
                Answer::from(Err(format!("{error:#}")))
            }
        }
    }

    /// A standby from `program`; its process.
    fn successor(&self, program: PathBuf) -> anyhow::Result<u32> {
        let keeper = self.keeper.as_ref().with_context(|| {
            format!(
                "nobody can go on with device {}: that takes ublk, and memory that outlives a \
                 process (Linux 6.4)",
                self.info.id
            )
        })?;
        let (reply, replied) = channel();
        let asked = keeper.send(standby::Request::Replace(program, reply));
        asked.ok().context("the device is being removed")?;
        replied.recv().context("the device is being removed")?
    }
}

fn json(value: &impl serde::Serialize) -> anyhow::Result<Value> {
    serde_json::to_value(value).context("cannot write JSON")
}

fn mm_stat(stats: &Stats) -> MmStat {
    MmStat {
        orig_data_size: stats.orig_data_size,
        compr_data_size: stats.compr_data_size,
        mem_used_total: stats.mem_used_total,
        mem_limit: stats.mem_limit,
        mem_used_max: stats.mem_used_max,
        same_pages: stats.same_pages,
        pages_compacted: stats.pages_compacted,
        huge_pages: stats.huge_pages,
        huge_pages_since: stats.huge_pages_since,
    }
}

fn io_stat(stats: &Stats) -> IoStat {
    IoStat {
        failed_reads: stats.failed_reads,
        failed_writes: stats.failed_writes,
        invalid_io: stats.invalid_io,
        notify_free: stats.notify_free,
    }
}

/// Rows without names: there may be 140 of them, and the heap is small where it is locked.
fn classes(store: &Store) -> Vec<[u64; 4]> {
    let classes = store.classes().into_iter();
    classes
        .map(|class| [class.slot_bytes, class.slots, class.objects, class.frames])
        .collect()
}

fn store_stat(stats: &Stats) -> StoreStat {
    StoreStat {
        pages_stored: stats.pages_stored,
        zero_pages: stats.zero_pages,
        compressed_pages: stats.compressed_pages,
        objects: stats.objects,
        pages_written: stats.pages_written,
        pages_read: stats.pages_read,
        pages_compressed: stats.pages_compressed,
        skipped_pages: stats.skipped_pages,
        bytes_encoded: stats.bytes_encoded,
        table_bytes: stats.table_bytes,
        overhead_bytes: stats.overhead_bytes,
        failed_limit: stats.failed_limit,
        failed_memory: stats.failed_memory,
        damaged_objects: stats.damaged_objects,
    }
}
