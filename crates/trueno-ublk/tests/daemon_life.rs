//! A device from `create` to its end, in each of the ways it can end, on the loop transport: what
//! is there while it lives, and that nothing is left after it.

mod common;

use common::{Bench, Mounted, can_make_devices};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use trueno_ublk::control::client;
use trueno_ublk::control::protocol::Op;
use trueno_ublk::daemon::RunDir;
use trueno_ublk::daemon::rundir::{Phase, Record};
use trueno_ublk::transport::Kind;
use trueno_zram_adaptive::model::CANDIDATES;
use trueno_zram_cli::process_memory::{Frames, ProcessMemory};

/// Nothing of `bench` in the run directory, among the mounts and behind loop devices.
fn assert_no_trace(bench: &Bench) {
    assert!(bench.left_behind().is_empty(), "{:?}", bench.left_behind());
    let run_dir = bench.run_dir();
    let run_dir = run_dir.to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(run_dir), "{mounts}");
    for block in std::fs::read_dir("/sys/block").unwrap() {
        let file = block.unwrap().path().join("loop/backing_file");
        let backing = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            !backing.contains(run_dir),
            "a loop device is still bound to {backing}"
        );
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "waited in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(signal: &str, pid: u64) {
    let sent = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Kills the daemon of device 0 and waits until that is seen.
fn kill(bench: &Bench) {
    signal("-KILL", pid_of(bench, 0));
    wait_until("it is seen to be dead", || {
        bench.json("list")[0]["state"] == "dead"
    });
}

/// Goes on with device 0; what that says. What is said of the old loop device may come with it.
fn recover(bench: &Bench) -> serde_json::Value {
    let recovered = bench.run("recover 0 --json");
    assert!(recovered.status.success(), "{recovered:?}");
    serde_json::from_slice(&recovered.stdout).unwrap()
}

fn pid_of(bench: &Bench, id: u32) -> u64 {
    bench.json(&format!("stat {id}"))["device"]["pid"]
        .as_u64()
        .unwrap()
}

#[test]
fn data_shows_in_the_figures_and_goes_with_reset() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    assert_eq!(bench.done("find"), "0\n");
    let device = bench.json("create --size 64M --transport loop --algorithm zstd1");
    assert_eq!(bench.done("find"), "1\n");
    assert_eq!(device["transport"], "loop");
    assert_eq!(device["algorithm"], "zstd1");
    let name = device["name"].as_str().unwrap().to_string();

    let text = b"a page of words that a codec makes small, ".repeat(100_000);
    let mut file = OpenOptions::new().write(true).open(&name).unwrap();
    file.write_all(&text).unwrap();
    file.sync_all().unwrap();
    drop(file);

    let stat = bench.json("stat 0");
    let pages = text.len().div_ceil(4096) as u64;
    assert_eq!(stat["store"]["pages_stored"], pages);
    let mm = &stat["mm_stat"];
    assert_eq!(mm["orig_data_size"], pages * 4096);
    assert!(
        mm["compr_data_size"].as_u64().unwrap() < text.len() as u64 / 10,
        "{mm}"
    );
    let hardening = &stat["hardening"];
    assert_eq!(hardening["swap_mode"], false);
    assert_eq!(hardening["locked_bytes"], 0);
    // FUSE allocates for each request: nobody watches, so there is no count.
    assert!(
        hardening["heap_uses_on_io_threads"].is_null(),
        "{hardening}"
    );
    let line = bench.done(&format!("stat --mm-stat {name}"));
    let numbers: Vec<u64> = line
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    assert_eq!((numbers.len(), numbers[0]), (9, pages * 4096));
    assert_eq!(bench.done("stat --io-stat").split_whitespace().count(), 4);
    let list = bench.json("list");
    assert_eq!(
        (&list[0]["name"], &list[0]["state"]),
        (&device["name"], &"alive".into())
    );
    assert!(bench.done("list").starts_with("NAME"));

    let socket = bench.run_dir().join("0.sock");
    client::request(
        &socket,
        &Op::MemLimit {
            bytes: Some(32 << 20),
        },
    )
    .unwrap();
    assert_eq!(bench.json("stat 0")["mm_stat"]["mem_limit"], 32 << 20);
    let error = client::request(&socket, &Op::MemLimit { bytes: Some(5) }).unwrap_err();
    assert!(error.to_string().contains("memory limit 5 "), "{error}");

    bench.done("reset 0");
    assert_eq!(bench.json("stat 0")["mm_stat"]["orig_data_size"], 0);
    let mut page = [1; 4096];
    std::fs::File::open(&name)
        .unwrap()
        .read_exact(&mut page)
        .unwrap();
    assert!(page.iter().all(|byte| *byte == 0));

    bench.done(&format!("remove {name}"));
    assert_no_trace(&bench);
}

