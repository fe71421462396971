//! What codecs write to while they work: one per worker.

#![forbid(unsafe_code)]

use super::{lz4, zstd};

/// Working memory of all codecs. Made once per worker; [`Codec::prepare`](super::Codec::prepare)
/// fills in what a codec needs.
#[derive(Default)]
pub struct Scratch {
    pub(super) lz4: Option<Box<lz4::Table>>,
    pub(super) lz4hc: Option<Box<lz4::HcTables>>,
    pub(super) zstd: zstd::Contexts,
    pub(super) staging: Staging,
}

impl Scratch {
    /// Empty working memory.
    pub fn new() -> Scratch {
        Scratch::default()
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch")
            .field("lz4", &self.lz4.is_some())
            .field("lz4hc", &self.lz4hc.is_some())
            .field("zstd", &self.zstd)
            .finish_non_exhaustive()
    }
}

/// Room for the longest block that any codec can make of a page.
///
/// The encoders want an output buffer for the worst case, or may fail although the block would fit.
/// The caller's buffer is the limit of what is worth keeping, so it is usually shorter; then the
/// block is made here and copied if it is short enough. The copy makes "fits" mean exactly what it
/// says.
#[derive(Default)]
pub(super) struct Staging(Option<Box<[u8; Staging::BYTES]>>);

impl Staging {
    const BYTES: usize = lz4::BLOCK_MAX;

    /// Allocates it.
    pub(super) fn prepare(&mut self) {
        // Not zeros: those might be memory that the kernel has yet to hand out.
        self.0
            .get_or_insert_with(|| Box::new([0xff; Staging::BYTES]));
    }

    /// Has `make` write a block of at most `max` bytes and return its length, and brings it to
    /// `out` if it fits.
    pub(super) fn compress(
        &mut self,
        max: usize,
        out: &mut [u8],
        make: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        if out.len() >= max {
            return Some(make(out));
        }
        self.prepare();
        let staging = &mut self.0.as_mut()?[..max];
        let length = make(staging);
        out.get_mut(..length)?.copy_from_slice(&staging[..length]);
        Some(length)
    }
}
