//! A compressed RAM disk and swap device in user space.
//!
//! ```text
//! transport (ublk queue | loop file) → target (request → pages) → trueno-zram-store
//! ```

mod block_device;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod loopdev;
mod sample;
pub mod target;
pub mod transport;
pub mod ublk;

pub use block_device::{BlockDevice, BlockDeviceStats, ENTROPY_THRESHOLD};
