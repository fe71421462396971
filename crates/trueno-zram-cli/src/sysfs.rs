//! What the kernel says about its zram devices: `/sys/block/zramN`.

use crate::usage::Usage;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel lists its block devices.
pub const SYS_BLOCK: &str = "/sys/block";

/// Why a device could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The attribute could not be read.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The attribute does not hold what the kernel documents.
    Content {
        /// The file.
        path: PathBuf,
        /// What it held.
        text: String,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io { path, .. } => write!(f, "cannot read {}", path.display()),
            ReadError::Content { path, text } => {
                write!(
                    f,
                    "{} holds {text:?}, which is not what the kernel documents",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReadError::Io { source, .. } => Some(source),
            ReadError::Content { .. } => None,
        }
    }
}

/// The file `mm_stat`: memory, in the kernel's order and units (bytes and pages).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmStat {
    /// Bytes of data kept, uncompressed.
    pub orig_data_size: u64,
    /// Bytes of data kept, compressed.
    pub compr_data_size: u64,
    /// Bytes taken from the system.
    pub mem_used_total: u64,
    /// The most bytes the device may take; 0 is no limit.
    pub mem_limit: u64,
    /// The most bytes it ever took.
    pub mem_used_max: u64,
    /// Same-filled pages, which take no memory.
    pub same_pages: u64,
    /// Pages given back by compaction.
    pub pages_compacted: u64,
    /// Pages kept uncompressed.
    pub huge_pages: u64,
    /// All pages that were ever kept uncompressed.
    pub huge_pages_since: u64,
}

/// The file `io_stat`: counts of requests that went wrong or had nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoStat {
    /// Reads that failed.
    pub failed_reads: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Requests not aligned to pages.
    pub invalid_io: u64,
    /// Pages freed by discard or by the swap code.
    pub notify_free: u64,
}

impl MmStat {
    /// The nine numbers as the kernel prints them.
    pub fn line(&self) -> String {
        let MmStat {
            orig_data_size,
            compr_data_size,
            mem_used_total,
            mem_limit,
            mem_used_max,
            same_pages,
            pages_compacted,
            huge_pages,
            huge_pages_since,
        } = self;
        format!(
            "{orig_data_size:8} {compr_data_size:8} {mem_used_total:8} {mem_limit:8} \
             {mem_used_max:8} {same_pages:8} {pages_compacted:8} {huge_pages:8} \
             {huge_pages_since:8}"
        )
    }
}

impl IoStat {
    /// The four numbers as the kernel prints them.
    pub fn line(&self) -> String {
        let IoStat {
            failed_reads,
            failed_writes,
            invalid_io,
            notify_free,
        } = self;
        format!("{failed_reads:8} {failed_writes:8} {invalid_io:8} {notify_free:8}")
    }
}

/// One zram device of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ZramDevice {
    /// `/dev/zramN`.
    pub name: String,
    /// Bytes the device offers; 0 until it is set up.
    pub disksize: u64,
    /// The algorithm in use.
    pub algorithm: String,
    /// All algorithms that this kernel offers for it.
    pub algorithms: Vec<String>,
    /// `max_comp_streams`, on kernels that still have it.
    pub streams: Option<u64>,
    /// Memory.
    pub mm_stat: MmStat,
    /// Requests.
    pub io_stat: IoStat,
    /// Mount points, or `[SWAP]`; empty if it is not in use or cannot be told.
    pub mountpoint: String,
}

