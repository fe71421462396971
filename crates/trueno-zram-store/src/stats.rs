//! What a store counts, in the kernel's terms.
//!
//! Each worker counts for itself; reading sums them up. Gauges (what is stored now) are kept as
//! wrapping differences, since the worker that removes a page need not be the one that wrote it:
//! the sum over all workers is exact once they rest, and close while they work.
#![forbid(unsafe_code)]

use crate::plan::CODECS_MAX;
use crate::table::Entry;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use trueno_zram_core::{CodecId, PAGE_SIZE};

macro_rules! counters {
    ($($name:ident,)*) => {
        /// The counts of one worker. Only that worker writes; anyone may read.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $(pub $name: Count,)*
            /// By the codec's place in the configuration.
            pub chosen: [Chosen; CODECS_MAX],
        }

        impl Counters {
            /// Adds `other` to these.
            pub fn absorb(&self, other: &Counters) {
                $(self.$name.add(other.$name.get());)*
                for (mine, its) in self.chosen.iter().zip(&other.chosen) {
                    mine.pages.add(its.pages.get());
                    mine.in_vain.add(its.in_vain.get());
                    mine.bytes.add(its.bytes.get());
                }
            }
        }
    };
}

counters! {
    // Gauges.
    pages_stored, zero_pages, same_pages, huge_pages, compressed_pages, objects, compr_bytes,
    // Counters.
    huge_pages_since, skipped_pages, pages_compressed,
    pages_written, pages_read, pages_discarded, bytes_encoded,
    failed_reads, failed_writes, invalid_io, damaged_objects, failed_limit, failed_memory,
}

impl Counters {
    /// Counts what `entry` holds as stored.
    pub fn hold(&self, entry: Entry) {
        self.count(entry, Count::add);
    }

    /// Counts what `entry` held as stored no longer.
    pub fn let_go(&self, entry: Entry) {
        self.count(entry, Count::sub);
    }

    fn count(&self, entry: Entry, count: impl Fn(&Count, u64)) {
        match entry {
            Entry::Empty => return,
            Entry::Same(word) => {
                count(&self.same_pages, 1);
                count(&self.zero_pages, (word == 0).into());
            }
            Entry::Stored {
                codec: CodecId::Same,
                ..
            } => {
                count(&self.same_pages, 1);
                count(&self.objects, 1);
            }
            Entry::Stored { length, .. } => {
                count(&self.compressed_pages, 1);
                count(&self.objects, 1);
                count(&self.compr_bytes, length.into());
            }
            Entry::Huge { .. } => {
                count(&self.huge_pages, 1);
                count(&self.compr_bytes, PAGE_SIZE as u64);
            }
        }
        count(&self.pages_stored, 1);
    }
}

/// How often a codec was chosen, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    pub pages: Count,
    pub in_vain: Count,
    pub bytes: Count,
}

/// A number that one thread changes and others read: no locked instruction is needed.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub fn add(&self, amount: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    pub fn sub(&self, amount: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_sub(amount), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// A gauge's sum: differences that are seen out of step must not show as a huge number.
    fn gauge(&self) -> u64 {
        (self.get() as i64).max(0) as u64
    }
}

