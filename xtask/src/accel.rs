//! Chooses how guests are run: by the processor (KVM) where that works, else by emulation (TCG).
//!
//! That `/dev/kvm` exists says little: on a machine that is itself a guest it may fail or hang. So
//! one guest is booted with it, once, and what came of it is kept in `target/vm/accel`.

use crate::initramfs::Content;
use crate::kernel::Series;
use crate::vm::{self, End, Guest};
use crate::{process, workspace};
use anyhow::{Context as _, Result, bail};
use std::path::Path;
use std::time::Duration;

/// A guest that takes longer than this with KVM would be as quick without.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// How a guest is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    Tcg,
    /// Emulation on one thread, its clock driven by the instructions it runs: figures that no other
    /// load on this machine can change, in a world where every instruction costs the same.
    Icount,
}

impl Accel {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
            Self::Icount => "icount",
        }
    }

    /// QEMU's arguments.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max"],
            // 8 ns an instruction; idle time passes at once.
            Self::Icount => &[
                "-accel",
                "tcg,thread=single",
                "-cpu",
                "max",
                "-icount",
                "shift=3,sleep=off",
            ],
        }
    }
}

/// The accelerator of this machine: `TRUENO_VM_ACCEL`, or what the probe found.
pub fn chosen() -> Result<Accel> {
    if let Ok(name) = std::env::var("TRUENO_VM_ACCEL") {
        return named(&name).with_context(|| {
            format!(
                "TRUENO_VM_ACCEL is `{name}`; it can be {}, {} or {}",
                "kvm", "tcg", "icount"
            )
        });
    }
    let record = workspace::vm().join("accel");
    if let Ok(text) = std::fs::read_to_string(&record)
        && let Some(accel) = text.split([':', '\n']).next().and_then(named)
    {
        return Ok(accel);
    }
    let (accel, reason) = match probe() {
        Ok(reason) => (Accel::Kvm, reason),
        Err(error) => (Accel::Tcg, format!("{error:#}")),
    };
    let text = format!("{}: {}\n", accel.name(), reason.replace('\n', " "));
    eprint!("guests are run by {text}");
    std::fs::create_dir_all(workspace::vm())?;
    process::write_atomic(&record, text.as_bytes())?;
    Ok(accel)
}

fn named(name: &str) -> Option<Accel> {
    [Accel::Kvm, Accel::Tcg, Accel::Icount]
        .into_iter()
        .find(|accel| accel.name() == name)
}

/// Boot one guest with KVM: why it is good, or why it is not.
fn probe() -> Result<String> {
    if let Err(error) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        bail!("/dev/kvm cannot be opened: {error}");
    }
    let script = workspace::vm().join("probe.sh");
    std::fs::create_dir_all(workspace::vm())?;
    process::write_atomic(&script, b"exit 0\n")?;
    let verdict = vm::boot_with(&guest(&script), Accel::Kvm)?;
    match verdict.end {
        End::Exit(0) => Ok(format!(
            "a guest started in {:.1} s",
            verdict.wall.as_secs_f64()
        )),
        End::TimedOut => bail!("a KVM guest did not start within {PROBE_LIMIT:?}"),
        end => bail!("a KVM guest failed: {end}: {}", vm::tail(&verdict.log, 1)),
    }
}

fn guest(script: &Path) -> Guest {
    Guest {
        series: Series::V6_12,
        memory_mib: 256,
        cpus: 1,
        timeout: PROBE_LIMIT,
        content: Content {
            script: script.into(),
            ..Content::default()
        },
        append: String::new(),
        name: "probe".into(),
        verbose: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accelerators_are_known_by_name() {
        assert_eq!(named("kvm"), Some(Accel::Kvm));
        assert_eq!(named("tcg"), Some(Accel::Tcg));
        assert_eq!(named("hvf"), None);
    }
}
