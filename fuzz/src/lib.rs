//! The properties that the fuzz targets look for exceptions of, shared with the tests of the core.

#[path = "../../crates/trueno-zram-core/tests/guarded/mod.rs"]
mod guarded;
#[path = "../../crates/trueno-zram-core/tests/properties/mod.rs"]
mod properties;

pub use properties::{ALL, check};
