//! The commands that the README promises are the ones that `xtask` has.

use clap::CommandFactory as _;

/// The two commands that a reader must find: the main job, and every test.
const PROMISED: &[&str] = &["cargo xtask run", "cargo xtask test"];

/// Complaints about the commands in the README.
pub fn commands(text: &str) -> Vec<String> {
    let tasks: Vec<String> = crate::Task::command()
        .get_subcommands()
        .map(|task| task.get_name().to_owned())
        .collect();
    let mut complaints = Vec::new();
    for promised in PROMISED {
        if !text
            .lines()
            .any(|line| line.trim().trim_start_matches("$ ").starts_with(promised))
        {
            complaints.push(format!(
                "README.md: `{promised}` stands on no line of its own"
            ));
        }
    }
    for (number, line) in text.lines().enumerate() {
        for rest in line.split("cargo xtask ").skip(1) {
            let end = rest
                .find(|c: char| !c.is_ascii_lowercase())
                .unwrap_or(rest.len());
            if !tasks.iter().any(|task| *task == rest[..end]) {
                let name = &rest[..end];
                complaints.push(format!(
                    "README.md:{}: xtask has no task `{name}`",
                    number + 1
                ));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_promised_commands_and_no_unknown_one() {
        let good = "Do\n\n    cargo xtask run\n\nthen\n\n    $ cargo xtask test --only rust\n";
        assert!(commands(good).is_empty(), "{:?}", commands(good));
        assert_eq!(commands("cargo xtask run\n").len(), 1);
        assert_eq!(commands(&format!("{good}or `cargo xtask fly`\n")).len(), 1);
    }
}
