//! The arguments of a process, parsed; where they make no sense, one sentence that says so.
//!
//! clap's own errors take several lines; ours name the value and the remedy in one.

use clap::error::{ContextKind, ErrorKind};
use clap::{Command, Parser};
use std::error::Error as _;
use std::ffi::OsString;

/// The arguments of this process, or what is wrong with them. `--help` and `--version` are
/// answered here, and end the process.
pub fn parse<C: Parser>() -> Result<C, String> {
    let words: Vec<OsString> = std::env::args_os().collect();
    C::try_parse_from(&words).map_err(|error| {
        if !error.use_stderr() {
            // It is what was asked for.
            error.exit();
        }
        sentence(&error, &C::command(), &words)
    })
}

/// What is wrong with `words`, of which the first is the program.
fn sentence(error: &clap::Error, program: &Command, words: &[OsString]) -> String {
    let word = |kind| {
        let value = error.get(kind).map(ToString::to_string);
        value.filter(|text| !text.is_empty())
    };
    let argument = word(ContextKind::InvalidArg).unwrap_or_default();
    let see = format!("see `{} --help`", command_of(program, words));
    match (error.kind(), word(ContextKind::InvalidValue)) {
        (ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand, _) => {
            format!("no command is given: use {}, or {see}", commands(program))
        }
        (ErrorKind::InvalidSubcommand, _) => {
            let command = word(ContextKind::InvalidSubcommand).unwrap_or_default();
            format!(
                "there is no command {command:?}: use {}, or {see}",
                commands(program)
            )
        }
        (ErrorKind::UnknownArgument, _) => match word(ContextKind::SuggestedArg) {
            Some(known) => format!("{argument:?} is not understood: use {known}, or {see}"),
            None => format!("{argument:?} is not understood: {see}"),
        },
        (ErrorKind::MissingRequiredArgument, _) => format!("{argument} is missing: {see}"),
        (ErrorKind::ArgumentConflict, _) => match word(ContextKind::PriorArg) {
            Some(other) if other != argument => {
                format!("{argument} does not go together with {other}: leave one of them out")
            }
            _ => format!("{argument} is given more than once: give it once"),
        },
        (ErrorKind::InvalidValue, None) => format!("{argument} has no value: {see}"),
        (ErrorKind::InvalidValue, Some(value)) => match word(ContextKind::ValidValue) {
            Some(valid) => format!("{argument}: {value:?} is not possible: use one of {valid}"),
            None => format!("{argument}: {value:?} is not possible: {see}"),
        },
        (ErrorKind::ValueValidation, value) => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            format!(
                "{argument}: {:?} is {why}: {see}",
                value.unwrap_or_default()
            )
        }
        (ErrorKind::TooManyValues, Some(value)) => {
            format!("{argument} takes no value, and {value:?} is given: leave the value out")
        }
        (ErrorKind::InvalidUtf8, _) => {
            let found = words.iter().find(|word| word.to_str().is_none());
            format!(
                "argument {:?} is not text in UTF-8: {see}",
                found.cloned().unwrap_or_default()
            )
        }
        // Nothing that our arguments can bring about today: clap's words, on one line.
        _ => {
            let text = error.to_string();
            let lines = text.lines().take_while(|line| !line.is_empty());
            let said = lines.map(str::trim).collect::<Vec<_>>().join(" ");
            format!("{}: {see}", said.trim_start_matches("error: "))
        }
    }
}

/// The command that was typed, without its arguments: `trueno-ublk create`.
fn command_of(program: &Command, words: &[OsString]) -> String {
    let typed = words.get(1).and_then(|word| word.to_str());
    match typed.and_then(|name| program.find_subcommand(name)) {
        Some(command) => format!("{} {}", program.get_name(), command.get_name()),
        None => program.get_name().to_string(),
    }
}

/// The commands there are: `create, remove, list`.
fn commands(program: &Command) -> String {
    let shown = program.get_subcommands().filter(|c| !c.is_hide_set());
    shown.map(Command::get_name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use std::os::unix::ffi::OsStringExt as _;

    #[derive(Debug, Parser)]
    #[command(name = "ship", disable_help_subcommand = true)]
    enum Ship {
        Sail(Sail),
        Anchor,
        #[command(hide = true)]
        Sink,
    }

    #[derive(Debug, clap::Args)]
    struct Sail {
        #[arg(long)]
        wind: u8,
        #[arg(long, value_parser = ["north", "south"])]
        course: Option<String>,
        #[arg(long, conflicts_with = "slow")]
        fast: bool,
        #[arg(long)]
        slow: bool,
    }

    fn refused(words: Vec<OsString>) -> String {
        let words: Vec<OsString> = std::iter::once("ship".into()).chain(words).collect();
        let error = Ship::try_parse_from(&words).expect_err("wrong usage");
        sentence(&error, &Ship::command(), &words)
    }

    #[test]
    fn every_mistake_is_one_sentence_with_the_value_and_the_remedy() {
        for (line, expected) in [
            (
                "",
                "no command is given: use sail, anchor, or see `ship --help`",
            ),
            (
                "fly",
                "there is no command \"fly\": use sail, anchor, or see `ship --help`",
            ),
            ("--fly", "\"--fly\" is not understood: see `ship --help`"),
            (
                "anchor now",
                "\"now\" is not understood: see `ship anchor --help`",
            ),
            (
                "sail --wnid 3",
                "\"--wnid\" is not understood: use --wind, or see `ship sail --help`",
            ),
            ("sail", "--wind <WIND> is missing: see `ship sail --help`"),
            (
                "sail --wind",
                "--wind <WIND> has no value: see `ship sail --help`",
            ),
            (
                "sail --wind much",
                "--wind <WIND>: \"much\" is invalid digit found in string: see `ship sail --help`",
            ),
            (
                "sail --wind 3 --wind 4",
                "--wind <WIND> is given more than once: give it once",
            ),
            (
                "sail --wind 3 --course up",
                "--course <COURSE>: \"up\" is not possible: use one of north, south",
            ),
            (
                "sail --wind 3 --fast --slow",
                "--fast does not go together with --slow: leave one of them out",
            ),
            (
                "sail --wind 3 --fast=very",
                "--fast takes no value, and \"very\" is given: leave the value out",
            ),
        ] {
            let words = line.split_ascii_whitespace().map(OsString::from);
            assert_eq!(refused(words.collect()), expected);
        }
    }

    #[test]
    fn a_value_with_odd_bytes_stays_on_one_line() {
        let sentence = refused(vec!["sail".into(), "--course".into(), "a\nb".into()]);
        assert!(sentence.contains(r#""a\nb""#), "{sentence}");
        let bytes = OsString::from_vec(vec![b'x', 0xff]);
        let sentence = refused(vec!["sail".into(), "--course".into(), bytes]);
        assert!(sentence.contains(r#""x\xFF" is not text"#), "{sentence}");
    }
}