/// What a store holds and has done. Bytes and pages as the names say; names that the kernel's zram
/// has too mean what they mean there (`Documentation/admin-guide/blockdev/zram.rst`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of the store's size.
    pub size: u64,
    /// Pages that hold data: `same_pages` + `compressed_pages` + `huge_pages`.
    pub pages_stored: u64,
    /// Bytes of them, uncompressed: `pages_stored` · 4096.
    pub orig_data_size: u64,
    /// Bytes of the compressed blocks, without headers; a huge page counts 4096, a same-filled 0.
    pub compr_data_size: u64,
    /// Bytes of memory in slabs that hold objects, their unused parts included. Without the page
    /// table and the reserve, which are stated apart.
    pub mem_used_total: u64,
    /// The limit of that; 0: none.
    pub mem_limit: u64,
    /// The most it has been since the start or the last reset.
    pub mem_used_max: u64,
    /// Pages that repeat one 64-bit word, zero included.
    pub same_pages: u64,
    /// Of these, pages of zeros.
    pub zero_pages: u64,
    /// Pages kept as a block that a codec made.
    pub compressed_pages: u64,
    /// Objects in the pool: those of `compressed_pages`, and of same-filled pages whose word fits in
    /// no entry.
    pub objects: u64,
    /// Pages of memory that compaction freed, ever.
    pub pages_compacted: u64,
    /// Pages kept as they are.
    pub huge_pages: u64,
    /// How often a page was kept as it is, ever.
    pub huge_pages_since: u64,
    /// Bytes of page table for the parts of the store that have been written.
    pub table_bytes: u64,
    /// Bytes of what is known of the pool: where each slab lies and which of its slots are taken.
    pub overhead_bytes: u64,
    /// Bytes of free memory kept ready for the next objects.
    pub reserve_bytes: u64,
    /// Bytes that the reserve is meant to have; 0 when growing on demand.
    pub reserve_target: u64,
    /// The lowest the reserve has been.
    pub reserve_min: u64,
    /// Pages written, ever; failed writes do not count.
    pub pages_written: u64,
    /// Pages read, ever; failed reads do not count.
    pub pages_read: u64,
    /// Pages that a discard freed, ever (`notify_free`).
    pub notify_free: u64,
    /// Pages given to a codec, ever.
    pub pages_tried: u64,
    /// Of these, pages that became smaller.
    pub pages_compressed: u64,
    /// Pages that the selector kept as they are without trying, ever.
    pub skipped_pages: u64,
    /// Bytes written as objects, ever: blocks, huge pages; 0 for same-filled pages.
    pub bytes_encoded: u64,
    /// Reads of a page that failed.
    pub failed_reads: u64,
    /// Writes of a page that failed.
    pub failed_writes: u64,
    /// Of these, for the memory limit.
    pub failed_limit: u64,
    /// Of these, since no memory was ready.
    pub failed_memory: u64,
    /// Requests beyond the end; they are not counted as failed.
    pub invalid_io: u64,
    /// How often an object was found damaged (wrong entry, checksum, header, or block): by reads and
    /// writes, by [`Worker::verify`](crate::Worker::verify), and once for each by
    /// [`Store::attach`](crate::Store::attach). One that stays is counted each time it is met.
    pub damaged_objects: u64,
}

/// How often the selector has chosen a codec since the store was opened, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChosenStats {
    /// How often it was chosen for a page, be that stored in the end or not.
    pub pages: u64,
    /// How often of these the block did not get small enough, so that the page is kept as it is.
    pub in_vain: u64,
    /// Bytes of the blocks of the others.
    pub bytes: u64,
}

/// A size class that has memory: slots of one size, and the frames that they lie in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassStats {
    /// Bytes of a slot.
    pub slot_bytes: u64,
    /// Slots that there is memory for.
    pub slots: u64,
    /// Of these, slots with an object.
    pub objects: u64,
    /// Frames: pages of memory.
    pub frames: u64,
}

impl Stats {
    /// Uncompressed bytes per byte of memory; `None` while nothing takes memory.
    pub fn ratio(&self) -> Option<f64> {
        (self.mem_used_total > 0).then(|| self.orig_data_size as f64 / self.mem_used_total as f64)
    }

    pub(crate) fn of(counters: &Counters) -> Stats {
        Stats {
            pages_stored: counters.pages_stored.gauge(),
            orig_data_size: counters.pages_stored.gauge() * PAGE_SIZE as u64,
            compr_data_size: counters.compr_bytes.gauge(),
            same_pages: counters.same_pages.gauge(),
            zero_pages: counters.zero_pages.gauge(),
            huge_pages: counters.huge_pages.gauge(),
            compressed_pages: counters.compressed_pages.gauge(),
            objects: counters.objects.gauge(),
            huge_pages_since: counters.huge_pages_since.get(),
            pages_written: counters.pages_written.get(),
            pages_read: counters.pages_read.get(),
            notify_free: counters.pages_discarded.get(),
            pages_tried: counters.chosen.iter().map(|one| one.pages.get()).sum(),
            pages_compressed: counters.pages_compressed.get(),
            skipped_pages: counters.skipped_pages.get(),
            bytes_encoded: counters.bytes_encoded.get(),
            failed_reads: counters.failed_reads.get(),
            failed_writes: counters.failed_writes.get(),
            failed_limit: counters.failed_limit.get(),
            failed_memory: counters.failed_memory.get(),
            invalid_io: counters.invalid_io.get(),
            damaged_objects: counters.damaged_objects.get(),
            ..Stats::default()
        }
    }
}
