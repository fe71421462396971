//! How much more each policy costs than the oracle, which tries everything and keeps the cheapest.

use super::data::{Data, Page, Set};
use super::measure::MEASURED;
use super::{FAVOURS, places, train};
use std::fmt::Write as _;
use trueno_zram_adaptive::model::{CANDIDATES, Model};
use trueno_zram_adaptive::{EntropySelector, Favour, ModelSelector, features};
use trueno_zram_core::{Algorithm, Choice, Outcome, is_trial};

/// Other prices, to show the whole range.
const PRICES: [f64; 8] = [4.0, 12.0, 16.0, 20.0, 32.0, 48.0, 128.0, 256.0];

/// Which algorithm of [`MEASURED`] a policy takes for a page.
type Policy<'a> = &'a dyn Fn(&Page) -> usize;

/// What a policy costs for these pages, and what the oracle does, in nanoseconds.
fn costs(pages: &[Page], price: f64, policy: Policy<'_>) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for page in pages {
        let costs = page.figures.map(|figures| figures.cost(price));
        sums[0] += costs[policy(page)];
        sums[1] += costs.into_iter().fold(f64::INFINITY, f64::min);
    }
    sums
}

/// In per cent, without and with so many nanoseconds for choosing.
fn regret(sums: &[[f64; 2]], pages: usize, choosing_ns: f64) -> [f64; 2] {
    let its: f64 = sums.iter().map(|sums| sums[0]).sum();
    let best: f64 = sums.iter().map(|sums| sums[1]).sum();
    [0.0, pages as f64 * choosing_ns].map(|choosing| 100.0 * ((its + choosing) / best - 1.0))
}

/// What the selector takes by this model. The selector is the one that ships.
fn by_model(model: Model<'static>, price: f64) -> impl Fn(&Page) -> usize {
    let favour = Favour::Price(price);
    let selector = ModelSelector::with_model(model, favour, &CANDIDATES).expect("they are known");
    let places = places();
    move |page| match selector.choice(&page.features) {
        Choice::Raw => 0,
        Choice::Codec(place) => places[usize::from(place)],
    }
}

/// For each set the model that decides it: one that has not seen it.
pub fn left_out(data: &Data) -> Vec<Model<'static>> {
    let without = |set: &Set| {
        let others = data
            .sets
            .iter()
            .filter(|other| other.seen && other.name != set.name);
        // A handful, and the task ends soon.
        let tables = Box::leak(Box::new(train(&others.collect::<Vec<_>>())));
        tables.model()
    };
    data.sets.iter().map(without).collect()
}

/// The place of an algorithm among what is measured.
fn place(algorithm: Algorithm) -> usize {
    let place = MEASURED.iter().position(|measured| *measured == algorithm);
    place.expect("only what is measured")
}