fn log(bench: &Bench) -> String {
    std::fs::read_to_string(bench.run_dir().join("0.log")).unwrap()
}

/// A byte of an object is changed behind the daemon's back: `scrub` finds the page, reading it is an
/// error, all others are well, and everyone who asks is told.
#[test]
fn a_damaged_page_is_found_named_and_the_only_one_that_cannot_be_read() {
    use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
    const PAGES: usize = 1000;
    const MARK: &[u8] = b"this page is going to be damaged";
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop");
    if !common::can("a tmpfs that is not swapped", keeps_data(&bench)) {
        return;
    }
    let name = device["name"].as_str().unwrap();
    let mut data: Vec<u8> = (0..PAGES)
        .flat_map(|page| {
            let line = format!("page {page} has words that a codec makes small, ");
            line.bytes().cycle().take(4096).collect::<Vec<u8>>()
        })
        .collect();
    // Nothing in these words repeats: they stand in the block as they are.
    data[700 * 4096..][..MARK.len()].copy_from_slice(MARK);
    let file = OpenOptions::new().write(true).open(name).unwrap();
    file.write_all_at(&data, 0).unwrap();
    file.sync_all().unwrap();
    drop(file);

    let whole = bench.json("scrub 0");
    assert_eq!(
        (&whole["phase"], &whole["number"]),
        (&"done".into(), &1.into())
    );
    assert_eq!(whole["pages_checked"], PAGES);
    assert_eq!(whole["pages_damaged"], 0);
    assert!(
        bench
            .done(&format!("scrub {name}"))
            .contains("1000 pages checked")
    );

    let path = bench.run_dir().join("0/memory/store");
    let store = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let at = find(&store, MARK).expect("the block has the words");
    store.write_all_at(b"T", at).unwrap();

    let output = bench.run("scrub 0");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("1000 pages checked"), "{said}");
    assert!(said.contains("damaged: page 700 (byte 2867200)"), "{said}");
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert!(
        sentence.contains("damaged pages on /dev/loop"),
        "{sentence}"
    );
    let output = bench.run("scrub 0 --json");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let scrub: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(scrub["damaged"], serde_json::json!([2867200]));

    // Page by page, past the kernel's cache.
    let direct = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(name)
        .unwrap();
    let mut memory = vec![0; 2 * 4096];
    let start = memory.as_ptr().align_offset(4096);
    let back = &mut memory[start..][..4096];
    for page in 0..PAGES {
        let read = direct.read_exact_at(back, page as u64 * 4096);
        if page == 700 {
            assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
        } else {
            read.unwrap();
            assert!(back == &data[page * 4096..][..4096], "page {page} differs");
        }
    }
    drop(direct);
    wait_until("the log has the read", || {
        log(&bench).contains("page 700 (byte 2867200) is damaged: a read of it failed")
    });
    let said = log(&bench);
    let told = "scrub: page 700 (byte 2867200) is damaged";
    assert_eq!(said.matches(told).count(), 2, "{said}");
    assert!(said.contains("1000 pages checked"), "{said}");

    let stat = bench.json("stat 0");
    assert_eq!(stat["scrub"], scrub);
    let reads = stat["io_stat"]["failed_reads"].as_u64().unwrap();
    assert!(reads >= 1, "{stat}");
    // Each finding counts: two scrubs and the reads.
    assert_eq!(stat["store"]["damaged_objects"], 2 + reads);
    assert_adds_up(&stat);
    assert!(bench.done("stat 0").contains("1 damaged"));

    // Written anew, it is whole.
    let file = OpenOptions::new().write(true).open(name).unwrap();
    file.write_all_at(&data[700 * 4096..][..4096], 700 * 4096)
        .unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(bench.json("scrub 0")["pages_damaged"], 0);
    bench.done("remove 0");
    assert_no_trace(&bench);
}

