//! Writes a block past the page cache, reads it back at once, and compares; in the end every block
//! that was written must still hold what was written to it last.

use crate::args::Args;
use crate::pattern::{self, Random};
use crate::sys::{self, Mapping};
use std::os::unix::fs::FileExt as _;

/// The `raw-test` task.
pub fn run(mut args: Args) -> Result<u8, String> {
    let device = args.word("DEVICE")?;
    let count: u64 = args.or("count", 20_000)?;
    let bytes: usize = args.or("bytes", 4096)?;
    let mut random = Random::new(args.or("seed", 1)?);
    args.done()?;
    let file = sys::open_direct(&device)?;
    let blocks = sys::size(&file).map_err(|error| format!("{device}: {error}"))? / bytes as u64;
    if blocks == 0 || !bytes.is_multiple_of(512) {
        return Err(format!("{device} holds no block of {bytes} bytes"));
    }
    // Mappings are aligned as direct I/O wants it.
    let mapping = || Mapping::private(bytes).map_err(|error| error.to_string());
    let (mut expected, mut found) = (mapping()?, mapping()?);
    let (expected, found) = (expected.bytes_mut(), found.bytes_mut());
    // The number of a block's last write; 0 means never written.
    let mut last = vec![0u64; usize::try_from(blocks).map_err(|error| error.to_string())?];

    let start = sys::now();
    let mut stale = 0u64;
    for number in 1..=count {
        let block = random.below(blocks);
        let at = block * bytes as u64;
        pattern::fill(expected, number);
        file.write_all_at(expected, at)
            .map_err(|error| format!("write at {at}: {error}"))?;
        file.read_exact_at(found, at)
            .map_err(|error| format!("read at {at}: {error}"))?;
        if found != expected {
            stale += 1;
            complain(found, block, number, stale);
        }
        last[block as usize] = number;
    }
    let mut lost = 0u64;
    let mut kept = 0u64;
    for (block, number) in last.iter().enumerate().filter(|(_, number)| **number != 0) {
        let at = (block * bytes) as u64;
        pattern::fill(expected, *number);
        file.read_exact_at(found, at)
            .map_err(|error| format!("read at {at}: {error}"))?;
        kept += 1;
        if found != expected {
            lost += 1;
            complain(found, block as u64, *number, lost);
        }
    }
    println!(
        "raw-test count={count} bytes={bytes} stale={stale} blocks={kept} lost={lost} ms={}",
        (sys::now() - start).as_millis()
    );
    Ok(u8::from(stale > 0 || lost > 0))
}

/// A line for each of the first few.
fn complain(found: &[u8], block: u64, number: u64, nth: u64) {
    if nth <= 5 {
        let says = pattern::number_of(found);
        println!("raw-test: block {block} should hold number {number} and says {says}");
    }
}
