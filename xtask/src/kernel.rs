//! Brings Debian's packaged kernels: downloaded with apt, unpacked, never installed.
//!
//! apt runs with a state of its own below `target/vm/apt`: its own sources, lists and cache. The
//! machine's sources are neither read nor changed, and signatures are checked as always. Once
//! unpacked, a kernel is used without any network.

use crate::{process, workspace};
use anyhow::{Context as _, Result, bail};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// A line of kernels that guests boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// Debian 12's usual kernel. It has no ublk driver.
    V6_1,
    /// Debian 12's own newer kernel.
    V6_12,
    /// The newest 7.x of Debian 13's backports.
    V7,
}

impl Series {
    pub const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V7];
    /// Those that a test runs on which names none.
    pub const USUAL: [Self; 2] = [Self::V6_12, Self::V7];

    /// Where this kernel's files are kept.
    pub fn directory(self) -> PathBuf {
        workspace::vm().join(self.to_string())
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7 => "7.x",
        })
    }
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|series| series.to_string() == text)
            .ok_or_else(|| format!("unknown kernel `{text}`; there are 6.1, 6.12 and 7.x"))
    }
}

/// An unpacked kernel package.
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    pub image: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// The kernel of a series, downloaded when it is not here yet.
pub fn fetch(series: Series) -> Result<Kernel> {
    let directory = series.directory();
    let root = directory.join("root");
    std::fs::create_dir_all(&directory)?;
    // One download at a time; the lock ends with the file's handle.
    let lock = std::fs::File::create(directory.join("lock"))?;
    lock.lock()?;
    if !root.exists() {
        let fresh = directory.join("root.fresh");
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh)?;
        }
        download(series, &directory, &fresh)
            .with_context(|| format!("cannot get kernel {series} from {}", mirror()))?;
        unpacked(&fresh)?;
        std::fs::rename(&fresh, &root)
            .with_context(|| format!("cannot place {}", root.display()))?;
    }
    unpacked(&root)
}

/// The archive's address: `TRUENO_DEBIAN_MIRROR` or the usual one. Security updates are expected
/// beside it, under the same name with `-security`.
fn mirror() -> String {
    std::env::var("TRUENO_DEBIAN_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".into())
}

/// What lies in an unpacked package; since Debian 13 it is laid out for a merged /usr.
fn unpacked(root: &Path) -> Result<Kernel> {
    for directory in ["lib/modules", "usr/lib/modules"] {
        let Ok(entries) = std::fs::read_dir(root.join(directory)) else {
            continue;
        };
        for entry in entries {
            let modules = entry?.path();
            let release = modules
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let images = [
                root.join(format!("boot/vmlinuz-{release}")),
                modules.join("vmlinuz"),
            ];
            if let Some(image) = images.into_iter().find(|image| image.exists()) {
                return Ok(Kernel {
                    release,
                    image,
                    modules,
                });
            }
        }
    }
    bail!(
        "no kernel in {}; delete it to fetch it again",
        root.display()
    )
}

fn download(series: Series, directory: &Path, root: &Path) -> Result<()> {
    let apt = Apt::prepare()?;
    let names: Vec<String> = match series {
        Series::V6_12 => {
            let text = process::text(
                apt.cache()
                    .args(["depends", "linux-image-6.12-cloud-amd64"]),
            )?;
            let depends = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("Depends: "));
            vec![
                depends
                    .context("linux-image-6.12-cloud-amd64 depends on nothing")?
                    .to_owned(),
            ]
        }
        Series::V6_1 => newest_first(
            &process::text(apt.cache().args(["pkgnames", "linux-image-6.1."]))?,
            "-cloud-amd64",
        ),
        Series::V7 => newest_first(
            &process::text(apt.cache().args(["pkgnames", "linux-image-7."]))?,
            "+deb13-cloud-amd64",
        ),
    };
    // apt knows names that the archive no longer holds (of debug packages' kernels, for instance).
    let mut last = anyhow::anyhow!("the archive lists no such kernel");
    for name in &names {
        match unpack(&apt, name, directory, root) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Download a kernel's package and unpack it below `root`. Newer kernels come in parts: the image
/// package only depends on those that hold the files.
fn unpack(apt: &Apt, name: &str, directory: &Path, root: &Path) -> Result<()> {
    let release = name.trim_start_matches("linux-image-");
    let depends = process::text(apt.cache().args(["depends", name]))?;
    let parts = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|part| part.ends_with(release));
    for part in std::iter::once(name).chain(parts) {
        eprintln!("downloading {part}");
        process::output(
            apt.get()
                .current_dir(directory)
                .args(["-qq", "download", part]),
        )?;
        let package = downloaded(directory, part)?;
        process::output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root))?;
        std::fs::remove_file(&package)?;
    }
    Ok(())
}