/// Where `words` stand in a file.
fn find(file: &std::fs::File, words: &[u8]) -> Option<u64> {
    use std::os::unix::fs::FileExt as _;
    let mut part = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut part, at).unwrap();
        if let Some(found) = part[..count]
            .windows(words.len())
            .position(|at| at == words)
        {
            return Some(at + found as u64);
        }
        if count < part.len() {
            return None;
        }
        at += (count - words.len()) as u64;
    }
}

/// The sums over the classes of `stat --json` are its totals.
fn assert_adds_up(stat: &serde_json::Value) {
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let (store, mm) = (&stat["store"], &stat["mm_stat"]);
    let sum = |column: usize| -> u64 {
        let classes = stat["classes"].as_array().unwrap();
        classes.iter().map(|class| number(&class[column])).sum()
    };
    assert_eq!(
        number(&store["pages_stored"]),
        number(&mm["same_pages"]) + number(&store["compressed_pages"]) + number(&mm["huge_pages"])
    );
    assert_eq!(number(&store["objects"]), sum(2));
    assert!(sum(2) <= sum(1));
    assert_eq!(
        number(&mm["mem_used_total"]),
        (sum(3) + number(&mm["huge_pages"])) * 4096
    );
}

/// A page a second: whoever asks something else, or removes the device, does not wait for it.
#[test]
fn a_slow_scrub_stands_in_nobodys_way() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop");
    let name = device["name"].as_str().unwrap();
    let mut file = OpenOptions::new().write(true).open(name).unwrap();
    file.write_all(&b"some words ".repeat(300_000)).unwrap();
    file.sync_all().unwrap();
    drop(file);

    let slow = || {
        let before = bench.json("stat 0")["scrub"]["number"]
            .as_u64()
            .unwrap_or(0);
        let mut command = bench.command(["scrub", "0", "--rate", "4K"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_until("it is under way", || {
            let scrub = &bench.json("stat 0")["scrub"];
            scrub["number"] == before + 1 && scrub["pages_checked"] != 0
        });
        child
    };
    let begin = Instant::now();
    // One that is interrupted leaves it under way; another one is refused meanwhile.
    let mut child = slow();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bench.json("stat 0")["scrub"]["phase"], "running");
    assert!(bench.done("stat 0").contains("% passed"));
    let sentence = bench.refused("scrub 0", 1);
    assert!(sentence.contains("scrub 0 --stop"), "{sentence}");
    bench.done("scrub 0 --stop");
    assert_eq!(bench.json("stat 0")["scrub"]["phase"], "stopped");
    let sentence = bench.refused("scrub 0 --stop", 1);
    assert!(sentence.contains("no scrub of device 0"), "{sentence}");

    // Who waits for one is told when somebody stops it.
    let child = slow();
    bench.done("scrub 0 --stop");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("was stopped at byte 1048576"), "{said}");

    let child = slow();
    bench.done("remove 0");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(begin.elapsed() < Duration::from_secs(30), "somebody waited");
    assert_no_trace(&bench);
}

