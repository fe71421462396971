//! Rules for source text.

/// Longest line of code, in characters.
const COLUMNS: usize = 100;
/// Longest line that is a comment: nobody breaks it but its author.
const COMMENT_COLUMNS: usize = 110;

/// Where `unsafe` may stand: a file, or a directory with everything below it.
const UNSAFE: &[&str] = &[
    "crates/trueno-zram-adaptive/src/features.rs",
    "crates/trueno-zram-core/benches",
    "crates/trueno-zram-core/src/simd",
    "crates/trueno-zram-core/src/isa.rs",
    "crates/trueno-zram-core/src/page.rs",
    "crates/trueno-zram-core/src/codec/lz4",
    "crates/trueno-zram-core/src/codec/zstd",
    "crates/trueno-zram-cuda",
    "crates/trueno-zram-store/src/memory.rs",
    "crates/trueno-zram-store/src/pool",
    "crates/trueno-zram-store/src/compact.rs",
    "crates/trueno-zram-store/src/store.rs",
    "crates/trueno-zram-store/src/superblock.rs",
    "crates/trueno-zram-store/src/system.rs",
    "crates/trueno-ublk/src/loopdev/sys.rs",
    "crates/trueno-ublk/src/ublk",
    "crates/trueno-ublk/src/daemon",
    "tests/vm/guest",
];

/// Words that have no place in the project: (word, why).
const BANNED: &[(&str, &str)] = &[
    (concat!("/work", "/"), "a path of one machine"),
    (concat!("/tmp/", "brief"), "a path of one machine"),
    (concat!("DO NOT ", "SUBMIT"), "a note to oneself"),
    (concat!("FIX", "ME"), "mend it, or write down why it is so"),
    (
        concat!("TO", "DO:"),
        "do it, or write down why it is not done",
    ),
];

/// In Rust code of the crates: (text, why).
const BANNED_CODE: &[(&str, &str)] = &[
    (concat!("allow(dead", "_code"), "delete it; git remembers"),
    (concat!("to", "do!("), "a placeholder"),
    (concat!("unimplemented", "!("), "a placeholder"),
    (concat!("dbg", "!("), "left over"),
];

/// Complaints about words in any text file.
pub fn words(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (word, why) in BANNED {
            if line.contains(word) {
                complaints.push(format!("{path}:{}: `{word}`: {why}", number + 1));
            }
        }
    }
    complaints
}

/// Complaints about a Rust file.
pub fn rust(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//!") {
        complaints.push(format!(
            "{path}:1: opens with no `//!` sentence that says what it is"
        ));
    }
    // A test of allocations has to be an allocator, one of the loop transport has to mount.
    let may_be_unsafe = UNSAFE.iter().any(|place| within(path, place)) || path.contains("/tests/");
    for (number, line) in text.lines().enumerate() {
        let mut complain = |what: String| complaints.push(format!("{path}:{}: {what}", number + 1));
        let columns = line.chars().count();
        let is_comment = line.trim_start().starts_with("//");
        let limit = if is_comment { COMMENT_COLUMNS } else { COLUMNS };
        if columns > limit {
            complain(format!("{columns} columns; the limit is {limit}"));
        }
        if line != line.trim_end() {
            complain("ends with a blank".into());
        }
        for (code, why) in BANNED_CODE {
            if line.contains(code) {
                complain(format!("`{code}`: {why}"));
            }
        }
        if !may_be_unsafe && is_unsafe(line) {
            complain(
                "`unsafe` outside the files that may have it (xtask/src/tidy/source.rs)".into(),
            );
        }
    }
    complaints
}

fn within(path: &str, place: &str) -> bool {
    path == place
        || path == format!("{place}.rs")
        || path
            .strip_prefix(place)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// True when a line of code (not of comment) has the keyword followed by what makes it one.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let begins_word = |at: usize| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | '"' | '`'))
    };
    let mut found = code
        .match_indices("unsafe")
        .filter(|(at, _)| begins_word(*at));
    found.any(|(at, word)| {
        let rest = code[at + word.len()..].trim_start();
        ["{", "(", "fn ", "impl ", "impl<", "extern ", "trait "]
            .iter()
            .any(|next| rest.starts_with(next))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "crates/trueno-zram-core/src/codec/same.rs";

    #[test]
    fn a_file_opens_with_a_sentence() {
        assert!(rust(FILE, "//! What it is.\nfn a() {}\n").is_empty());
        assert_eq!(rust(FILE, "fn a() {}\n").len(), 1);
    }

    #[test]
    fn long_lines_and_placeholders_are_found() {
        let code = format!("//! x\n{}\n", "x".repeat(COLUMNS + 1));
        assert!(rust(FILE, &code)[0].contains(":2: 101 columns; the limit is 100"));
        let comment = |length| format!("//! x\n//{}\n", "x".repeat(length - 2));
        assert!(rust(FILE, &comment(COMMENT_COLUMNS)).is_empty());
        assert_eq!(rust(FILE, &comment(COMMENT_COLUMNS + 1)).len(), 1);
        for (code, _) in BANNED_CODE {
            assert_eq!(rust(FILE, &format!("//! x\n{code})\n")).len(), 1, "{code}");
        }
    }

    #[test]
    fn unsafe_stands_only_where_it_may() {
        let text = "//! x\nlet x = unsafe { y() };\n";
        assert_eq!(rust(FILE, text).len(), 1);
        assert!(rust("crates/trueno-zram-store/src/pool/slab.rs", text).is_empty());
        assert!(rust("crates/trueno-zram-store/src/pool.rs", text).is_empty());
        assert_eq!(
            rust("crates/trueno-zram-store/src/pool_other.rs", text).len(),
            1
        );
        assert!(
            rust(
                FILE,
                "//! x\n#![forbid(unsafe_code)]\n// unsafe { in a comment }\n"
            )
            .is_empty()
        );
    }

    #[test]
    fn banned_words_are_found_in_any_file() {
        for (word, _) in BANNED {
            assert_eq!(
                words("docs/store.md", &format!("see {word} there")).len(),
                1,
                "{word}"
            );
        }
        assert!(words("docs/store.md", "the workers' place").is_empty());
    }
}
