//! The socket through which everyone else sees a daemon.

#![forbid(unsafe_code)]

pub mod client;
pub mod protocol;
pub mod server;