#[test]
fn a_signal_ends_an_unused_device_and_spares_a_mounted_one() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop");
    let point = bench.run_dir().parent().unwrap().join("mnt");
    let mounted = Mounted::new(device["name"].as_str().unwrap(), &point);
    std::fs::write(point.join("file"), "still here").unwrap();
    let pid = pid_of(&bench, 0);
    signal("-TERM", pid);
    let log = bench.run_dir().join("0.log");
    wait_until("the log says why", || {
        std::fs::read_to_string(&log)
            .unwrap()
            .contains("not followed")
    });
    assert_eq!(
        std::fs::read_to_string(point.join("file")).unwrap(),
        "still here"
    );
    drop(mounted);
    signal("-TERM", pid);
    wait_until("the daemon is gone", || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
    assert_no_trace(&bench);
}

#[test]
fn remove_with_force_takes_a_mounted_device_away() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop");
    let point = bench.run_dir().parent().unwrap().join("mnt");
    let mounted = Mounted::new(device["name"].as_str().unwrap(), &point);
    let output = bench.run("remove --force 0");
    assert!(output.status.success(), "{output:?}");
    let warning = String::from_utf8_lossy(&output.stderr);
    assert!(warning.contains("I/O errors"), "{warning}");
    drop(mounted);
    wait_until("the daemon is gone", || bench.left_behind().is_empty());
    assert_no_trace(&bench);
}

/// Whether the memory of devices outlives their daemons here.
fn keeps_data(bench: &Bench) -> bool {
    bench.json("stat 0")["device"]["memory"] != "memfd"
}

#[test]
fn a_killed_daemon_is_reported_and_its_remains_are_taken_away() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop");
    let kept = keeps_data(&bench);
    kill(&bench);
    let dead = bench.json("list");
    assert_eq!(dead[0]["name"], device["name"]);
    assert_eq!(dead[0]["recoverable"], kept);
    let name = device["name"].as_str().unwrap();
    for line in ["stat 0", "stat", &format!("stat {name}")] {
        let sentence = bench.refused(line, 1);
        for word in ["dead", "remove 0", name] {
            assert!(sentence.contains(word), "{sentence}");
        }
        assert_eq!(sentence.contains("recover 0"), kept, "{sentence}");
    }
    if kept {
        // A new device must not take the data for rubbish.
        let sentence = bench.refused("create --size 64M --transport loop --dev-id 0", 1);
        assert!(sentence.contains("data is kept"), "{sentence}");
        assert_eq!(bench.done("find"), "1\n");
    }
    bench.done("remove 0");
    let sentence = bench.refused("recover 0", 1);
    assert!(sentence.contains("no device \"0\""), "{sentence}");
    assert_no_trace(&bench);
}

#[test]
fn the_data_of_a_killed_daemon_is_recovered_under_another_loop_device() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop --algorithm zstd1");
    if !common::can("a tmpfs that is not swapped", keeps_data(&bench)) {
        return;
    }
    let sentence = bench.refused("recover 0", 1);
    assert!(sentence.contains("needs no recovery"), "{sentence}");
    let sentence = bench.refused("upgrade 0", 1);
    assert!(sentence.contains("that takes ublk"), "{sentence}");
    let text = b"what was written is there after the writer's end, ".repeat(50_000);
    let write = |name: &str, at: u64| {
        let file = OpenOptions::new().write(true).open(name).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &text, at).unwrap();
        file.sync_all().unwrap();
    };
    write(device["name"].as_str().unwrap(), 0);
    let limit = Op::MemLimit {
        bytes: Some(32 << 20),
    };
    client::request(&bench.run_dir().join("0.sock"), &limit).unwrap();
    for round in 1..=3 {
        let before = bench.json("stat 0");
        kill(&bench);
        let recovered = recover(&bench);
        let name = recovered["name"].as_str().unwrap();
        let after = bench.json("stat 0");
        for figure in ["orig_data_size", "compr_data_size", "mem_limit"] {
            assert_eq!(after["mm_stat"][figure], before["mm_stat"][figure]);
        }
        assert_eq!(after["device"]["algorithm"], "zstd1");
        let mut back = vec![0; text.len()];
        for part in 0..round {
            let file = std::fs::File::open(name).unwrap();
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, part << 23).unwrap();
            assert!(back == text, "round {round}: part {part} differs");
        }
        write(name, round << 23);
    }
    let log = std::fs::read_to_string(bench.run_dir().join("0.log")).unwrap();
    assert_eq!(log.matches("going on with what process").count(), 3);
    bench.done("remove 0");
    assert_no_trace(&bench);
}

