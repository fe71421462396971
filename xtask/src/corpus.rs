//! Page samples of real programs: what a swap device is given to keep, in place of a pattern.
//!
//! `tests/data/pages.zst` is the committed sample; `capture` makes such a file anew.

mod capture;

use crate::{packages, process, workspace};
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Subcommand)]
pub enum Task {
    /// Sample the swappable pages of running programs (as root)
    Capture(capture::Args),
    /// Count a sample's pages, same-filled pages, and what LZ4 makes of them
    Stat {
        /// A file of 4096-byte pages; the committed sample if none is given
        file: Option<PathBuf>,
    },
}

/// The `corpus` task.
pub fn run(task: &Task) -> Result<()> {
    match task {
        Task::Capture(args) => capture::run(args),
        Task::Stat { file } => {
            let file = file.clone().map_or_else(unpacked, Ok)?;
            let data =
                std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            println!("{}", capture::describe(&data));
            Ok(())
        }
    }
}

/// The committed sample, unpacked below `target/vm`.
pub fn unpacked() -> Result<PathBuf> {
    let packed = workspace::root().join("tests/data/pages.zst");
    let raw = workspace::vm().join("pages.raw");
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified());
    let of_packed = age(&packed).with_context(|| format!("cannot read {}", packed.display()))?;
    if age(&raw).is_ok_and(|of_raw| of_raw >= of_packed) {
        return Ok(raw);
    }
    packages::ensure(&["zstd"])?;
    std::fs::create_dir_all(workspace::vm())?;
    let data = process::output(Command::new("zstd").arg("-dqc").arg(&packed))?;
    process::write_atomic(&raw, &data)?;
    Ok(raw)
}
