//! What a [`Compressor`](crate::Compressor) gives: compressed bytes, and restored ones.

#![forbid(unsafe_code)]

use crate::{Algorithm, Page, PageBytes};
use std::fmt;
use std::ops::Deref;

/// Compressed data.
///
/// For exactly one page (4096 bytes) the bytes are one block in the format that
/// [`algorithm`](Compressed::algorithm) names: raw bytes, one word, an LZ4 block, or the
/// content of a Zstandard block ([`zstd`](crate::codec::zstd)).
///
/// For any other length they are a row of chunks, one for each 4096 bytes of data, the last of
/// which may stand for fewer:
///
/// ```text
/// chunk   u16, little endian    bits 0–12   bytes in the block
///                               bits 13–15  0 raw, else the number of its CodecId
///         block                 a raw block of the last chunk is as long as its data; before any
///                               other compression the last chunk is filled up with zeros
/// ```
///
/// Together with the original length the bytes are all that is needed to restore the data, see
/// [`from_parts`](Compressed::from_parts).
#[derive(Clone, PartialEq, Eq)]
pub struct Compressed {
    algorithm: Algorithm,
    original_len: usize,
    bytes: Vec<u8>,
}

impl Compressed {
    /// Puts together what was taken apart to be kept elsewhere. Any arguments are allowed:
    /// [`Compressor::decompress`](crate::Compressor::decompress) finds out whether they fit.
    pub fn from_parts(algorithm: Algorithm, original_len: usize, bytes: Vec<u8>) -> Compressed {
        Compressed {
            algorithm,
            original_len,
            bytes,
        }
    }

    /// Bytes after compression.
    #[allow(clippy::len_without_is_empty)] // Empty only for empty data, which is nobody's question.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes before compression.
    pub fn original_len(&self) -> usize {
        self.original_len
    }

    /// The format of a single page: [`Algorithm::None`] if it is kept as it is,
    /// [`Algorithm::SameFill`] if it repeats one word, whatever the compressor was built with. For
    /// data of another length, whose chunks may differ, the compressor's algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The compressed bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The compressed bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl fmt::Debug for Compressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressed")
            .field("algorithm", &self.algorithm)
            .field("original_len", &self.original_len)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// Restored data: a vector of bytes that compares equal with whatever it was made from.
///
/// ```
/// use trueno_zram_core::{Algorithm, Compressor};
///
/// let compressor = Compressor::new(Algorithm::Lz4);
/// let array = *b"some text";
/// let restored = compressor.decompress(&compressor.compress(&array)?)?;
/// assert_eq!(array, restored);
/// assert_eq!(restored, array[..]);
/// assert_eq!(restored, array.to_vec());
/// # Ok::<(), trueno_zram_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Restored(Vec<u8>);

impl Restored {
    pub(crate) fn new(bytes: Vec<u8>) -> Restored {
        Restored(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl Deref for Restored {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Restored {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Restored> for Vec<u8> {
    fn from(restored: Restored) -> Vec<u8> {
        restored.0
    }
}

/// Fails, and gives the data back, unless it is exactly one page.
impl TryFrom<Restored> for PageBytes {
    type Error = Restored;

    fn try_from(restored: Restored) -> Result<PageBytes, Restored> {
        <PageBytes>::try_from(restored.0).map_err(Restored)
    }
}

/// Comparison of bytes in both directions.
macro_rules! compares_with {
    ($([$($generics:tt)*] $other:ty;)*) => {$(
        impl<$($generics)*> PartialEq<$other> for Restored {
            fn eq(&self, other: &$other) -> bool {
                self.0[..] == other[..]
            }
        }

        impl<$($generics)*> PartialEq<Restored> for $other {
            fn eq(&self, other: &Restored) -> bool {
                self[..] == other.0[..]
            }
        }
    )*};
}

compares_with! {
    [const N: usize] [u8; N];
    [const N: usize] &[u8; N];
    [] [u8];
    [] &[u8];
    [] Vec<u8>;
    [] &Vec<u8>;
    [] Box<[u8]>;
    [] Page;
}
