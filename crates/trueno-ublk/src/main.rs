//! `trueno-ublk`: a compressed RAM disk and swap device. All of it is in the library.

use std::process::ExitCode;
use trueno_ublk::daemon::heap::GuardedHeap;

#[global_allocator]
static HEAP: GuardedHeap = GuardedHeap;

fn main() -> ExitCode {
    trueno_ublk::cli::main()
}
