//! The friendly door: any bytes in, a value out, working memory looked after.

#![forbid(unsafe_code)]

use crate::codec::codec_on;
use crate::codec::same::page_same_filled_on;
use crate::codec::zstd::{Dictionary, Zstd};
use crate::isa::Isa;
use crate::{
    Algorithm, Codec, CodecId, Compressed, Error, PAGE_SIZE, PageBytes, Restored, Scratch,
    SimdBackend, codec_for,
};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Says how a [`Compressor`] is to work.
///
/// ```
/// use trueno_zram_core::{Algorithm, CompressorBuilder, SimdBackend};
///
/// let compressor = CompressorBuilder::new()
///     .algorithm(Algorithm::Zstd1)
///     .prefer_backend(SimdBackend::Avx512)
///     .build()?;
/// println!("this CPU works with {}", compressor.backend());
/// # Ok::<(), trueno_zram_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CompressorBuilder {
    algorithm: Algorithm,
    backend: Backend,
    dictionary: Option<Arc<Dictionary>>,
}

#[derive(Clone, Copy, Debug)]
enum Backend {
    Forced(SimdBackend),
    AtMost(SimdBackend),
}

impl CompressorBuilder {
    /// LZ4 on the best backend, until something else is said.
    pub fn new() -> CompressorBuilder {
        CompressorBuilder {
            algorithm: Algorithm::Lz4,
            backend: Backend::AtMost(SimdBackend::ALL[0]),
            dictionary: None,
        }
    }

    /// The algorithm.
    pub fn algorithm(mut self, algorithm: Algorithm) -> CompressorBuilder {
        self.algorithm = algorithm;
        self
    }

    /// This backend and no other: [`build`](CompressorBuilder::build) fails where the CPU lacks it.
    pub fn backend(mut self, backend: SimdBackend) -> CompressorBuilder {
        self.backend = Backend::Forced(backend);
        self
    }

    /// This backend where the CPU has it, else the best lower one in the order of
    /// [`SimdBackend::ALL`].
    pub fn prefer_backend(mut self, backend: SimdBackend) -> CompressorBuilder {
        self.backend = Backend::AtMost(backend);
        self
    }

    /// A dictionary that the algorithm, which has to be Zstandard, compresses with. Whoever restores
    /// needs it too.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use trueno_zram_core::codec::zstd::Dictionary;
    /// use trueno_zram_core::{Algorithm, Compressor, CompressorBuilder, Error, Page};
    ///
    /// # let pages: Vec<Page> = (0..400u32).map(|i| {
    /// #     let mut page = Page::ZERO;
    /// #     for (j, bytes) in page.chunks_exact_mut(16).enumerate() {
    /// #         let text = format!("user {:05} of 007", i * 7919 % 9973 + j as u32);
    /// #         bytes.copy_from_slice(&text.as_bytes()[..16]);
    /// #     }
    /// #     page
    /// # }).collect();
    /// let dictionary = Dictionary::train(pages.iter().map(|page| &**page), 16 * 1024)?;
    /// let compressor = CompressorBuilder::new()
    ///     .algorithm(Algorithm::Zstd1)
    ///     .dictionary(Arc::new(dictionary))
    ///     .build()?;
    /// let compressed = compressor.compress(&*pages[0])?;
    /// assert_eq!(compressor.decompress(&compressed)?, pages[0]);
    ///
    /// let other = Compressor::new(Algorithm::Zstd1).decompress(&compressed);
    /// assert!(matches!(other, Err(Error::Dictionary { given: None, .. })));
    /// # Ok::<(), trueno_zram_core::Error>(())
    /// ```
    pub fn dictionary(mut self, dictionary: Arc<Dictionary>) -> CompressorBuilder {
        self.dictionary = Some(dictionary);
        self
    }

