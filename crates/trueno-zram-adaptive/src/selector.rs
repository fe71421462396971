//! Chooses what costs least: time plus the price of the bytes that it leaves.
//!
//! ```text
//! cost = nanoseconds to compress and to restore once  +  price · bytes of the block
//! ```
//! The model says what each candidate takes, a [`Correction`] how far that is off on this machine, and
//! [`Favour`] is the price.

#![forbid(unsafe_code)]

use crate::correction::Correction;
use crate::features::{Features, NOISE};
use crate::model::{CANDIDATES, COUNT, Model, Prediction};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use trueno_zram_core::{Algorithm, Choice, Outcome, PAGE_SIZE, PageBytes, Selector};

/// What a byte of memory is worth in processor time.
///
/// The price is in nanoseconds per byte, which is the same as seconds of one processor's time for a
/// gigabyte.
///
/// ```
/// use trueno_zram_adaptive::Favour;
///
/// assert_eq!("memory".parse(), Ok(Favour::Memory));
/// assert_eq!("12.5".parse(), Ok(Favour::Price(12.5)));
/// assert_eq!(Favour::Balanced.price(), 24.0);
/// assert!("cheap".parse::<Favour>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Favour {
    /// 8 ns per byte: mostly LZ4.
    Speed,
    /// 24 ns per byte: a page is worth 98 µs, which is about what reading it from a fast disk takes.
    /// LZ4 and Zstandard cost much the same then, so the page decides.
    #[default]
    Balanced,
    /// 64 ns per byte: mostly Zstandard.
    Memory,
    /// So many nanoseconds per byte.
    Price(f64),
}

impl Favour {
    /// The highest price; more would change nothing.
    pub const PRICE_MAX: f64 = 10_000.0;

    /// Nanoseconds per byte, from 0 to [`PRICE_MAX`](Favour::PRICE_MAX).
    pub fn price(self) -> f64 {
        match self {
            Favour::Speed => 8.0,
            Favour::Balanced => 24.0,
            Favour::Memory => 64.0,
            Favour::Price(price) if price > 0.0 => price.min(Favour::PRICE_MAX),
            // Also what is no number.
            Favour::Price(_) => 0.0,
        }
    }
}

impl fmt::Display for Favour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Favour::Speed => f.pad("speed"),
            Favour::Balanced => f.pad("balanced"),
            Favour::Memory => f.pad("memory"),
            Favour::Price(price) => f.pad(&price.to_string()),
        }
    }
}

impl FromStr for Favour {
    type Err = ParseFavourError;

    fn from_str(word: &str) -> Result<Favour, ParseFavourError> {
        match word {
            "speed" => Ok(Favour::Speed),
            "balanced" => Ok(Favour::Balanced),
            "memory" => Ok(Favour::Memory),
            _ => match word.parse() {
                Ok(price) if (0.0..=Favour::PRICE_MAX).contains(&price) => Ok(Favour::Price(price)),
                _ => Err(ParseFavourError(word.to_owned())),
            },
        }
    }
}

/// A word that is no [`Favour`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseFavourError(String);

impl fmt::Display for ParseFavourError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot favour '{}': use speed, balanced, memory, or a price from 0 to {} ns per byte",
            self.0,
            Favour::PRICE_MAX
        )
    }
}

impl std::error::Error for ParseFavourError {}

/// An algorithm that the model cannot predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCandidate(pub Algorithm);

impl fmt::Display for UnknownCandidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = CANDIDATES.map(|algorithm| algorithm.to_string()).join(", ");
        write!(
            f,
            "the selector knows no figures for '{}': use some of {known}",
            self.0
        )
    }
}

impl std::error::Error for UnknownCandidate {}

/// The `adaptive` policy: what the model expects to cost least.
///
/// ```
/// use trueno_zram_adaptive::{Favour, ModelSelector};
/// use trueno_zram_core::{Algorithm, Choice, Page, Selector};
///
/// // The store's list of codecs, in its order.
/// let codecs = [Algorithm::Lz4, Algorithm::Zstd3];
/// let selector = ModelSelector::new(Favour::Memory, &codecs)?;
///
/// let mut page = Page::ZERO;
/// for (i, byte) in page.iter_mut().enumerate() {
///     *byte = b"one page of a program's memory "[i * i % 31];
/// }
/// assert!(matches!(selector.select(&page), Choice::Codec(_)));
/// println!("{}", selector.explain(&page));
/// # Ok::<(), trueno_zram_adaptive::UnknownCandidate>(())
/// ```
#[derive(Debug)]
pub struct ModelSelector {
    model: Model<'static>,
    favour: Favour,
    /// The price in 1/256 ns per byte.
    price: u64,
    /// For each candidate its place in the caller's list, if it is there.
    places: [Option<u8>; COUNT],
    correction: Correction,
    /// What is chosen in each cell of the model: a place in the caller's list, or [`RAW`].
    choices: Box<[AtomicU8]>,
}

