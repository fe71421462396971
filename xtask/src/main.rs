//! Every development task of the workspace: `cargo xtask TASK`.
#![forbid(unsafe_code)]

mod accel;
mod ci;
mod corpus;
mod cpio;
mod frontier;
mod fuzz;
mod guest_bins;
mod initramfs;
mod kernel;
mod modules;
mod packages;
mod process;
mod run;
mod test;
mod tidy;
mod train;
mod vm;
mod workspace;

use clap::Parser;
use std::process::ExitCode;

/// Every development task of the workspace.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
enum Task {
    /// Build everything in release and run the main job: create one compressed device
    Run(run::Args),
    /// Run every test: Rust tests, system tests on this machine, system tests in guests
    Test(test::Args),
    /// Boot a kernel in QEMU, run a script in it, and exit with the script's status
    Vm(vm::Args),
    /// Check the rules that the compiler does not: dependencies, docs, unsafe, words, README
    Tidy,
    /// What has to pass before a change lands: format, lints, docs, tidy, tests
    Ci(ci::Args),
    /// Look for inputs for which a property of the codecs does not hold
    Fuzz(fuzz::Args),
    /// Train the selector's model from the corpus, and print how far it is from the best possible
    Train(train::Args),
    /// Measure every policy on the same pages, and draw time against memory
    Frontier(frontier::Args),
    /// Page samples of real programs
    #[command(subcommand)]
    Corpus(corpus::Task),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Run(args) => run::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Vm(args) => vm::run(&args),
        Task::Tidy => tidy::run(),
        Task::Ci(args) => ci::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Train(args) => train::run(&args),
        Task::Frontier(args) => frontier::run(&args),
        Task::Corpus(task) => corpus::run(&task),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
