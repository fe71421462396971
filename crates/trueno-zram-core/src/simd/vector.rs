//! The few operations that our algorithms need of an instruction set.

#![forbid(unsafe_code)]

use crate::PageBytes;

/// How many bytes [`Vector::agree`] looks at.
pub(crate) const REACH: usize = 32;

/// An instruction set. A value of this type exists only where the CPU has it, which is what makes
/// the methods safe. All of them are `#[inline(always)]`: they must end up within a function that
/// is compiled with the target feature.
pub(crate) trait Vector: Copy {
    /// The bytes of one vector in memory, with no alignment.
    type Block;
    /// One vector in a register.
    type Lanes: Copy;

    /// The page cut into vectors. Their size divides a page, so nothing is left over.
    fn blocks(page: &PageBytes) -> &[Self::Block];
    /// A vector that repeats `word`.
    fn splat(self, word: u64) -> Self::Lanes;
    /// The vector at `block`.
    fn load(self, block: &Self::Block) -> Self::Lanes;
    /// Bits that differ.
    fn xor(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Bits set in either.
    fn or(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Whether no bit is set.
    fn is_zero(self, a: Self::Lanes) -> bool;

    /// How many bytes agree before the first that differ.
    fn agree(self, a: &[u8; REACH], b: &[u8; REACH]) -> usize;
}