/// In `choices`: keep the page.
const RAW: u8 = u8::MAX;

/// A page leaves the usual choice for one that is expected to be cheaper by more than one part in so
/// many. Below that the difference of two codecs is rather one of programs than one that a look at a
/// page can tell.
const MARGIN: u64 = 200;

impl ModelSelector {
    /// Chooses among `codecs`, and keeping a page as it is. The number in a [`Choice`] is the place
    /// in this list.
    ///
    /// # Errors
    /// [`UnknownCandidate`] if the list names one that is not among [`CANDIDATES`].
    pub fn new(favour: Favour, codecs: &[Algorithm]) -> Result<ModelSelector, UnknownCandidate> {
        ModelSelector::with_model(Model::default(), favour, codecs)
    }

    /// The same by another model.
    ///
    /// # Errors
    /// The same.
    pub fn with_model(
        model: Model<'static>,
        favour: Favour,
        codecs: &[Algorithm],
    ) -> Result<ModelSelector, UnknownCandidate> {
        let mut places = [None; COUNT];
        for (place, algorithm) in codecs.iter().enumerate() {
            let known = CANDIDATES.iter().position(|known| known == algorithm);
            let place = u8::try_from(place).ok().filter(|place| *place != RAW);
            let place = place.ok_or(UnknownCandidate(*algorithm))?;
            places[known.ok_or(UnknownCandidate(*algorithm))?] = Some(place);
        }
        let selector = ModelSelector {
            model,
            favour,
            price: (favour.price() * 256.0) as u64,
            places,
            correction: Correction::new(&model),
            choices: model.cells.iter().map(|_| AtomicU8::new(RAW)).collect(),
        };
        selector.choose_anew();
        Ok(selector)
    }

    /// What is chosen for a page that looks so. Noise is kept, whatever the model says of its cell.
    pub fn choice(&self, features: &Features) -> Choice {
        if features.0[NOISE] > 0 {
            return Choice::Raw;
        }
        match self.choices[self.model.cell(features)].load(Ordering::Relaxed) {
            RAW => Choice::Raw,
            place => Choice::Codec(place),
        }
    }

    /// What it favours.
    pub fn favour(&self) -> Favour {
        self.favour
    }

    /// What it has learnt from outcomes.
    pub fn correction(&self) -> &Correction {
        &self.correction
    }

    /// [`observe`](Selector::observe), of a page that looks so.
    pub fn learn(&self, features: &Features, outcomes: &[Outcome]) {
        if features.0[NOISE] > 0 {
            // It is kept, and says nothing of pages that are not.
            return;
        }
        let predicted = self.model.predict(self.model.cell(features));
        let seen = |place: Option<u8>| outcomes.get(usize::from(place?)).copied();
        self.correction.learn(&predicted, &self.places.map(seen));
        self.choose_anew();
    }

    /// Works out the choice in each cell.
    fn choose_anew(&self) {
        let usual = self.usual();
        for (cell, choice) in self.choices.iter().enumerate() {
            let place = match self.choose(&self.expect(cell), usual) {
                0 => None,
                at => self.places[at - 1],
            };
            // A thread that selects meanwhile may meet the old choice or the new one.
            choice.store(place.unwrap_or(RAW), Ordering::Relaxed);
        }
    }

    /// Why [`select`](Selector::select) chooses what it does for this page.
    pub fn explain(&self, page: &PageBytes) -> Explanation {
        let features = Features::of(page);
        let expected = self.expect(self.model.cell(&features));
        let considered = expected.iter().enumerate().filter(|(at, _)| self.has(*at));
        Explanation {
            features,
            favour: self.favour,
            considered: considered
                .map(|(at, p)| (name(at), *p, self.cost(*p) as f64 / 256.0))
                .collect(),
            usual: name(self.usual()),
            chosen: match self.choice(&features) {
                Choice::Raw => Algorithm::None,
                Choice::Codec(place) => {
                    let known = self.places.iter().position(|p| *p == Some(place));
                    known.map_or(Algorithm::None, |at| CANDIDATES[at])
                }
            },
        }
    }

    /// What to expect in a cell of keeping the page, and of each candidate, after correction.
    fn expect(&self, cell: usize) -> [Prediction; COUNT + 1] {
        let predicted = self.model.predict(cell);
        std::array::from_fn(|at| match at {
            0 => self.model.raw(),
            at => self.correction.apply(at - 1, predicted[at - 1]),
        })
    }

    /// The same in the mean of all pages.
    fn expect_mean(&self) -> [Prediction; COUNT + 1] {
        let mean = self.model.mean();
        std::array::from_fn(|at| match at {
            0 => self.model.raw(),
            at => self.correction.apply(at - 1, mean[at - 1]),
        })
    }