/// The table of all policies over the sets that are `seen` or not, without and with their own time.
fn table(data: &Data, models: &[Model<'static>], seen: bool) -> String {
    let sets = || {
        data.sets
            .iter()
            .zip(models)
            .filter(|(set, _)| set.seen == seen)
    };
    let pages = sets().map(|(set, _)| set.pages.len()).sum();
    let heads = FAVOURS.map(|favour| format!("{favour} ({} ns/byte)", favour.price()));
    let mut text = format!(
        "| | {} | with the time of choosing | | |\n|---|---|---|---|---|---|---|\n",
        heads.join(" | ")
    );
    let mut row =
        |name: &str, choosing_ns: f64, costs: &dyn Fn(&Set, Model<'static>, f64) -> [f64; 2]| {
            let regrets = FAVOURS.map(|favour| {
                let sums: Vec<[f64; 2]> = sets()
                    .map(|(set, model)| costs(set, *model, favour.price()))
                    .collect();
                regret(&sums, pages, choosing_ns)
            });
            let figures: Vec<String> = [0, 1]
                .into_iter()
                .flat_map(|with| regrets.map(|regret| format!("{:.2}", regret[with])))
                .collect();
            let _ = writeln!(text, "| {name} | {} |", figures.join(" | "));
        };
    let name = if seen {
        "**the model**, program left out"
    } else {
        "**the model**"
    };
    row(name, data.choosing_ns[0], &|set, model, price| {
        costs(&set.pages, price, &by_model(model, price))
    });
    for (at, algorithm) in MEASURED.into_iter().enumerate() {
        row(&format!("always {algorithm}"), 0.0, &|set, _, price| {
            costs(&set.pages, price, &|_| at)
        });
    }
    let (lz4, zstd1) = (place(Algorithm::Lz4), place(Algorithm::Zstd1));
    for (name, low, middle) in [
        ("lz4, none above 7", lz4, lz4),
        ("zstd1, none above 7", zstd1, zstd1),
        ("zstd1 below 4, lz4 to 7, none above", zstd1, lz4),
    ] {
        let policy = |page: &Page| match page.entropy {
            e if e > EntropySelector::SKIP_ABOVE => 0,
            e if e < EntropySelector::LOW_BELOW => low,
            _ => middle,
        };
        let name = format!("entropy: {name}");
        row(&name, data.choosing_ns[1], &|set, _, price| {
            costs(&set.pages, price, &policy)
        });
    }
    text
}

/// All tables of regret, for the card.
pub fn tables(data: &Data, models: &[Model<'static>]) -> String {
    let mut text = format!(
        "Cost beyond the oracle's in per cent, all programs together: it tries all {} and keeps \
         the cheapest. Choosing takes {} ns a page by the model and {} by exact entropy.\n\n{}",
        MEASURED.len(),
        data.choosing_ns[0],
        data.choosing_ns[1],
        table(data, models, true)
    );
    if data.sets.iter().any(|set| !set.seen) {
        text += "\nThe same for programs that nothing was trained, chosen or tuned on:\n\n";
        text += &table(data, models, false);
    }
    text += "\nThe model by program, with the time of choosing, and in brackets the best fixed \
             algorithm there:\n\n| | speed | balanced | memory |\n|---|---|---|---|\n";
    for (set, model) in data.sets.iter().zip(models) {
        let cells = FAVOURS.map(|favour| beside_fixed(&[(set, *model)], favour.price(), data));
        let unseen = if set.seen { "" } else { " (unseen)" };
        let _ = writeln!(text, "| {}{unseen} | {} |", set.name, cells.join(" | "));
    }
    text += "\nAt other prices, all programs left out in turn:\n\n\
             | ns/byte | the model (best fixed) |\n|---|---|\n";
    let seen: Vec<(&Set, Model<'static>)> = data
        .sets
        .iter()
        .zip(models.iter().copied())
        .filter(|(set, _)| set.seen)
        .collect();
    for price in PRICES {
        let _ = writeln!(text, "| {price} | {} |", beside_fixed(&seen, price, data));
    }
    text
}

/// What each feature is worth: regret of models that were made and asked without it.
pub fn features(data: &Data) -> String {
    let mut seen = data.clone();
    seen.sets.retain(|set| set.seen);
    let pages: usize = seen.sets.iter().map(|set| set.pages.len()).sum();
    let prices: Vec<f64> = FAVOURS
        .map(Favour::price)
        .into_iter()
        .chain([16.0])
        .collect();
    let mut text = "Regret of models that were made and asked without one of them, each program \
                    left out, without the time of choosing.\n\n\
                    | | speed | balanced | memory | 16 ns/byte |\n|---|---|---|---|---|\n"
        .to_owned();
    let names = features::NAMES.into_iter().enumerate();
    let removed = names.map(|(at, name)| (Some(at), format!("without {name}")));
    for (at, name) in std::iter::once((None, "all".to_owned())).chain(removed) {
        let mut data = seen.clone();
        for page in data.sets.iter_mut().flat_map(|set| &mut set.pages) {
            if let Some(at) = at {
                page.features.0[at] = 0;
            }
        }
        let models = left_out(&data);
        let figures = prices.iter().map(|price| {
            let sets = data.sets.iter().zip(&models);
            let of_set = |(set, model): (&Set, &Model<'static>)| {
                costs(&set.pages, *price, &by_model(*model, *price))
            };
            let sums: Vec<[f64; 2]> = sets.map(of_set).collect();
            format!("{:.2}", regret(&sums, pages, 0.0)[0])
        });
        let figures: Vec<String> = figures.collect();
        let _ = writeln!(text, "| {name} | {} |", figures.join(" | "));
    }
    text
}

/// On what machine the pages are imagined to be compressed: which times are longer, and how many times.
const MACHINES: [(&str, Slower, f64); 6] = [
    ("as measured", Slower::All, 1.0),
    ("all twice as slow", Slower::All, 2.0),
    ("all twice as fast", Slower::All, 0.5),
    ("Zstandard 1.5 times as slow", Slower::Zstd, 1.5),
    ("Zstandard 1.5 times as fast", Slower::Zstd, 1.0 / 1.5),
    ("LZ4 twice as slow", Slower::Lz4, 2.0),
];

#[derive(Clone, Copy)]
enum Slower {
    All,
    Zstd,
    Lz4,
}

impl Slower {
    fn is(self, algorithm: Algorithm) -> bool {
        match self {
            Slower::All => true,
            Slower::Zstd => matches!(
                algorithm,
                Algorithm::Zstd { .. } | Algorithm::ZstdAtPrice { .. }
            ),
            Slower::Lz4 => algorithm == Algorithm::Lz4,
        }
    }
}

/// What trials bring, on this machine and on others.
pub fn correction(data: &Data, models: &[Model<'static>]) -> String {
    let mut text = "What trials of all candidates bring (one page of 64, later of 4096; their own \
                    time not counted), on the machine of the times and where they would be \
                    others: regret in per cent without them and with them, each program left \
                    out and learnt from anew.\n\n\
                    | | speed | balanced | memory |\n|---|---|---|---|\n"
        .to_owned();
    for (name, slower, times) in MACHINES {
        let figures = FAVOURS.map(|favour| {
            let [without, with] = [false, true].map(|learns| {
                let sets = data.sets.iter().zip(models).filter(|(set, _)| set.seen);
                let sums = sets.fold([0.0; 2], |sums, (set, model)| {
                    let of_set = learning(set, *model, favour, (slower, times), learns);
                    [0, 1].map(|i| sums[i] + of_set[i])
                });
                100.0 * (sums[0] / sums[1] - 1.0)
            });
            format!("{without:.2} → {with:.2}")
        });
        let _ = writeln!(text, "| {name} | {} |", figures.join(" | "));
    }
    text
}

/// What a selector costs for the pages of one program, and what the oracle does.
fn learning(
    set: &Set,
    model: Model<'static>,
    favour: Favour,
    (slower, times): (Slower, f64),
    learns: bool,
) -> [f64; 2] {
    let selector = ModelSelector::with_model(model, favour, &CANDIDATES).expect("they are known");
    let places = places();
    let mut sums = [0.0; 2];
    for (count, page) in (0..).zip(&set.pages) {
        let mut figures = page.figures;
        for (figures, algorithm) in figures.iter_mut().zip(MEASURED) {
            if slower.is(algorithm) {
                figures.ns = (f64::from(figures.ns) * times) as u32;
            }
        }
        let costs = figures.map(|figures| figures.cost(favour.price()));
        sums[0] += match selector.choice(&page.features) {
            Choice::Raw => costs[0],
            Choice::Codec(place) => costs[places[usize::from(place)]],
        };
        sums[1] += costs.into_iter().fold(f64::INFINITY, f64::min);
        if learns && is_trial(count) {
            let outcome = |place: usize| Outcome {
                bytes: figures[place].bytes,
                ns: figures[place].ns,
            };
            selector.learn(&page.features, &places.map(outcome));
        }
    }
    sums
}

/// The regret of the model with its own time, and of the best fixed algorithm.
fn beside_fixed(sets: &[(&Set, Model<'static>)], price: f64, data: &Data) -> String {
    let pages = sets.iter().map(|(set, _)| set.pages.len()).sum();
    let its: Vec<[f64; 2]> = sets
        .iter()
        .map(|(set, model)| costs(&set.pages, price, &by_model(*model, price)))
        .collect();
    let fixed = |at: usize| {
        let sums: Vec<[f64; 2]> = sets
            .iter()
            .map(|(set, _)| costs(&set.pages, price, &|_| at))
            .collect();
        regret(&sums, pages, 0.0)[1]
    };
    let fixed = (0..MEASURED.len()).map(|at| (fixed(at), at));
    let best = fixed.min_by(|a, b| a.0.total_cmp(&b.0));
    let (best, at) = best.expect("something was measured");
    let its = regret(&its, pages, data.choosing_ns[0])[1];
    format!("{its:.2} ({best:.2} {})", MEASURED[at])
}
