//! Read, write, discard: the control flow, readable from top to bottom.
//!
//! An object in the pool is
//! ```text
//! 0          4          8
//! │ page u32 │ sum u32  │ block: 1 to 3832 bytes, as the entry says
//! ```
//! in native byte order: the memory never leaves the machine. The checksum is 32 bits of XXH3 over
//! the block, mixed with page, codec and length, so an object that is read through a wrong entry
//! does not pass either. A huge page has no header; its entry holds 24 bits of the same. (A block
//! of 1.4 KB takes XXH3 some 35 ns, CRC-32C in hardware 45 and rapidhash 85, of a read's 1100.)

use crate::compact::Compactor;
use crate::damage::{Damage, Met, Notes};
use crate::error::{AttachError, CreateError, ReadError, WriteError};
use crate::memory::Memory;
use crate::plan::{CODECS_MAX, Config, Growth, Plan};
use crate::pool::{AdoptError, Current, Frame, OBJECT_MAX, Pool, Slot, class_of};
use crate::stats::{ChosenStats, ClassStats, Counters, Stats};
use crate::superblock::Superblock;
use crate::table::{self, Damaged, Entry};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use trueno_zram_core::codec::same::{fill_page_word, page_same_filled};
use trueno_zram_core::{
    Choice, Codec, CodecId, Outcome, PAGE_SIZE, Page, PageBytes, Scratch, is_trial, try_codecs,
};
use twox_hash::XxHash3_64;

/// Bytes before the block.
pub(crate) const HEADER_BYTES: usize = 8;

/// The longest block that is worth keeping: one byte more would take as much as the page itself.
pub const BLOCK_MAX: usize = OBJECT_MAX - HEADER_BYTES;

/// Slabs among which a step of maintenance looks for a sparse one: some 20 µs. At ten steps a second
/// it has seen a store of a GiB every three seconds, and costs one that has none next to nothing.
const SLABS_AT_A_TIME: u32 = 256;

/// Entries in a page of the table: 2 MiB of the store.
const TABLE_PAGE_ENTRIES: u64 = (PAGE_SIZE / 8) as u64;

/// Compressed pages, addressed by their number.
pub struct Store {
    plan: Plan,
    memory: Arc<Memory>,
    pub(crate) pool: Pool,
    codecs: Codecs,
    mem_limit: AtomicU64,
    growth: Growth,
    /// A bit for each page of the table that an entry was ever written to. A store is far larger
    /// than what it holds: looking at an entry in a page of the table that was never written
    /// would cost memory for nothing.
    written: Box<[AtomicU64]>,
    workers: Mutex<Workers>,
    pub(crate) compactor: Mutex<Compactor>,
    /// Pages of memory in slabs that compaction emptied.
    pub(crate) pages_compacted: AtomicU64,
    damage: Notes,
}

/// A store that another process still uses, and that can be gone on with when it is gone.
#[derive(Debug)]
pub struct Prepared(Store);

impl Prepared {
    /// [`Store::attach`], now that the other process is gone.
    pub fn attach(self) -> Result<Store, AttachError> {
        let Prepared(store) = self;
        // What was found before may have been damaged since.
        Superblock::of(&store.memory).check(&store.plan)?;
        store.rebuild().map_err(|error| match error {
            AdoptError::Damaged(how) => AttachError::Damaged(how),
            AdoptError::Os(error) => AttachError::Os(error),
        })?;
        Ok(store)
    }
}

/// All workers that live, and the counts of those that ended.
#[derive(Default)]
struct Workers {
    live: Vec<Arc<Shared>>,
    ended: Counters,
}

/// What others see of a worker.
#[derive(Debug)]
struct Shared {
    counters: Counters,
    /// Locked by the worker for the time of taking a slot, so that others can have the slabs back
    /// from one that rests.
    current: Mutex<Current>,
}

/// The codecs, by place in the configuration and by what they decode.
struct Codecs {
    list: Vec<Arc<dyn Codec>>,
    by_id: [Option<Arc<dyn Codec>>; 16],
    selector: Arc<dyn trueno_zram_core::Selector>,
    /// How many of the first codecs the selector wants to know more of.
    learns: usize,
}

impl Store {
    /// Makes an empty store in `memory`, which must read as zeros and have
    /// [`Config::memory_bytes`]. With a reserve or all memory populated from the start, this
    /// populates the table and that memory, and fails if the system has not enough.
    pub fn create(config: Config, memory: Memory) -> Result<Store, CreateError> {
        let store = Store::unmade(config, memory)?;
        let superblock = Superblock::of(&store.memory);
        // With the first page, which is to be written in any case.
        let table = if store.growth == Growth::OnDemand {
            store.plan.table_offset
        } else {
            store.plan.maps_offset
        };
        store.memory.populate(0..table).map_err(CreateError::Os)?;
        if !superblock.is_empty() {
            return Err(CreateError::NotEmpty);
        }
        store.fill_reserve().map_err(CreateError::Os)?;
        superblock.write(&store.plan);
        Ok(store)
    }

