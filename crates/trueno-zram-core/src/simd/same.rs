//! Whether a page repeats one word, and making it do so.
//!
//! The simple loop is `all words == word`. This one compares four vectors for each branch: a branch
//! a vector would cost as much as the comparison, and one at the end would read the whole page
//! where the first line already differs.

#![forbid(unsafe_code)]

use super::vector::Vector;
use crate::PageBytes;

/// Whether `page` is `word` (native byte order) from its first byte to its last.
#[inline(always)]
pub(super) fn page_repeats<V: Vector>(v: V, page: &PageBytes, word: u64) -> bool {
    let expected = v.splat(word);
    let (groups, rest) = V::blocks(page).as_chunks::<4>();
    debug_assert!(rest.is_empty());
    for [a, b, c, d] in groups {
        let ab = v.or(v.xor(v.load(a), expected), v.xor(v.load(b), expected));
        let cd = v.or(v.xor(v.load(c), expected), v.xor(v.load(d), expected));
        if !v.is_zero(v.or(ab, cd)) {
            return false;
        }
    }
    true
}

/// Fills `page` with `word` (native byte order). The compiler knows what to do with this loop, once
/// it may use long vectors.
#[inline(always)]
pub(super) fn fill_page(page: &mut PageBytes, word: u64) {
    page.as_chunks_mut().0.fill(word.to_ne_bytes());
}