/// An attempt that fails takes nothing away: another one may do better.
#[test]
fn a_recovery_that_fails_leaves_the_data() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    bench.done("create --size 64M --transport loop");
    if !common::can("a tmpfs that is not swapped", keeps_data(&bench)) {
        return;
    }
    kill(&bench);
    let plan = bench.run_dir().join("0.plan");
    let whole = std::fs::read_to_string(&plan).unwrap();
    for (wrong, words) in [
        ("{}".to_string(), "does not hold"),
        (
            whole.replace(&(64 << 20).to_string(), "8192"),
            "cannot go on with the store",
        ),
    ] {
        std::fs::write(&plan, wrong).unwrap();
        let sentence = bench.refused("recover 0", 1);
        assert!(sentence.contains(words), "{sentence}");
        assert_eq!(bench.json("list")[0]["recoverable"], true);
    }
    std::fs::write(&plan, whole).unwrap();
    bench.done("recover 0");
    bench.done("remove 0");
    assert_no_trace(&bench);
}

/// Who looks at a device that is just being made is told so at once: it answers nobody yet.
#[test]
fn a_device_that_is_starting_is_shown_at_once() {
    let bench = Bench::new();
    let run_dir = RunDir::at(bench.run_dir()).create().unwrap();
    let number = run_dir.take(3).unwrap().expect("free");
    let _silent = UnixListener::bind(run_dir.socket(3)).unwrap();
    let record = Record {
        phase: Phase::Starting,
        transport: Kind::Ublk,
        pid: std::process::id(),
        maker: std::process::id(),
        name: Some("/dev/ublkb3".into()),
        failure: None,
    };
    for written in [false, true] {
        if written {
            number.begin(record.clone()).unwrap();
        }
        let begin = Instant::now();
        assert_eq!(bench.json("list")[0]["state"], "starting");
        for line in ["stat 3", "remove 3", "reset 3"] {
            let sentence = bench.refused(line, 1);
            assert!(sentence.contains("just being made"), "{sentence}");
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "somebody waited");
    }
    assert!(bench.refused("stat ublkb3", 1).contains("just being made"));
}

/// The second is told what became of the device, not that the conversation broke off.
#[test]
fn removes_at_the_same_time_all_say_that_it_is_gone() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    for _ in 0..5 {
        bench.done("create --size 16M --transport loop");
        let removes: Vec<_> = (0..4)
            .map(|_| {
                let mut command = bench.command(["remove", "0"]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        let mut gone = 0;
        for remove in removes {
            let output = remove.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let complained = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                assert!(said.contains("is gone"), "{output:?}");
                gone += 1;
            } else {
                // It came when all was over.
                assert!(complained.contains("there is no device 0"), "{output:?}");
            }
        }
        assert!(gone >= 1);
        assert_no_trace(&bench);
    }
}

/// A loop device on top of ours claims nothing and is no process, and its mount is not ours.
#[test]
fn a_device_under_another_is_not_taken_away() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop");
    let name = device["name"].as_str().unwrap();
    let upper = Command::new("losetup")
        .args(["-f", "--show", name])
        .output()
        .unwrap();
    assert!(upper.status.success(), "{upper:?}");
    let upper = String::from_utf8(upper.stdout).unwrap();
    let upper = Attached(upper.trim().to_string());
    for line in ["remove 0", "reset 0"] {
        let sentence = bench.refused(line, 1);
        assert!(
            sentence.contains(upper.0.trim_start_matches("/dev/")),
            "{sentence}"
        );
    }
    let point = bench.run_dir().parent().unwrap().join("mnt");
    let mounted = Mounted::new(&upper.0, &point);
    let sentence = bench.refused("remove 0", 1);
    assert!(sentence.contains(point.to_str().unwrap()), "{sentence}");
    let shown = bench.json("list");
    assert_eq!(shown[0]["mountpoints"][0], point.to_str().unwrap());
    drop(mounted);
    drop(upper);
    bench.done("remove 0");
    assert_no_trace(&bench);
}

