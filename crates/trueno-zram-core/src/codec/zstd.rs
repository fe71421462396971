//! Zstandard, resting on libzstd: one small frame for each page.
//!
//! # Format
//! A Zstandard frame (RFC 8878, section 3.1.1) without its magic number, content size, dictionary
//! id and checksum, each of which the page-table entry makes superfluous:
//!
//! ```text
//! byte 0    frame header descriptor   always 0
//! byte 1    window descriptor         as libzstd chooses it: 0x10, a window of 4096 bytes
//! then      blocks                    3 bytes of header each (RFC 8878, section 3.1.1.2); the one
//!                                     marked as last ends exactly where the bytes end
//! ```
//!
//! What libzstd alone would let pass and we do not: other frame headers (they could ask for a
//! dictionary or another size), several frames in a row, and bytes after the last block.
//!
//! # Memory
//! libzstd shrinks and grows the workspace of an ordinary context as it sees fit. Ours are *static*
//! contexts: they live in memory that we give once, sized by libzstd's own estimate, and zstd.h
//! promises that it will "never resize nor malloc() when using a static buffer". Each level has a
//! context of its own, since changing the level of one clears its tables.

use super::{Codec, CodecId, Scratch};
use crate::{Error, PAGE_SIZE, PageBytes};
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ops::RangeInclusive;
use std::ptr::NonNull;
use zstd_safe::zstd_sys as sys;

/// With this much output libzstd never fails to compress a page (`ZSTD_COMPRESSBOUND` in zstd.h).
pub(super) const BLOCK_MAX: usize = PAGE_SIZE + (PAGE_SIZE >> 8) + ((128 * 1024 - PAGE_SIZE) >> 11);

/// The Zstandard codec at one level. It restores blocks of every level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zstd {
    level: i32,
}

impl Zstd {
    /// The levels; 0, which libzstd takes for "the default", is not one. libzstd goes far below
    /// −7, to blocks that LZ4 makes smaller in less time.
    pub const LEVELS: RangeInclusive<i32> = -7..=22;

    /// The codec at `level`, or [`Error::Level`].
    pub fn new(level: i32) -> Result<Zstd, Error> {
        if level == 0 || !Zstd::LEVELS.contains(&level) {
            return Err(Error::Level(level));
        }
        Ok(Zstd { level })
    }

    /// The level.
    pub fn level(self) -> i32 {
        self.level
    }
}

impl Codec for Zstd {
    fn id(&self) -> CodecId {
        CodecId::Zstd
    }

    fn prepare(&self, scratch: &mut Scratch) {
        scratch.staging.prepare();
        scratch.zstd.encoder(self.level);
        scratch.zstd.decoder();
    }

    fn compress(&self, page: &PageBytes, out: &mut [u8], scratch: &mut Scratch) -> Option<usize> {
        let encoder = scratch.zstd.encoder(self.level);
        scratch
            .staging
            .compress(BLOCK_MAX, out, |out| encoder.compress(page, out))
    }

    fn decompress(
        &self,
        block: &[u8],
        page: &mut PageBytes,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        decompress(block, page, scratch)
    }
}

/// Restores a page from a block of any level.
pub(super) fn decompress(
    block: &[u8],
    page: &mut PageBytes,
    scratch: &mut Scratch,
) -> Result<(), Error> {
    if !is_one_plain_frame(block) {
        return Err(Error::Corrupt);
    }
    match scratch.zstd.decoder().decompress(block, page) {
        Some(PAGE_SIZE) => Ok(()),
        _ => Err(Error::Corrupt),
    }
}

