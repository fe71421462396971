//! libzstd: the encoder of the levels that are not ours, and the decoder of all.
//!
//! libzstd shrinks and grows the workspace of an ordinary context as it sees fit. Ours are *static*
//! contexts: they live in memory that we give once, sized by libzstd's own estimate, and zstd.h
//! promises that it will "never resize nor malloc() when using a static buffer". Each level has a
//! context of its own, since changing the level of one clears its tables.

#![allow(unsafe_code)]

use super::shared;
use crate::{PAGE_SIZE, PageBytes};
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use zstd_safe::zstd_sys as sys;

/// What stands before the content of a compressed block in a frame without magic number: a header of
/// the frame that says nothing but its window of 4096 bytes (RFC 8878, section 3.1.1.1), and that of
/// the block (section 3.1.1.2).
const FRAME: [u8; 2] = [0, 0x10];
const HEADERS: usize = FRAME.len() + 3;
/// In the header of a block: it is the last, and of which kind it is.
const LAST: u32 = 1;
const RAW: u32 = LAST;
const REPEATED: u32 = 1 << 1 | LAST;
const COMPRESSED: u32 = 2 << 1 | LAST;

/// With this much output libzstd never fails to compress a page (`ZSTD_COMPRESSBOUND` in zstd.h).
const FRAME_MAX: usize = PAGE_SIZE + (PAGE_SIZE >> 8) + ((128 * 1024 - PAGE_SIZE) >> 11);

/// A static compression context: `context` lies at the start of `_workspace`.
pub(super) struct Encoder {
    level: i32,
    dictionary: Option<Arc<ForCompression>>,
    frame: Box<[u8; FRAME_MAX]>,
    context: NonNull<sys::ZSTD_CCtx>,
    _workspace: Workspace,
}

// SAFETY: `context` points into `_workspace`, which this value owns, and from there to the dictionary,
// which it holds and which may be shared; libzstd binds a context to no thread.
unsafe impl Send for Encoder {}
// SAFETY: nothing can be done through a shared reference but reading `level` and `dictionary`.
unsafe impl Sync for Encoder {}

impl Encoder {
    pub(super) fn new(level: i32, dictionary: Option<Arc<ForCompression>>) -> Encoder {
        let dictionary_bytes = dictionary.as_ref().map_or(0, |d| d.bytes);
        // SAFETY: both functions only compute.
        let bytes = unsafe {
            let parameters = sys::ZSTD_getCParams(level, PAGE_SIZE as u64, dictionary_bytes);
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
            (USE_BLOCK_SPLITTER, DISABLE),
        ] {
            // SAFETY: `context` was initialised just above and its workspace is still there.
            checked(unsafe { sys::ZSTD_CCtx_setParameter(context.as_ptr(), parameter, value) });
        }
        if let Some(dictionary) = &dictionary {
            // SAFETY: as above; the dictionary lives as long as the encoder, which holds it.
            checked(unsafe {
                sys::ZSTD_CCtx_refCDict(context.as_ptr(), dictionary.start.as_ptr())
            });
        }
        Encoder {
            level,
            dictionary,
            // Not zeros: those might be memory that the kernel has yet to hand out.
            frame: Box::new([0xff; FRAME_MAX]),
            context,
            _workspace: workspace,
        }
    }

    /// Whether it is for this level and this dictionary.
    pub(super) fn is_for(&self, level: i32, dictionary: Option<&Arc<ForCompression>>) -> bool {
        let is_same = match (&self.dictionary, dictionary) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        };
        self.level == level && is_same
    }

    /// Makes the block of `page`.
    pub(super) fn encode<'a>(&'a mut self, page: &'a PageBytes) -> &'a [u8] {
        // SAFETY: `context` was initialised in `new`, its workspace lives as long as `self`, and
        // `&mut self` makes this its only use; the two buffers are borrowed with their lengths.
        let length = checked(unsafe {
            sys::ZSTD_compress2(
                self.context.as_ptr(),
                self.frame.as_mut_ptr().cast(),
                self.frame.len(),
                page.as_ptr().cast(),
                page.len(),
            )
        });
        // The second byte is the window, larger with a dictionary. It matters to nobody.
        let [descriptor, _, a, b, c] = *self.frame.first_chunk().expect("a frame is longer");
        assert_eq!(
            descriptor, FRAME[0],
            "libzstd writes the header it was told"
        );
        match u32::from_le_bytes([a, b, c, 0]) & 7 {
            COMPRESSED => &self.frame[HEADERS..length],
            REPEATED => {
                // The content of a compressed block that says the same: 4096 literals that are all
                // alike (RFC 8878, section 3.1.1.3.1.1), and no sequence.
                let literals = 1 | 3 << 2 | (PAGE_SIZE as u32) << 4;
                let [a, b, c, _] = literals.to_le_bytes();
                self.frame[..5].copy_from_slice(&[a, b, c, page[0], 0]);
                &self.frame[..5]
            }
            kind => {
                assert_eq!(kind, RAW, "a page is one block");
                page
            }
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {}", self.level)
    }
}

/// A static decompression context: `context` lies at the start of `_workspace`.
pub(super) struct Decoder {
    /// Where a block gets back what stands before it in a frame.
    frame: Box<[u8; HEADERS + PAGE_SIZE]>,
    shared: &'static ForRestoring,
    context: NonNull<sys::ZSTD_DCtx>,
    _workspace: Workspace,
}

// SAFETY: as for `Encoder`.
unsafe impl Send for Decoder {}
// SAFETY: nothing can be done through a shared reference.
unsafe impl Sync for Decoder {}

