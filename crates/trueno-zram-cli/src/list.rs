//! What `list` takes, and prints: zramctl's columns.

use crate::human::{format_ratio, format_size};
use crate::sysfs::MmStat;
use crate::table::{Align, Table};

/// The arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print a JSON array instead of a table
    #[arg(long, conflicts_with_all = ["bytes", "noheadings"])]
    pub json: bool,
    /// Print sizes in bytes
    #[arg(long, short)]
    pub bytes: bool,
    /// Leave out the heading
    #[arg(long, short)]
    pub noheadings: bool,
}

/// A device in the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its path.
    pub name: String,
    /// Its bytes.
    pub disksize: u64,
    /// How its pages are compressed.
    pub algorithm: String,
    /// How many threads compress, where that is known.
    pub streams: Option<u64>,
    /// Its memory.
    pub mm_stat: MmStat,
    /// What only some devices have: a cell for each column in `more` of [`table`].
    pub more: Vec<String>,
    /// Who uses it.
    pub mountpoint: String,
}

/// The table of these devices, with the columns `more` before the last one; sizes for people, or
/// in `bytes`.
pub fn table(more: &[(&str, Align)], rows: Vec<Row>, bytes: bool) -> Table {
    let size = |value: u64| {
        if bytes {
            value.to_string()
        } else {
            format_size(value)
        }
    };
    let mut columns = vec![
        ("NAME", Align::Left),
        ("DISKSIZE", Align::Right),
        ("DATA", Align::Right),
        ("COMPR", Align::Right),
        ("ALGORITHM", Align::Left),
        ("STREAMS", Align::Right),
        ("ZERO-PAGES", Align::Right),
        ("TOTAL", Align::Right),
        ("MEM-LIMIT", Align::Right),
        ("MEM-USED", Align::Right),
        ("RATIO", Align::Right),
    ];
    columns.extend_from_slice(more);
    columns.push(("MOUNTPOINT", Align::Left));
    let mut table = Table::new(&columns);
    for row in rows {
        let mm = &row.mm_stat;
        let mut cells = vec![
            row.name,
            size(row.disksize),
            size(mm.orig_data_size),
            size(mm.compr_data_size),
            row.algorithm,
            row.streams.map(|n| n.to_string()).unwrap_or_default(),
            // What zramctl calls so are the same-filled ones, zero or not.
            mm.same_pages.to_string(),
            size(mm.mem_used_total),
            size(mm.mem_limit),
            size(mm.mem_used_max),
            format_ratio(mm.orig_data_size, mm.mem_used_total),
        ];
        cells.extend(row.more);
        cells.push(row.mountpoint);
        table.row(cells);
    }
    table
}