/// Whether `bytes` are laid out as one frame of our format. What the blocks contain is libzstd's
/// to judge.
fn is_one_plain_frame(bytes: &[u8]) -> bool {
    let [0, _window, blocks @ ..] = bytes else {
        return false;
    };
    let mut rest = blocks;
    while let [a, b, c, after @ ..] = rest {
        let header = u32::from_le_bytes([*a, *b, *c, 0]);
        let (is_last, kind, size) = (header & 1 == 1, header >> 1 & 3, header >> 3);
        let bytes = match kind {
            RLE_BLOCK => 1,
            RESERVED_BLOCK => return false,
            _ => size as usize,
        };
        match after.get(bytes..) {
            Some(after) if is_last => return after.is_empty(),
            Some(after) => rest = after,
            None => return false,
        }
    }
    false
}

/// A block of one repeated byte: the size in its header is that of the result (RFC 8878, 3.1.1.2.2).
const RLE_BLOCK: u32 = 1;
/// "This is not a block" (RFC 8878, 3.1.1.2.2).
const RESERVED_BLOCK: u32 = 3;

/// The contexts of one worker.
#[derive(Default)]
pub(super) struct Contexts {
    encoders: Vec<Encoder>,
    decoder: Option<Decoder>,
}

impl Contexts {
    /// The encoder of `level`; the first call makes it.
    fn encoder(&mut self, level: i32) -> &mut Encoder {
        let at = self
            .encoders
            .iter()
            .position(|encoder| encoder.level == level);
        let at = at.unwrap_or_else(|| {
            self.encoders.push(Encoder::new(level));
            self.encoders.len() - 1
        });
        &mut self.encoders[at]
    }

    /// The decoder; the first call makes it.
    fn decoder(&mut self) -> &mut Decoder {
        self.decoder.get_or_insert_with(Decoder::new)
    }
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels = self.encoders.iter().map(|encoder| encoder.level);
        f.debug_list().entries(levels).finish()
    }
}

/// A static compression context: `context` lies at the start of `_workspace`.
struct Encoder {
    level: i32,
    context: NonNull<sys::ZSTD_CCtx>,
    _workspace: Workspace,
}

// SAFETY: `context` points into `_workspace`, which this value owns; libzstd binds a context to no
// thread.
unsafe impl Send for Encoder {}
// SAFETY: nothing can be done through a shared reference but reading `level`.
unsafe impl Sync for Encoder {}

impl Encoder {
    fn new(level: i32) -> Encoder {
        // SAFETY: both functions only compute.
        let bytes = unsafe {
            let parameters = sys::ZSTD_getCParams(level, PAGE_SIZE as u64, 0);
            sys::ZSTD_estimateCCtxSize_usingCParams(parameters)
        };
        let workspace = Workspace::new(checked(bytes));
        // SAFETY: `workspace` is that many writable bytes, aligned to 8 as zstd.h asks, and is
        // given to this context alone.
        let context = unsafe { sys::ZSTD_initStaticCCtx(workspace.start(), workspace.bytes()) };
        let context =
            NonNull::new(context).expect("libzstd accepts a workspace of its own estimate");
        for (parameter, value) in [
            (sys::ZSTD_cParameter::ZSTD_c_compressionLevel, level),
            (FORMAT_OF_ENCODER, MAGICLESS),
            (sys::ZSTD_cParameter::ZSTD_c_contentSizeFlag, 0),
            (sys::ZSTD_cParameter::ZSTD_c_checksumFlag, 0),
            (sys::ZSTD_cParameter::ZSTD_c_dictIDFlag, 0),
        ] {
            // SAFETY: `context` was initialised just above and its workspace is still there.
            checked(unsafe { sys::ZSTD_CCtx_setParameter(context.as_ptr(), parameter, value) });
        }
        Encoder {
            level,
            context,
            _workspace: workspace,
        }
    }

    /// Compresses `page` into `out`, which must hold [`BLOCK_MAX`] bytes, and returns the length.
    fn compress(&mut self, page: &PageBytes, out: &mut [u8]) -> usize {
        assert!(out.len() >= BLOCK_MAX);
        // SAFETY: `context` was initialised in `new`, its workspace lives as long as `self`, and
        // `&mut self` makes this its only use; the two buffers are borrowed with their lengths.
        checked(unsafe {
            sys::ZSTD_compress2(
                self.context.as_ptr(),
                out.as_mut_ptr().cast(),
                out.len(),
                page.as_ptr().cast(),
                page.len(),
            )
        })
    }
}