impl Decoder {
    pub(super) fn new() -> Decoder {
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
        let mut frame = Box::new([0xff; HEADERS + PAGE_SIZE]);
        frame[..FRAME.len()].copy_from_slice(&FRAME);
        Decoder {
            frame,
            shared: ForRestoring::shared(),
            context,
            _workspace: workspace,
        }
    }

    /// Decodes `block`, which is shorter than a page, into `page` and returns the bytes written, or
    /// `None` if it is damaged or holds more than a page.
    ///
    /// The dictionary is the shared one if no other is given.
    pub(super) fn decode(
        &mut self,
        block: &[u8],
        page: &mut PageBytes,
        dictionary: Option<&ForRestoring>,
    ) -> Option<usize> {
        let dictionary = dictionary.unwrap_or(self.shared);
        let length = HEADERS + block.len();
        let header = COMPRESSED | (block.len() as u32) << 3;
        self.frame[FRAME.len()..HEADERS].copy_from_slice(&header.to_le_bytes()[..3]);
        self.frame[HEADERS..length].copy_from_slice(block);
        // SAFETY: `context` was initialised in `new`, its workspace lives as long as `self`, and
        // `&mut self` makes this its only use; the dictionary is borrowed, and never written to; the
        // frame has `length` bytes, or the copy above had panicked, and the page is borrowed with its
        // length. libzstd takes the frame for hostile.
        let code = unsafe {
            sys::ZSTD_decompress_usingDDict(
                self.context.as_ptr(),
                page.as_mut_ptr().cast(),
                page.len(),
                self.frame.as_ptr().cast(),
                length,
                dictionary.start.as_ptr(),
            )
        };
        (!is_error(code)).then_some(code)
    }
}

/// A dictionary as libzstd's decoder wants it: made once, and only read from then on.
pub(super) struct ForRestoring {
    start: NonNull<sys::ZSTD_DDict>,
    _workspace: Workspace,
}

// SAFETY: `start` points into `_workspace`, which this value owns, and nothing writes there.
unsafe impl Send for ForRestoring {}
// SAFETY: as above; zstd.h allows a digested dictionary to be used by several threads at a time.
unsafe impl Sync for ForRestoring {}

impl ForRestoring {
    /// The shared tables.
    fn shared() -> &'static ForRestoring {
        static SHARED: OnceLock<ForRestoring> = OnceLock::new();
        SHARED.get_or_init(|| {
            ForRestoring::new(&shared::dictionary()).expect("libzstd loads what its format allows")
        })
    }

    /// `None` if `bytes` are no dictionary.
    pub(super) fn new(bytes: &[u8]) -> Option<ForRestoring> {
        // SAFETY: the function only computes.
        let size = unsafe { sys::ZSTD_estimateDDictSize(bytes.len(), COPIED) };
        let workspace = Workspace::new(size);
        // SAFETY: `workspace` is that many writable bytes, aligned to 8 as zstd.h asks, and is
        // given to this dictionary alone; `bytes` is borrowed with its length, and copied.
        let start = unsafe {
            sys::ZSTD_initStaticDDict(
                workspace.start(),
                workspace.bytes(),
                bytes.as_ptr().cast(),
                bytes.len(),
                COPIED,
                FULL,
            )
        };
        Some(ForRestoring {
            start: NonNull::new(start.cast_mut())?,
            _workspace: workspace,
        })
    }
}

/// A dictionary as libzstd's encoder wants it at one level: made once, and only read from then on.
pub(super) struct ForCompression {
    start: NonNull<sys::ZSTD_CDict>,
    bytes: usize,
    _workspace: Workspace,
}

// SAFETY: as for `ForRestoring`.
unsafe impl Send for ForCompression {}
// SAFETY: as for `ForRestoring`.
unsafe impl Sync for ForCompression {}

impl ForCompression {
    /// `None` if `bytes` are no dictionary.
    pub(super) fn new(bytes: &[u8], level: i32) -> Option<ForCompression> {
        // SAFETY: both functions only compute.
        let (parameters, size) = unsafe {
            let parameters = sys::ZSTD_getCParams(level, PAGE_SIZE as u64, bytes.len());
            let size = sys::ZSTD_estimateCDictSize_advanced(bytes.len(), parameters, COPIED);
            (parameters, size)
        };
        let workspace = Workspace::new(size);
        // SAFETY: as for `ForRestoring`.
        let start = unsafe {
            sys::ZSTD_initStaticCDict(
                workspace.start(),
                workspace.bytes(),
                bytes.as_ptr().cast(),
                bytes.len(),
                COPIED,
                FULL,
                parameters,
            )
        };
        Some(ForCompression {
            start: NonNull::new(start.cast_mut())?,
            bytes: bytes.len(),
            _workspace: workspace,
        })
    }
}

const COPIED: sys::ZSTD_dictLoadMethod_e = sys::ZSTD_dictLoadMethod_e::ZSTD_dlm_byCopy;
/// Entropy tables and content, as training makes them; bytes of another kind are refused.
const FULL: sys::ZSTD_dictContentType_e = sys::ZSTD_dictContentType_e::ZSTD_dct_fullDict;

/// `ZSTD_c_format` and `ZSTD_d_format`, which zstd.h defines as these.
const FORMAT_OF_ENCODER: sys::ZSTD_cParameter = sys::ZSTD_cParameter::ZSTD_c_experimentalParam2;
const FORMAT_OF_DECODER: sys::ZSTD_dParameter = sys::ZSTD_dParameter::ZSTD_d_experimentalParam1;
/// `ZSTD_c_useBlockSplitter`; a page is to be one block.
const USE_BLOCK_SPLITTER: sys::ZSTD_cParameter = sys::ZSTD_cParameter::ZSTD_c_experimentalParam13;
const DISABLE: c_int = sys::ZSTD_ParamSwitch_e::ZSTD_ps_disable as c_int;
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
