//! The encoder for the fast levels: search and entropy coding for exactly one page.

#![forbid(unsafe_code)]

use super::huffman::{self, Toll};
use super::logarithm::UNIT;
use super::search::{Effort, Search};
use super::shared::Shared;
use crate::{PAGE_SIZE, PageBytes};

/// More than a block can take before it is found to be larger than the page: 4096 literals of 11
/// bits and 1024 sequences of 60, and tables.
const ROOM: usize = 16 * 1024;

/// How the encoder works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    effort: Effort,
    literals: Toll,
    /// Bits that each table made for a block's sequences must save, since that costs time.
    table: u32,
}

/// Nanoseconds for a literal to be coded and restored, where otherwise it would be copied.
const LITERAL_NS: f64 = 1.5;
/// For codes made for literals: making, writing, reading, and building the table to decode with.
const CODES_NS: u32 = 2400;
/// The same for a table of sequences.
const TABLE_NS: u32 = 600;
/// From this price on the thorough search is worth its time.
const THOROUGH: u32 = 48;

impl Plan {
    /// The plan of a level; `None` for those that are libzstd's.
    pub(super) fn of(level: i32) -> Option<Plan> {
        let (effort, own, table) = match level {
            1 => (Effort::Fast, 192, 96),
            2 => (Effort::Double, 192, 96),
            3 => (Effort::Thorough, 112, 56),
            _ => return None,
        };
        Some(Plan {
            effort,
            literals: Toll { each: 0, own },
            table,
        })
    }

    /// The plan where a byte is worth `price` nanoseconds, and so a bit an eighth of that.
    pub(super) fn at(price: u32) -> Plan {
        Plan {
            effort: match price {
                ..THOROUGH => Effort::Hasty,
                _ => Effort::Thorough,
            },
            literals: Toll {
                each: (8.0 * f64::from(UNIT) * LITERAL_NS / f64::from(price)) as u32,
                own: 8 * CODES_NS / price,
            },
            table: 8 * TABLE_NS / price,
        }
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
        let at = huffman::write(search.literals(), shared, plan.literals, out, 0);
        let end = (search.sequences).write(shared, plan.table, out, at);
        match out.get(..end) {
            Some(block) if end < PAGE_SIZE => block,
            _ => page,
        }
    }
}