/// The package file that apt wrote, named `NAME_VERSION_ARCHITECTURE.deb`.
fn downloaded(directory: &Path, name: &str) -> Result<PathBuf> {
    let start = format!("{name}_");
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if file.starts_with(&start) && file.ends_with(".deb") {
            return Ok(path);
        }
    }
    bail!(
        "apt-get download left no file of {name} in {}",
        directory.display()
    )
}

/// The signed kernels among package names, which are a version and this `end`, newest first.
fn newest_first(names: &str, end: &str) -> Vec<String> {
    let version = |name: &str| -> Option<Vec<u32>> {
        let version = name.strip_prefix("linux-image-")?.strip_suffix(end)?;
        version
            .split(['.', '-'])
            .map(|part| part.parse().ok())
            .collect()
    };
    let mut found: Vec<(Vec<u32>, &str)> = names
        .lines()
        .filter_map(|name| Some((version(name)?, name)))
        .collect();
    found.sort_unstable();
    found
        .into_iter()
        .rev()
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// apt with a private state.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn prepare() -> Result<Self> {
        let directory = workspace::vm().join("apt");
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(directory.join(part))?;
        }
        let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
        if !Path::new(key).exists() {
            bail!("{key} is missing; apt-get install debian-archive-keyring");
        }
        let mirror = mirror();
        let sources = [
            (mirror.clone(), "bookworm"),
            (mirror.clone(), "bookworm-updates"),
            (format!("{mirror}-security"), "bookworm-security"),
            (mirror, "trixie-backports"),
        ]
        .map(|(address, suite)| {
            format!("deb [signed-by={key} arch=amd64] {address} {suite} main\n")
        })
        .concat();
        let list = directory.join("sources.list");
        process::write_atomic(&list, sources.as_bytes())?;
        let status = directory.join("status");
        process::write_atomic(&status, b"")?;
        let place = |name: &str, path: &Path| format!("{name}={}", path.display());
        let options = vec![
            place("Dir::Etc::sourcelist", &list),
            "Dir::Etc::sourceparts=/dev/null".into(),
            place("Dir::State::status", &status),
            place("Dir::State::lists", &directory.join("lists")),
            place("Dir::Cache", &directory.join("cache")),
            "APT::Architecture=amd64".into(),
            // The private directories belong to whoever runs this, not to apt's own user.
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
        ];
        let apt = Self { options };
        process::output(apt.get().args(["-qq", "update"]))?;
        Ok(apt)
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }

    fn cache(&self) -> Command {
        self.command("apt-cache")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_signed_cloud_kernel_comes_first() {
        let names = "linux-image-7.2.6+deb13-cloud-amd64\n\
                     linux-image-7.3.4+deb13-cloud-amd64-dbg\n\
                     linux-image-7.1.13+deb13-cloud-amd64\n\
                     linux-image-7.2.12+deb13-cloud-amd64\n\
                     linux-image-7.2.12+deb13-amd64\n";
        let found = newest_first(names, "+deb13-cloud-amd64");
        let short: Vec<&str> = found.iter().map(|name| &name[12..18]).collect();
        assert_eq!(short, ["7.2.12", "7.2.6+", "7.1.13"]);
        let names = "linux-image-6.1.0-9-cloud-amd64\n\
                     linux-image-6.1.0-50-cloud-amd64\n\
                     linux-image-6.1.0-50-cloud-amd64-unsigned\n\
                     linux-image-6.1.0-50-amd64\n";
        let found = newest_first(names, "-cloud-amd64");
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], "linux-image-6.1.0-50-cloud-amd64");
    }

    #[test]
    fn a_series_is_spelt_as_it_is_shown() {
        for series in Series::ALL {
            assert_eq!(series.to_string().parse(), Ok(series));
        }
        assert!("5.10".parse::<Series>().unwrap_err().contains("`5.10`"));
    }
}
