//! What has to pass before a change lands.

use crate::test::{self, Tier};
use crate::{fuzz, packages, process, tidy, workspace};
use anyhow::{Context as _, Result};
use std::process::Command;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// The longest tier of tests to run: short, medium or long
    #[arg(long, default_value = "medium")]
    tier: Tier,
}

/// How long each fuzz target runs: all of them on two processors take some 80 seconds.
const FUZZ_SECONDS: u32 = 20;

/// The `ci` task: the quick checks first.
pub fn run(args: &Args) -> Result<()> {
    packages::ensure(&["cc"])?;
    step("format", || {
        cargo(&["fmt", "--all", "--check"], &[])?;
        // A workspace of its own.
        cargo(
            &["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"],
            &[],
        )
    })?;
    step("tidy", tidy::run)?;
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    step("clippy", || cargo(&clippy, &[]))?;
    let doc = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ];
    step("docs", || cargo(&doc, &[("RUSTDOCFLAGS", "-D warnings")]))?;
    step("fuzz", || fuzz::run(&fuzz::Args::all_for(FUZZ_SECONDS)))?;
    step("test", || test::run(&test::Args::up_to(args.tier)))
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== ci: {name}");
    let start = Instant::now();
    work().with_context(|| format!("ci step `{name}`"))?;
    println!("== ci: {name}: {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(args: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(workspace::root())
        .args(args)
        .envs(variables.iter().copied());
    process::run(&mut command)
}
