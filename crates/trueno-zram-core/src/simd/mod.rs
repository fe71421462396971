//! The few loops over a page that are our own, compiled once for each instruction set.
//!
//! An algorithm ([`same`], the encoder of LZ4) is written once over [`vector::Vector`]. A file named after an
//! instruction set implements the trait, and compiles the whole loop in a function with that target
//! feature, so that the operations are inlined into it.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
mod same;
pub(crate) mod scalar;
pub(crate) mod vector;