/// A loop device of a test. Dropped, it is detached.
struct Attached(String);

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// Somebody ends our file system: nobody waits for requests that nobody serves, and everyone who
/// asks is told.
#[test]
fn a_device_that_serves_no_longer_says_so() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop");
    let name = device["name"].as_str().unwrap();
    let point = bench.run_dir().join("0/fuse");
    // The loop device keeps the file open: the force ends the connection all the same.
    let _ = Command::new("umount").arg("-f").arg(&point).output();
    wait_until("the failure shows", || {
        bench.json("list")[0]["state"] == "failed"
    });
    let failed = bench.json("list");
    assert_eq!(failed[0]["name"], name);
    let cause = failed[0]["failure"].as_str().unwrap();
    assert!(cause.contains("FUSE file system has ended"), "{cause}");
    for line in ["stat 0", "reset 0"] {
        let sentence = bench.refused(line, 1);
        for word in [name, cause, "remove 0"] {
            assert!(sentence.contains(word), "{sentence}");
        }
    }
    let log = std::fs::read_to_string(bench.run_dir().join("0.log")).unwrap();
    assert!(log.contains(cause), "{log}");
    let mut page = [0; 4096];
    let read = std::fs::File::open(name).and_then(|mut file| file.read_exact(&mut page));
    assert!(read.is_err(), "it is read from");
    bench.done("remove 0");
    assert_no_trace(&bench);
}

#[test]
fn in_the_foreground_it_prints_when_ready_and_ends_by_signal() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let mut child = bench
        .command([
            "create",
            "--size",
            "64M",
            "--transport",
            "loop",
            "--foreground",
            "--json",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it serves", || bench.json("list")[0]["state"] == "alive");
    assert_eq!(pid_of(&bench, 0), u64::from(child.id()));
    signal("-INT", u64::from(child.id()));
    assert!(child.wait().unwrap().success());
    let mut printed = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut printed)
        .unwrap();
    let device: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(device["id"], 0);
    assert_no_trace(&bench);
}

#[test]
fn devices_made_at_once_get_different_numbers() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let children: Vec<_> = (0..4)
        .map(|_| {
            bench
                .command(["create", "--size", "16M", "--transport", "loop", "--json"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut ids: Vec<u64> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            let device: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            device["id"].as_u64().unwrap()
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3]);
    for id in ids {
        bench.done(&format!("remove {id}"));
    }
    assert_no_trace(&bench);
}

#[test]
fn rubbish_on_the_socket_harms_nothing() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    bench.done("create --size 16M --transport loop");
    let socket = bench.run_dir().join("0.sock");
    let silent = UnixStream::connect(&socket).unwrap();
    for rubbish in [
        &b"\xff\xff\xff\n"[..],
        b"{\"v\":1,\"op\":\"explode\"}\n",
        &[b'['; 200_000],
    ] {
        let mut client = UnixStream::connect(&socket).unwrap();
        // It may hang up on us while we still speak.
        let _ = client.write_all(rubbish);
    }
    assert_eq!(bench.json("stat 0")["device"]["id"], 0);
    drop(silent);
    bench.done("remove 0");
    assert_no_trace(&bench);
}

/// A program that has the device open claims nothing, as a virtual machine does, and would lose its
/// data all the same.
#[test]
fn a_device_that_a_program_has_open_is_not_taken_away() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop");
    let name = device["name"].as_str().unwrap();
    let mut program = Command::new("sleep")
        .arg("600")
        .stdin(std::fs::File::open(name).unwrap())
        .spawn()
        .unwrap();
    for line in ["remove 0", "reset 0"] {
        let sentence = bench.refused(line, 1);
        assert!(sentence.contains("in use by a program"), "{sentence}");
    }
    program.kill().unwrap();
    program.wait().unwrap();
    bench.done("remove 0");
    assert_no_trace(&bench);
}

