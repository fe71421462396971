//! The encoder for the fast levels: search and entropy coding for exactly one page.

#![forbid(unsafe_code)]

use super::huffman;
use super::search::{Effort, Search};
use super::shared::Shared;
use crate::{PAGE_SIZE, PageBytes};

/// More than a block can take before it is found to be larger than the page: 4096 literals of 11
/// bits and 1024 sequences of 60, and tables.
const ROOM: usize = 16 * 1024;

/// How the encoder works at one level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    effort: Effort,
    /// Bits that a block's own codes for literals must save, since they cost time.
    literal_margin: u32,
    /// The same for each table of sequences.
    sequence_margin: u32,
}

impl Plan {
    /// The plan of a level; `None` for those that are libzstd's.
    pub(super) fn of(level: i32) -> Option<Plan> {
        let (effort, literal_margin, sequence_margin) = match level {
            1 => (Effort::Fast, 192, 96),
            2 => (Effort::Double, 192, 96),
            3 => (Effort::Thorough, 112, 56),
            _ => return None,
        };
        Some(Plan {
            effort,
            literal_margin,
            sequence_margin,
        })
    }
}

/// The working memory of the encoder, one for all its levels.
pub(super) struct Encoder {
    search: Search,
    shared: Shared,
    out: [u8; ROOM],
}

impl Encoder {
    pub(super) fn boxed() -> Box<Encoder> {
        Box::new(Encoder {
            search: Search::new(),
            shared: Shared::new(),
            // Not zeros: those might be memory that the kernel has yet to hand out.
            out: [0xff; ROOM],
        })
    }

    /// Makes the block of `page`.
    pub(super) fn encode<'a>(&'a mut self, page: &'a PageBytes, plan: Plan) -> &'a [u8] {
        let Encoder {
            search,
            shared,
            out,
        } = self;
        search.run(page, plan.effort);
        let at = huffman::write(search.literals(), shared, plan.literal_margin, out, 0);
        let end = (search.sequences).write(shared, plan.sequence_margin, out, at);
        match out.get(..end) {
            Some(block) if end < PAGE_SIZE => block,
            _ => page,
        }
    }
}