/// All zram devices below `sys_block` ([`SYS_BLOCK`]), by number.
pub fn zram_devices(sys_block: &Path) -> Result<Vec<ZramDevice>, ReadError> {
    let io = |source| ReadError::Io {
        path: sys_block.to_path_buf(),
        source,
    };
    let mut numbers: Vec<u32> = Vec::new();
    for entry in std::fs::read_dir(sys_block).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let number: Option<u32> = name
            .to_str()
            .and_then(|n| n.strip_prefix("zram")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    numbers
        .into_iter()
        .map(|number| zram_device(sys_block, number))
        .collect()
}

/// The zram device with this number.
fn zram_device(sys_block: &Path, number: u32) -> Result<ZramDevice, ReadError> {
    let directory = sys_block.join(format!("zram{number}"));
    let (algorithm, algorithms) = algorithms(&directory.join("comp_algorithm"))?;
    let mm = numbers::<7>(&directory.join("mm_stat"))?;
    // Two columns came later (5.1 and 5.16): absent is not known, shown as 0 like zramctl does.
    let mm_later = |index: usize| mm.get(index).copied().unwrap_or(0);
    let io = numbers::<4>(&directory.join("io_stat"))?;
    let name = format!("/dev/zram{number}");
    let mountpoint = Usage::of(Path::new(&name))
        .map(|usage| usage.column())
        .unwrap_or_default();
    Ok(ZramDevice {
        name,
        disksize: numbers::<1>(&directory.join("disksize"))?[0],
        algorithm,
        algorithms,
        streams: numbers::<1>(&directory.join("max_comp_streams"))
            .ok()
            .map(|n| n[0]),
        mm_stat: MmStat {
            orig_data_size: mm[0],
            compr_data_size: mm[1],
            mem_used_total: mm[2],
            mem_limit: mm[3],
            mem_used_max: mm[4],
            same_pages: mm[5],
            pages_compacted: mm[6],
            huge_pages: mm_later(7),
            huge_pages_since: mm_later(8),
        },
        io_stat: IoStat {
            failed_reads: io[0],
            failed_writes: io[1],
            invalid_io: io[2],
            notify_free: io[3],
        },
        mountpoint,
    })
}

/// The text of an attribute.
fn text(path: &Path) -> Result<String, ReadError> {
    std::fs::read_to_string(path).map_err(|source| ReadError::Io {
        path: path.to_path_buf(),
        source,
    })
}

/// The numbers in an attribute, of which there must be at least `LEAST`.
fn numbers<const LEAST: usize>(path: &Path) -> Result<Vec<u64>, ReadError> {
    let text = text(path)?;
    let parsed: Option<Vec<u64>> = text
        .split_ascii_whitespace()
        .map(|word| word.parse().ok())
        .collect();
    match parsed {
        Some(numbers) if numbers.len() >= LEAST => Ok(numbers),
        _ => Err(ReadError::Content {
            path: path.to_path_buf(),
            text: text.trim().to_string(),
        }),
    }
}

/// The algorithm in brackets, and all of them: `[lzo-rle] lzo lz4`.
fn algorithms(path: &Path) -> Result<(String, Vec<String>), ReadError> {
    let text = text(path)?;
    let mut chosen = None;
    let all = text
        .split_ascii_whitespace()
        .map(
            |word| match word.strip_prefix('[').and_then(|w| w.strip_suffix(']')) {
                Some(name) => {
                    chosen = Some(name.to_string());
                    name.to_string()
                }
                None => word.to_string(),
            },
        )
        .collect();
    match chosen {
        Some(chosen) => Ok((chosen, all)),
        None => Err(ReadError::Content {
            path: path.to_path_buf(),
            text: text.trim().to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device's attributes in a directory of our own.
    fn write_device(root: &Path, name: &str, mm_stat: &str) {
        let directory = root.join(name);
        std::fs::create_dir(&directory).unwrap();
        for (file, text) in [
            ("disksize", "8589934592\n"),
            ("comp_algorithm", "lzo-rle [lz4] zstd \n"),
            ("mm_stat", mm_stat),
            ("io_stat", "       1        2        3        4\n"),
        ] {
            std::fs::write(directory.join(file), text).unwrap();
        }
    }

    #[test]
    fn attributes_are_read_in_the_kernels_order() {
        let root = tempfile::tempdir().unwrap();
        write_device(root.path(), "zram10", "1 2 3 4 5 6 7 8 9\n");
        write_device(root.path(), "zram9", "1 2 3 4 5 6 7\n");
        std::fs::create_dir(root.path().join("sda")).unwrap();
        let devices = zram_devices(root.path()).unwrap();
        assert_eq!(
            devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
            ["/dev/zram9", "/dev/zram10"]
        );
        let device = &devices[1];
        assert_eq!(device.disksize, 8 << 30);
        assert_eq!(device.algorithm, "lz4");
        assert_eq!(device.algorithms, ["lzo-rle", "lz4", "zstd"]);
        assert_eq!(device.streams, None);
        assert_eq!(device.mm_stat.mem_used_total, 3);
        assert_eq!(device.mm_stat.huge_pages_since, 9);
        assert_eq!(device.io_stat.notify_free, 4);
        let words = |line: String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(device.mm_stat.line()), "1 2 3 4 5 6 7 8 9");
        assert_eq!(words(device.io_stat.line()), "1 2 3 4");
        assert_eq!(
            devices[0].mm_stat.huge_pages, 0,
            "a column that an old kernel lacks"
        );
    }

    #[test]
    fn damaged_attributes_are_named() {
        let root = tempfile::tempdir().unwrap();
        write_device(root.path(), "zram0", "1 2 three 4 5 6 7\n");
        let error = zram_devices(root.path()).unwrap_err().to_string();
        assert!(
            error.contains("zram0/mm_stat") && error.contains("three"),
            "{error}"
        );
    }
}
