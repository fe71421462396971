//! What every command line of ours needs: arguments, sizes as people write them, plain tables, and
//! what the kernel says about its zram devices and about who uses a block device.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod human;
pub mod list;
pub mod output;
pub mod sysfs;
pub mod table;
pub mod usage;
