//! The built binary, a run directory of its own, and devices that go with the test.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Whether a test can run here. Says why not; where nothing may be left out (`CI=true`), that is
/// a failure.
pub fn can(what: &str, possible: bool) -> bool {
    if !possible {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{what} is missing"
        );
        eprintln!("SKIPPED: {what} is missing");
    }
    possible
}

/// Whether devices can be made on the loop transport, which works in any kernel with FUSE.
pub fn can_make_devices() -> bool {
    can("root", rooted())
        && can("/dev/fuse", opens("/dev/fuse"))
        && can("loop", opens("/dev/loop-control"))
}

/// Whether the tests run as root.
pub fn rooted() -> bool {
    trueno_ublk::daemon::sys::is_root()
}

fn opens(path: &str) -> bool {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .is_ok()
}

/// A run directory, and the commands that use it. Dropped, it removes the devices in it.
pub struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        Bench {
            directory: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// `trueno-ublk` with these arguments.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trueno-ublk"));
        command
            .args(args)
            .env("TRUENO_RUN_DIR", self.run_dir())
            .env_remove("RUST_LOG");
        command
    }

    /// Runs it with the words of `line`.
    pub fn run(&self, line: &str) -> Output {
        self.command(line.split_ascii_whitespace())
            .output()
            .expect("the binary runs")
    }

    /// Runs it, and it must succeed; what it printed.
    pub fn done(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs it with `--json`; what it printed.
    pub fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.done(&format!("{line} --json"))).expect("JSON")
    }

    /// Runs it, and it must fail with `status` and one sentence, which is returned.
    pub fn refused(&self, line: &str, status: i32) -> String {
        refusal(&self.run(line), status)
    }

    /// What lies in the run directory.
    pub fn left_behind(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.run_dir()) else {
            return Vec::new();
        };
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        };
        entries.map(name).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let mut ids: Vec<String> = self
            .left_behind()
            .iter()
            .filter_map(|name| Some(name.strip_suffix(".lock")?.to_string()))
            .collect();
        ids.sort();
        for id in ids {
            let _ = self.command(["remove", "--force", &id]).output();
        }
    }
}

/// The one sentence of a command that must have failed with `status`.
pub fn refusal(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    assert_eq!(text.lines().count(), 1, "not one sentence: {text}");
    assert!(text.starts_with("trueno-ublk: "), "{text}");
    text.trim_end().to_string()
}

/// A mounted file system. Dropped, it is unmounted.
pub struct Mounted(PathBuf);

impl Mounted {
    /// A new ext4 on `device`, mounted at `point`.
    pub fn new(device: &str, point: &Path) -> Mounted {
        std::fs::create_dir_all(point).expect("a mount point");
        let made = Command::new("mkfs.ext4").args(["-q", device]).status();
        assert!(made.expect("mkfs.ext4 runs").success());
        let mounted = Command::new("mount").arg(device).arg(point).status();
        assert!(mounted.expect("mount runs").success());
        Mounted(point.to_path_buf())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
