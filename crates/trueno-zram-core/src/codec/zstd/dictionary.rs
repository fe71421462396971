//! Dictionaries learnt from pages of a kind, with which more pages of that kind get smaller.

#![forbid(unsafe_code)]

use super::libzstd::{ForCompression, ForRestoring};
use super::{Zstd, decompress, prefix_of};
use crate::codec::{Codec, CodecId, Scratch};
use crate::{Error, PAGE_SIZE, PageBytes};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A Zstandard dictionary (RFC 8878, section 5), and what it takes to restore blocks with it.
///
/// ```
/// use std::sync::Arc;
/// use trueno_zram_core::codec::zstd::{Dictionary, Zstd};
/// use trueno_zram_core::{Codec, PAGE_SIZE, Page, Scratch};
///
/// # let pages: Vec<Page> = (0..400u32).map(|i| {
/// #     let mut page = Page::ZERO;
/// #     for (j, bytes) in page.chunks_exact_mut(16).enumerate() {
/// #         let text = format!("user {:05} of 007", i * 7919 % 9973 + j as u32);
/// #         bytes.copy_from_slice(&text.as_bytes()[..16]);
/// #     }
/// #     page
/// # }).collect();
/// // Some hundred pages of the program whose pages are to be compressed.
/// let samples = pages.iter().map(|page| &**page);
/// let dictionary = Arc::new(Dictionary::train(samples, 16 * 1024)?);
///
/// let codec = Zstd::new(1)?.with_dictionary(dictionary);
/// let mut scratch = Scratch::new();
/// codec.prepare(&mut scratch);
/// let (mut out, mut restored) = ([0; PAGE_SIZE], Page::ZERO);
/// let length = codec.compress(&pages[0], &mut out, &mut scratch).expect("text gets smaller");
/// codec.decompress(&out[..length], &mut restored, &mut scratch)?;
/// assert_eq!(restored, pages[0]);
/// # Ok::<(), trueno_zram_core::Error>(())
/// ```
pub struct Dictionary {
    bytes: Box<[u8]>,
    id: u32,
    restoring: ForRestoring,
    /// For the levels that were asked for so far: codecs of one level share it.
    compression: Mutex<Vec<(i32, Arc<ForCompression>)>>,
}

impl Dictionary {
    /// A dictionary of at most `size` bytes that suits pages like `samples`. It takes some hundred
    /// pages, a hundred times `size` in all if possible, and some milliseconds for each hundred.
    ///
    /// # Errors
    /// [`Error::Samples`] if there are too few, they have too little in common, or `size` is below
    /// 256, the least that libzstd makes.
    pub fn train<'a>(
        samples: impl IntoIterator<Item = &'a PageBytes>,
        size: usize,
    ) -> Result<Dictionary, Error> {
        let samples: Vec<u8> = samples.into_iter().flatten().copied().collect();
        let pages = samples.len() / PAGE_SIZE;
        let mut bytes = vec![0; size];
        let length =
            zstd_safe::train_from_buffer(&mut bytes[..], &samples, &vec![PAGE_SIZE; pages])
                .map_err(|_| Error::Samples { pages, size })?;
        Dictionary::from_bytes(&bytes[..length])
    }

    /// The dictionary that [`as_bytes`](Dictionary::as_bytes) gave, or that another program has
    /// made, as `zstd --train` does.
    ///
    /// # Errors
    /// [`Error::NotADictionary`] if the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Dictionary, Error> {
        // The decoder's check lets pass what the encoder's does not.
        ForCompression::new(bytes, 1).ok_or(Error::NotADictionary)?;
        Ok(Dictionary {
            bytes: bytes.into(),
            id: id_of(bytes),
            restoring: ForRestoring::new(bytes).ok_or(Error::NotADictionary)?,
            compression: Mutex::default(),
        })
    }

    /// What has to be kept for as long as there are blocks made with it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What a block says of the dictionary it was made with: 28 bits computed from all of its bytes,
    /// not what it calls itself.
    pub fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn restoring(&self) -> &ForRestoring {
        &self.restoring
    }

    fn compression(&self, level: i32) -> Arc<ForCompression> {
        // Nothing is left half done by a panic, so poison says nothing.
        let mut made = (self.compression.lock()).unwrap_or_else(PoisonError::into_inner);
        if let Some((_, made)) = made.iter().find(|(at, _)| *at == level) {
            return Arc::clone(made);
        }
        let new = ForCompression::new(&self.bytes, level).expect("loaded before, at another level");
        let new = Arc::new(new);
        made.push((level, Arc::clone(&new)));
        new
    }

    /// Whether it says the same, whatever the ids.
    pub(super) fn is_same(&self, other: &Dictionary) -> bool {
        std::ptr::eq(self, other) || self.bytes == other.bytes
    }
}

/// FNV-1a of 64 bits, folded.
fn id_of(bytes: &[u8]) -> u32 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash ^ hash >> 28 ^ hash >> 56) as u32 & 0x0fff_ffff
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dictionary")
            .field("id", &format_args!("{:07x}", self.id))
            .field("len", &self.bytes.len())
            .finish()
    }
}

/// The Zstandard codec at one level with a dictionary; made by [`Zstd::with_dictionary`].
///
/// It restores blocks made with this dictionary, those made without one, and those made with any
/// other that the [`Scratch`] has met. A block that was made with a stranger is
/// [`Error::Dictionary`], which names both. A scratch keeps what it has met, and a context of libzstd
/// for each level and dictionary it has compressed with, as long as it lives.
#[derive(Clone)]
pub struct ZstdWithDictionary {
    zstd: Zstd,
    dictionary: Arc<Dictionary>,
    compression: Arc<ForCompression>,
}

impl ZstdWithDictionary {
    pub(super) fn new(zstd: Zstd, dictionary: Arc<Dictionary>) -> ZstdWithDictionary {
        ZstdWithDictionary {
            zstd,
            compression: dictionary.compression(zstd.level()),
            dictionary,
        }
    }

    /// The dictionary.
    pub fn dictionary(&self) -> &Arc<Dictionary> {
        &self.dictionary
    }
}

impl fmt::Debug for ZstdWithDictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZstdWithDictionary")
            .field("level", &self.zstd.level())
            .field("dictionary", &self.dictionary)
            .finish()
    }
}

impl Codec for ZstdWithDictionary {
    fn id(&self) -> CodecId {
        CodecId::Zstd
    }

    fn prepare(&self, scratch: &mut Scratch) {
        scratch.zstd.dictionary(&self.dictionary);
        scratch
            .zstd
            .theirs(self.zstd.level(), Some(&self.compression));
        scratch.zstd.decoder();
    }

    fn compress(&self, page: &PageBytes, out: &mut [u8], scratch: &mut Scratch) -> Option<usize> {
        scratch.zstd.dictionary(&self.dictionary);
        let encoder = (scratch.zstd).theirs(self.zstd.level(), Some(&self.compression));
        let content = encoder.encode(page);
        let prefix = prefix_of(self.dictionary.id);
        let length = prefix.len() + content.len();
        if length >= PAGE_SIZE {
            out.get_mut(..PAGE_SIZE)?.copy_from_slice(page);
            return Some(PAGE_SIZE);
        }
        let (head, tail) = out.get_mut(..length)?.split_at_mut(prefix.len());
        head.copy_from_slice(&prefix);
        tail.copy_from_slice(content);
        Some(length)
    }

    fn decompress(
        &self,
        block: &[u8],
        page: &mut PageBytes,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        scratch.zstd.dictionary(&self.dictionary);
        decompress(block, page, scratch)
    }
}
