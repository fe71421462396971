//! Makes a system call of another process's thread fail, as a kernel in trouble would.

use crate::args::Args;
use crate::sys;

/// The `fail-wait` task: the `io_uring_enter` in which thread TID waits gives EIO.
pub fn run(mut args: Args) -> Result<u8, String> {
    let tid = args.word("TID")?;
    let tid = tid.parse().map_err(|_| format!("TID cannot be `{tid}`"))?;
    args.done()?;
    for _ in 0..1000 {
        match sys::fail_io_uring_enter(tid, libc::EIO) {
            Ok(true) => return Ok(0),
            // It was just doing something else.
            Ok(false) => std::thread::sleep(std::time::Duration::from_millis(5)),
            Err(error) => return Err(format!("thread {tid}: {error}")),
        }
    }
    Err(format!("thread {tid} never waits"))
}
