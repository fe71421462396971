//! A ublk device that keeps nothing: what remains is the cost of the way through the kernel.
//!
//! `ublk_null BYTES QUEUES` makes `/dev/ublkbN`, prints its name, and serves it until it is told
//! to end with a line (or the end) of its standard input.

use std::io::BufRead as _;
use std::sync::Arc;
use trueno_ublk::target::{Errno, Handle, Serve};
use trueno_ublk::transport::{Device as _, ThreadHooks};
use trueno_ublk::ublk::{Spec, UblkDevice};

struct Null {
    size: u64,
}

impl Serve for Null {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        4096
    }

    fn serve(&self) -> Box<dyn Handle> {
        Box::new(Nothing)
    }
}

struct Nothing;

impl Handle for Nothing {
    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn discard(&mut self, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Errno> {
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let mut number = |default: u64| words.next().map_or(Ok(default), |word| word.parse());
    let size = number(1 << 30)?;
    let spec = Spec {
        queues: number(1)?.try_into()?,
        ..Spec::default()
    };
    let mut device = UblkDevice::prepare(&spec, Arc::new(Null { size }), ThreadHooks::none())?;
    device.start()?;
    println!(
        "{}",
        device
            .path()
            .expect("a started device has a path")
            .display()
    );
    std::io::stdin().lock().read_line(&mut String::new())?;
    device.stop()?;
    device.delete()?;
    Ok(())
}