/// Somebody detaches our file from the loop device, and the device serves another file: that one
/// is not ours to wipe.
#[test]
fn reset_does_not_touch_what_a_loop_device_serves_instead() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop");
    let name = device["name"].as_str().unwrap();
    let image = bench.run_dir().join("image");
    std::fs::write(&image, vec![7; 128 << 20]).unwrap();
    let losetup = |arguments: &[&str]| {
        let done = Command::new("losetup").args(arguments).status().unwrap();
        assert!(done.success(), "losetup {arguments:?}");
    };
    losetup(&["-d", name]);
    wait_until("the loop device is free", || {
        !Path::new("/sys/block")
            .join(Path::new(name).file_name().unwrap())
            .join("loop/backing_file")
            .exists()
    });
    losetup(&[name, image.to_str().unwrap()]);
    let sentence = bench.refused("reset 0", 1);
    assert!(sentence.contains("serves something else"), "{sentence}");
    bench.done("remove 0");
    losetup(&["-d", name]);
    assert!(std::fs::read(&image).unwrap().iter().all(|byte| *byte == 7));
    std::fs::remove_file(&image).unwrap();
    assert_no_trace(&bench);
}

#[test]
fn an_estimate_tells_what_a_device_takes() {
    if !can_make_devices() {
        return;
    }
    // Real bytes in our own memory: this program, which a device then gets.
    let program = std::fs::read("/proc/self/exe").unwrap();
    let us = std::process::id();
    let bench = Bench::new();
    let estimate = bench.json(&format!("estimate --pid {us} --pages 2048 --algorithm lz4"));
    let found = &estimate["algorithms"][0];
    assert_eq!(estimate["sampled_pages"], 2048);
    assert!(found["expected"]["ratio"].as_f64() > Some(1.0), "{found}");
    for cluster in estimate["clusters"].as_array().unwrap() {
        let bytes = |key: &str| cluster[key].as_u64().unwrap();
        assert!(bytes("with_bytes") < bytes("without_bytes"), "{cluster}");
    }
    assert_eq!(estimate["clusters"][1]["cluster_pages"], 16);
    let memory = ProcessMemory::open(us).unwrap();
    let addresses = memory.swappable(&mut Frames::default()).unwrap();
    assert!(addresses.count() as usize > program.len() / 4096);

    let device = bench.json("create --size 256M --transport loop --algorithm lz4");
    let name = device["name"].as_str().unwrap().to_string();
    let mut file = OpenOptions::new().write(true).open(&name).unwrap();
    let mut page = [0; 4096];
    for address in addresses.iter() {
        if memory.read(address, &mut page).is_err() {
            continue; // Another test's thread has ended.
        }
        file.write_all(&page).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let stat = bench.json("stat 0");
    let real = |key: &str| stat["mm_stat"][key].as_f64().unwrap();
    let table = stat["hardening"]["table_bytes"].as_f64().unwrap();
    for (estimated, real) in [
        ("compressed_bytes", real("compr_data_size")),
        ("memory_bytes", real("mem_used_total") + table),
    ] {
        let estimated = found[estimated].as_f64().unwrap();
        assert!(
            (estimated / real - 1.0).abs() < 0.05,
            "{estimated} and {real}"
        );
    }

    // The same bytes, seen on the device.
    let first = bench.json(&format!("explain --pid {us} --page 0"));
    assert_eq!(first["address"].as_u64(), addresses.get(0));
    let explained = bench.json(&format!("explain {name} --page 0"));
    assert_eq!(
        (&explained["source"], &explained["page"]),
        (&name.clone().into(), &0.into())
    );
    let entropy = bench.json(&format!("entropy {name} --pages 65536"));
    assert_eq!(entropy["pages"], 65536);
    let sum: u64 = entropy["bands"]
        .as_array()
        .unwrap()
        .iter()
        .map(|band| band["pages"].as_u64().unwrap())
        .sum();
    assert_eq!(sum + entropy["same_pages"].as_u64().unwrap(), 65536);
    assert!(sum as usize > program.len() / 4096 / 2, "{entropy}");
}

/// Real pages, and noise in between.
fn mixed_pages(count: usize) -> Vec<u8> {
    let program = std::fs::read("/proc/self/exe").unwrap();
    let mut seed = 1u64;
    let mut pages = Vec::new();
    for (number, page) in program.chunks_exact(4096).cycle().take(count).enumerate() {
        if number % 4 == 3 {
            pages.extend((0..4096).map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 56) as u8
            }));
        } else {
            pages.extend_from_slice(page);
        }
    }
    pages
}

