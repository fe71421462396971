//! The plot, as SVG: a point for each policy, and the line between the fixed codecs.

use super::curve::{self, Point};
use super::{Kind, Row, fixed};
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 610.0;
/// The frame's left, right, top and bottom.
const FRAME: [f64; 4] = [80.0, 840.0, 50.0, 500.0];

/// A letter of a label, in the mean.
const LETTER: f64 = 6.4;
const LABEL_HEIGHT: f64 = 13.0;
/// Half of what a point takes.
const POINT: f64 = 5.0;

/// Both dark and light pages show it: it brings its own background.
const STYLE: &str = "\
    text{font:12px sans-serif;fill:#222}.title{font-size:15px}.small{font-size:11px}\
    .back{fill:#fff}.frame{fill:none;stroke:#888}.grid{stroke:#e4e4e4}.leader{stroke:#999}\
    .line{fill:none;stroke:#1864ab;stroke-dasharray:6 4}.path{fill:none;stroke:#d9480f;opacity:.5}\
    .fixed{fill:#1864ab}.entropy{fill:#2b8a3e}.adaptive{fill:#d9480f}\
    @media (prefers-color-scheme:dark){text{fill:#ddd}.back{fill:#161b22}.grid{stroke:#30363d}\
    .line{stroke:#74c0fc}.path{stroke:#ffa94d}.fixed{fill:#74c0fc}.entropy{fill:#69db7c}\
    .adaptive{fill:#ffa94d}}";

/// One axis: values that have round numbers at both ends, and where they lie.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// All of `values` with some room beside them, between `from` and `to` of the drawing.
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let room = (0.05 * (high - low)).max(0.01 * high);
        let (low, high) = ((low - room).max(0.0), high + room);
        // 1, 2 or 5 times a power of ten, so that there are some eight steps.
        let wanted = (high - low) / 8.0;
        let power = 10f64.powf(wanted.log10().floor());
        let times = [1.0, 2.0, 5.0, 10.0];
        let step = power
            * times
                .into_iter()
                .find(|times| times * power >= wanted)
                .unwrap_or(10.0);
        Axis {
            low: (low / step).floor() * step,
            high: (high / step).ceil() * step,
            step,
            from,
            to,
        }
    }

    fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(|tick| self.low + tick as f64 * self.step)
    }
}

/// Left, top, right and bottom.
type Place = [f64; 4];

fn overlap(a: Place, b: Place) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// What a line takes: small places from corner to corner.
fn along(corners: &[(f64, f64)]) -> Vec<Place> {
    let mut places = Vec::new();
    for pair in corners.windows(2) {
        let [(from_x, from_y), (to_x, to_y)] = [pair[0], pair[1]];
        let count = ((to_x - from_x).hypot(to_y - from_y) / POINT).ceil();
        for step in 0..count as usize {
            let part = step as f64 / count;
            let (x, y) = (
                from_x + part * (to_x - from_x),
                from_y + part * (to_y - from_y),
            );
            places.push([x - 1.0, y - 1.0, x + 1.0, y + 1.0]);
        }
    }
    places
}

/// A place for a label beside each point, where it covers no other, no point, nothing that is taken, and
/// not the frame: close if that is possible, else farther away. One that finds none is to the right.
fn labels(points: &[(f64, f64)], labels: &[&str], mut taken: Vec<Place>) -> Vec<Place> {
    taken.extend(
        points
            .iter()
            .map(|(x, y)| [x - POINT, y - POINT, x + POINT, y + POINT]),
    );
    let [left, right, top, bottom] = FRAME;
    let mut places = Vec::new();
    for ((x, y), label) in points.iter().zip(labels) {
        let width = LETTER * label.chars().count() as f64;
        // Right, left, above, below, and between these.
        let directions = [
            (1.0, 0.0),
            (-1.0, 0.0),
            (0.0, -1.0),
            (0.0, 1.0),
            (0.7, -0.7),
            (-0.7, 0.7),
            (-0.7, -0.7),
            (0.7, 0.7),
        ];
        let candidate = |distance: f64, (dx, dy): (f64, f64)| {
            let middle = x + dx * (distance + width / 2.0);
            let line = y + dy * (distance + LABEL_HEIGHT / 2.0);
            let (half, rise) = (width / 2.0, LABEL_HEIGHT / 2.0);
            [middle - half, line - rise, middle + half, line + rise]
        };
        let free = |place: &Place| {
            let inside = place[0] > left && place[2] < right && place[1] > top && place[3] < bottom;
            inside && !taken.iter().any(|other| overlap(*place, *other))
        };
        let distances = [7.0, 18.0, 30.0, 44.0];
        let mut all = distances
            .iter()
            .flat_map(|distance| directions.map(|direction| candidate(*distance, direction)));
        let place = all
            .find(free)
            .unwrap_or(candidate(distances[0], directions[0]));
        taken.push(place);
        places.push(place);
    }
    places
}

