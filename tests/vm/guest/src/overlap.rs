//! Threads write overlapping ranges at the same time while others read them. Whatever the order,
//! every 4 KiB block must at all times hold one value that was written, whole.

use crate::args::Args;
use crate::pattern::{self, Random};
use crate::sys::{self, Mapping};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

const BLOCK: usize = 4096;
/// The longest request, in blocks.
const REQUEST_MAX: u64 = 64;
const READERS: u64 = 2;
/// A block's number is the writer (from 1) above this bit and the writer's count below it.
const WRITER_SHIFT: u32 = 32;

/// What is tested.
struct Range {
    file: File,
    blocks: u64,
    writers: u64,
    count: u64,
}

/// The `overlap` task.
pub fn run(mut args: Args) -> Result<u8, String> {
    let device = args.word("DEVICE")?;
    let writers: u64 = args.or("threads", 4)?;
    let count: u64 = args.or("count", 2000)?;
    let span_mb: u64 = args.or("span-mb", 1)?;
    let seed: u64 = args.or("seed", 1)?;
    args.done()?;
    let file = sys::open_direct(&device)?;
    let blocks = span_mb << 20 >> 12;
    let size = sys::size(&file).map_err(|error| format!("{device}: {error}"))?;
    if blocks < REQUEST_MAX || size < span_mb << 20 {
        return Err(format!(
            "--span-mb {span_mb} does not fit {device} of {size} bytes"
        ));
    }
    let range = Range {
        file,
        blocks,
        writers,
        count,
    };
    // Known content first: number 0 is what nobody writes.
    let zero = Mapping::private(BLOCK).map_err(|error| error.to_string())?;
    for block in 0..blocks {
        let at = block * BLOCK as u64;
        range
            .file
            .write_all_at(zero.bytes(), at)
            .map_err(|error| format!("write: {error}"))?;
    }

    let start = sys::now();
    let (torn, reads) = (AtomicU64::new(0), AtomicU64::new(0));
    let writing = AtomicBool::new(true);
    let outcome: Result<(), String> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let (range, torn, reads, writing) = (&range, &torn, &reads, &writing);
                let seed = seed ^ reader << 20;
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    while writing.load(Relaxed) {
                        torn.fetch_add(range.read(&mut random)?, Relaxed);
                        reads.fetch_add(1, Relaxed);
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        let threads: Vec<_> = (1..=writers)
            .map(|writer| {
                let range = &range;
                scope.spawn(move || range.write(writer, Random::new(seed ^ writer << 8)))
            })
            .collect();
        let wrote: Result<(), String> = threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(panicked)?);
        writing.store(false, Relaxed);
        readers
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(panicked)?)?;
        wrote
    });
    outcome?;
    let (mut mixed, mut written) = (0u64, 0u64);
    let mut buffer = Mapping::private(BLOCK).map_err(|error| error.to_string())?;
    for block in 0..blocks {
        let found = buffer.bytes_mut();
        let at = block * BLOCK as u64;
        range
            .file
            .read_exact_at(found, at)
            .map_err(|error| format!("read: {error}"))?;
        mixed += u64::from(!range.is_whole(found));
        written += u64::from(pattern::number_of(found) != 0);
    }
    let torn = torn.load(Relaxed);
    println!(
        "overlap threads={writers} count={count} blocks={blocks} written={written} mixed={mixed} \
         reads={} torn={torn} ms={}",
        reads.load(Relaxed),
        (sys::now() - start).as_millis()
    );
    Ok(u8::from(mixed > 0 || torn > 0))
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> String {
    "a thread panicked".into()
}

impl Range {
    /// The range of one request.
    fn request(&self, random: &mut Random) -> (u64, u64) {
        let length = 1 + random.below(REQUEST_MAX);
        (random.below(self.blocks - length + 1), length)
    }

    fn write(&self, writer: u64, mut random: Random) -> Result<(), String> {
        let mut buffer = Mapping::private(REQUEST_MAX as usize * BLOCK)
            .map_err(|error| format!("memory: {error}"))?;
        for number in 1..=self.count {
            let (first, length) = self.request(&mut random);
            let data = &mut buffer.bytes_mut()[..length as usize * BLOCK];
            for block in data.chunks_exact_mut(BLOCK) {
                pattern::fill(block, writer << WRITER_SHIFT | number);
            }
            self.file
                .write_all_at(data, first * BLOCK as u64)
                .map_err(|error| format!("write of {length} blocks at {first}: {error}"))?;
        }
        Ok(())
    }

    /// Read a range; how many of its blocks were no whole value.
    fn read(&self, random: &mut Random) -> Result<u64, String> {
        let mut buffer = Mapping::private(REQUEST_MAX as usize * BLOCK)
            .map_err(|error| format!("memory: {error}"))?;
        let (first, length) = self.request(random);
        let data = &mut buffer.bytes_mut()[..length as usize * BLOCK];
        self.file
            .read_exact_at(data, first * BLOCK as u64)
            .map_err(|error| format!("read of {length} blocks at {first}: {error}"))?;
        Ok(data
            .chunks_exact(BLOCK)
            .filter(|block| !self.is_whole(block))
            .count() as u64)
    }

    /// True when a block holds one value that was written, or nothing yet.
    fn is_whole(&self, block: &[u8]) -> bool {
        let number = pattern::number_of(block);
        if number == 0 {
            return block.iter().all(|byte| *byte == 0);
        }
        let (writer, count) = (number >> WRITER_SHIFT, number & ((1 << WRITER_SHIFT) - 1));
        let mut expected = [0; BLOCK];
        pattern::fill(&mut expected, number);
        (1..=self.writers).contains(&writer)
            && (1..=self.count).contains(&count)
            && *block == expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_of_two_values_is_not_whole() {
        let file = File::open("/dev/null").unwrap();
        let range = Range {
            file,
            blocks: 64,
            writers: 2,
            count: 10,
        };
        let (mut a, mut b) = ([0; BLOCK], [0; BLOCK]);
        assert!(range.is_whole(&a));
        pattern::fill(&mut a, 1 << WRITER_SHIFT | 4);
        pattern::fill(&mut b, 2 << WRITER_SHIFT | 9);
        assert!(range.is_whole(&a) && range.is_whole(&b));
        b[BLOCK / 2..].copy_from_slice(&a[BLOCK / 2..]);
        assert!(!range.is_whole(&b));
        pattern::fill(&mut a, 3 << WRITER_SHIFT | 4);
        assert!(!range.is_whole(&a), "there is no third writer");
    }
}