#[test]
fn policies_look_at_each_page_and_their_devices_outlive_their_daemons() {
    if !can_make_devices() {
        return;
    }
    let pages = mixed_pages(4096);
    let mut adaptive = Vec::new();
    for (options, shown, codecs) in [
        (
            "--algorithm adaptive",
            json!(["adaptive", "balanced", null]),
            CANDIDATES.len(),
        ),
        (
            "--algorithm adaptive --favour memory",
            json!(["adaptive", "memory", null]),
            CANDIDATES.len(),
        ),
        (
            "--algorithm zstd1 --entropy-routing",
            json!(["zstd1", null, 7.0]),
            1,
        ),
        ("--entropy-routing 7.5", json!(["lz4", null, 7.5]), 1),
    ] {
        let asked = |device: &serde_json::Value| {
            json!(["algorithm", "favour", "entropy_bits"].map(|key| device.get(key).unwrap()))
        };
        let bench = Bench::new();
        let device = bench.json(&format!("create --size 64M --transport loop {options}"));
        assert_eq!(asked(&device), shown);
        assert_eq!(asked(&bench.json("list")[0]), shown);
        let name = device["name"].as_str().unwrap().to_string();
        let mut file = OpenOptions::new().write(true).open(&name).unwrap();
        file.write_all(&pages).unwrap();
        file.sync_all().unwrap();
        drop(file);

        // Every page that is not same-filled was chosen for once, the noise to be kept.
        let stat = bench.json("stat 0");
        assert_eq!(asked(&stat["device"]), shown);
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        let chosen = stat["chosen"].as_array().unwrap();
        assert_eq!(chosen.len(), codecs);
        let sum = |key: &str| chosen.iter().map(|one| number(&one[key])).sum::<u64>();
        let skipped = number(&stat["store"]["skipped_pages"]);
        let same = number(&stat["mm_stat"]["same_pages"]);
        assert_eq!(sum("pages") + skipped + same, 4096, "{options}: {stat}");
        assert!((1000..1100).contains(&skipped), "{options}: {skipped}");
        let raw = 4096 * (skipped + sum("in_vain"));
        let encoded = number(&stat["store"]["bytes_encoded"]);
        assert_eq!(sum("bytes") + raw, encoded, "{options}: {stat}");
        if codecs > 1 {
            let pages = chosen.iter().map(|one| number(&one["pages"]));
            adaptive.push(pages.collect::<Vec<u64>>());
        }
        let text = bench.done("stat 0");
        assert!(text.contains("chosen none"), "{text}");

        if keeps_data(&bench) {
            kill(&bench);
            let recovered = recover(&bench);
            assert_eq!(asked(&recovered), shown);
            let mut back = vec![0; pages.len()];
            let name = recovered["name"].as_str().unwrap();
            std::fs::File::open(name)
                .unwrap()
                .read_exact(&mut back)
                .unwrap();
            assert!(back == pages, "{options}: other pages after a recovery");
        }
    }
    // The program's pages are other ones in each build; that the price decides is not.
    let is_used = |codec: &usize| adaptive.iter().any(|pages| pages[*codec] > 0);
    assert!((0..CANDIDATES.len()).filter(is_used).count() >= 2);
    assert_ne!(adaptive[0], adaptive[1], "--favour changes nothing");
}
