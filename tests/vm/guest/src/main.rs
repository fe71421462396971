//! What runs inside the test guests: a memory hog, a locked observer, and checks of raw I/O.

mod args;
mod fault;
mod hog;
mod notified;
mod overlap;
mod pattern;
mod raw;
mod sys;
mod threads;
mod ticker;

use std::process::ExitCode;

const USAGE: &str = "usage:
  vm-guest hog --mb N --passes P --procs K (--pages FILE | --poor)
  vm-guest ticker [--while PID] [--idle SECONDS] [--max-gap MS] [--max-alloc MS]
  vm-guest raw-test DEVICE [--count N] [--bytes N] [--seed N]
  vm-guest overlap DEVICE [--threads N] [--count N] [--span-mb N] [--seed N]
  vm-guest verify-threads PID
  vm-guest fail-wait TID
  vm-guest notified SOCKET";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let task = words.next().unwrap_or_default();
    let done = args::Args::parse(words).and_then(|args| match task.as_str() {
        "hog" => hog::run(args),
        "ticker" => ticker::run(args),
        "raw-test" => raw::run(args),
        "overlap" => overlap::run(args),
        "verify-threads" => threads::run(args),
        "fail-wait" => fault::run(args),
        "notified" => notified::run(args),
        _ => Err(format!("unknown task `{task}`\n{USAGE}")),
    });
    match done {
        Ok(status) => ExitCode::from(status),
        Err(message) => {
            eprintln!("vm-guest {task}: {message}");
            ExitCode::from(2)
        }
    }
}