/// A static decompression context: `context` lies at the start of `_workspace`.
struct Decoder {
    context: NonNull<sys::ZSTD_DCtx>,
    _workspace: Workspace,
}

// SAFETY: as for `Encoder`.
unsafe impl Send for Decoder {}
// SAFETY: nothing can be done through a shared reference.
unsafe impl Sync for Decoder {}

impl Decoder {
    fn new() -> Decoder {
        // SAFETY: the function only computes.
        let workspace = Workspace::new(unsafe { sys::ZSTD_estimateDCtxSize() });
        // SAFETY: `workspace` is that many writable bytes, aligned to 8 as zstd.h asks, and is
        // given to this context alone.
        let context = unsafe { sys::ZSTD_initStaticDCtx(workspace.start(), workspace.bytes()) };
        let context =
            NonNull::new(context).expect("libzstd accepts a workspace of its own estimate");
        // SAFETY: `context` was initialised just above and its workspace is still there.
        checked(unsafe {
            sys::ZSTD_DCtx_setParameter(context.as_ptr(), FORMAT_OF_DECODER, MAGICLESS)
        });
        Decoder {
            context,
            _workspace: workspace,
        }
    }

    /// Decodes `frame` into `page` and returns the bytes written, or `None` if it is damaged or
    /// holds more than a page.
    fn decompress(&mut self, frame: &[u8], page: &mut PageBytes) -> Option<usize> {
        // SAFETY: `context` was initialised in `new`, its workspace lives as long as `self`, and
        // `&mut self` makes this its only use; the two buffers are borrowed with their lengths,
        // and libzstd takes `frame` for hostile.
        let code = unsafe {
            sys::ZSTD_decompressDCtx(
                self.context.as_ptr(),
                page.as_mut_ptr().cast(),
                page.len(),
                frame.as_ptr().cast(),
                frame.len(),
            )
        };
        (!is_error(code)).then_some(code)
    }
}

/// `ZSTD_c_format` and `ZSTD_d_format`, which zstd.h defines as these.
const FORMAT_OF_ENCODER: sys::ZSTD_cParameter = sys::ZSTD_cParameter::ZSTD_c_experimentalParam2;
const FORMAT_OF_DECODER: sys::ZSTD_dParameter = sys::ZSTD_dParameter::ZSTD_d_experimentalParam1;
const MAGICLESS: c_int = sys::ZSTD_format_e::ZSTD_f_zstd1_magicless as c_int;

fn is_error(code: usize) -> bool {
    // SAFETY: the function only computes.
    unsafe { sys::ZSTD_isError(code) != 0 }
}

/// The result of a call that cannot fail unless this file is wrong.
#[track_caller]
fn checked(code: usize) -> usize {
    assert!(
        !is_error(code),
        "libzstd: {}",
        zstd_safe::get_error_name(code)
    );
    code
}

/// Memory for a static context: it stays where it is until dropped.
///
/// Held by pointer and not as a `Box`, which would claim when moved that nothing else points into
/// it.
struct Workspace(NonNull<[u64]>);

impl Workspace {
    fn new(bytes: usize) -> Workspace {
        // Not zeros: those might be memory that the kernel has yet to hand out, and the first page
        // to be compressed would wait for it.
        let words = vec![u64::MAX; bytes.div_ceil(8)].into_boxed_slice();
        Workspace(NonNull::from(Box::leak(words)))
    }

    fn start(&self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    fn bytes(&self) -> usize {
        self.0.len() * 8
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a leaked box in `new` and nothing else frees it; a static
        // context owns nothing beyond its workspace, so it needs no end of its own.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
