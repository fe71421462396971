//! How much more each policy costs than the oracle, which tries everything and keeps the cheapest.

use super::measure::{MEASURED, PageFigures};
use super::{Page, Set, left_out, places};
use std::fmt::Write as _;
use trueno_zram_adaptive::model::Model;
use trueno_zram_adaptive::{EntropySelector, Favour};
use trueno_zram_core::Algorithm;

/// The three words.
const FAVOURS: [Favour; 3] = [Favour::Speed, Favour::Balanced, Favour::Memory];
/// Other prices, to show the whole range.
const PRICES: [f64; 7] = [4.0, 12.0, 16.0, 20.0, 32.0, 128.0, 256.0];

/// A policy: which algorithm it takes for a page at a price.
type Policy<'a> = Box<dyn Fn(usize, &Page, f64) -> usize + 'a>;

fn oracle(figures: &PageFigures, price: f64) -> usize {
    let costs = figures.map(|figures| figures.cost(price));
    let best = (0..costs.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b]));
    best.expect("something was measured")
}

/// In per cent, on one program.
fn regret(set: usize, pages: &[Page], policy: &Policy<'_>, price: f64) -> [f64; 2] {
    let (mut best, mut its) = (0.0, 0.0);
    for page in pages {
        best += page.figures[oracle(&page.figures, price)].cost(price);
        its += page.figures[policy(set, page, price)].cost(price);
    }
    [its, best]
}

fn over_all(sets: &[Set], policy: &Policy<'_>, price: f64) -> f64 {
    let mut sums = [0.0; 2];
    for (at, set) in sets.iter().enumerate() {
        let of = regret(at, &set.pages, policy, price);
        sums = [sums[0] + of[0], sums[1] + of[1]];
    }
    100.0 * (sums[0] / sums[1] - 1.0)
}

/// The place of an algorithm among what is measured.
fn place(algorithm: Algorithm) -> usize {
    let place = MEASURED.iter().position(|measured| *measured == algorithm);
    place.expect("only what is measured")
}

/// The model's choice, each program decided by a model that has not seen it.
fn model_policy<'a>(sets: &[Set], allowed: impl Fn(usize) -> bool + Copy) -> Policy<'a> {
    let models = left_out(sets, allowed);
    let raw_ns: f64 = sets
        .iter()
        .flat_map(|set| &set.pages)
        .map(|p| p.figures[0].ns())
        .sum();
    let pages: usize = sets.iter().map(|set| set.pages.len()).sum();
    let raw_ns = (raw_ns / pages as f64).round() as u32;
    let places = places();
    Box::new(move |set, page, price| {
        if page.noise {
            return 0;
        }
        let (base, trees) = &models[set];
        let model = Model {
            base: *base,
            trees,
            raw_ns,
        };
        let raw = model.raw();
        let mut best = (f64::from(raw.ns) + price * f64::from(raw.bytes), 0);
        for (expected, place) in model.predict(&page.features).into_iter().zip(places) {
            let cost = f64::from(expected.ns) + price * f64::from(expected.bytes);
            if cost < best.0 {
                best = (cost, place);
            }
        }
        best.1
    })
}

/// The model's regret for the three words, with some features only.
pub fn of_model(sets: &[Set], allowed: impl Fn(usize) -> bool + Copy) -> [f64; 3] {
    let policy = model_policy(sets, allowed);
    FAVOURS.map(|favour| over_all(sets, &policy, favour.price()))
}

/// The table of all policies, and those of the model by program and by price.
pub fn table(sets: &[Set], allowed: impl Fn(usize) -> bool + Copy) -> String {
    let skip = EntropySelector::SKIP_ABOVE;
    let below = |entropy: f64, one: Algorithm, two: Algorithm| match entropy {
        e if e > skip => place(Algorithm::None),
        e if e < EntropySelector::LOW_BELOW => place(one),
        _ => place(two),
    };
    let (lz4, zstd1) = (Algorithm::Lz4, Algorithm::Zstd1);
    let mut policies: Vec<(String, Policy<'_>)> = vec![(
        "**the model**, program left out".into(),
        model_policy(sets, allowed),
    )];
    for (at, algorithm) in MEASURED.into_iter().enumerate() {
        policies.push((format!("always {algorithm}"), Box::new(move |_, _, _| at)));
    }
    policies.push((
        "entropy: lz4, none above 7".into(),
        Box::new(move |_, page, _| below(page.entropy, lz4, lz4)),
    ));
    policies.push((
        "entropy: zstd1, none above 7".into(),
        Box::new(move |_, page, _| below(page.entropy, zstd1, zstd1)),
    ));
    policies.push((
        "entropy: zstd1 below 4, lz4 to 7, none above".into(),
        Box::new(move |_, page, _| below(page.entropy, zstd1, lz4)),
    ));
    let heads = FAVOURS.map(|favour| format!("{favour} ({} ns/byte)", favour.price()));
    let mut text = format!(
        "Cost beyond the oracle's in per cent, all programs together: \
         it tries all {} and keeps the cheapest.\n\n\
         | | {} |\n|---|---|---|---|\n",
        MEASURED.len(),
        heads.join(" | ")
    );
    for (name, policy) in &policies {
        let [a, b, c] = FAVOURS.map(|favour| over_all(sets, policy, favour.price()));
        let _ = writeln!(text, "| {name} | {a:.2} | {b:.2} | {c:.2} |");
    }
    let model = &policies[0].1;
    text += "\nThe model by program, each decided by a model that has not seen it:\n\n\
             | | speed | balanced | memory |\n|---|---|---|---|\n";
    for (at, set) in sets.iter().enumerate() {
        let [a, b, c] = FAVOURS.map(|favour| {
            let [its, best] = regret(at, &set.pages, model, favour.price());
            100.0 * (its / best - 1.0)
        });
        let _ = writeln!(text, "| {} | {a:.2} | {b:.2} | {c:.2} |", set.name);
    }
    text += "\nAt other prices, beside the best fixed algorithm:\n\n\
             | ns/byte | the model | best fixed | |\n|---|---|---|---|\n";
    for price in PRICES {
        let fixed = (0..MEASURED.len())
            .map(|at| (over_all(sets, &policies[1 + at].1, price), at))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .expect("something was measured");
        let its = over_all(sets, model, price);
        let _ = writeln!(
            text,
            "| {price} | {its:.2} | {:.2} | {} |",
            fixed.0, MEASURED[fixed.1]
        );
    }
    text
}
