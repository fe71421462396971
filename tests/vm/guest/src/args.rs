//! The command line: words, and `--name value` pairs. A flag without a value is `--name` before
//! another flag or at the end.

use std::collections::BTreeMap;
use std::str::FromStr;

/// What was typed. Every task takes what it knows and then calls `done`.
pub struct Args {
    words: std::collections::VecDeque<String>,
    options: BTreeMap<String, String>,
}

impl Args {
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            words: Default::default(),
            options: BTreeMap::new(),
        };
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else {
                args.words.push_back(word);
                continue;
            };
            let value = words
                .next_if(|next| !next.starts_with("--"))
                .unwrap_or_default();
            if args.options.insert(name.to_owned(), value).is_some() {
                return Err(format!("--{name} is there twice"));
            }
        }
        Ok(args)
    }

    /// The next plain word.
    pub fn word(&mut self, what: &str) -> Result<String, String> {
        self.words
            .pop_front()
            .ok_or_else(|| format!("{what} is missing"))
    }

    /// The value of `--name`, if it was given.
    pub fn option<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(value) = self.options.remove(name) else {
            return Ok(None);
        };
        value
            .parse()
            .map(Some)
            .map_err(|_| format!("--{name} cannot be `{value}`"))
    }

    /// The value of `--name`, or its default.
    pub fn or<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, String> {
        Ok(self.option(name)?.unwrap_or(default))
    }

    /// Whether `--name` was given.
    pub fn flag(&mut self, name: &str) -> Result<bool, String> {
        match self.options.remove(name) {
            None => Ok(false),
            Some(value) if value.is_empty() => Ok(true),
            Some(value) => Err(format!("--{name} takes no value, not `{value}`")),
        }
    }

    /// Nothing may be left over.
    pub fn done(&self) -> Result<(), String> {
        match (self.words.front(), self.options.keys().next()) {
            (None, None) => Ok(()),
            (Some(word), _) => Err(format!("`{word}` is too much")),
            (_, Some(name)) => Err(format!("unknown --{name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Result<Args, String> {
        Args::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn words_options_and_flags_are_told_apart() {
        let mut args = args("/dev/x --count 5 --poor").unwrap();
        assert_eq!(args.word("device").unwrap(), "/dev/x");
        assert_eq!(args.or("count", 1u64), Ok(5));
        assert_eq!(args.or("seed", 7u64), Ok(7));
        assert_eq!(args.flag("poor"), Ok(true));
        assert_eq!(args.done(), Ok(()));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(args("--a 1 --a 2").is_err());
        let mut wrong = args("--count many").unwrap();
        assert!(wrong.or("count", 1u64).unwrap_err().contains("`many`"));
        assert!(args("--unknown 1").unwrap().done().is_err());
    }
}
