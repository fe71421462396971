//! A configuration checked, and turned into sizes: all memory is reserved here.
//!
//! ```text
//! 0          4 KiB                                                                           end
//! │ superblock │ page table │ slab maps │ slab states │ cold frames │ arena: frames of 4 KiB │
//!              │ 8 B a page │ 128 B     │ 144 B       │ 4 B a frame │                        │
//! ```
//! Superblock, table, maps and arena outlive the process; states and cold frames are made anew.
//!
//! The arena's address space is large enough for the worst that fragmentation can do, a slab for
//! each page, up to [`ARENA_MAX`]. Address space costs nothing; what is really used is bounded by the
//! memory limit and by the system. Taking all memory at the start means as much as every page
//! stored raw takes, plus what a few workers have open.
#![forbid(unsafe_code)]

use crate::error::CreateError;
use crate::pool::{CLASS_COUNT, FRAMES_MAX, MAP_BYTES, SLAB_PAGES, SLAB_STATE_BYTES, SLABS_MAX};
use std::sync::Arc;
use trueno_zram_core::{Choice, Codec, PAGE_SIZE, Selector};

/// The largest store: 2^32 pages, since an object's header names its page with 32 bits.
pub const SIZE_MAX: u64 = 1 << 44;

/// The smallest memory limit that makes sense: a page for each size class, and some more.
pub const MEM_LIMIT_MIN: u64 = 1 << 20;

/// The largest arena: a table entry has 30 bits for a frame.
pub const ARENA_MAX: u64 = FRAMES_MAX * PAGE_SIZE as u64;

/// The most codecs that a store can choose among.
pub const CODECS_MAX: usize = 15;

/// How many workers are planned for beside full slabs, when all memory is taken at the start.
const WORKERS_PLANNED: u64 = 4;

/// How many workers may have slabs of each class open.
const WORKERS_MAX: u64 = 256;

/// Where the memory of new slabs comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// The writing thread asks the system for it. For RAM disks.
    OnDemand,
    /// [`Store::maintain`](crate::Store::maintain) keeps this many bytes populated ahead of need;
    /// a write that finds none fails at once. For swap devices, whose writers must never wait
    /// for memory.
    Reserve(u64),
    /// `create` populates what all pages take at most, stored raw.
    Populated,
}

/// What a store is to be.
#[derive(Clone)]
pub struct Config {
    /// Bytes of data it can hold, a multiple of 4096.
    pub size: u64,
    /// The codecs it knows. What is stored can be read as long as its codec is listed.
    pub codecs: Vec<Arc<dyn Codec>>,
    /// Chooses among them.
    pub selector: Arc<dyn Selector>,
    /// The most bytes that objects may take in memory (`mem_limit` of zram).
    pub mem_limit: Option<u64>,
    /// Where memory comes from.
    pub growth: Growth,
}

impl Config {
    /// A store of `size` bytes that compresses every page with `codec` and grows on demand.
    pub fn new(size: u64, codec: Arc<dyn Codec>) -> Config {
        Config {
            size,
            codecs: vec![codec],
            selector: Arc::new(Choice::Codec(0)),
            mem_limit: None,
            growth: Growth::OnDemand,
        }
    }

    /// Bytes of address space that the store's [`Memory`](crate::Memory) must have.
    pub fn memory_bytes(&self) -> Result<u64, CreateError> {
        Ok(Plan::new(self)?.memory_bytes())
    }

    /// Where in the memory the objects lie: from here on to the end.
    pub fn arena_offset(&self) -> Result<u64, CreateError> {
        Ok(Plan::new(self)?.arena_offset as u64)
    }
}

/// The sizes that follow from a [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub pages: u64,
    pub table_offset: usize,
    pub maps_offset: usize,
    pub states_offset: usize,
    pub stack_offset: usize,
    pub arena_offset: usize,
    pub slabs: u32,
    pub frames: u32,
    /// Of these, how many `Growth::Populated` populates.
    pub frames_populated: u32,
}

impl Plan {
    pub fn new(config: &Config) -> Result<Plan, CreateError> {
        if config.size == 0 || !config.size.is_multiple_of(PAGE_SIZE as u64) {
            return Err(CreateError::Size(config.size));
        }
        if config.size > SIZE_MAX {
            return Err(CreateError::TooLarge(config.size));
        }
        if config.codecs.is_empty() || config.codecs.len() > CODECS_MAX {
            return Err(CreateError::Codecs(config.codecs.len()));
        }
        if let Some(limit) = config.mem_limit.filter(|limit| *limit < MEM_LIMIT_MIN) {
            return Err(CreateError::MemLimit(limit));
        }
        let pages = config.size / PAGE_SIZE as u64;
        // A slab that is not open holds a page's object; each worker has one of each class open.
        let open = WORKERS_MAX * CLASS_COUNT as u64;
        let slabs = (pages + open).min(SLABS_MAX);
        let frames = (pages * SLAB_PAGES as u64 + open).min(FRAMES_MAX);
        let populated = (pages + 2 * WORKERS_PLANNED * CLASS_COUNT as u64).min(frames);
        let mut end = PAGE_SIZE as u64;
        let mut part = |count: u64, bytes: usize| {
            let start = end;
            end = (start + count * bytes as u64).next_multiple_of(PAGE_SIZE as u64);
            start as usize
        };
        Ok(Plan {
            pages,
            table_offset: part(pages, 8),
            maps_offset: part(slabs, MAP_BYTES),
            states_offset: part(slabs, SLAB_STATE_BYTES),
            stack_offset: part(frames, 4),
            arena_offset: part(0, 0),
            slabs: slabs as u32,
            frames: frames as u32,
            frames_populated: populated as u32,
        })
    }

    pub fn memory_bytes(&self) -> u64 {
        self.arena_offset as u64 + u64::from(self.frames) * PAGE_SIZE as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trueno_zram_core::codec::lz4::Lz4;

    #[test]
    fn the_largest_store_fits_in_the_bits_of_an_entry() {
        let plan = Plan::new(&Config::new(SIZE_MAX, Arc::new(Lz4::new()))).unwrap();
        assert_eq!(plan.pages, 1 << 32);
        assert!(u64::from(plan.slabs) <= SLABS_MAX && u64::from(plan.frames) <= FRAMES_MAX);
        assert!(plan.memory_bytes() < 1 << 46, "{plan:?}");
    }

    #[test]
    fn bad_sizes_name_the_value() {
        for (size, text) in [(0, "size 0 "), (4097, "4097"), (SIZE_MAX + 4096, "16 TiB")] {
            let error = Plan::new(&Config::new(size, Arc::new(Lz4::new()))).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
        let mut config = Config::new(4096, Arc::new(Lz4::new()));
        config.mem_limit = Some(5);
        assert!(
            Plan::new(&config)
                .unwrap_err()
                .to_string()
                .contains("memory limit 5 ")
        );
    }
}
