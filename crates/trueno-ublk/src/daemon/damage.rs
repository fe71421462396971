//! Tells the log of the damaged objects that reads and writes have met.
//!
//! Those who meet them serve I/O and may not log: they leave notes in the store, at which the main
//! thread looks. A storm of them must not fill the log.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};
use trueno_zram_core::PAGE_SIZE;
use trueno_zram_store::{Met, Store};

/// How often to look.
pub const PERIOD: Duration = Duration::from_secs(1);

/// Lines that may be written in each of these times. What is met beyond them is only counted.
const LINES: u32 = 10;
const LINES_PERIOD: Duration = Duration::from_secs(60);

/// What the log has been told.
#[derive(Debug)]
pub struct Reporter {
    /// Notes of the store that were seen.
    seen: u64,
    /// Lines since `begin`, and what was met without one.
    lines: u32,
    untold: u64,
    begin: Instant,
}

impl Reporter {
    /// Nothing yet.
    pub fn new(now: Instant) -> Reporter {
        Reporter {
            seen: 0,
            lines: 0,
            untold: 0,
            begin: now,
        }
    }

    /// Says what `store` has met since the last time, as far as there may be lines.
    pub fn look(&mut self, store: &Store, now: Instant, mut say: impl FnMut(String)) {
        if now >= self.begin + LINES_PERIOD {
            if self.untold > 0 {
                say(format!(
                    "damaged objects were met {} more times",
                    self.untold
                ));
            }
            (self.begin, self.lines, self.untold) = (now, 0, 0);
        }
        let mut told = 0;
        let seen = store.damage_since(self.seen, |damage| {
            if self.lines == LINES {
                return;
            }
            self.lines += 1;
            told += 1;
            let how = match damage.met {
                Met::Reading => "is damaged: a read of it failed",
                Met::Changing => "is damaged: a write to a part of it failed",
                _ => {
                    "was damaged when it was overwritten or discarded: the memory it had is not \
                     used again"
                }
            };
            let offset = damage.page * PAGE_SIZE as u64;
            say(format!("page {} (byte {offset}) {how}", damage.page));
        });
        self.untold += seen - self.seen - told;
        self.seen = seen;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::sync::Arc;
    use trueno_zram_core::Page;
    use trueno_zram_core::codec::lz4::Lz4;
    use trueno_zram_store::{Config, Memory};

    /// An empty store of `size` bytes, the file that it lies in, and where its objects begin there.
    pub fn store_in_file(size: u64) -> (Arc<Store>, File, u64) {
        let config = Config::new(size, Arc::new(Lz4::new()));
        let bytes = config.memory_bytes().unwrap();
        let arena = config.arena_offset().unwrap();
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        let memory = Memory::from_file(file.try_clone().unwrap(), bytes).unwrap();
        (
            Arc::new(Store::create(config, memory).unwrap()),
            file,
            arena,
        )
    }

    #[test]
    fn a_storm_is_told_in_few_lines_that_add_up() {
        let (store, file, arena) = store_in_file(1 << 20);
        let mut worker = store.worker();
        let mut page = Page::boxed();
        page[0] = 1;
        worker.write(3, &page).unwrap();
        file.write_all_at(&[0xff; 8], arena).unwrap();

        let begin = Instant::now();
        let mut reporter = Reporter::new(begin);
        let mut look = |seconds| {
            let mut said = Vec::new();
            let now = begin + Duration::from_secs(seconds);
            reporter.look(&store, now, |line| said.push(line));
            said
        };
        assert!(look(0).is_empty());
        worker.read(3, &mut page).unwrap_err();
        assert_eq!(
            look(1),
            ["page 3 (byte 12288) is damaged: a read of it failed"]
        );
        worker.write_part(3, 5, &[1]).unwrap_err();
        assert!(look(2)[0].contains("a part of it failed"));
        for second in 3..60 {
            for _ in 0..100 {
                worker.read(3, &mut page).unwrap_err();
            }
            assert_eq!(look(second).len(), if second == 3 { 8 } else { 0 });
        }
        assert_eq!(
            look(60),
            [format!(
                "damaged objects were met {} more times",
                57 * 100 - 8
            )]
        );
        worker.write(3, &Page::ZERO).unwrap();
        assert!(look(61)[0].contains("not used again"));
        assert!(look(200).is_empty());
    }
}