    /// Which of the caller's codecs is the cheapest for all pages together; 0 is keeping them.
    fn usual(&self) -> usize {
        self.cheapest(&self.expect_mean())
    }

    /// Whether the caller has this one: 0 is keeping the page.
    fn has(&self, at: usize) -> bool {
        at == 0 || self.places[at - 1].is_some()
    }

    /// In 1/256 ns.
    fn cost(&self, expected: Prediction) -> u64 {
        (u64::from(expected.ns) << 8) + self.price * u64::from(expected.bytes)
    }

    /// The place of the cheapest; of equals, the first.
    fn cheapest(&self, expected: &[Prediction; COUNT + 1]) -> usize {
        let all = (0..=COUNT).filter(|at| self.has(*at));
        all.min_by_key(|at| self.cost(expected[*at])).unwrap_or(0)
    }

    /// The place of the cheapest, if it is so by the margin, else of the usual one.
    fn choose(&self, expected: &[Prediction; COUNT + 1], usual: usize) -> usize {
        let best = self.cheapest(expected);
        let cost = self.cost(expected[usual]);
        if self.cost(expected[best]) < cost - cost / MARGIN {
            best
        } else {
            usual
        }
    }

    /// What each of the caller's algorithms is expected to cost for this page, in nanoseconds, and
    /// keeping it: to be summed over pages that one choice is made for. The usual one comes cheaper
    /// by the margin.
    pub(crate) fn costs(&self, page: &PageBytes) -> [f64; COUNT + 1] {
        let features = Features::of(page);
        let noise = features.0[NOISE] > 0;
        let usual = self.usual();
        let mut expected = self.expect(self.model.cell(&features));
        if noise {
            expected[1..]
                .iter_mut()
                .for_each(|of| of.bytes = PAGE_SIZE as u32);
        }
        std::array::from_fn(|at| {
            let cost = self.cost(expected[at]);
            let margin = if at == usual && !noise {
                cost / MARGIN
            } else {
                0
            };
            (cost - margin) as f64 / 256.0
        })
    }
}

/// 0 is keeping the page.
fn name(at: usize) -> Algorithm {
    match at {
        0 => Algorithm::None,
        at => CANDIDATES[at - 1],
    }
}

impl Selector for ModelSelector {
    fn select(&self, page: &PageBytes) -> Choice {
        self.choice(&Features::of(page))
    }

    fn learns(&self) -> usize {
        let places = self.places.iter().flatten();
        places
            .map(|place| usize::from(*place) + 1)
            .max()
            .unwrap_or(0)
    }

    /// All codecs on the same page, since a page that is hard for one is hard for the others: a codec
    /// that only answers for the pages it was chosen for looks worse than it is. The choices are worked
    /// out anew, which takes some microseconds. Places without an outcome are left as they are.
    fn observe(&self, page: &PageBytes, outcomes: &[Outcome]) {
        self.learn(&Features::of(page), outcomes);
    }
}

/// Why a choice was made: what each candidate was expected to take, and to cost.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// What the page looks like.
    pub features: Features,
    /// The price that was used.
    pub favour: Favour,
    /// The candidates, with the cost in nanoseconds at that price; [`Algorithm::None`] is keeping
    /// the page.
    pub considered: Vec<(Algorithm, Prediction, f64)>,
    /// What is chosen unless another is cheaper by half a per cent.
    pub usual: Algorithm,
    /// What is chosen.
    pub chosen: Algorithm,
}

