//! `scrub`: checks all pages of a device while it is used.

use super::{Failure, device, output};
use crate::control::client;
use crate::control::protocol::{Info, Op, Scrub, ScrubPhase};
use crate::daemon::RunDir;
use crate::daemon::scrub::RATE_MIN;
use anyhow::Context as _;
use std::fmt::Write as _;
use std::time::Duration;
use trueno_zram_cli::human::parse_size;

/// How long to wait before looking again, at most.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// What one processor does in a small part of its time.
const RATE: &str = "256M";

/// Check all pages of a device for damage, while it is used
///
/// Every page that holds data is read, its checksum compared, and decompressed. The damaged ones are
/// printed, and are in the device's log. The exit status is 1 if there are any.
///
/// The daemon does it: interrupting this command leaves the scrub under way. `stat` shows how far it
/// is, and `scrub DEVICE --stop` ends it.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    device: device::Named,
    /// The most bytes of uncompressed pages to check in a second
    #[arg(long, value_name = "SIZE", default_value = RATE)]
    rate: String,
    /// End the scrub that is under way
    #[arg(long, conflicts_with = "rate")]
    stop: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let rate =
        parse_size(&args.rate).map_err(|error| Failure::Usage(format!("--rate: {error}")))?;
    if rate < RATE_MIN {
        return Err(Failure::Usage(format!(
            "--rate: {rate} bytes a second are too few: give {RATE_MIN} or more"
        )));
    }
    let run_dir = RunDir::from_environment();
    let info = device::find_serving(&run_dir, &args.device.name)?;
    let socket = run_dir.socket(info.id);
    let scrub = if args.stop {
        client::request_as(&socket, &Op::ScrubStop)?
    } else {
        let begun: Scrub = client::request_as(&socket, &Op::Scrub { rate })?;
        wait(&run_dir, &info, begun.number)?
    };
    if args.json {
        output::print_json(&scrub)?;
    } else {
        output::print(&describe(&info, &scrub))?;
    }
    verdict(&info, &scrub, args.stop)
}

/// Looks until scrub `number` has ended.
fn wait(run_dir: &RunDir, info: &Info, number: u64) -> anyhow::Result<Scrub> {
    let mut pause = Duration::from_millis(10);
    loop {
        std::thread::sleep(pause);
        pause = (2 * pause).min(PAUSE_MAX);
        let state = client::request_as(&run_dir.socket(info.id), &Op::ScrubState);
        let state: Option<Scrub> = state.context("the scrub has ended with its daemon")?;
        let state = state.filter(|scrub| scrub.number == number).with_context(|| {
            format!(
                "the scrub is no more: another process serves {} now, or another scrub has begun; \
                 its log is {}",
                info.name.display(),
                run_dir.log(info.id).display()
            )
        })?;
        if state.phase != ScrubPhase::Running {
            return Ok(state);
        }
    }
}

fn describe(info: &Info, scrub: &Scrub) -> String {
    let mut text = format!("{}: {scrub}\n", info.name.display());
    for offset in &scrub.damaged {
        // A string takes everything.
        let _ = writeln!(text, "damaged: page {} (byte {offset})", offset / 4096);
    }
    let more = scrub.pages_damaged - scrub.damaged.len() as u64;
    if more > 0 {
        let _ = writeln!(text, "and {more} more");
    }
    text
}

/// Whether all is well.
fn verdict(info: &Info, scrub: &Scrub, stop: bool) -> Result<(), Failure> {
    let name = info.name.display();
    if scrub.pages_damaged > 0 {
        return Err(anyhow::anyhow!(
            "damaged pages on {name}: {}; each gives an I/O error when it is read, until it is \
             written anew or discarded",
            scrub.pages_damaged
        )
        .into());
    }
    if scrub.phase == ScrubPhase::Stopped && !stop {
        return Err(anyhow::anyhow!(
            "the scrub was stopped at byte {} of {name}, before it had seen all pages",
            scrub.position
        )
        .into());
    }
    Ok(())
}
