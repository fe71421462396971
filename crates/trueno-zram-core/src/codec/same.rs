//! A page that repeats one 64-bit word. The block is that word, 8 bytes, little endian.

#![forbid(unsafe_code)]

use super::{Codec, CodecId, Scratch};
use crate::isa::Isa;
use crate::{Error, PAGE_SIZE, PageBytes};

/// The 64-bit word (native byte order) that `page` repeats from its first byte to its last, if it
/// does.
///
/// ```
/// use trueno_zram_core::samefill::{fill_page_word, page_same_filled};
///
/// let mut page = [0; 4096];
/// assert_eq!(page_same_filled(&page), Some(0));
/// fill_page_word(&mut page, 0x0123_4567_89ab_cdef);
/// assert_eq!(page_same_filled(&page), Some(0x0123_4567_89ab_cdef));
/// page[4000] ^= 1;
/// assert_eq!(page_same_filled(&page), None);
/// ```
pub fn page_same_filled(page: &PageBytes) -> Option<u64> {
    let word = candidate(page)?;
    Isa::best().page_repeats(page, word).then_some(word)
}

/// [`page_same_filled`] on a chosen instruction set.
pub(crate) fn page_same_filled_on(isa: Isa, page: &PageBytes) -> Option<u64> {
    let word = candidate(page)?;
    isa.page_repeats(page, word).then_some(word)
}

/// The word that `page` repeats if it repeats any. Ordinary pages differ early, and the last word
/// catches most of the rest, so that few are scanned.
#[inline]
fn candidate(page: &PageBytes) -> Option<u64> {
    let (words, _) = page.as_chunks::<8>();
    let first = words[0];
    (words[1] == first && words[PAGE_SIZE / 8 - 1] == first).then(|| u64::from_ne_bytes(first))
}

/// Fills `page` with `word` (native byte order).
pub fn fill_page_word(page: &mut PageBytes, word: u64) {
    Isa::best().fill_page(page, word);
}

/// The codec that only knows pages of one word; all others "do not fit".
#[derive(Clone, Copy, Debug, Default)]
pub struct Same;

impl Codec for Same {
    fn id(&self) -> CodecId {
        CodecId::Same
    }

    fn prepare(&self, _scratch: &mut Scratch) {}

    fn compress(&self, page: &PageBytes, out: &mut [u8], _scratch: &mut Scratch) -> Option<usize> {
        let block = page_same_filled(page)?.to_le_bytes();
        out.get_mut(..block.len())?.copy_from_slice(&block);
        Some(block.len())
    }
}

/// Restores a page from its word.
pub(super) fn decompress(block: &[u8], page: &mut PageBytes) -> Result<(), Error> {
    let word = block.try_into().map_err(|_| Error::Corrupt)?;
    fill_page_word(page, u64::from_le_bytes(word));
    Ok(())
}
