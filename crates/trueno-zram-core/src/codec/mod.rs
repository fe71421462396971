//! The vocabulary of the project: what a codec is, what it needs, and how one is chosen.
//!
//! A [`Codec`] is immutable and shared by all threads. What changes while it works lies in a
//! [`Scratch`], of which every worker owns one. Buffers belong to the caller. So a codec never
//! allocates once [`Codec::prepare`] has run, which is what a swap device must be able to promise:
//! the allocator may be waiting for this very page to be written.

pub mod lz4;
pub mod same;
mod scratch;
pub mod zstd;

pub use scratch::Scratch;

use crate::isa::Isa;
use crate::{Algorithm, Error, PageBytes};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// Which format a stored block is in. Four bits in the store's page-table entry, so 1 to 15.
/// It names what is needed to *decode*: all levels of Zstandard are one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum CodecId {
    /// One 64-bit word, little endian, that the page repeats ([`same`]).
    Same = 1,
    /// A standard LZ4 block ([`lz4`]).
    Lz4 = 2,
    /// The content of one block of Zstandard ([`zstd`]).
    Zstd = 3,
}

impl CodecId {
    /// The id with this number, if there is one.
    pub const fn from_u8(number: u8) -> Option<CodecId> {
        match number {
            1 => Some(CodecId::Same),
            2 => Some(CodecId::Lz4),
            3 => Some(CodecId::Zstd),
            _ => None,
        }
    }

    /// Restores a page from a block in this format, as [`Codec::decompress`] does: the id is all
    /// that is needed, and a dictionary if the block was made with one, which `scratch` has to have
    /// met. It does not allocate if some codec of this format has prepared `scratch`.
    pub fn decompress(
        self,
        block: &[u8],
        page: &mut PageBytes,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        match self {
            CodecId::Same => same::decompress(block, page),
            CodecId::Lz4 => lz4::decompress(block, page),
            CodecId::Zstd => zstd::decompress(block, page, scratch),
        }
    }
}

/// Compresses one page, and restores it.
pub trait Codec: Send + Sync {
    /// The format that [`compress`](Codec::compress) writes and [`decompress`](Codec::decompress) reads.
    fn id(&self) -> CodecId;

    /// Makes everything in `scratch` that this codec will need. After this, neither compressing
    /// nor decompressing allocates.
    fn prepare(&self, scratch: &mut Scratch);

    /// Compresses `page` into `out` and returns the bytes written; `None` if it did not fit, in
    /// which case the content of `out` is unspecified.
    ///
    /// `out` may be of any length, so its length is the limit above which a block is not worth
    /// keeping. The block depends on the page alone: a longer `out` does not change it, and it
    /// fits exactly if it is no longer than `out`. A block is never empty.
    fn compress(&self, page: &PageBytes, out: &mut [u8], scratch: &mut Scratch) -> Option<usize>;

    /// Restores a page from `block`, which may be any bytes at all: the result is the page or an
    /// error, in which case the content of `page` is unspecified. It is [`Error::Corrupt`], or
    /// [`Error::Dictionary`] if the block asks for a dictionary that `scratch` has not met.
    ///
    /// The format says how, so a codec does so itself only if there is more to it.
    fn decompress(
        &self,
        block: &[u8],
        page: &mut PageBytes,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        self.id().decompress(block, page, scratch)
    }

    /// Compresses several pages, as [`compress`](Codec::compress) does one by one; a codec that
    /// gains by working on several at once does so here.
    ///
    /// `out` is cut into `pages.len()` slots of equal length, and that length is the limit of each
    /// block: page `i` goes to the start of slot `i`, and `lengths[i]` says how many bytes it took,
    /// or `None` if it did not fit.
    ///
    /// # Panics
    /// If `lengths` is not as long as `pages`, or `out` cannot be cut into `pages.len()` equal
    /// slots.
    fn compress_batch(
        &self,
        pages: &[&PageBytes],
        out: &mut [u8],
        lengths: &mut [Option<usize>],
        scratch: &mut Scratch,
    ) {
        let slots = batch_slots(pages.len(), out, lengths.len());
        for ((page, slot), length) in pages.iter().zip(slots).zip(lengths) {
            *length = self.compress(page, slot, scratch);
        }
    }

    /// Restores several pages, as [`decompress`](Codec::decompress) does one by one: `blocks[i]`
    /// to `pages[i]`, with `results[i]` saying whether that page is there. A damaged block harms
    /// no other page.
    ///
    /// # Panics
    /// If the three are not of one length.
    fn decompress_batch(
        &self,
        blocks: &[&[u8]],
        pages: &mut [&mut PageBytes],
        results: &mut [Result<(), Error>],
        scratch: &mut Scratch,
    ) {
        assert_eq!(blocks.len(), pages.len(), "one page for each block");
        assert_eq!(blocks.len(), results.len(), "one result for each block");
        for ((block, page), result) in blocks.iter().zip(pages).zip(results) {
            *result = self.decompress(block, page, scratch);
        }
    }
}

