//! Checks the rules of the project that neither the compiler nor clippy knows.

mod dependencies;
mod readme;
mod source;

use crate::workspace;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};

/// The `tidy` task: every broken rule is said, with its file and line.
pub fn run() -> Result<()> {
    let root = workspace::root();
    let mut complaints = Vec::new();
    let files = tracked_files(root)?;
    for path in &files {
        let shown = workspace::relative(path).to_string_lossy().into_owned();
        // Test data and what is not text is none of our style's business.
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        complaints.extend(source::words(&shown, &text));
        if shown.ends_with(".rs") {
            complaints.extend(source::rust(&shown, &text));
        }
        if shown.ends_with("Cargo.toml") {
            complaints.extend(dependencies::star(&shown, &text));
        }
    }
    let readme = root.join("README.md");
    if readme.exists() {
        complaints.extend(readme::commands(&std::fs::read_to_string(&readme)?));
    } else {
        complaints.push("README.md is missing".into());
    }
    for complaint in &complaints {
        println!("{complaint}");
    }
    match complaints.len() {
        0 => {
            println!("tidy: {} files", files.len());
            Ok(())
        }
        count => bail!("{count} broken rules"),
    }
}

/// The files of the project: everything but what is built, fetched or hidden, and links.
fn tracked_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name().to_string_lossy().into_owned();
        let skipped = name == "target" || name == ".git" || name == ".cache";
        if kind.is_dir() && !skipped {
            files.extend(tracked_files(&path)?);
        } else if kind.is_file() && name != ".git" {
            // (A linked worktree has a file of that name.)
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
