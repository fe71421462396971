//! The unit of everything: 4096 bytes of memory.

#![forbid(unsafe_code)]

use std::ops::{Deref, DerefMut};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// The bytes of one page, wherever they lie.
pub type PageBytes = [u8; PAGE_SIZE];

/// One page, aligned like a page of the kernel.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(4096))]
pub struct Page(pub PageBytes);

impl Page {
    /// A page of zeros.
    pub const ZERO: Page = Page([0; PAGE_SIZE]);

    /// A page of zeros on the heap.
    pub fn boxed() -> Box<Page> {
        Box::new(Page::ZERO)
    }
}

impl Default for Page {
    fn default() -> Self {
        Page::ZERO
    }
}

impl Deref for Page {
    type Target = PageBytes;

    fn deref(&self) -> &PageBytes {
        &self.0
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut PageBytes {
        &mut self.0
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Page({:02x?}…)", &self.0[..16])
    }
}
