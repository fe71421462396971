//! Keeps compressed memory pages: page table, size-class pool, checksums, limits, statistics.
//! Knows no block device.
//!
//! ```text
//! write: page ─ same-filled? ─ selector ─ codec ─ slot in the pool ─ entry published ─ old slot freed
//! read:  entry locked ─ object copied out ─ entry unlocked ─ checksum ─ codec ─ page
//! ```
//!
//! **The page table is the only truth** ([`table`]): one 64-bit word per page. A write publishes
//! with one atomic store, so whoever stops the process at any instruction finds the old page or
//! the new one. Everything else can be rebuilt by one scan of the table.
//!
//! **Nothing is allocated on the way of a page.** All structures are sized by [`plan`]; each
//! thread works through a [`Worker`], which owns its codec scratch and its current slabs.
//!
//! ```
//! use std::sync::Arc;
//! use trueno_zram_core::{Choice, Page, codec::lz4::Lz4};
//! use trueno_zram_store::{Config, Memory, Store};
//!
//! let config = Config::new(64 << 20, Arc::new(Lz4::new()));
//! let memory = Memory::anonymous(config.memory_bytes()?)?;
//! let store = Arc::new(Store::create(config, memory)?);
//! let mut worker = store.worker();
//!
//! let mut page = Page::boxed();
//! page[..5].copy_from_slice(b"hello");
//! worker.write(7, &page)?;
//! let mut back = Page::boxed();
//! worker.read(7, &mut back)?;
//! assert_eq!(page, back);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compact;
mod damage;
mod error;
pub mod memory;
pub mod plan;
mod pool;
mod stats;
mod step;
mod store;
mod superblock;
mod system;
pub mod table;

#[cfg(test)]
mod crash;

pub use damage::{Damage, Met};
pub use error::{AttachError, CreateError, ReadError, WriteError};
pub use memory::Memory;
pub use plan::{Config, Growth};
pub use stats::{ChosenStats, ClassStats, Stats};
pub use store::{BLOCK_MAX, Prepared, Store, Worker};