    /// The compressor.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an algorithm without a codec, [`Error::Level`] for a level that
    /// Zstandard does not have, [`Error::Backend`] for a forced backend that this CPU lacks,
    /// [`Error::Price`] for a price out of range, [`Error::TakesNoDictionary`] for a dictionary beside
    /// another algorithm than a level of Zstandard.
    pub fn build(self) -> Result<Compressor, Error> {
        let isa = match self.backend {
            Backend::Forced(backend) => Isa::new(backend).ok_or(Error::Backend(backend))?,
            Backend::AtMost(backend) => Isa::at_most(backend),
        };
        let codec: Option<Arc<dyn Codec>> = match (self.algorithm, self.dictionary) {
            (Algorithm::Zstd { level }, Some(dictionary)) => {
                Some(Arc::new(Zstd::new(level)?.with_dictionary(dictionary)))
            }
            (algorithm, Some(_)) => return Err(Error::TakesNoDictionary(algorithm)),
            (algorithm, None) => codec_on(isa, algorithm)?,
        };
        let codec = Ok(codec);
        Ok(Compressor {
            algorithm: self.algorithm,
            isa,
            codec,
            scratches: Mutex::default(),
        })
    }
}

impl Default for CompressorBuilder {
    fn default() -> CompressorBuilder {
        CompressorBuilder::new()
    }
}

/// Compresses pages, or any bytes page by page, and restores them. Shared by any number of threads.
///
/// Same-filled pages are found first (except under [`Algorithm::None`]) and become 8 bytes. A page
/// that the algorithm does not make smaller stays as it is.
///
/// # What the backend decides
/// The search for same-filled pages, and compression with LZ4. LZ4 is restored by the same code on
/// every backend, and Zstandard is the same code on every one; a page of one word is always filled
/// with the best vectors there are. The bytes that come out are the same in any case.
pub struct Compressor {
    algorithm: Algorithm,
    isa: Isa,
    /// The codec, or why there is none.
    codec: Result<Option<Arc<dyn Codec>>, Error>,
    /// Working memory of calls that bring none; as many as there were calls at the same time.
    scratches: Mutex<Vec<Scratch>>,
}

impl Compressor {
    /// A compressor on the best backend.
    ///
    /// If `algorithm` has no codec, the compressor can tell its name and nothing else: compressing
    /// returns the error that [`CompressorBuilder::build`] would have returned.
    pub fn new(algorithm: Algorithm) -> Compressor {
        let codec = codec_for(algorithm);
        Compressor {
            algorithm,
            isa: Isa::best(),
            codec,
            scratches: Mutex::default(),
        }
    }

    /// The same as [`CompressorBuilder::new`].
    pub fn builder() -> CompressorBuilder {
        CompressorBuilder::new()
    }

    /// The algorithm it was built with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The backend that it uses, where it matters which.
    pub fn backend(&self) -> SimdBackend {
        self.isa.backend()
    }

    /// Compresses a page or bytes of any length. [`Compressed`] describes the result.
    ///
    /// # Errors
    /// [`Error::Unsupported`] or [`Error::Level`] if [`Compressor::new`] was given an algorithm
    /// without a codec.
    pub fn compress<D: AsRef<[u8]> + ?Sized>(&self, data: &D) -> Result<Compressed, Error> {
        let data = data.as_ref();
        match <&PageBytes>::try_from(data) {
            Ok(page) => self.compress_page(page, PAGE_SIZE - 1),
            Err(_) => self.compress_chunks(data),
        }
    }

    /// Restores what any compressor has compressed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bytes are damaged, [`Error::Unsupported`] if they claim to be of
    /// an algorithm without a format, [`Error::Dictionary`] if they were made with a dictionary that
    /// is not this compressor's.
    pub fn decompress(&self, compressed: &Compressed) -> Result<Restored, Error> {
        let (bytes, length) = (compressed.as_bytes(), compressed.original_len());
        if length == PAGE_SIZE {
            let format = format_of(compressed.algorithm())?;
            let mut page = vec![0; PAGE_SIZE].into_boxed_slice();
            let target = (&mut *page).try_into().expect("made of this length");
            self.with_scratch(|scratch| restore(format, bytes, target, scratch))?;
            return Ok(Restored::new(page.into_vec()));
        }
        self.decompress_chunks(bytes, length).map(Restored::new)
    }

