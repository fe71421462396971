//! `frontier.md`: what was measured, how, and how each policy stands beside the fixed codecs.

use super::curve::{self, Point};
use super::measure::{Figures, TURN};
use super::workload::{RUN, Workload};
use super::{Args, Kind, Row, fixed};
use std::fmt::Write as _;

/// How a policy stands beside the fixed codecs.
struct Verdict<'a> {
    /// The codecs that are no slower and no larger.
    dominated_by: Vec<&'a Row>,
    /// The fastest codec that is no larger.
    same_memory: Option<&'a Row>,
    /// The smallest codec that is no slower.
    same_speed: Option<&'a Row>,
    /// Bytes that the line between the codecs reaches in the policy's time.
    line: Option<f64>,
}

impl<'a> Verdict<'a> {
    fn new(point: Point, fixed: &[&'a Row]) -> Verdict<'a> {
        let points: Vec<Point> = fixed.iter().map(|row| row.figures.point).collect();
        let dominating = fixed
            .iter()
            .filter(|row| row.figures.point.dominates(point));
        Verdict {
            dominated_by: dominating.copied().collect(),
            same_memory: curve::fastest(&points, point).map(|at| fixed[at]),
            same_speed: curve::smallest(&points, point).map(|at| fixed[at]),
            line: curve::bytes_at(&curve::line(&points), point.us),
        }
    }

    /// True for what no codec dominates: at the same memory it is faster, at the same speed smaller.
    fn holds(&self) -> bool {
        self.dominated_by.is_empty()
    }

    fn below_line(&self, point: Point) -> bool {
        self.line.is_some_and(|line| point.bytes < line)
    }
}

/// All of it.
pub fn write(args: &Args, workload: &Workload, rows: &[Row]) -> String {
    let fixed = fixed(rows);
    let mut text = format!(
        "# Time against memory\n\n\
         Written by `cargo run --release -p xtask -- frontier`; [selector.md](selector.md) \
         explains `adaptive` and its prices. Down and to the left is better.\n\n\
         ![Processor time and memory of a page, by codec and policy](frontier.svg)\n\n\
         {}\n\n{}\n",
        summary(rows, &fixed),
        method(args, workload),
    );
    measured(&mut text, rows);
    compared(&mut text, rows, &fixed);
    text
}

/// How many prices are worth having.
fn summary(rows: &[Row], fixed: &[&Row]) -> String {
    let points = rows.iter().filter(|row| row.kind == Kind::Adaptive);
    let points: Vec<Point> = points.map(|row| row.figures.point).collect();
    let verdicts = || {
        points
            .iter()
            .map(|point| (*point, Verdict::new(*point, fixed)))
    };
    let holding = verdicts().filter(|(_, verdict)| verdict.holds()).count();
    let below = verdicts()
        .filter(|(point, verdict)| verdict.below_line(*point))
        .count();
    format!(
        "Of {} prices of `adaptive`, {holding} are dominated by no fixed codec: each codec that is \
         as small is slower, and each that is as fast is larger. {below} lie below the line \
         between the fixed codecs, which is what a coin that takes one of two codecs for each page \
         reaches.",
        points.len()
    )
}

/// What was measured, and how.
fn method(args: &Args, workload: &Workload) -> String {
    let Args {
        pages,
        noise,
        rounds,
        ..
    } = args;
    let Workload {
        compressed, random, ..
    } = workload;
    let programs = workload.programs.iter();
    let programs: Vec<String> = programs
        .map(|(name, pages)| format!("{name} ({pages})"))
        .collect();
    let noisy = compressed + random;
    format!(
        "- **Pages**: {} of programs, those that repeat one word left out: {}.\n\
         - **Noise**: {noisy} pages ({:.1} per cent of all): {compressed} of compressed files, \
         {random} of random bytes, which is what encrypted data looks like.\n\
         - **Order**: runs of {RUN} neighbours, the runs in a random order that is the same each \
         time.\n\
         - **Time**: what a thread takes on the processor to write a page and to read it once, in \
         a store that is configured as a device's and has been full before; the block device in \
         front of it is not in it. Every page is compared with what was written. Medians of \
         {rounds} rounds of all pages, in which the policies take turns every {TURN} pages, in a \
         random order; the time of a round is divided by how slow the machine was for all \
         policies in it. A difference that is small beside the range of the rounds says nothing.\n\
         - **Memory**: `mem_used_total` and the page table, of a store whose slabs are full.\n\
         - **Machine**: {}, one thread.\n\
         - **To repeat**: `cargo run --release -p xtask -- frontier --pages {pages} \
         --noise {noise} --rounds {rounds} PATH`, where `cargo xtask corpus capture` makes such a \
         file of the pages of any program; `--out` for another directory than `docs/`. Memory is \
         the same for the same pages, but for `adaptive`, which learns what codecs take; times \
         are not.\n",
        workload.pages.len() - noisy,
        programs.join(", "),
        100.0 * noisy as f64 / workload.pages.len() as f64,
        machine(),
    )
}

/// What each policy took.
fn measured(text: &mut String, rows: &[Row]) {
    text.push_str(
        "| policy | µs a page | of rounds | of which reading | bytes a page | kept as it is |\n\
         |---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Figures {
            point,
            us_range: [least, most],
            read_us,
            raw_percent,
        } = row.figures;
        // A string takes everything.
        let _ = writeln!(
            text,
            "| {} | {:.2} | {least:.2} to {most:.2} | {read_us:.2} | {:.0} | {raw_percent:.1} % |",
            row.name, point.us, point.bytes
        );
    }
}

/// How each policy that is no codec stands beside those.
fn compared(text: &mut String, rows: &[Row], fixed: &[&Row]) {
    text.push_str(
        "\n## Beside the fixed codecs\n\
         *Same memory*: the fastest codec that is no larger, and the policy's time beside its. \
         *Same speed*: the smallest codec that is no slower, and the policy's memory beside its. \
         None where all codecs are larger, or slower. *Line*: the policy's memory beside that of \
         the line in the same time.\n\n\
         | policy | dominated by | same memory | time | same speed | memory | line |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in rows.iter().filter(|row| row.kind != Kind::Fixed) {
        let point = row.figures.point;
        let verdict = Verdict::new(point, fixed);
        let dominated: Vec<&str> = verdict
            .dominated_by
            .iter()
            .map(|row| &row.name[..])
            .collect();
        let dominated = match verdict.holds() {
            true => "no codec".to_owned(),
            false => dominated.join(", "),
        };
        let name = |row: Option<&Row>| row.map_or("none".to_owned(), |row| row.name.clone());
        let beside = |mine: f64, other: Option<f64>| {
            other.map_or(String::new(), |other| {
                format!("{:+.1} %", 100.0 * (mine / other - 1.0))
            })
        };
        let (memory, speed) = (verdict.same_memory, verdict.same_speed);
        let _ = writeln!(
            text,
            "| {} | {dominated} | {} | {} | {} | {} | {} |",
            row.name,
            name(memory),
            beside(point.us, memory.map(|row| row.figures.point.us)),
            name(speed),
            beside(point.bytes, speed.map(|row| row.figures.point.bytes)),
            beside(point.bytes, verdict.line),
        );
    }
}

/// The processor's name.
fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split(": ").nth(1));
    name.unwrap_or("an unknown processor").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use trueno_zram_core::{PAGE_SIZE, Page};

    fn row(kind: Kind, name: &str, us: f64, bytes: f64) -> Row {
        Row {
            kind,
            name: name.into(),
            label: name.into(),
            figures: Figures {
                point: Point { us, bytes },
                us_range: [us, us],
                read_us: us / 4.0,
                raw_percent: 0.0,
            },
        }
    }

    fn rows() -> Vec<Row> {
        vec![
            row(Kind::Fixed, "fast", 2.0, 2000.0),
            row(Kind::Fixed, "useless", 4.0, 1900.0),
            row(Kind::Fixed, "small", 8.0, 1000.0),
            row(Kind::Adaptive, "good", 5.0, 1400.0),
            row(Kind::Adaptive, "middling", 5.0, 1600.0),
            row(Kind::Adaptive, "bad", 9.0, 1100.0),
            row(Kind::Adaptive, "fastest", 1.5, 2100.0),
        ]
    }

    #[test]
    fn a_policy_is_judged_by_the_fixed_codecs() {
        let args = Args {
            paths: Vec::new(),
            pages: 16,
            noise: 0,
            rounds: 1,
            out: None,
        };
        let workload = Workload {
            pages: vec![Page([0; PAGE_SIZE]); 16],
            programs: vec![("some".into(), 16)],
            compressed: 0,
            random: 0,
        };
        let text = write(&args, &workload, &rows());
        for line in [
            "| good | no codec | small | -37.5 % | useless | -26.3 % | -6.7 % |",
            "| middling | no codec | small | -37.5 % | useless | -15.8 % | +6.7 % |",
            "| bad | small | small | +12.5 % | small | +10.0 % | +10.0 % |",
            "| fastest | no codec | fast | -25.0 % | none |  |  |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.contains("Of 4 prices of `adaptive`, 3 are dominated by no fixed codec"));
        assert!(text.contains("1 lie below"));
    }
}
