//! The crates form a star: what lies below `trueno-ublk` knows `trueno-zram-core` and nothing else
//! of ours, and core knows nothing of ours.

/// Manifest, what it may use of ours.
const ALLOWED: &[(&str, &[&str])] = &[
    ("crates/trueno-zram-core/Cargo.toml", &[]),
    (
        "crates/trueno-zram-adaptive/Cargo.toml",
        &["trueno-zram-core"],
    ),
    ("crates/trueno-zram-cuda/Cargo.toml", &["trueno-zram-core"]),
    ("crates/trueno-zram-store/Cargo.toml", &["trueno-zram-core"]),
    (
        "crates/trueno-zram-cli/Cargo.toml",
        &["trueno-zram-core", "trueno-zram-adaptive"],
    ),
    ("tests/vm/guest/Cargo.toml", &[]),
    // Development joins them too: it measures what a device does, with a device's store.
    (
        "xtask/Cargo.toml",
        &[
            "trueno-zram-core",
            "trueno-zram-adaptive",
            "trueno-zram-store",
            "trueno-zram-cli",
            "trueno-ublk",
        ],
    ),
];

/// Complaints about the dependencies of one manifest.
pub fn star(path: &str, text: &str) -> Vec<String> {
    let Some((_, allowed)) = ALLOWED.iter().find(|(manifest, _)| *manifest == path) else {
        return Vec::new();
    };
    let mut section = "";
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            // [dependencies.NAME] is the long form of a line.
            if let Some((_, name)) = section.rsplit_once("dependencies.") {
                complaints.extend(check(path, number, name, allowed));
            }
        } else if section.ends_with("dependencies")
            && let Some(name) = line.split(['.', '=', ' ']).next()
        {
            complaints.extend(check(path, number, name, allowed));
        }
    }
    complaints
}

fn check(path: &str, number: usize, name: &str, allowed: &[&str]) -> Option<String> {
    let ours = name.starts_with("trueno-") || name == "vm-guest" || name == "xtask";
    (ours && !allowed.contains(&name))
        .then(|| format!("{path}:{}: must not depend on {name}", number + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: &str = "crates/trueno-zram-store/Cargo.toml";

    #[test]
    fn the_store_may_use_core_and_nothing_else_of_ours() {
        let good = "[dependencies]\nlibc.workspace = true\ntrueno-zram-core.workspace = true\n";
        assert!(star(STORE, good).is_empty());
        let bad = "[dev-dependencies]\ntrueno-zram-adaptive = { path = \"x\" }\n";
        assert_eq!(
            star(STORE, bad),
            [format!(
                "{STORE}:2: must not depend on trueno-zram-adaptive"
            )]
        );
        let long = "[dependencies.trueno-ublk]\npath = \"x\"\n";
        assert_eq!(star(STORE, long).len(), 1);
    }

    #[test]
    fn what_joins_them_is_free_and_other_sections_are_no_dependencies() {
        let text = "[dependencies]\ntrueno-zram-store.workspace = true\n";
        assert!(star("crates/trueno-ublk/Cargo.toml", text).is_empty());
        assert!(star(STORE, "[features]\ntrueno-ublk = []\n").is_empty());
    }
}
