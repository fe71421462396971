//! A configuration checked, and turned into sizes: all memory is reserved here.
//!
//! ```text
//! 0          4 KiB          table_offset+8·pages          arena_offset              end
//! │ superblock │ page table: 8 bytes a page │ (gap to 64 KiB) │ arena: slabs of 64 KiB │
//! ```
//!
//! The arena's address space is large enough for the worst that fragmentation can do, a slab for
//! each page, up to [`ARENA_MAX`]. Address space costs nothing; what is really used is bounded by the
//! memory limit and by the system. Taking all memory at the start means as much as every page
//! stored raw takes, plus a slab of each size class for each of a few workers.
#![forbid(unsafe_code)]

use crate::error::CreateError;
use crate::pool::{CLASS_COUNT, SLAB_BYTES};
use std::sync::Arc;
use trueno_zram_core::{Choice, Codec, PAGE_SIZE, Selector};

/// The largest store: 2^32 pages, since an object's header names its page with 32 bits.
pub const SIZE_MAX: u64 = 1 << 44;

/// The smallest memory limit that makes sense: room for a slab of a few size classes.
pub const MEM_LIMIT_MIN: u64 = 1 << 20;

/// The largest arena: a table entry has 38 bits for a place in units of 16 bytes.
pub const ARENA_MAX: u64 = 1 << 42;

/// How many workers are planned for beside full slabs, when all memory is taken at the start.
const WORKERS_PLANNED: u64 = 4;

/// Where the memory of new slabs comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// The writing thread asks the system for it. For RAM disks.
    OnDemand,
    /// [`Store::maintain`](crate::Store::maintain) keeps this many bytes populated ahead of need;
    /// a write that finds none fails at once. For swap devices, whose writers must never wait
    /// for memory.
    Reserve(u64),
    /// The whole arena is populated by `create`.
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
}

/// The sizes that follow from a [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub pages: u64,
    pub table_offset: usize,
    pub arena_offset: usize,
    pub slabs: u32,
    /// Of these, how many `Growth::Populated` populates.
    pub slabs_populated: u32,
}

impl Plan {
    pub fn new(config: &Config) -> Result<Plan, CreateError> {
        if config.size == 0 || !config.size.is_multiple_of(PAGE_SIZE as u64) {
            return Err(CreateError::Size(config.size));
        }
        if config.size > SIZE_MAX {
            return Err(CreateError::TooLarge(config.size));
        }
        if config.codecs.is_empty() || config.codecs.len() > 15 {
            return Err(CreateError::Codecs(config.codecs.len()));
        }
        if let Some(limit) = config.mem_limit.filter(|limit| *limit < MEM_LIMIT_MIN) {
            return Err(CreateError::MemLimit(limit));
        }
        let pages = config.size / PAGE_SIZE as u64;
        let slab = SLAB_BYTES as u64;
        let slack = CLASS_COUNT as u64 * WORKERS_PLANNED * slab;
        let populated = (config.size.next_multiple_of(slab) + slack).min(ARENA_MAX);
        let arena = (pages * slab + slack).min(ARENA_MAX);
        let table_offset = PAGE_SIZE;
        let arena_offset = (table_offset as u64 + pages * 8).next_multiple_of(slab) as usize;
        Ok(Plan {
            pages,
            table_offset,
            arena_offset,
            slabs: (arena / slab) as u32,
            slabs_populated: (populated / slab) as u32,
        })
    }

    pub fn memory_bytes(&self) -> u64 {
        self.arena_offset as u64 + self.slabs as u64 * SLAB_BYTES as u64
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
        assert!(plan.slabs as u64 * SLAB_BYTES as u64 <= ARENA_MAX);
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
