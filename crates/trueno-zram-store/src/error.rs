//! Why a store could not be made, or a page not be read or written.

use crate::plan::{MEM_LIMIT_MIN, SIZE_MAX};
use std::fmt;

/// Why a page could not be read. Small and `Copy`: it travels through paths that must not allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The page lies beyond the end of the store.
    OutOfRange,
    /// The object's checksum, header or block is not what was written. The page is not returned.
    Corrupt,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReadError::OutOfRange => "the page lies beyond the end of the store",
            ReadError::Corrupt => "the stored object is damaged",
        })
    }
}

impl std::error::Error for ReadError {}

/// Why a page could not be written. What was stored at that page before is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteError {
    /// The page lies beyond the end of the store.
    OutOfRange,
    /// The memory limit is reached.
    Limit,
    /// The reserve of populated memory is empty at this moment, or the system has no memory to give.
    NoMemory,
    /// A part of a page was to be changed, and the page that is there cannot be read.
    Corrupt,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WriteError::OutOfRange => "the page lies beyond the end of the store",
            WriteError::Limit => "the memory limit is reached",
            WriteError::NoMemory => "no memory is ready for another object",
            WriteError::Corrupt => "the stored object is damaged",
        })
    }
}

impl std::error::Error for WriteError {}

/// Why a store could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum CreateError {
    /// The size is 0 or no multiple of a page.
    Size(u64),
    /// The size is larger than the table and pool can address.
    TooLarge(u64),
    /// The memory limit is too small to keep even a few objects.
    MemLimit(u64),
    /// No codec was given, more than the table can name, or a selector that names none of them.
    Codecs(usize),
    /// The memory given holds something already.
    NotEmpty,
    /// The memory given is smaller than the plan needs.
    Memory {
        /// Bytes that the plan needs.
        needed: u64,
        /// Bytes that were given.
        given: u64,
    },
    /// The operating system refused memory.
    Os(std::io::Error),
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CreateError::Size(bytes) => {
                write!(f, "size {bytes} is not a positive multiple of 4096 bytes")
            }
            CreateError::TooLarge(bytes) => {
                write!(
                    f,
                    "size {bytes} is larger than the largest device, {SIZE_MAX} bytes (16 TiB)"
                )
            }
            CreateError::MemLimit(bytes) => {
                write!(
                    f,
                    "memory limit {bytes} is below the smallest useful one, {MEM_LIMIT_MIN} bytes"
                )
            }
            CreateError::Codecs(count) => write!(f, "{count} codecs given, 1 to 15 are possible"),
            CreateError::NotEmpty => f.write_str(
                "the memory for the store holds something already: give an empty file, or attach",
            ),
            CreateError::Memory { needed, given } => {
                write!(
                    f,
                    "the store needs {needed} bytes of address space, {given} were given"
                )
            }
            CreateError::Os(_) => f.write_str("the operating system refused memory"),
        }
    }
}

impl std::error::Error for CreateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CreateError::Os(e) => Some(e),
            _ => None,
        }
    }
}

/// Why a store cannot be gone on with. What it holds is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// The configuration is none that a store can have.
    Config(CreateError),
    /// The memory holds no store.
    NoStore,
    /// The store is of another version of this program.
    Version(u32),
    /// The store has features that this program does not know.
    Features(u32),
    /// The store has another size, in bytes.
    Size {
        /// What it has.
        found: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// What was found contradicts itself; how.
    Damaged(&'static str),
    /// The operating system refused memory.
    Os(std::io::Error),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::Config(error) => error.fmt(f),
            AttachError::NoStore => f.write_str("there is no store in this memory"),
            AttachError::Version(found) => write!(
                f,
                "the store is of format {found}, and this program knows format {} only: go on \
                 with the version of the program that made it",
                crate::superblock::VERSION
            ),
            AttachError::Features(bits) => write!(
                f,
                "the store uses features that this program does not know ({bits:#x}): go on with \
                 the version of the program that made it"
            ),
            AttachError::Size { found, wanted } => {
                write!(f, "the store has {found} bytes, not the {wanted} asked for")
            }
            AttachError::Damaged(how) => write!(f, "the store is damaged: {how}"),
            AttachError::Os(_) => f.write_str("the operating system refused memory"),
        }
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AttachError::Config(error) => std::error::Error::source(error),
            AttachError::Os(error) => Some(error),
            _ => None,
        }
    }
}
