//! The table at the end of a test run.

use std::fmt;
use std::time::Duration;

/// What came of one test.
pub enum Outcome {
    /// With the figures it reported.
    Passed(Vec<String>),
    Failed(String),
    Skipped(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(_) => f.write_str("passed"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// The counts in what `cargo test` prints.
#[derive(Default)]
pub struct RustCounts {
    passed: usize,
    failed: usize,
    ignored: Vec<String>,
}

impl RustCounts {
    pub fn add_line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| -> usize {
                let mut words = result
                    .split([' ', ';', '.'])
                    .filter(|word| !word.is_empty());
                let mut last = "";
                words
                    .find_map(|word| {
                        let found = (word == what).then(|| last.parse().unwrap_or(0));
                        last = word;
                        found
                    })
                    .unwrap_or(0)
            };
            self.passed += count("passed");
            self.failed += count("failed");
        } else if let Some((name, why)) = line
            .strip_prefix("test ")
            .and_then(|test| test.split_once(" ... ignored"))
        {
            self.ignored.push(format!("{name}{why}"));
        }
    }
}

/// All outcomes, in the order in which they came.
#[derive(Default)]
pub struct Summary {
    rows: Vec<(String, Outcome, Duration)>,
    rust_passed: usize,
    rust_failed: usize,
}

impl Summary {
    pub fn add(&mut self, name: &str, outcome: Outcome, time: Duration) {
        self.rows.push((name.to_owned(), outcome, time));
    }

    /// Each Rust test counts; the table shows them as one row, and each ignored one as skipped.
    pub fn add_rust(&mut self, counts: &RustCounts, success: bool, time: Duration) {
        let outcome = if success {
            Outcome::Passed(vec![format!("{} tests", counts.passed)])
        } else if counts.failed > 0 {
            Outcome::Failed(format!(
                "{} of {}",
                counts.failed,
                counts.failed + counts.passed
            ))
        } else {
            Outcome::Failed("cargo test did not get to its end".into())
        };
        // The row itself counts as one.
        let (passed, failed) = if success { (1, 0) } else { (0, 1) };
        self.rust_passed = counts.passed.saturating_sub(passed);
        self.rust_failed = counts.failed.saturating_sub(failed);
        self.add("rust", outcome, time);
        for ignored in &counts.ignored {
            self.add("rust", Outcome::Skipped(ignored.clone()), Duration::ZERO);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn count(&self, wanted: fn(&Outcome) -> bool) -> usize {
        self.rows
            .iter()
            .filter(|(_, outcome, _)| wanted(outcome))
            .count()
    }

    pub fn passed(&self) -> usize {
        self.rust_passed + self.count(|outcome| matches!(outcome, Outcome::Passed(_)))
    }

    pub fn failed(&self) -> usize {
        self.rust_failed + self.count(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    pub fn skipped(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Skipped(_)))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:>7}  test", "seconds")?;
        for (name, outcome, time) in &self.rows {
            writeln!(f, "{:>7.1}  {name}: {outcome}", time.as_secs_f64())?;
            if let Outcome::Passed(reports) = outcome {
                for report in reports {
                    writeln!(f, "{:>7}    {report}", "")?;
                }
            }
        }
        let (passed, failed, skipped) = (self.passed(), self.failed(), self.skipped());
        writeln!(f, "\n{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_tests_are_counted_from_what_cargo_prints() {
        let mut counts = RustCounts::default();
        counts.add_line("test a::b ... ok");
        counts.add_line("test slow ... ignored, takes an hour");
        counts.add_line("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered");
        counts.add_line("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured");
        let mut summary = Summary::default();
        summary.add_rust(&counts, false, Duration::ZERO);
        assert_eq!(
            (summary.passed(), summary.failed(), summary.skipped()),
            (15, 2, 1)
        );
    }

    #[test]
    fn the_last_line_is_the_totals_alone() {
        let mut summary = Summary::default();
        summary.add(
            "a",
            Outcome::Passed(vec!["gap_ms 20".into()]),
            Duration::from_secs(3),
        );
        summary.add("b", Outcome::Skipped("no qemu".into()), Duration::ZERO);
        summary.add("c", Outcome::Failed("status 1".into()), Duration::ZERO);
        let text = summary.to_string();
        assert_eq!(text.lines().last(), Some("1 passed, 1 failed, 1 skipped"));
        assert!(text.contains("b: skipped: no qemu") && text.contains("    gap_ms 20"));
    }

    #[test]
    fn a_build_that_fails_is_one_failure() {
        let mut summary = Summary::default();
        summary.add_rust(&RustCounts::default(), false, Duration::ZERO);
        assert_eq!((summary.passed(), summary.failed()), (0, 1));
    }
}
