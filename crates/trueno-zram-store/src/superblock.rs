//! The first page of a store's memory: what it is, how large, and how far it was ever used.
//!
//! ```text
//! 0           8             12             16         24         28          32
//! │ "truenozs" │ version u32 │ features u32 │ pages u64 │ slabs u32 │ frames u32 │
//! 32             40                   48                    56
//! │ checksum u64 │ slabs used u32 × 2 │ frames used u32 × 2 │
//! ```
//! Native byte order: the memory never leaves the machine. The magic is written last, so a store
//! whose making was interrupted is none. The two last numbers only grow, while the store is in use,
//! and are written before what they count is used. The checksum does not cover them: each stands
//! there twice, in one word that is written at once.
//!
//! `version` is that of everything in the memory: the bits of an entry, objects, size classes, what
//! is where. Programs of another version refuse it. `features` are for additions that old programs
//! must not go on with; there is none yet.

use crate::Memory;
use crate::error::AttachError;
use crate::plan::Plan;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

const MAGIC: u64 = u64::from_ne_bytes(*b"truenozs");

/// Changes with anything that a reader of the memory has to know.
pub(crate) const VERSION: u32 = 2;

/// What a store of this program may use.
const FEATURES: u32 = 0;

#[repr(C)]
#[derive(Debug)]
struct Fields {
    magic: AtomicU64,
    version: AtomicU32,
    features: AtomicU32,
    pages: AtomicU64,
    slabs: AtomicU32,
    frames: AtomicU32,
    checksum: AtomicU64,
    slabs_used: Used,
    frames_used: Used,
}

/// How many of something were ever used; twice, since with a number that is too small attaching
/// would give away what is in use.
#[derive(Debug)]
pub(crate) struct Used(AtomicU64);

impl Used {
    pub fn get(&self) -> u32 {
        self.0.load(Relaxed) as u32
    }

    pub fn set(&self, number: u32) {
        self.0
            .store(u64::from(number) << 32 | u64::from(number), Relaxed);
    }

    /// The number, if it is whole and at most `most`.
    fn check(&self, most: u32) -> bool {
        let bits = self.0.load(Relaxed);
        bits as u32 == (bits >> 32) as u32 && bits as u32 <= most
    }
}

/// The superblock of a store's memory.
#[derive(Debug)]
pub(crate) struct Superblock {
    memory: Arc<Memory>,
}

impl Superblock {
    pub fn of(memory: &Arc<Memory>) -> Superblock {
        Superblock {
            memory: Arc::clone(memory),
        }
    }

    fn fields(&self) -> &Fields {
        // SAFETY: the first page is used through this function alone; `Fields` is atomics.
        unsafe { self.memory.at(0) }
    }

    /// Slabs that were ever used: all with a lower number.
    pub fn slabs_used(&self) -> &Used {
        &self.fields().slabs_used
    }

    /// Frames that were ever used.
    pub fn frames_used(&self) -> &Used {
        &self.fields().frames_used
    }

    /// Whether there is one already, or something else.
    pub fn is_empty(&self) -> bool {
        // SAFETY: as in `fields`.
        let words: &[AtomicU64; 64] = unsafe { self.memory.at(0) };
        words.iter().all(|word| word.load(Relaxed) == 0)
    }

    /// Writes what `plan` says; from here on it is a store.
    pub fn write(&self, plan: &Plan) {
        let fields = self.fields();
        fields.version.store(VERSION, Relaxed);
        fields.features.store(FEATURES, Relaxed);
        fields.pages.store(plan.pages, Relaxed);
        fields.slabs.store(plan.slabs, Relaxed);
        fields.frames.store(plan.frames, Relaxed);
        fields.checksum.store(fields.sum(), Relaxed);
        fields.magic.store(MAGIC, Release);
    }

    /// Whether this program can go on with the store, and it is the one that `plan` describes.
    pub fn check(&self, plan: &Plan) -> Result<(), AttachError> {
        let fields = self.fields();
        if fields.magic.load(Acquire) != MAGIC {
            return Err(AttachError::NoStore);
        }
        let version = fields.version.load(Relaxed);
        if version != VERSION {
            return Err(AttachError::Version(version));
        }
        if fields.checksum.load(Relaxed) != fields.sum() {
            return Err(AttachError::Damaged("its first page does not add up"));
        }
        let features = fields.features.load(Relaxed) & !FEATURES;
        if features != 0 {
            return Err(AttachError::Features(features));
        }
        let pages = fields.pages.load(Relaxed);
        if pages != plan.pages {
            return Err(AttachError::Size {
                found: pages.saturating_mul(4096),
                wanted: plan.pages * 4096,
            });
        }
        let (slabs, frames) = (fields.slabs.load(Relaxed), fields.frames.load(Relaxed));
        if (slabs, frames) != (plan.slabs, plan.frames) {
            return Err(AttachError::Damaged("its parts do not fit its size"));
        }
        if !self.slabs_used().check(slabs) || !self.frames_used().check(frames) {
            return Err(AttachError::Damaged(
                "how much of it is used does not add up",
            ));
        }
        Ok(())
    }
}

impl Fields {
    /// FNV-1a over what does not change.
    fn sum(&self) -> u64 {
        let words = [
            u64::from(self.version.load(Relaxed)),
            u64::from(self.features.load(Relaxed)),
            self.pages.load(Relaxed),
            u64::from(self.slabs.load(Relaxed)),
            u64::from(self.frames.load(Relaxed)),
        ];
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    }
}