    /// Goes on with the store that another process left in `memory`, at whatever instruction it was
    /// stopped. `config.size` must be the store's, and `config.codecs` have all that it was written
    /// with; everything else may differ. Each page holds what was last acknowledged for it, or what
    /// was being written. A page whose entry or object is damaged is an error when it is read.
    ///
    /// The other process must be gone: two of them would destroy each other's pages.
    pub fn attach(config: Config, memory: Memory) -> Result<Store, AttachError> {
        Store::prepare(config, memory)?.attach()
    }

    /// The part of [`attach`](Store::attach) that can be done while the other process lives: takes
    /// all memory that is needed, and finds out whether this program can go on with that store at
    /// all. Changes nothing.
    pub fn prepare(config: Config, memory: Memory) -> Result<Prepared, AttachError> {
        let store = Store::unmade(config, memory).map_err(AttachError::Config)?;
        Superblock::of(&store.memory).check(&store.plan)?;
        Ok(Prepared(store))
    }

    /// A store that knows nothing yet of what is in its memory.
    fn unmade(config: Config, memory: Memory) -> Result<Store, CreateError> {
        let plan = Plan::new(&config)?;
        if memory.len() < plan.memory_bytes() {
            return Err(CreateError::Memory {
                needed: plan.memory_bytes(),
                given: memory.len(),
            });
        }
        let memory = Arc::new(memory);
        let pool = Pool::new(&plan, &memory, config.growth, config.mem_limit);
        let written = plan.pages.div_ceil(TABLE_PAGE_ENTRIES).div_ceil(64) as usize;
        let mut by_id: [Option<Arc<dyn Codec>>; 16] = Default::default();
        for codec in &config.codecs {
            by_id[codec.id() as usize] = Some(Arc::clone(codec));
        }
        Ok(Store {
            plan,
            memory,
            pool,
            codecs: Codecs {
                by_id,
                learns: config.selector.learns().min(config.codecs.len()),
                list: config.codecs,
                selector: config.selector,
            },
            mem_limit: AtomicU64::new(config.mem_limit.unwrap_or(0)),
            growth: config.growth,
            written: (0..written).map(|_| AtomicU64::new(0)).collect(),
            workers: Mutex::default(),
            compactor: Mutex::new(Compactor::new()),
            pages_compacted: AtomicU64::new(0),
            damage: Notes::new(),
        })
    }

    /// Has all memory that the store has shown to this process, after [`attach`](Store::attach): from
    /// then on using it does not fault. Others may read and write meanwhile.
    pub fn show_memory(&self) -> std::io::Result<()> {
        self.memory.show(0..self.memory.len() as usize)
    }

    /// Populates what is to be ready before the first write.
    fn fill_reserve(&self) -> std::io::Result<()> {
        let frames = match self.growth {
            Growth::OnDemand => return Ok(()),
            Growth::Reserve(_) => (self.pool.reserve_target() / PAGE_SIZE as u64) as u32,
            Growth::Populated => self.plan.frames_populated,
        };
        self.pool.add_ready(frames)?;
        self.pool.watch_ready();
        Ok(())
    }

    /// Makes everything anew that is not in the table, by one scan of it.
    fn rebuild(&self) -> Result<(), AdoptError> {
        self.pool.forget()?;
        let table = self.plan.table_offset..self.plan.maps_offset;
        self.memory.resident(table, |page, resident| {
            if resident {
                self.written[page / 64].fetch_or(1 << (page % 64), Relaxed);
            }
        })?;
        let c = Counters::default();
        for page in self.written_pages() {
            let word = self.word(page);
            table::unlock_abandoned(word);
            let Ok(entry) = table::peek(word) else {
                c.damaged_objects.add(1);
                continue;
            };
            c.hold(entry);
            if let Entry::Stored { length, place, .. } = entry
                && !self
                    .pool
                    .adopt_slot(place, HEADER_BYTES + usize::from(length))
            {
                c.damaged_objects.add(1);
            }
        }
        // Only now, so that a damaged entry cannot claim a slab's frame for a huge page.
        let mut used = self.pool.adopt_slabs()?;
        let slabs = used.clone();
        let mut buffer = Page::boxed();
        for page in self.written_pages() {
            if let Ok(entry @ Entry::Huge { frame, .. }) = table::peek(self.word(page))
                && !used.take(Frame(frame))
            {
                if slabs.has(Frame(frame)) && self.is_slot_of_page(page, entry, &mut buffer) {
                    // The page is whole: it is the slab's map that is wrong.
                    return Err(AdoptError::Damaged("a slab has the memory of a huge page"));
                }
                c.damaged_objects.add(1);
            }
        }
        self.pool.adopt(&used)?;
        lock(&self.workers).ended.absorb(&c);
        if self.growth == Growth::OnDemand {
            return Ok(());
        }
        self.memory
            .populate(self.plan.table_offset..self.plan.maps_offset)?;
        // A reserve is there as far as the other process left it. The rest is for maintenance, which
        // asks the system first.
        if self.growth == Growth::Populated {
            let usage = self.pool.usage();
            let there = (usage.used + usage.ready) / PAGE_SIZE as u64;
            let missing = self.plan.frames_populated.saturating_sub(there as u32);
            self.pool.add_ready(missing)?;
        }
        self.pool.watch_ready();
        Ok(())
    }

