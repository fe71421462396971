//! Builds the programs that run in guests: static, so that they need nothing from the guest, and
//! stripped, since a guest's root file system lives in its memory.

use crate::{process, workspace};
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Our programs: name, package, and whether it is a binary or an example there.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("trueno-ublk", "trueno-ublk", "--bin"),
    ("trueno-zram", "trueno-zram-cli", "--bin"),
    ("ublk_null", "trueno-ublk", "--example"),
    ("vm-guest", "vm-guest", "--bin"),
];

/// The path of a program for a guest. One of ours is built first; anything else is a path.
pub fn resolve(name: &str) -> Result<PathBuf> {
    static BUILT: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let Some((program, package, kind)) = PROGRAMS.iter().find(|known| known.0 == name) else {
        return std::path::absolute(name).with_context(|| format!("bad path {name}"));
    };
    // Apart from the usual target directory: other flags would have every build there start anew.
    let directory = workspace::target().join("guest");
    let mut built = BUILT.lock().expect("no thread panics while it builds");
    if !built.iter().any(|done| done == program) {
        process::run(
            Command::new(env!("CARGO"))
                .current_dir(workspace::root())
                .args([
                    "build",
                    "--quiet",
                    "--release",
                    "--target",
                    TARGET,
                    "--package",
                    package,
                ])
                .args([kind, program])
                .arg("--target-dir")
                .arg(&directory)
                .env("RUSTFLAGS", "-C target-feature=+crt-static")
                .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
                .env("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
        )?;
        built.push((*program).to_owned());
    }
    let mut built = directory.join(TARGET).join("release");
    if *kind == "--example" {
        built.push("examples");
    }
    Ok(built.join(program))
}