    /// The fast path: compresses one page into `out` and returns the bytes written, or `None` if
    /// the block does not fit. Nothing is allocated after [`prepare`](Compressor::prepare).
    ///
    /// The block is the codec's alone: same-filled pages are the caller's to find, with
    /// [`page_same_filled`](Compressor::page_same_filled).
    pub fn compress_into(
        &self,
        page: &PageBytes,
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Option<usize> {
        match self.codec.as_ref().ok()? {
            Some(codec) => codec.compress(page, out, scratch),
            None => {
                out.get_mut(..PAGE_SIZE)?.copy_from_slice(page);
                Some(PAGE_SIZE)
            }
        }
    }

    /// The fast path: restores one page from a block of
    /// [`compress_into`](Compressor::compress_into).
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the block is damaged, [`Error::Dictionary`] if it was made with a
    /// dictionary that `scratch` has not met; the content of `page` is then unspecified.
    pub fn decompress_into(
        &self,
        block: &[u8],
        page: &mut PageBytes,
        scratch: &mut Scratch,
    ) -> Result<(), Error> {
        match self.codec.as_ref().map_err(|error| *error)? {
            Some(codec) => codec.decompress(block, page, scratch),
            None => restore(None, block, page, scratch),
        }
    }

    /// Makes everything in `scratch` that the fast path will need.
    pub fn prepare(&self, scratch: &mut Scratch) {
        if let Ok(Some(codec)) = &self.codec {
            codec.prepare(scratch);
        }
    }

    /// The 64-bit word (native byte order) that `page` repeats, if it does, found by the code of
    /// [`backend`](Compressor::backend).
    pub fn page_same_filled(&self, page: &PageBytes) -> Option<u64> {
        page_same_filled_on(self.isa, page)
    }

    /// Compresses one page to at most `limit` bytes, or keeps it as it is.
    pub(crate) fn compress_page(
        &self,
        page: &PageBytes,
        limit: usize,
    ) -> Result<Compressed, Error> {
        let mut bytes = Vec::new();
        let format = self.with_scratch(|s| self.push_block(page, limit, &mut bytes, s))?;
        let algorithm = match format {
            None => Algorithm::None,
            Some(CodecId::Same) => Algorithm::SameFill,
            Some(_) => self.algorithm,
        };
        if format.is_none() {
            bytes.extend_from_slice(page);
        }
        bytes.shrink_to_fit();
        Ok(Compressed::from_parts(algorithm, PAGE_SIZE, bytes))
    }

    fn compress_chunks(&self, data: &[u8]) -> Result<Compressed, Error> {
        self.codec.as_ref().map_err(|error| *error)?;
        let mut bytes = Vec::new();
        self.with_scratch(|scratch| {
            for chunk in data.chunks(PAGE_SIZE) {
                let mut page = [0; PAGE_SIZE];
                page[..chunk.len()].copy_from_slice(chunk);
                let header = bytes.len();
                bytes.extend_from_slice(&[0; HEADER]);
                let format = self.push_block(&page, chunk.len() - 1, &mut bytes, scratch)?;
                if format.is_none() {
                    bytes.extend_from_slice(chunk);
                }
                let length = bytes.len() - header - HEADER;
                let kind = format.map_or(0, |id| id as usize);
                let word = u16::try_from(kind << LENGTH_BITS | length).expect("3 and 13 bits");
                bytes[header..header + HEADER].copy_from_slice(&word.to_le_bytes());
            }
            Ok(())
        })?;
        Ok(Compressed::from_parts(self.algorithm, data.len(), bytes))
    }

    /// Appends the block of `page` to `bytes` if it takes no more than `limit` bytes, and says in
    /// which format; otherwise appends nothing.
    fn push_block(
        &self,
        page: &PageBytes,
        limit: usize,
        bytes: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<Option<CodecId>, Error> {
        let Some(codec) = self.codec.as_ref().map_err(|error| *error)? else {
            return Ok(None);
        };
        let word = self.page_same_filled(page).map(u64::to_le_bytes);
        if let Some(word) = word.filter(|word| word.len() <= limit) {
            bytes.extend_from_slice(&word);
            return Ok(Some(CodecId::Same));
        }
        let start = bytes.len();
        bytes.resize(start + limit, 0);
        let length = codec.compress(page, &mut bytes[start..], scratch);
        bytes.truncate(start + length.unwrap_or(0));
        Ok(length.map(|_| codec.id()))
    }

    fn decompress_chunks(&self, bytes: &[u8], length: usize) -> Result<Vec<u8>, Error> {
        // Every chunk has a header and at least one byte: no claim can make us reserve more than
        // some 1400 times of what it cost to make.
        if length.div_ceil(PAGE_SIZE) > bytes.len() / (HEADER + 1) {
            return Err(Error::Corrupt);
        }
        let mut data = Vec::with_capacity(length);
        let mut rest = bytes;
        self.with_scratch(|scratch| {
            let mut page = [0; PAGE_SIZE];
            while data.len() < length {
                let chunk = (length - data.len()).min(PAGE_SIZE);
                let (header, after) = rest.split_first_chunk::<HEADER>().ok_or(Error::Corrupt)?;
                let header = usize::from(u16::from_le_bytes(*header));
                let (kind, size) = (header >> LENGTH_BITS, header & ((1 << LENGTH_BITS) - 1));
                let (block, after) = after.split_at_checked(size).ok_or(Error::Corrupt)?;
                rest = after;
                if kind == 0 {
                    if size != chunk {
                        return Err(Error::Corrupt);
                    }
                    data.extend_from_slice(block);
                    continue;
                }
                let format = CodecId::from_u8(kind as u8).ok_or(Error::Corrupt)?;
                format.decompress(block, &mut page, scratch)?;
                data.extend_from_slice(&page[..chunk]);
            }
            if rest.is_empty() {
                Ok(data)
            } else {
                Err(Error::Corrupt)
            }
        })
    }

    /// Lends working memory to `work`.
    fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        // A panic elsewhere cannot leave the list half changed, so poison says nothing.
        let scratches = || {
            self.scratches
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let mut scratch = scratches().pop().unwrap_or_else(|| {
            let mut scratch = Scratch::new();
            self.prepare(&mut scratch);
            scratch
        });
        let result = work(&mut scratch);
        scratches().push(scratch);
        result
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor")
            .field("algorithm", &self.algorithm)
            .field("backend", &self.backend())
            .finish_non_exhaustive()
    }
}

/// Bytes before each block of data that is not one page.
const HEADER: usize = 2;
/// Bits of the header that hold the length, enough for a page; the others hold the format.
const LENGTH_BITS: u32 = 13;

/// The format of a page of `algorithm`, `None` for raw bytes.
fn format_of(algorithm: Algorithm) -> Result<Option<CodecId>, Error> {
    match algorithm {
        Algorithm::None => Ok(None),
        Algorithm::SameFill => Ok(Some(CodecId::Same)),
        Algorithm::Lz4 | Algorithm::Lz4Hc => Ok(Some(CodecId::Lz4)),
        Algorithm::Zstd { .. } | Algorithm::ZstdAtPrice { .. } => Ok(Some(CodecId::Zstd)),
        Algorithm::Adaptive => Err(Error::Unsupported(algorithm)),
    }
}

/// Restores a page from a block in `format`, `None` for raw bytes.
fn restore(
    format: Option<CodecId>,
    block: &[u8],
    page: &mut PageBytes,
    scratch: &mut Scratch,
) -> Result<(), Error> {
    match format {
        Some(format) => format.decompress(block, page, scratch),
        None => {
            *page = *<&PageBytes>::try_from(block).map_err(|_| Error::Corrupt)?;
            Ok(())
        }
    }
}