/// The slots of [`Codec::compress_batch`], after a check of what it asks for.
fn batch_slots(pages: usize, out: &mut [u8], lengths: usize) -> impl Iterator<Item = &mut [u8]> {
    assert_eq!(pages, lengths, "one length for each page");
    let slot = out.len().checked_div(pages).unwrap_or(0);
    assert_eq!(
        slot * pages,
        out.len(),
        "slots of equal length for all pages"
    );
    // A slot of length 0 cannot be cut with `chunks_exact_mut`; nothing fits into it either way.
    let mut rest = out;
    (0..pages).map(move |_| {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(slot);
        rest = tail;
        head
    })
}

/// The codec of `algorithm`: `None` for [`Algorithm::None`], which keeps pages as they are.
///
/// # Errors
/// [`Error::Unsupported`] for an algorithm that has no codec in this crate, [`Error::Level`] for a
/// level that Zstandard does not have, [`Error::Price`] for a price out of range.
pub fn codec_for(algorithm: Algorithm) -> Result<Option<Arc<dyn Codec>>, Error> {
    codec_on(Isa::best(), algorithm)
}

/// The same, on an instruction set that this CPU has.
pub(crate) fn codec_on(isa: Isa, algorithm: Algorithm) -> Result<Option<Arc<dyn Codec>>, Error> {
    match algorithm {
        Algorithm::None => Ok(None),
        Algorithm::SameFill => Ok(Some(Arc::new(same::Same))),
        Algorithm::Lz4 => Ok(Some(Arc::new(lz4::Lz4::on(isa)))),
        Algorithm::Lz4Hc => Ok(Some(Arc::new(lz4::Lz4Hc))),
        Algorithm::Zstd { level } => Ok(Some(Arc::new(zstd::Zstd::new(level)?))),
        Algorithm::ZstdAtPrice { price } => Ok(Some(Arc::new(zstd::ZstdAtPrice::new(price)?))),
        Algorithm::Adaptive => Err(Error::Unsupported(algorithm)),
    }
}

/// What to do with a page that is not same-filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Keep it as it is, without trying.
    Raw,
    /// Compress it with the codec at this place of the store's list.
    Codec(u8),
}

/// Decides, page by page, which codec a page deserves.
pub trait Selector: Send + Sync {
    /// Called for every page that is not same-filled. Must not allocate.
    fn select(&self, page: &PageBytes) -> Choice;

    /// How many of the store's codecs, the first ones of its list, it wants to know more of. A page is
    /// tried with these once in a while ([`try_codecs`]).
    fn learns(&self) -> usize {
        0
    }

    /// Told what each of these codecs made of a page. Must not allocate, nor wait for
    /// anybody who might.
    fn observe(&self, _page: &PageBytes, _outcomes: &[Outcome]) {}
}

/// What a codec really made of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes of the block; a page where there was no room for it.
    pub bytes: u32,
    /// Nanoseconds to compress the page and to restore it.
    pub ns: u32,
}

/// Which of the pages that are stored are tried: the first of each 64, and behind 4096 pages of each 4096.
/// The first ones take some 10 ms in all, to know the machine soon; after them trying five codecs costs
/// less than 1 % of the time of writing.
pub fn is_trial(count: u64) -> bool {
    match count {
        ..4096 => count.is_multiple_of(64),
        _ => count.is_multiple_of(4096),
    }
}

/// Compresses `page` by each of `codecs` and restores it, to see what that takes: the faster of two times,
/// since a thread may be interrupted. All others come between the two, or the processor would know by
/// then how the page goes on, which it never does otherwise. Some thirty microseconds for each codec.
///
/// `block` is written to, and its length is the room that a block has; `restored` too. `scratch` is one
/// that all codecs have prepared.
///
/// # Panics
/// If there is not one outcome for each codec.
pub fn try_codecs(
    codecs: &[Arc<dyn Codec>],
    page: &PageBytes,
    block: &mut [u8],
    restored: &mut PageBytes,
    scratch: &mut Scratch,
    outcomes: &mut [Outcome],
) {
    assert_eq!(codecs.len(), outcomes.len(), "one outcome for each codec");
    outcomes.fill(Outcome {
        bytes: crate::PAGE_SIZE as u32,
        ns: u32::MAX,
    });
    for _ in 0..2 {
        for (codec, outcome) in codecs.iter().zip(&mut *outcomes) {
            let begin = Instant::now();
            match codec.compress(black_box(page), block, scratch) {
                Some(length) => {
                    outcome.bytes = length as u32;
                    // Its own block, so it comes back; and if not, no harm is done here.
                    _ = codec.decompress(black_box(&block[..length]), restored, scratch);
                }
                // It would be copied, and copied back.
                None => {
                    for _ in 0..2 {
                        *restored = *black_box(page);
                        black_box(&mut *restored);
                    }
                }
            }
            let ns = u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX);
            outcome.ns = outcome.ns.min(ns);
        }
    }
}

/// The simplest selector: always the same choice.
impl Selector for Choice {
    fn select(&self, _page: &PageBytes) -> Choice {
        *self
    }
}
