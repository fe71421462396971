//! Compresses one 4 KiB memory page, and restores it.
//!
//! The friendly way: a [`Compressor`] takes any bytes and gives a value.
//!
//! ```
//! use trueno_zram_core::{Algorithm, CompressorBuilder, PAGE_SIZE};
//!
//! let compressor = CompressorBuilder::new().algorithm(Algorithm::Zstd1).build()?;
//! let mut page = [0u8; PAGE_SIZE];
//! for (i, byte) in page.iter_mut().enumerate() {
//!     *byte = b"one page of a program's memory "[i % 31];
//! }
//!
//! let compressed = compressor.compress(&page)?;
//! assert!(compressed.len() < 100);
//! assert_eq!(compressed.algorithm(), Algorithm::Zstd1);
//!
//! let restored = compressor.decompress(&compressed)?;
//! assert_eq!(page, restored);
//! # Ok::<(), trueno_zram_core::Error>(())
//! ```
//!
//! The fast way, which a block device needs: a [`Codec`] from [`codec_for`], one [`Scratch`] for
//! each worker, buffers of the caller, and no allocation.
//!
//! ```
//! use trueno_zram_core::{Algorithm, PAGE_SIZE, Page, Scratch, codec_for};
//!
//! let codec = codec_for(Algorithm::Lz4)?.expect("only `none` has no codec");
//! let mut scratch = Scratch::new();
//! codec.prepare(&mut scratch); // the only allocation
//!
//! let page = Page([7; PAGE_SIZE]);
//! let mut out = [0; 4000]; // longer blocks are not worth keeping
//! let length = codec.compress(&page, &mut out, &mut scratch).expect("a page of sevens is small");
//!
//! let mut restored = Page::ZERO;
//! codec.decompress(&out[..length], &mut restored, &mut scratch)?;
//! assert_eq!(restored, page);
//! # Ok::<(), trueno_zram_core::Error>(())
//! ```

mod algorithm;
pub mod codec;
mod compressed;
mod compressor;
mod error;
mod isa;
mod page;
mod page_compressor;
mod simd;

pub use algorithm::{Algorithm, ParseAlgorithmError};
pub use codec::same as samefill;
pub use codec::{
    Choice, Codec, CodecId, Outcome, Scratch, Selector, codec_for, is_trial, try_codecs,
};
pub use compressed::{Compressed, Restored};
pub use compressor::{Compressor, CompressorBuilder};
pub use error::Error;
pub use isa::{SimdBackend, detect_backend};
pub use page::{PAGE_SIZE, Page, PageBytes};
pub use page_compressor::PageCompressor;
