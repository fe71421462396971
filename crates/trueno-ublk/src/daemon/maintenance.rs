//! The thread that has memory ready before it is needed, and gives back what is free.
#![forbid(unsafe_code)]

use super::harden::{Duty, Guard};
use super::heap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use trueno_zram_store::Store;

/// How long it sleeps when the store does not wake it; also how long it may take to end.
const PERIOD: Duration = Duration::from_millis(100);

/// How long it leaves a system alone that has no memory to give.
const PAUSE: Duration = Duration::from_millis(1);

/// Its stack, all of which is locked in swap mode. What it calls goes a few frames deep, but the
/// guard touches 256 KiB.
const STACK_BYTES: usize = 512 << 10;

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub struct Maintenance {
    stop: Arc<AtomicBool>,
    /// Where the thread waits for its store; closed, it ends.
    gate: Option<Sender<Weak<Store>>>,
    thread: Option<JoinHandle<()>>,
}

impl Maintenance {
    /// Starts the thread, hardened as an I/O thread is and before them in line: when the reserve is
    /// empty, writes fail until it has run. It waits for its [store](Maintenance::begin).
    pub fn spawn(guard: Arc<Guard>) -> io::Result<Maintenance> {
        let late = guard.is_standing();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (tell, told) = channel();
        let (gate, opened) = channel::<Weak<Store>>();
        let thread = std::thread::Builder::new()
            .name("maintenance".to_string())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let entered = guard.enter_thread(Duty::Maintenance);
                let may_run = entered.is_ok();
                // The other end waits for it below.
                let _ = tell.send(entered);
                if !may_run {
                    return;
                }
                let Ok(store) = opened.recv() else { return };
                if late && let Err(error) = guard.enter_thread(Duty::Maintenance) {
                    tracing::error!("maintenance goes on as an ordinary thread: {error}");
                }
                work(&store, &stopped);
            })?;
        told.recv().map_err(io::Error::other)??;
        Ok(Maintenance {
            stop,
            gate: Some(gate),
            thread: Some(thread),
        })
    }

    /// Gives the thread its store.
    pub fn begin(&self, store: &Arc<Store>) {
        if let Some(gate) = &self.gate {
            // A thread that is gone needs none.
            let _ = gate.send(Arc::downgrade(store));
        }
    }
}

fn work(store: &Weak<Store>, stop: &AtomicBool) {
    heap::forbid();
    while !stop.load(Relaxed) {
        let Some(store) = store.upgrade() else { break };
        match store.maintain() {
            Ok(true) => {}
            Ok(false) => store.wait_for_maintenance(PERIOD),
            // No memory at the moment. This thread has real-time priority: let others free some.
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
    heap::allow();
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.gate = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}
