//! The pages that a device meets: those of programs, and noise, in an order that mixes them.
//!
//! Neighbours come together, since a system swaps them out so: runs of 16 pages of one program, and the
//! runs in a random order that is the same each time.

use crate::train::measure::{self, Program};
use crate::{corpus, workspace};
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use trueno_zram_core::{PAGE_SIZE, Page, PageBytes};

/// Pages that stay together.
pub const RUN: usize = 16;

/// Of the order of runs and of turns, and of the noise. Any number but 0 will do.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Pages in the order in which they are written, and where they are from.
pub struct Workload {
    pub pages: Vec<Page>,
    /// Each program and how many pages it gave.
    pub programs: Vec<(String, usize)>,
    /// Pages of compressed files.
    pub compressed: usize,
    /// Pages of random bytes.
    pub random: usize,
}

impl Workload {
    /// `count` pages, if there are so many, in equal parts of the programs in `paths` (directories, or
    /// files of pages); and noise, so that it is `percent` of all.
    pub fn new(paths: &[PathBuf], count: usize, percent: u32) -> Result<Workload> {
        let (programs, archives) = match paths {
            [] => default_programs()?,
            _ => named_programs(paths)?,
        };
        mix(&programs, &archives, count, percent)
    }
}

/// Programs, and compressed bytes to take noise from.
type Found = (Vec<Program>, Vec<u8>);

fn default_programs() -> Result<Found> {
    if let Some(corpus) = std::env::var_os("TRUENO_CORPUS") {
        return named_programs(&[corpus.into()]);
    }
    let mut program = measure::program(&corpus::unpacked()?)?;
    program.name = "tests/data/pages.zst".into();
    Ok((vec![program], sample()?))
}

fn named_programs(paths: &[PathBuf]) -> Result<Found> {
    let mut programs = Vec::new();
    let mut archives = Vec::new();
    let is_archive = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "zst");
    for path in paths {
        let files = if path.is_dir() {
            programs.extend(measure::programs(path)?);
            let entries = std::fs::read_dir(path)?.flatten();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            files.sort();
            files
        } else {
            programs.push(measure::program(path)?);
            vec![path.clone()]
        };
        for file in files.iter().filter(|path| is_archive(path)) {
            archives.extend(read(file)?);
        }
    }
    // Pages that nobody has compressed yet bring no noise.
    if archives.is_empty() {
        archives = sample()?;
    }
    Ok((programs, archives))
}

/// The committed sample as it is, compressed.
fn sample() -> Result<Vec<u8>> {
    read(&workspace::root().join("tests/data/pages.zst"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn mix(programs: &[Program], archives: &[u8], count: usize, percent: u32) -> Result<Workload> {
    let mut runs: Vec<Vec<Page>> = Vec::new();
    let mut taken = Vec::new();
    for program in programs {
        let before = runs.len();
        runs.extend(spread(&program.pages, count / programs.len() / RUN));
        taken.push((program.name.clone(), (runs.len() - before) * RUN));
    }
    ensure!(
        !runs.is_empty(),
        "{count} pages of {} programs are less than a run of {RUN} of each: give --pages a larger \
         number, or larger files",
        programs.len()
    );
    let noise = runs.len() as f64 * f64::from(percent) / f64::from(100 - percent);
    let noise = noise.round() as usize;
    let packed: &[PageBytes] = archives.as_chunks().0;
    let packed: Vec<Page> = packed.iter().map(|page| Page(*page)).collect();
    let compressed = spread(&packed, noise / 2);
    let compressed_runs = compressed.len();
    runs.extend(compressed);
    let mut random = Random::new();
    for _ in compressed_runs..noise {
        runs.push((0..RUN).map(|_| random.page()).collect());
    }
    random.shuffle(&mut runs);
    Ok(Workload {
        pages: runs.concat(),
        programs: taken,
        compressed: compressed_runs * RUN,
        random: (noise - compressed_runs) * RUN,
    })
}

/// So many runs of `pages`, or all, evenly spread.
fn spread(pages: &[Page], count: usize) -> Vec<Vec<Page>> {
    let all = pages.len() / RUN;
    let count = count.min(all);
    let run = |number: usize| {
        let begin = number * all / count * RUN;
        pages[begin..begin + RUN].to_vec()
    };
    (0..count).map(run).collect()
}

/// xorshift64 (Marsaglia 2003).
pub struct Random(u64);

impl Random {
    /// The same numbers each time.
    pub fn new() -> Random {
        Random(SEED)
    }

    /// Each changes its place with one at or before it (Fisher and Yates).
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            all.swap(at, (self.next() % (at as u64 + 1)) as usize);
        }
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn page(&mut self) -> Page {
        let mut page = Page([0; PAGE_SIZE]);
        for word in page.as_chunks_mut().0 {
            *word = self.next().to_le_bytes();
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Page `n` of program `p` begins with both.
    fn program(number: u8, count: usize) -> Program {
        let page = |at: usize| {
            let mut page = Page([7; PAGE_SIZE]);
            page[0] = number;
            page[1] = at as u8;
            page
        };
        Program {
            name: number.to_string(),
            pages: (0..count).map(page).collect(),
        }
    }

    #[test]
    fn a_workload_has_the_parts_that_were_asked_for() {
        let programs = [program(1, 160), program(2, 48), program(3, 200)];
        let archives = vec![9; 64 * PAGE_SIZE + 5];
        let made = mix(&programs, &archives, 3 * 96, 50).unwrap();
        assert_eq!(
            made.programs,
            [("1".into(), 96), ("2".into(), 48), ("3".into(), 96)]
        );
        // Half of 240 pages of noise would be 120, and 112 are whole runs; the archives have 64.
        assert_eq!((made.compressed, made.random), (64, 176));
        assert_eq!(made.pages.len(), 480);
        let of = |first: u8| {
            made.pages
                .iter()
                .filter(move |page| page[..3] == [first, page[1], 7])
        };
        assert_eq!([1, 2, 3].map(|first| of(first).count()), [96, 48, 96]);
        assert_eq!(
            made.pages
                .iter()
                .filter(|page| page[..] == [9; PAGE_SIZE])
                .count(),
            64
        );

        let quiet = mix(&programs, &archives, 3 * 96, 0).unwrap();
        assert_eq!(
            (quiet.pages.len(), quiet.compressed, quiet.random),
            (240, 0, 0)
        );
        assert!(mix(&programs, &archives, 30, 10).is_err());
    }

    #[test]
    fn neighbours_stay_together_and_programs_take_turns() {
        let programs = [program(1, 160), program(2, 160)];
        let made = mix(&programs, &[], 320, 0).unwrap();
        let mut changes = 0;
        for run in made.pages.chunks(RUN) {
            assert!(
                run.iter()
                    .zip(run[0][1]..)
                    .all(|(page, at)| page[..2] == [run[0][0], at])
            );
        }
        for runs in made.pages.chunks(RUN).collect::<Vec<_>>().windows(2) {
            changes += usize::from(runs[0][0][0] != runs[1][0][0]);
        }
        assert!(changes > 4, "{changes}");
        let again = mix(&programs, &[], 320, 0).unwrap();
        assert!(made.pages == again.pages);
    }
}