/// Several lines: the features, then a line for each candidate, the chosen one marked by `*`.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.features)?;
        writeln!(
            f,
            "at {} ns per byte ({}), where {} is usual:",
            self.favour.price(),
            self.favour,
            self.usual
        )?;
        for (algorithm, expected, cost) in &self.considered {
            let mark = if *algorithm == self.chosen { '*' } else { ' ' };
            let (bytes, ns) = (expected.bytes, expected.ns);
            writeln!(
                f,
                "{mark} {algorithm:15} {bytes:5} bytes {ns:6} ns {cost:9.0}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(favour: Favour) -> ModelSelector {
        ModelSelector::new(favour, &CANDIDATES).unwrap()
    }

    fn noise(mut seed: u64) -> PageBytes {
        std::array::from_fn(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
    }

    fn text() -> PageBytes {
        std::array::from_fn(|i| b"the quick brown fox jumps over a lazy dog "[i * 5 % 41])
    }

    #[test]
    fn words_and_prices_are_read_as_printed() {
        for favour in [
            Favour::Speed,
            Favour::Balanced,
            Favour::Memory,
            Favour::Price(2.5),
        ] {
            assert_eq!(favour.to_string().parse(), Ok(favour));
        }
        for word in ["", "fast", "-1", "nan", "inf", "1e9"] {
            let error = word.parse::<Favour>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{word}'")), "{error}");
        }
        assert_eq!(Favour::Price(f64::NAN).price(), 0.0);
        assert_eq!(Favour::Price(1e9).price(), Favour::PRICE_MAX);
    }

    #[test]
    fn noise_is_kept_whatever_is_favoured() {
        for favour in [Favour::Speed, Favour::Balanced, Favour::Memory] {
            for seed in 0..50 {
                assert_eq!(
                    selector(favour).select(&noise(seed)),
                    Choice::Raw,
                    "{favour}"
                );
            }
        }
    }

    #[test]
    fn what_repeats_is_compressed() {
        for favour in [Favour::Speed, Favour::Balanced, Favour::Memory] {
            for page in [[0; PAGE_SIZE], [0xa5; PAGE_SIZE], text()] {
                assert_ne!(selector(favour).select(&page), Choice::Raw, "{favour}");
            }
        }
    }

    #[test]
    fn for_nothing_nothing_is_compressed() {
        assert_eq!(selector(Favour::Price(0.0)).select(&text()), Choice::Raw);
    }

    #[test]
    fn only_what_the_caller_has_is_chosen_by_its_place() {
        let algorithms = [Algorithm::Zstd3, Algorithm::Lz4];
        let both = ModelSelector::new(Favour::Speed, &algorithms).unwrap();
        assert_eq!(both.select(&text()), Choice::Codec(1));
        let one = ModelSelector::new(Favour::Speed, &algorithms[..1]).unwrap();
        assert_eq!(one.select(&text()), Choice::Codec(0));
        let none = ModelSelector::new(Favour::Speed, &[]).unwrap();
        assert_eq!(none.select(&text()), Choice::Raw);
        let error = ModelSelector::new(Favour::Speed, &[Algorithm::Lz4Hc]).unwrap_err();
        assert!(error.to_string().contains("'lz4hc'"), "{error}");
    }

    #[test]
    fn an_explanation_says_what_is_done() {
        for page in [text(), noise(1)] {
            let selector = selector(Favour::Balanced);
            let explanation = selector.explain(&page);
            let expected = match selector.select(&page) {
                Choice::Raw => Algorithm::None,
                Choice::Codec(place) => CANDIDATES[usize::from(place)],
            };
            assert_eq!(explanation.chosen, expected);
            assert!(explanation.to_string().contains(&format!("* {expected}")));
            assert_eq!(explanation.considered.len(), COUNT + 1);
        }
    }

    /// What the model expects of a page.
    fn outcomes(selector: &ModelSelector, page: &PageBytes) -> [Outcome; COUNT] {
        let cell = selector.model.cell(&Features::of(page));
        let outcome = |Prediction { bytes, ns }| Outcome { bytes, ns };
        selector.model.predict(cell).map(outcome)
    }

    #[test]
    fn a_codec_that_disappoints_is_chosen_less() {
        let selector = selector(Favour::Speed);
        let cells = |place: u8| {
            let chosen = selector.choices.iter().map(|c| c.load(Ordering::Relaxed));
            chosen.filter(|chosen| *chosen == place).count()
        };
        let before = cells(0);
        assert!(before > 0);
        for _ in 0..100 {
            let mut seen = outcomes(&selector, &text());
            seen[0].ns *= 3;
            selector.observe(&text(), &seen);
        }
        assert!(cells(0) < before, "{} of {before}", cells(0));
    }

    #[test]
    fn a_slower_machine_makes_bytes_cheaper() {
        let usual = |selector: &ModelSelector| selector.explain(&text()).usual;
        let selector = selector(Favour::Price(24.0));
        let before = usual(&selector);
        for _ in 0..200 {
            let seen = outcomes(&selector, &text()).map(|seen| Outcome {
                ns: 4 * seen.ns,
                ..seen
            });
            selector.observe(&text(), &seen);
        }
        assert_ne!(usual(&selector), before);
        assert_eq!(usual(&selector), Algorithm::Lz4);
    }

    #[test]
    fn outcomes_are_told_in_the_order_of_the_list() {
        let algorithms = [Algorithm::Zstd3, Algorithm::Lz4];
        let selector = ModelSelector::new(Favour::Balanced, &algorithms).unwrap();
        let all = outcomes(&selector, &text());
        let places = algorithms.map(|one| CANDIDATES.iter().position(|c| *c == one).unwrap());
        let mut seen = places.map(|place| all[place]);
        seen[0].bytes *= 2;
        for _ in 0..200 {
            selector.observe(&text(), &seen);
        }
        let factors = |place: usize| selector.correction().factors(place);
        assert!((factors(places[0])[0] - 2.0).abs() < 0.1);
        assert!((factors(places[1])[0] - 1.0).abs() < 0.1);
    }
}