    /// The pages whose entry may be anything but empty.
    fn written_pages(&self) -> impl Iterator<Item = u64> + '_ {
        let parts = (0..self.plan.pages).step_by(TABLE_PAGE_ENTRIES as usize);
        parts
            .filter(|first| self.is_written(*first))
            .flat_map(|first| first..(first + TABLE_PAGE_ENTRIES).min(self.plan.pages))
    }

    /// Bytes of data the store can hold.
    pub fn size(&self) -> u64 {
        self.plan.pages * PAGE_SIZE as u64
    }

    /// Pages the store can hold.
    pub fn pages(&self) -> u64 {
        self.plan.pages
    }

    /// What one thread reads and writes through. Allocates; its calls do not.
    pub fn worker(self: &Arc<Store>) -> Worker {
        let shared = Arc::new(Shared {
            counters: Counters::default(),
            current: Mutex::new(Current::new()),
        });
        self.enlist(Arc::clone(&shared));
        let mut scratch = Scratch::new();
        for codec in &self.codecs.list {
            codec.prepare(&mut scratch);
        }
        Worker {
            store: Arc::clone(self),
            shared,
            buffers: Buffers {
                scratch,
                object: Box::new([0; PAGE_SIZE]),
                page: Some(Page::boxed()),
            },
            written: 0,
        }
    }

    /// Adds a worker to those that others see. The list grows while it is not locked: a writer who is
    /// out of memory [looks through it](Store::recall).
    fn enlist(&self, worker: Arc<Shared>) {
        let mut larger = Vec::new();
        loop {
            let mut workers = lock(&self.workers);
            let live = &mut workers.live;
            if live.len() == live.capacity() {
                if larger.capacity() <= live.len() {
                    let wanted = 2 * live.len() + 4;
                    drop(workers);
                    larger = Vec::with_capacity(wanted);
                    continue;
                }
                larger.append(live);
                std::mem::swap(live, &mut larger);
            }
            live.push(worker);
            return;
        }
    }

    /// How often each codec was chosen, in the order of [`Config::codecs`], and what came of it.
    pub fn chosen(&self) -> Vec<ChosenStats> {
        let sum = self.counters();
        let chosen = sum.chosen.iter().take(self.codecs.list.len());
        chosen
            .map(|one| ChosenStats {
                pages: one.pages.get(),
                in_vain: one.in_vain.get(),
                bytes: one.bytes.get(),
            })
            .collect()
    }

    /// The counts of all workers, those that ended included.
    fn counters(&self) -> Counters {
        let sum = Counters::default();
        let workers = lock(&self.workers);
        sum.absorb(&workers.ended);
        for one in &workers.live {
            sum.absorb(&one.counters);
        }
        sum
    }

    /// What the store holds and has done.
    pub fn stats(&self) -> Stats {
        let sum = self.counters();
        let usage = self.pool.usage();
        let table_pages: u32 = self
            .written
            .iter()
            .map(|word| word.load(Relaxed).count_ones())
            .sum();
        Stats {
            size: self.size(),
            mem_used_total: usage.used,
            mem_used_max: usage.used_max,
            mem_limit: self.mem_limit.load(Relaxed),
            table_bytes: match self.growth {
                Growth::OnDemand => table_pages as u64 * PAGE_SIZE as u64,
                _ => self.plan.pages * 8,
            },
            overhead_bytes: usage.overhead,
            pages_compacted: self.pages_compacted.load(Relaxed),
            reserve_bytes: usage.ready,
            reserve_target: self.pool.reserve_target(),
            reserve_min: usage.ready_min,
            ..Stats::of(&sum)
        }
    }

    /// The size classes in use, by size. With nobody at work and nothing damaged they add up to
    /// [`stats`](Store::stats): their objects to `objects`, and their frames, with one for each huge
    /// page, to `mem_used_total`.
    pub fn classes(&self) -> Vec<ClassStats> {
        self.pool.class_stats()
    }

    /// Calls `each` for the damaged objects that reads and writes have met after the first `seen` of
    /// them, and returns how many there have been. Only the last 64 are kept: of the others there is
    /// the number alone. What [`Worker::verify`] finds is not among them.
    pub fn damage_since(&self, seen: u64, each: impl FnMut(Damage)) -> u64 {
        self.damage.since(seen, each)
    }

    /// Changes the limit of `mem_used_total`. Objects above a lower limit stay.
    pub fn set_mem_limit(&self, limit: Option<u64>) -> Result<(), CreateError> {
        if let Some(bytes) = limit.filter(|bytes| *bytes < crate::plan::MEM_LIMIT_MIN) {
            return Err(CreateError::MemLimit(bytes));
        }
        self.pool.set_limit(limit);
        self.mem_limit.store(limit.unwrap_or(0), Relaxed);
        Ok(())
    }

    /// Lets `mem_used_max` start again from what is used now.
    pub fn reset_mem_used_max(&self) {
        self.pool.reset_used_max();
    }

    /// Does a bounded step of what is due: brings the reserve nearer to its target, populating or
    /// giving back at most a MiB; else moves the objects of a sparse slab together.
    /// Returns whether there is more to do; an error when the system has no memory at the moment.
    /// For one thread of the daemon; it holds up reads and writes of a page no longer than a copy.
    pub fn maintain(&self) -> std::io::Result<bool> {
        let fed = self.pool.maintain();
        if let Ok(true) = fed {
            return fed;
        }
        // What it frees is for the reserve too, when the system has nothing.
        let compacted = self.compact_step(&mut lock(&self.compactor), SLABS_AT_A_TIME);
        if compacted { Ok(true) } else { fed }
    }

    /// Moves objects together wherever that frees a page of memory. Returns the bytes that became
    /// free.
    pub fn compact(&self) -> u64 {
        let mut all = 0;
        loop {
            let mut pages = 0;
            self.recall();
            for index in 0..self.pool.slab_count() {
                pages += u64::from(self.compact_slab(&mut lock(&self.compactor), index, true));
            }
            all += pages;
            // What a second look would find is not worth another.
            if pages * 64 <= all {
                return all * PAGE_SIZE as u64;
            }
        }
    }

    /// Sleeps until [`maintain`](Store::maintain) has something to do, or `timeout` is over.
    pub fn wait_for_maintenance(&self, timeout: Duration) {
        self.pool.wait(timeout);
    }

    /// Whether table, pool and statistics agree. Only while nobody reads or writes.
    pub fn check(&self) -> Result<(), String> {
        let found = Counters::default();
        let (mut huge, mut slots) = (Vec::new(), 0u64);
        for page in self.written_pages() {
            let entry =
                table::peek(self.word(page)).map_err(|_| format!("page {page}: damaged"))?;
            found.hold(entry);
            match entry {
                Entry::Empty | Entry::Same(_) => {}
                Entry::Stored { length, place, .. } => {
                    slots += 1;
                    let bytes = HEADER_BYTES + usize::from(length);
                    if !self.pool.is_slot_of(place, bytes) {
                        return Err(format!("page {page}: there is no slot {place:#x}"));
                    }
                }
                Entry::Huge { frame, .. } => huge.push(Frame(frame)),
            }
        }
        self.pool.check(&huge)?;
        let taken = self.pool.taken();
        if slots != taken {
            return Err(format!("{slots} slots have a page, {taken} are taken"));
        }
        self.check_sums()?;
        let (found, stats) = (Stats::of(&found), self.stats());
        let gauges = |stats: &Stats| {
            (
                stats.pages_stored,
                stats.same_pages,
                stats.zero_pages,
                stats.huge_pages,
                stats.compressed_pages,
                stats.objects,
                stats.compr_data_size,
            )
        };
        if gauges(&found) != gauges(&stats) {
            return Err(format!(
                "counted {:?}, found {:?} (stored, same, zero, huge, compressed, objects, bytes)",
                gauges(&stats),
                gauges(&found)
            ));
        }
        Ok(())
    }

    /// Whether the figures add up. Only while nobody reads or writes.
    fn check_sums(&self) -> Result<(), String> {
        let (stats, classes) = (self.stats(), self.classes());
        let objects: u64 = classes.iter().map(|class| class.objects).sum();
        let frames: u64 = classes.iter().map(|class| class.frames).sum();
        let kinds = stats.same_pages + stats.compressed_pages + stats.huge_pages;
        let fits = |class: &ClassStats| {
            class.objects <= class.slots
                && class.slots * class.slot_bytes <= class.frames * PAGE_SIZE as u64
        };
        if stats.pages_stored != kinds
            || stats.objects != objects
            || stats.mem_used_total != (frames + stats.huge_pages) * PAGE_SIZE as u64
            || !classes.iter().all(fits)
        {
            return Err(format!("{stats:?} and {classes:?} do not add up"));
        }
        Ok(())
    }

    pub(crate) fn word(&self, page: u64) -> &AtomicU64 {
        assert!(page < self.plan.pages);
        // SAFETY: the table's bytes are used through this function alone.
        unsafe { self.memory.at(self.plan.table_offset + page as usize * 8) }
    }

    /// Whether the entry of `page` may be anything but empty.
    pub(crate) fn is_written(&self, page: u64) -> bool {
        let bit = page / TABLE_PAGE_ENTRIES;
        self.written[(bit / 64) as usize].load(Acquire) >> (bit % 64) & 1 == 1
    }

    /// Makes the page of the table that holds the entry of `page` ready to be written.
    fn set_written(&self, page: u64) -> Result<(), WriteError> {
        if !self.is_written(page) {
            let bit = page / TABLE_PAGE_ENTRIES;
            if self.growth == Growth::OnDemand {
                // A page fault that finds no memory would kill the process; this is an error.
                let start = self.plan.table_offset + bit as usize * PAGE_SIZE;
                self.memory
                    .populate(start..start + PAGE_SIZE)
                    .map_err(|_| WriteError::NoMemory)?;
            }
            self.written[(bit / 64) as usize].fetch_or(1 << (bit % 64), AcqRel);
        }
        Ok(())
    }

    /// Takes a slot for an object of `class`; where there is no memory for one, from what other
    /// workers keep open or compaction moves just now, or in a larger class.
    fn take_slot(&self, current: &Mutex<Current>, class: u8) -> Result<Slot, WriteError> {
        let first = self.pool.take(&mut lock(current), class);
        let Err(error) = first else {
            return first;
        };
        self.recall();
        self.await_compaction();
        let current = &mut lock(current);
        let second = self.pool.take(current, class);
        second.or_else(|_| self.pool.take_larger(current, class).ok_or(error))
    }

    /// Takes a frame for a huge page, from what workers keep open if need be.
    fn take_frame(&self) -> Result<Frame, WriteError> {
        self.pool.take_frame().or_else(|_| {
            self.recall();
            self.await_compaction();
            self.pool.take_frame()
        })
    }

    /// Has all workers give up the slabs they keep open. They find them again when they need them.
    pub(crate) fn recall(&self) {
        for worker in &lock(&self.workers).live {
            self.pool.give_up_all(&mut lock(&worker.current));
        }
    }

    /// Waits until compaction has done with the slab that it owns just now: some 30 µs.
    fn await_compaction(&self) {
        drop(lock(&self.compactor));
    }

    /// Reads the object that `entry` names into `page`. The bytes have been copied out already:
    /// the header and block into `object`, a huge page into `page`.
    fn decode(
        &self,
        index: u64,
        entry: Entry,
        object: &PageBytes,
        page: &mut PageBytes,
        scratch: &mut Scratch,
    ) -> Result<(), ReadError> {
        match entry {
            Entry::Empty => page.fill(0),
            Entry::Same(word) => fill_page_word(page, word),
            Entry::Huge { checksum, .. } => {
                if checksum_huge(index, page) != checksum {
                    return Err(ReadError::Corrupt);
                }
            }
            Entry::Stored { codec, length, .. } => {
                let (header, rest) = object.split_at(HEADER_BYTES);
                let block = rest.get(..length as usize).ok_or(ReadError::Corrupt)?;
                if header != header_of(index, codec, block) {
                    return Err(ReadError::Corrupt);
                }
                if codec == CodecId::Same {
                    let word = block.try_into().map_err(|_| ReadError::Corrupt)?;
                    fill_page_word(page, u64::from_ne_bytes(word));
                } else {
                    let codec = self.codecs.by_id[codec as usize].as_ref();
                    codec
                        .ok_or(ReadError::Corrupt)?
                        .decompress(block, page, scratch)
                        .map_err(|_| ReadError::Corrupt)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the slot that `entry`, just taken out of the table, names really holds what page
    /// `index` stored. Where the entry is damaged it may not.
    fn is_slot_of_page(&self, index: u64, entry: Entry, buffer: &mut PageBytes) -> bool {
        match entry {
            Entry::Stored { length, place, .. } => {
                let mut header = [0; 4];
                if !self.pool.is_slot_of(place, HEADER_BYTES + length as usize) {
                    return false;
                }
                // SAFETY: the object is no longer in the table and not yet free, so nobody writes
                // to it; or the entry was damaged, and the bytes only decide that it is.
                let found = unsafe { self.pool.read(place, &mut header) };
                found && u32::from_ne_bytes(header) == index as u32
            }
            Entry::Huge { checksum, frame } => {
                // Without a header only the content can tell.
                // SAFETY: as above.
                let found = unsafe { self.pool.read_frame(Frame(frame), buffer) };
                found && checksum_huge(index, buffer) == checksum
            }
            Entry::Empty | Entry::Same(_) => false,
        }
    }

    /// Copies out what `entry` names, for [`decode`](Store::decode).
    ///
    /// # Safety
    /// `entry` is locked, so its object is neither freed nor changed meanwhile.
    unsafe fn copy_out(
        &self,
        entry: Entry,
        object: &mut PageBytes,
        page: &mut PageBytes,
    ) -> Result<(), ReadError> {
        match entry {
            Entry::Stored { length, place, .. } => {
                let bytes = object.get_mut(..HEADER_BYTES + length as usize);
                let bytes = bytes.ok_or(ReadError::Corrupt)?;
                // SAFETY: nobody writes to an object between its publication and its end.
                if !unsafe { self.pool.read(place, bytes) } {
                    return Err(ReadError::Corrupt);
                }
            }
            Entry::Huge { frame, .. } => {
                // SAFETY: as above.
                if !unsafe { self.pool.read_frame(Frame(frame), page) } {
                    return Err(ReadError::Corrupt);
                }
            }
            Entry::Empty | Entry::Same(_) => {}
        }
        Ok(())
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("plan", &self.plan)
            .field("stats", &self.stats())
            .finish()
    }
}

/// One thread's access to a [`Store`]: codec scratch, buffers, and the slabs it takes slots in.
pub struct Worker {
    store: Arc<Store>,
    shared: Arc<Shared>,
    buffers: Buffers,
    /// Pages written for a selector that learns.
    written: u64,
}

/// What a worker writes to while it works.
struct Buffers {
    scratch: Scratch,
    /// Header and block of the object that is written or read; a huge page that is checked.
    object: Box<PageBytes>,
    /// The page that a partial write changes, or that is checked; out while that is under way.
    page: Option<Box<Page>>,
}

/// Why the page among the buffers is there.
const NO_NESTING: &str = "calls of one worker do not nest";

/// How a page is to be stored.
enum Encoded {
    Entry(Entry),
    Object { codec: CodecId, length: u16 },
    Huge,
}

impl Worker {
    /// The store this worker works on.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Reads page `index`; one that was never written, or was discarded, is zeros. On an error
    /// the content of `page` is unspecified.
    pub fn read(&mut self, index: u64, page: &mut PageBytes) -> Result<(), ReadError> {
        let result = self.read_uncounted(index, page);
        match result {
            Ok(()) => self.shared.counters.pages_read.add(1),
            Err(error) => self.count_read_error(index, error),
        }
        result
    }

    fn read_uncounted(&mut self, index: u64, page: &mut PageBytes) -> Result<(), ReadError> {
        let store = &*self.store;
        if index >= store.plan.pages {
            return Err(ReadError::OutOfRange);
        }
        if !store.is_written(index) {
            page.fill(0);
            return Ok(());
        }
        let word = store.word(index);
        let mut entry = table::peek(word).map_err(corrupt)?;
        let buffers = &mut self.buffers;
        if let Entry::Stored { length, place, .. } = entry {
            store
                .pool
                .prefetch_object(place, HEADER_BYTES + usize::from(length));
        }
        if matches!(entry, Entry::Stored { .. } | Entry::Huge { .. }) {
            let locked = table::lock(word);
            entry = locked.entry().map_err(corrupt)?;
            // SAFETY: the entry is locked until `locked` is dropped, behind this.
            unsafe { store.copy_out(entry, &mut buffers.object, page)? };
        }
        store.decode(index, entry, &buffers.object, page, &mut buffers.scratch)
    }

    /// Says that page `index` is to be read soon: has the processor fetch its object. Worth a fifth
    /// of a read, for whoever knows the next page before this one is done (`cargo bench -p
    /// trueno-zram-store`).
    pub fn expect(&self, index: u64) {
        let store = &*self.store;
        if index < store.plan.pages
            && store.is_written(index)
            && let Ok(Entry::Stored { length, place, .. }) = table::peek(store.word(index))
        {
            let bytes = HEADER_BYTES + usize::from(length);
            store.pool.prefetch_object(place, bytes);
        }
    }

    /// Checks what is stored of `pages` as reads of them would: entry, header, checksum, and that the
    /// block decompresses. Calls `damaged` for each page that would be an error to read; returns how
    /// many hold data. It counts as no read. What is damaged is counted in `damaged_objects`, again
    /// each time. Others may read and write meanwhile: they wait for a copy at most, as for a read.
    pub fn verify(
        &mut self,
        pages: Range<u64>,
        mut damaged: impl FnMut(u64),
    ) -> Result<u64, ReadError> {
        let store = Arc::clone(&self.store);
        if pages.end > store.plan.pages {
            return Err(ReadError::OutOfRange);
        }
        let mut page = self.buffers.page.take().expect(NO_NESTING);
        // Present before an entry is locked: whoever waits for that entry shall not wait for memory.
        self.buffers.object.fill(0);
        page.fill(0);
        let (mut index, mut holding) = (pages.start, 0);
        while index < pages.end {
            if !store.is_written(index) {
                index = (index / TABLE_PAGE_ENTRIES + 1) * TABLE_PAGE_ENTRIES;
                continue;
            }
            if table::peek(store.word(index)) != Ok(Entry::Empty) {
                holding += 1;
                if self.read_uncounted(index, &mut page).is_err() {
                    self.shared.counters.damaged_objects.add(1);
                    damaged(index);
                }
            }
            index += 1;
        }
        self.buffers.page = Some(page);
        Ok(holding)
    }

    /// Writes page `index`. On an error the page holds what it held before.
    pub fn write(&mut self, index: u64, page: &PageBytes) -> Result<(), WriteError> {
        let result = self.write_uncounted(index, page);
        if self.store.codecs.learns > 0 {
            if is_trial(self.written) && page_same_filled(page).is_none() {
                self.try_codecs(page);
            }
            self.written += 1;
        }
        self.count_write(index, result)
    }

    /// Tries codecs on a page, and tells the selector.
    fn try_codecs(&mut self, page: &PageBytes) {
        let Buffers {
            scratch,
            object,
            page: restored,
        } = &mut self.buffers;
        let Codecs {
            list,
            selector,
            learns,
            ..
        } = &self.store.codecs;
        let list = &list[..*learns];
        let restored = restored.as_mut().expect(NO_NESTING);
        let mut outcomes = [Outcome::default(); CODECS_MAX];
        let outcomes = &mut outcomes[..list.len()];
        let block = &mut object[..BLOCK_MAX];
        try_codecs(list, page, block, restored, scratch, outcomes);
        selector.observe(page, outcomes);
    }

    fn write_uncounted(&mut self, index: u64, page: &PageBytes) -> Result<(), WriteError> {
        if index >= self.store.plan.pages {
            return Err(WriteError::OutOfRange);
        }
        self.store.set_written(index)?;
        // What is needed to free the object that the page has now is fetched meanwhile. (Both hints
        // before the codec's work are no better: the second waits for what the first fetches.)
        let before = match table::peek(self.store.word(index)) {
            Ok(Entry::Stored { place, .. }) => Some(place),
            _ => None,
        };
        if let Some(place) = before {
            self.store.pool.prefetch_slab(place);
        }
        let encoded = self.encode(page);
        if let Some(place) = before {
            self.store.pool.prefetch_object(place, HEADER_BYTES);
        }
        let entry = self.keep(index, encoded, page)?;
        let old = table::swap(self.store.word(index), entry);
        self.count_stored(entry);
        self.end(index, old);
        Ok(())
    }

    /// Changes the bytes of page `index` from `offset` on to `bytes`, leaving the others: one step
    /// for all who read and write this page. On an error the page holds what it held before.
    ///
    /// # Panics
    /// If `offset` and `bytes` reach beyond the page.
    pub fn write_part(
        &mut self,
        index: u64,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        let part = offset..offset + bytes.len();
        assert!(part.end <= PAGE_SIZE, "{part:?} reaches beyond the page");
        self.update(index, |page| page[part].copy_from_slice(bytes))
    }

    /// Makes a part of page `index` zeros, in one step like [`write_part`](Worker::write_part).
    ///
    /// # Panics
    /// If `offset` and `len` reach beyond the page.
    pub fn zero_part(&mut self, index: u64, offset: usize, len: usize) -> Result<(), WriteError> {
        assert!(
            offset + len <= PAGE_SIZE,
            "{len} bytes at {offset} reach beyond the page"
        );
        let store = &self.store;
        if index < store.plan.pages
            && (!store.is_written(index)
                || matches!(
                    table::peek(store.word(index)),
                    Ok(Entry::Empty | Entry::Same(0))
                ))
        {
            // Zeros already: nothing is stored for a part of nothing, and no memory is needed.
            return Ok(());
        }
        self.update(index, |page| page[offset..offset + len].fill(0))
    }

    fn update(
        &mut self,
        index: u64,
        change: impl FnOnce(&mut PageBytes),
    ) -> Result<(), WriteError> {
        let mut page = self.buffers.page.take().expect(NO_NESTING);
        let result = self.update_uncounted(index, &mut page, change);
        self.buffers.page = Some(page);
        self.count_write(index, result)
    }

    fn update_uncounted(
        &mut self,
        index: u64,
        page: &mut PageBytes,
        change: impl FnOnce(&mut PageBytes),
    ) -> Result<(), WriteError> {
        let store = Arc::clone(&self.store);
        if index >= store.plan.pages {
            return Err(WriteError::OutOfRange);
        }
        store.set_written(index)?;
        // Locked from here to the publication, so that of two partial writes none is lost. All
        // that happens meanwhile is compression and, growing on demand, a wait for memory.
        let locked = table::lock(store.word(index));
        let old = locked.entry().map_err(|_| WriteError::Corrupt)?;
        let buffers = &mut self.buffers;
        // SAFETY: the entry is locked.
        unsafe { store.copy_out(old, &mut buffers.object, page) }
            .and_then(|()| store.decode(index, old, &buffers.object, page, &mut buffers.scratch))
            .map_err(|_| WriteError::Corrupt)?;
        change(page);
        let encoded = self.encode(page);
        let entry = self.keep(index, encoded, page)?;
        locked.publish(entry);
        self.count_stored(entry);
        self.end(index, Ok(old));
        Ok(())
    }

    /// Forgets `count` pages from `index` on: they read as zeros, and their memory is free.
    pub fn discard(&mut self, index: u64, count: u64) -> Result<(), WriteError> {
        let end = index
            .checked_add(count)
            .filter(|end| *end <= self.store.plan.pages);
        let Some(end) = end else {
            self.shared.counters.invalid_io.add(1);
            return Err(WriteError::OutOfRange);
        };
        let store = Arc::clone(&self.store);
        let (mut page, mut freed) = (index, 0);
        while page < end {
            if !store.is_written(page) {
                page = (page / TABLE_PAGE_ENTRIES + 1) * TABLE_PAGE_ENTRIES;
                continue;
            }
            let word = store.word(page);
            // Already empty at this moment: as good as discarding it now.
            if table::peek(word) != Ok(Entry::Empty) {
                let old = table::swap(word, Entry::Empty);
                if old != Ok(Entry::Empty) {
                    self.shared.counters.pages_discarded.add(1);
                    freed += 1;
                }
                self.end(page, old);
            }
            page += 1;
        }
        if freed > 0 {
            // Slabs that a worker owns are its own to give back, be they empty or not.
            store.pool.give_up_empty(&mut lock(&self.shared.current));
        }
        Ok(())
    }

    /// Decides how `page` is stored; a block is left in the object buffer, behind its header.
    fn encode(&mut self, page: &PageBytes) -> Encoded {
        let Buffers {
            scratch, object, ..
        } = &mut self.buffers;
        let block = &mut object[HEADER_BYTES..];
        let (codec, length) = if let Some(word) = page_same_filled(page) {
            if let Some(entry) = Entry::same(word) {
                return Encoded::Entry(entry);
            }
            block[..8].copy_from_slice(&word.to_ne_bytes());
            (CodecId::Same, 8)
        } else {
            let codecs = &self.store.codecs;
            let counters = &self.shared.counters;
            let choice = match codecs.selector.select(page) {
                Choice::Codec(place) => codecs.list.get(place as usize).zip(Some(place as usize)),
                Choice::Raw => None,
            };
            let Some((codec, place)) = choice else {
                counters.skipped_pages.add(1);
                return Encoded::Huge;
            };
            let chosen = &counters.chosen[place];
            chosen.pages.add(1);
            match codec.compress(page, &mut block[..BLOCK_MAX], scratch) {
                Some(length) => {
                    chosen.bytes.add(length as u64);
                    (codec.id(), length)
                }
                None => {
                    chosen.in_vain.add(1);
                    return Encoded::Huge;
                }
            }
        };
        Encoded::Object {
            codec,
            length: length as u16,
        }
    }

    /// Puts what [`encode`](Worker::encode) made into the pool; returns the entry to publish.
    fn keep(
        &mut self,
        index: u64,
        encoded: Encoded,
        page: &PageBytes,
    ) -> Result<Entry, WriteError> {
        let store = &*self.store;
        match encoded {
            Encoded::Entry(entry) => Ok(entry),
            Encoded::Object { codec, length } => {
                let bytes = &mut self.buffers.object[..HEADER_BYTES + length as usize];
                let slot = store.take_slot(&self.shared.current, class_of(bytes.len()))?;
                // Fetched while the checksum is made.
                store.pool.prefetch_object(slot.place, bytes.len());
                let (header, block) = bytes.split_at_mut(HEADER_BYTES);
                header.copy_from_slice(&header_of(index, codec, block));
                store.pool.write(&slot, bytes);
                Ok(Entry::Stored {
                    codec,
                    length,
                    place: slot.place,
                })
            }
            Encoded::Huge => {
                let frame = store.take_frame()?;
                store.pool.write_frame(frame, page);
                Ok(Entry::Huge {
                    checksum: checksum_huge(index, page),
                    frame: frame.0,
                })
            }
        }
    }

    /// Counts an entry that has been published.
    fn count_stored(&self, entry: Entry) {
        let c = &self.shared.counters;
        c.hold(entry);
        match entry {
            Entry::Empty
            | Entry::Same(_)
            | Entry::Stored {
                codec: CodecId::Same,
                ..
            } => {}
            Entry::Stored { length, .. } => {
                c.pages_compressed.add(1);
                c.bytes_encoded.add(length.into());
            }
            Entry::Huge { .. } => {
                c.huge_pages_since.add(1);
                c.bytes_encoded.add(PAGE_SIZE as u64);
            }
        }
    }

    /// Counts and frees what an entry named that has been replaced. If the entry was damaged, what
    /// it names may belong to another page: nothing is freed then, and that memory is lost until
    /// the store ends.
    fn end(&mut self, index: u64, old: Result<Entry, Damaged>) {
        let Ok(old) = old else {
            self.meet_damage(index, Met::Replacing);
            return;
        };
        self.shared.counters.let_go(old);
        if matches!(old, Entry::Empty | Entry::Same(_)) {
            return;
        }
        let store = &*self.store;
        if !store.is_slot_of_page(index, old, &mut self.buffers.object) {
            self.meet_damage(index, Met::Replacing);
            return;
        }
        // This thread alone took the entry out of the table, so what it names is its own.
        match old {
            Entry::Stored { place, .. } => store.pool.free(Slot { place }),
            Entry::Huge { frame, .. } => store.pool.free_frame(Frame(frame)),
            Entry::Empty | Entry::Same(_) => {}
        }
    }

    /// What was refused before anything was tried counts as invalid alone, as with the kernel's zram.
    fn count_read_error(&self, index: u64, error: ReadError) {
        let c = &self.shared.counters;
        match error {
            ReadError::OutOfRange => return c.invalid_io.add(1),
            ReadError::Corrupt => self.meet_damage(index, Met::Reading),
        }
        c.failed_reads.add(1);
    }

    fn meet_damage(&self, index: u64, met: Met) {
        self.shared.counters.damaged_objects.add(1);
        self.store.damage.leave(index, met);
    }

    fn count_write(&self, index: u64, result: Result<(), WriteError>) -> Result<(), WriteError> {
        let c = &self.shared.counters;
        match result {
            Ok(()) => c.pages_written.add(1),
            Err(WriteError::OutOfRange) => c.invalid_io.add(1),
            Err(error) => {
                c.failed_writes.add(1);
                match error {
                    WriteError::Limit => c.failed_limit.add(1),
                    WriteError::NoMemory => c.failed_memory.add(1),
                    WriteError::Corrupt => self.meet_damage(index, Met::Changing),
                    WriteError::OutOfRange => {}
                }
            }
        }
        result
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.store.pool.give_up_all(&mut lock(&self.shared.current));
        let mut workers = lock(&self.store.workers);
        workers.live.retain(|one| !Arc::ptr_eq(one, &self.shared));
        workers.ended.absorb(&self.shared.counters);
    }
}

/// A panic while a lock is held ends the process (or a test); what it guards is then as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn corrupt(_: Damaged) -> ReadError {
    ReadError::Corrupt
}

/// What stands before `block` in an object.
fn header_of(index: u64, codec: CodecId, block: &[u8]) -> [u8; HEADER_BYTES] {
    let checksum = (checksum(index, codec as u64, block) >> 32) as u32;
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&(index as u32).to_ne_bytes());
    header[4..].copy_from_slice(&checksum.to_ne_bytes());
    header
}

/// The checksum of a huge page, for its entry: 24 bits.
fn checksum_huge(index: u64, page: &PageBytes) -> u32 {
    (checksum(index, 0, page) >> 40) as u32
}

/// XXH3 of `bytes`, told apart by page, codec and length: an object that is read through a wrong
/// entry does not pass either.
fn checksum(index: u64, codec: u64, bytes: &[u8]) -> u64 {
    let place = index << 20 | codec << 16 | bytes.len() as u64;
    XxHash3_64::oneshot(bytes) ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
