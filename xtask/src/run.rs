//! The main job, from a fresh checkout: build everything, create one device, say what it is.

use crate::{packages, process, workspace};
use anyhow::{Result, bail};
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// For `trueno-ublk create`; without any, --size 1G --algorithm lz4
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The `run` task.
pub fn run(args: &Args) -> Result<()> {
    packages::ensure(&["cc"])?;
    process::run(
        Command::new(env!("CARGO"))
            .current_dir(workspace::root())
            .args(["build", "--release", "--package", "trueno-ublk"])
            .args(["--package", "trueno-zram-cli"]),
    )?;
    let program = workspace::target().join("release/trueno-ublk");
    let mut create = Command::new(&program);
    create.arg("create");
    if args.arguments.is_empty() {
        create.args(["--size", "1G", "--algorithm", "lz4"]);
    } else {
        create.args(&args.arguments);
    }
    eprintln!("{} create", workspace::relative(&program).display());
    let status = create.status()?;
    if !status.success() {
        bail!("no device was created ({status})");
    }
    println!(
        "\n`trueno-ublk` is {}; `cargo install --path crates/trueno-ublk` puts it in your PATH",
        workspace::relative(&program).display()
    );
    Ok(())
}