/// The mark of a kind of policy around a place.
fn mark(kind: Kind, x: f64, y: f64) -> String {
    match kind {
        Kind::Fixed => format!(
            r#"rect class="fixed" x="{:.1}" y="{:.1}" width="8" height="8""#,
            x - 4.0,
            y - 4.0
        ),
        Kind::Entropy => format!(
            r#"path class="entropy" d="M{x:.1} {:.1}l5.5 9.5h-11z""#,
            y - 5.5
        ),
        Kind::Adaptive => format!(r#"circle class="adaptive" cx="{x:.1}" cy="{y:.1}" r="4.5""#),
    }
}

/// The plot of these policies.
pub fn draw(rows: &[Row]) -> String {
    let [left, right, top, bottom] = FRAME;
    let x = Axis::new(rows.iter().map(|row| row.figures.point.us), left, right);
    let y = Axis::new(rows.iter().map(|row| row.figures.point.bytes), bottom, top);
    let place = |point: Point| (x.place(point.us), y.place(point.bytes));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         role=\"img\">\n<title>Processor time and memory of a page, by codec and policy</title>\n\
         <style>{STYLE}</style>\n<rect class=\"back\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n"
    );
    // A string takes everything, here and below.
    for us in x.ticks() {
        let at = x.place(us);
        let _ = writeln!(
            svg,
            r#"<path class="grid" d="M{at:.1} {top}V{bottom}"/>
<text x="{at:.1}" y="{}" text-anchor="middle">{}</text>"#,
            bottom + 18.0,
            number(us, x.step),
        );
    }
    for bytes in y.ticks() {
        let at = y.place(bytes);
        let _ = writeln!(
            svg,
            r#"<path class="grid" d="M{left} {at:.1}H{right}"/>
<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
            left - 8.0,
            at + 4.0,
            number(bytes, y.step),
        );
    }
    let _ = writeln!(
        svg,
        r#"<rect class="frame" x="{left}" y="{top}" width="{}" height="{}"/>
<text class="title" x="{left}" y="28">What a page costs: down and to the left is better</text>
<g text-anchor="middle">
<text x="{}" y="{}">processor time to write a page and to read it once, µs</text>
<text transform="translate(22 {}) rotate(-90)">memory of a page, bytes</text>
</g>"#,
        right - left,
        bottom - top,
        (left + right) / 2.0,
        bottom + 42.0,
        (top + bottom) / 2.0,
    );
    let fixed: Vec<Point> = fixed(rows).iter().map(|row| row.figures.point).collect();
    let adaptive = rows.iter().filter(|row| row.kind == Kind::Adaptive);
    let adaptive: Vec<Point> = adaptive.map(|row| row.figures.point).collect();
    let mut taken = Vec::new();
    for (class, points) in [("line", curve::line(&fixed)), ("path", adaptive)] {
        let corners: Vec<(f64, f64)> = points.into_iter().map(place).collect();
        taken.extend(along(&corners));
        let corners: Vec<String> = corners
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let _ = writeln!(
            svg,
            r#"<polyline class="{class}" points="{}"/>"#,
            corners.join(" ")
        );
    }
    let points: Vec<(f64, f64)> = rows.iter().map(|row| place(row.figures.point)).collect();
    let names: Vec<&str> = rows.iter().map(|row| &row.label[..]).collect();
    for ((row, (x, y)), label) in rows.iter().zip(&points).zip(labels(&points, &names, taken)) {
        let Point { us, bytes } = row.figures.point;
        let (middle, base) = ((label[0] + label[2]) / 2.0, label[3] - 3.0);
        // Where the label is far away, a line leads to it.
        let (near_x, near_y) = (x.clamp(label[0], label[2]), y.clamp(label[1], label[3]));
        if (near_x - x).hypot(near_y - y) > 10.0 {
            let _ = writeln!(
                svg,
                r#"<path class="leader" d="M{x:.1} {y:.1}L{near_x:.1} {near_y:.1}"/>"#
            );
        }
        let mark = mark(row.kind, *x, *y);
        let element = mark.split(' ').next().unwrap_or_default();
        let _ = writeln!(
            svg,
            "<{mark}><title>{}: {us:.2} µs, {bytes:.0} bytes</title></{element}>\
             <text class=\"small\" x=\"{middle:.1}\" y=\"{base:.1}\" \
             text-anchor=\"middle\">{}</text>",
            row.name, row.label
        );
    }
    svg.push_str(&legend());
    svg + "</svg>\n"
}

