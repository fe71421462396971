//! What two things would bring that devices cannot do yet: a dictionary, and clusters, which are several
//! pages as one object.

use super::{bytes_of, measure};
use crate::sample::Sources;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use trueno_zram_cli::human::format_size;
use trueno_zram_core::codec::zstd::{Dictionary, Zstd};
use trueno_zram_core::samefill::page_same_filled;
use trueno_zram_core::{Codec, PAGE_SIZE, PageBytes, Scratch};
use trueno_zram_store::{BLOCK_MAX, Config};

/// Bytes of the dictionary, and the fewest pages to learn one from.
const DICTIONARY_BYTES: usize = 16 << 10;
const DICTIONARY_PAGES: usize = 512;

/// Pages of clusters; pages that are taken side by side to be made clusters of; and how often.
const CLUSTERS: [usize; 2] = [4, RUN as usize];
const RUN: u64 = 16;
const RUNS: u64 = 256;

/// What something that devices cannot do yet would bring.
#[derive(Debug, Serialize)]
pub struct Gain {
    algorithm: &'static str,
    /// Compressed bytes of the same pages without it, and with it.
    without_bytes: u64,
    with_bytes: u64,
}

impl Gain {
    /// How much smaller, in per cent.
    fn percent(&self) -> f64 {
        let (without, with) = (self.without_bytes as f64, self.with_bytes as f64);
        100.0 * (1.0 - with / without.max(1.0))
    }
}

/// A dictionary, learnt from every second page of the sample and used for the others.
#[derive(Debug, Serialize)]
pub struct Learnt {
    /// Bytes of the dictionary.
    dictionary_bytes: usize,
    #[serde(flatten)]
    gain: Gain,
}

/// So many pages that follow each other, as one object.
#[derive(Debug, Serialize)]
pub struct Cluster {
    cluster_pages: usize,
    #[serde(flatten)]
    gain: Gain,
}

impl fmt::Display for Learnt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a dictionary of {} would make {} {:.1}% smaller (devices cannot use one yet)",
            format_size(self.dictionary_bytes as u64),
            self.gain.algorithm,
            self.gain.percent()
        )
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{0} pages in a row as one object would make {1} {2:.1}% smaller (devices \
             cannot do that yet; reading one page would restore all {0})",
            self.cluster_pages,
            self.gain.algorithm,
            self.gain.percent()
        )
    }
}

/// None: pages are too few, or have too little in common.
pub fn dictionary(sample: &[PageBytes]) -> anyhow::Result<Option<Learnt>> {
    if sample.len() < 2 * DICTIONARY_PAGES {
        return Ok(None);
    }
    let Ok(learnt) = Dictionary::train(sample.iter().step_by(2), DICTIONARY_BYTES) else {
        return Ok(None);
    };
    let others = || sample[1..].iter().step_by(2);
    let zstd1 = Zstd::new(1)?;
    let dictionary_bytes = learnt.as_bytes().len();
    let with = Arc::new(zstd1.with_dictionary(Arc::new(learnt)));
    let compressed = |codec| {
        let config = Config::new(bytes_of(sample), codec);
        Ok(measure(others(), config)?.stats.compr_data_size)
    };
    let compressed: &dyn Fn(Arc<dyn Codec>) -> anyhow::Result<u64> = &compressed;
    let gain = Gain {
        algorithm: "zstd1",
        without_bytes: compressed(Arc::new(zstd1))?,
        with_bytes: compressed(with)?,
    };
    let is_gain = gain.with_bytes < gain.without_bytes;
    Ok(is_gain.then_some(Learnt {
        dictionary_bytes,
        gain,
    }))
}

/// None: there are too few pages.
pub fn clusters(sources: &Sources, pages: u64) -> anyhow::Result<Vec<Cluster>> {
    of_runs(&sources.take_runs(RUNS.min(pages / RUN), RUN)?)
}

