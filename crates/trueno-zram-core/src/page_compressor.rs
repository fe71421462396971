//! The door for pages only, with a rule for what is worth keeping.

#![forbid(unsafe_code)]

use crate::{Algorithm, Compressed, Compressor, Error, PAGE_SIZE, PageBytes, Restored};

/// Compresses single pages and keeps those raw that gain too little.
///
/// A compressed page is kept if it takes no more than a limit, by default
/// [`DEFAULT_LIMIT`](PageCompressor::DEFAULT_LIMIT); otherwise the page stays as it is, and its
/// algorithm is [`Algorithm::None`].
///
/// ```
/// use trueno_zram_core::{Algorithm, PAGE_SIZE, PageCompressor};
///
/// let compressor = PageCompressor::new();
/// let page = [42; PAGE_SIZE];
/// let compressed = compressor.compress_page(&page)?;
/// assert_eq!(compressed.algorithm(), Algorithm::SameFill);
/// assert_eq!(compressor.decompress_page(&compressed)?, page);
///
/// // "Raw above half a page" is another limit.
/// let strict = PageCompressor::new().limit(PAGE_SIZE / 2);
/// # let _ = strict;
/// # Ok::<(), trueno_zram_core::Error>(())
/// ```
#[derive(Debug)]
pub struct PageCompressor {
    compressor: Compressor,
    limit: usize,
}

impl PageCompressor {
    /// The longest block that is kept unless [`limit`](PageCompressor::limit) says otherwise: a
    /// page less one part in 32. A raw page is restored by a copy, a compressed one takes many
    /// times as long, and below 128 bytes the gain is of the order of what a pool loses by rounding
    /// up to its size classes.
    pub const DEFAULT_LIMIT: usize = PAGE_SIZE - PAGE_SIZE / 32;

    /// LZ4 on the best backend, with the default limit.
    pub fn new() -> PageCompressor {
        PageCompressor::from(Compressor::new(Algorithm::Lz4))
    }

    /// Keeps blocks of at most `bytes`; nothing is ever kept that is not smaller than a page.
    pub fn limit(mut self, bytes: usize) -> PageCompressor {
        self.limit = bytes.min(PAGE_SIZE - 1);
        self
    }

    /// Compresses `page`, or keeps it as it is.
    ///
    /// # Errors
    /// Those of [`Compressor::compress`].
    pub fn compress_page(&self, page: &PageBytes) -> Result<Compressed, Error> {
        self.compressor.compress_page(page, self.limit)
    }

    /// Restores a page.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bytes are damaged or are not those of one page.
    pub fn decompress_page(&self, compressed: &Compressed) -> Result<Restored, Error> {
        if compressed.original_len() != PAGE_SIZE {
            return Err(Error::Corrupt);
        }
        self.compressor.decompress(compressed)
    }
}

impl Default for PageCompressor {
    fn default() -> PageCompressor {
        PageCompressor::new()
    }
}

/// With the algorithm and the backend of `compressor`, and the default limit.
impl From<Compressor> for PageCompressor {
    fn from(compressor: Compressor) -> PageCompressor {
        PageCompressor {
            compressor,
            limit: PageCompressor::DEFAULT_LIMIT,
        }
    }
}