/// What the marks mean, below the plot.
fn legend() -> String {
    let line = r#"path class="line" d="M-13 0h26""#.to_owned();
    let meanings = [
        (mark(Kind::Fixed, 0.0, 0.0), "one codec for all pages"),
        (line, "what a coin reaches that takes one of two of them"),
        (
            mark(Kind::Adaptive, 0.0, 0.0),
            "adaptive, with its price in ns for a byte",
        ),
        (
            mark(Kind::Entropy, 0.0, 0.0),
            "one codec, none for what looks like noise",
        ),
    ];
    let mut svg = String::new();
    for (number, (mark, meaning)) in meanings.iter().enumerate() {
        let (column, row) = ((number % 2) as f64, (number / 2) as f64);
        let (x, y) = (FRAME[0] + 13.0 + 380.0 * column, HEIGHT - 38.0 + 22.0 * row);
        // A string takes everything.
        let _ = writeln!(
            svg,
            r#"<g transform="translate({x} {y})"><{mark}/>
<text x="24" y="4">{meaning}</text></g>"#
        );
    }
    svg
}

/// A number with as many digits as its step has.
fn number(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).max(0.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::super::measure::Figures;
    use super::*;

    fn row(kind: Kind, name: &str, us: f64, bytes: f64) -> Row {
        let figures = Figures {
            point: Point { us, bytes },
            us_range: [us, us],
            read_us: 1.0,
            raw_percent: 0.0,
        };
        let (name, label) = (name.to_owned(), name.to_owned());
        Row {
            kind,
            name,
            label,
            figures,
        }
    }

    /// The numbers in front of `after`, wherever it stands behind `before`.
    fn numbers(text: &str, before: &str, after: &str) -> Vec<f64> {
        let parts = text.split(before).skip(1);
        parts
            .map(|part| part.split_once(after).unwrap().0.parse().unwrap())
            .collect()
    }

    #[test]
    fn every_policy_has_a_point_in_the_frame_and_in_its_order() {
        let rows = [
            row(Kind::Adaptive, "a", 6.5, 1775.0),
            row(Kind::Adaptive, "b", 8.0, 1700.0),
            row(Kind::Adaptive, "c", 18.5, 1312.0),
            row(Kind::Fixed, "d", 6.4, 1769.0),
            row(Kind::Fixed, "e", 19.0, 1311.0),
            row(Kind::Entropy, "f", 8.3, 1780.0),
        ];
        let svg = draw(&rows);
        for row in &rows {
            assert_eq!(
                svg.matches(&format!("<title>{}: ", row.name)).count(),
                1,
                "{svg}"
            );
            assert_eq!(
                svg.matches(&format!(">{}</text>", row.label)).count(),
                1,
                "{svg}"
            );
        }
        let [left, right, top, bottom] = FRAME;
        // The last one of each is the legend's.
        let across = numbers(&svg, "cx=\"", "\"");
        let down = numbers(&svg, "cy=\"", "\"");
        assert!(
            left < across[0] && across[..3].is_sorted() && across[2] < right,
            "{across:?}"
        );
        assert!(
            top < down[0] && down[..3].is_sorted() && down[2] < bottom,
            "{down:?}"
        );
        assert_eq!((across.len(), down.len()), (4, 4));
        // Whatever is opened ends.
        assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count());
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn all_points_alike_can_be_drawn() {
        let svg = draw(&[
            row(Kind::Fixed, "a", 5.0, 1500.0),
            row(Kind::Adaptive, "b", 5.0, 1500.0),
        ]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn labels_in_a_crowd_cover_nothing() {
        let points: Vec<(f64, f64)> = (0..8)
            .map(|at| (400.0 + 9.0 * f64::from(at), 300.0))
            .collect();
        let line = along(&[(390.0, 310.0), (490.0, 310.0)]);
        assert!(line.len() > 15);
        let names = ["a label"; 8];
        let places = labels(&points, &names, line.clone());
        for (at, place) in places.iter().enumerate() {
            let others = places[..at].iter().chain(&line);
            assert!(
                others.into_iter().all(|other| !overlap(*place, *other)),
                "{places:?}"
            );
            let on = |(x, y): &(f64, f64)| overlap(*place, [x - 1.0, y - 1.0, x + 1.0, y + 1.0]);
            assert!(!points.iter().any(on), "{places:?}");
        }
    }

    #[test]
    fn an_axis_has_round_numbers_and_all_values() {
        let axis = Axis::new([6.4, 18.9].into_iter(), 0.0, 100.0);
        let ticks: Vec<String> = axis.ticks().map(|tick| number(tick, axis.step)).collect();
        assert_eq!(ticks, ["4", "6", "8", "10", "12", "14", "16", "18", "20"]);
        let small = Axis::new([0.31, 0.42].into_iter(), 0.0, 100.0);
        let ticks: Vec<String> = small.ticks().map(|tick| number(tick, small.step)).collect();
        assert_eq!(ticks.first().map(String::as_str), Some("0.30"));
        assert!(small.place(0.31) > 0.0 && small.place(0.42) < 100.0);
    }
}
