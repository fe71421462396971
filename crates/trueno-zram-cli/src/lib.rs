//! What every command line of ours needs: arguments, sizes as people write them, plain tables, what the
//! kernel says about its zram devices and about who uses a block device, and the memory of processes.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod human;
pub mod list;
pub mod output;
pub mod process_memory;
pub mod sysfs;
pub mod table;
pub mod usage;