/// What the pages of each run take, by clusters of each size and one by one. Those that are one repeated
/// word are no part of a cluster, so the last one of a run may be shorter; a page that is left alone stays
/// alone.
fn of_runs(runs: &[PageBytes]) -> anyhow::Result<Vec<Cluster>> {
    let zstd1 = Zstd::new(1)?;
    let mut scratch = Scratch::new();
    let mut block = [0; BLOCK_MAX];
    let mut alone = |page: &PageBytes| {
        let bytes = zstd1.compress(page, &mut block, &mut scratch);
        bytes.unwrap_or(PAGE_SIZE) as u64
    };
    let mut without_bytes = 0;
    let mut with_bytes = [0; CLUSTERS.len()];
    for run in runs.chunks(RUN as usize) {
        let pages = run.iter().filter(|page| page_same_filled(page).is_none());
        let pages: Vec<PageBytes> = pages.copied().collect();
        without_bytes += pages.iter().map(&mut alone).sum::<u64>();
        for (size, bytes) in CLUSTERS.iter().zip(&mut with_bytes) {
            for cluster in pages.chunks(*size) {
                *bytes += match cluster {
                    [page] => alone(page),
                    // What does not get smaller is kept as it is, as a page is.
                    _ => bytes_of(cluster).min(zstd1.frame_bytes(cluster.as_flattened()) as u64),
                };
            }
        }
    }
    let gains = CLUSTERS
        .iter()
        .zip(with_bytes)
        .map(|(size, with_bytes)| Cluster {
            cluster_pages: *size,
            gain: Gain {
                algorithm: "zstd1",
                without_bytes,
                with_bytes,
            },
        });
    Ok(gains.filter(|_| without_bytes > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::pages;
    use super::*;

    #[test]
    fn clusters_find_what_pages_have_in_common() {
        // Noise that repeats after four pages, then pages of one word.
        let noise = pages(16);
        let noise = |number: usize| noise[4 * (number % 4) + 1];
        let same = (0..16).map(|_| [9; PAGE_SIZE]);
        let runs: Vec<PageBytes> = (0..16).map(noise).chain(same).collect();
        let [four, sixteen] = &of_runs(&runs).unwrap()[..] else {
            panic!("two sizes")
        };
        assert_eq!((four.cluster_pages, sixteen.cluster_pages), (4, 16));
        assert_eq!(four.gain.without_bytes, 16 * PAGE_SIZE as u64);
        assert!(four.gain.percent().abs() < 0.1, "{four:?}");
        assert!(
            (74.0..75.0).contains(&sixteen.gain.percent()),
            "{sixteen:?}"
        );
        // A page that is left alone is no cluster, and nothing is none.
        let mut alone = runs[16..].to_vec();
        alone[3] = pages(3)[2];
        for cluster in of_runs(&alone).unwrap() {
            let gain = cluster.gain;
            assert!(
                gain.with_bytes == gain.without_bytes && gain.with_bytes > 0,
                "{gain:?}"
            );
        }
        assert!(of_runs(&runs[16..]).unwrap().is_empty());
    }

    #[test]
    fn a_dictionary_helps_pages_that_have_words_in_common() {
        // Records of 256 letters, of which each page has a few: new to each page, old to all of them.
        let letters = pages(4096);
        let record = |number: usize| letters[4 * (number % 64) + 1][..256].iter();
        let sharing: Vec<PageBytes> = (0..4096)
            .map(|page| {
                let mut bytes = (0..16).flat_map(|part| record(page * 7 + part / 2 * part));
                std::array::from_fn(|_| bytes.next().unwrap() % 26 + b'a')
            })
            .collect();
        let gain = dictionary(&sharing).unwrap().expect("enough pages");
        assert!(
            2 * gain.gain.with_bytes < gain.gain.without_bytes,
            "{gain:?}"
        );
        assert!(dictionary(&pages(100)).unwrap().is_none());
    }
}
