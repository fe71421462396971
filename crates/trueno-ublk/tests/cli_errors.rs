//! Wrong input gets one clear sentence that names the value and the remedy, and changes nothing.

mod common;

use common::{Bench, Mounted, can, can_make_devices, refusal, rooted};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Refused by its words alone, whoever asks: usage, so status 2.
fn misused(line: &str, words: &[&str]) {
    let bench = Bench::new();
    let sentence = bench.refused(line, 2);
    for word in words {
        assert!(sentence.contains(word), "{sentence:?} lacks {word:?}");
    }
    assert!(!bench.run_dir().exists(), "something was made");
}

#[test]
fn size_zero() {
    misused("create --size 0", &["\"0\"", "zero", "K, M, G"]);
}

#[test]
fn size_with_an_unknown_unit() {
    misused("create --size 8Q", &["8Q", "\"Q\"", "K, M, G"]);
}

#[test]
fn size_larger_than_the_largest_device() {
    misused("create --size 17T", &["18691697672192", "16 TiB"]);
}

#[test]
fn size_of_no_whole_pages() {
    misused("create --size 4097", &["4097", "4096"]);
}

#[test]
fn unknown_algorithm() {
    for name in ["lzma", "none"] {
        let value = format!("{name:?}");
        misused(
            &format!("create --size 1G --algorithm {name}"),
            &[&value, "use one of adaptive, same-fill, lz4, lz4hc, zstd"],
        );
    }
}

#[test]
fn policies_that_cannot_be() {
    misused(
        "create --size 1G --favour speed",
        &["--favour", "--algorithm adaptive", "lz4"],
    );
    misused(
        "create --size 1G --algorithm adaptive --favour cheap",
        &["'cheap'", "speed, balanced, memory"],
    );
    misused(
        "create --size 1G --algorithm adaptive --entropy-routing",
        &["--entropy-routing", "adaptive"],
    );
    misused("create --size 1G --entropy-routing 8", &["8 bits", "7.999"]);
    misused("create --size 1G --entropy-routing much", &["\"much\""]);
    misused(
        "estimate --all --algorithm lz4 --favour speed",
        &["--favour speed", "--algorithm adaptive"],
    );
    misused(
        "estimate --all --algorithm adaptive --favour cheap",
        &["'cheap'"],
    );
}

#[test]
fn arguments_that_make_no_sense() {
    misused(
        "",
        &[
            "no command",
            "create, remove, recover, upgrade, reset, list, stat, scrub, compact, find, entropy, \
             estimate, explain",
        ],
    );
    misused("frobnicate", &["\"frobnicate\"", "create, remove"]);
    misused("list --bytse", &["\"--bytse\"", "--bytes"]);
    misused("list now", &["\"now\"", "trueno-ublk list --help"]);
    misused("create", &["--size <SIZE> is missing"]);
    misused("create --size", &["--size <SIZE> has no value"]);
    misused("create --size 1G --size 2G", &["--size <SIZE>", "once"]);
    misused("create --size 1G --queues x", &["--queues", "\"x\""]);
    misused(
        "create --size 1G --transport tcp",
        &["\"tcp\"", "ublk, loop"],
    );
    misused("create --size 1G --json=yes", &["--json", "\"yes\""]);
    misused("create --size 1G --force", &["--force", "--swap"]);
    misused(
        "create --size 1G --reserve 8M --populate",
        &["--reserve", "--populate", "leave"],
    );
    misused("stat --json --mm-stat", &["--json", "--mm-stat", "leave"]);
    misused("remove", &["<DEVICE> is missing"]);
    misused("scrub", &["<DEVICE> is missing"]);
    misused("scrub 0 --rate fast", &["--rate", "\"fast\""]);
    misused("scrub 0 --rate 4095", &["--rate", "4095", "4096"]);
    misused("scrub 0 --rate 1M --stop", &["--rate", "--stop", "leave"]);
}

/// As a script does that has no value in its variable.
#[test]
fn a_device_without_a_name() {
    let bench = Bench::new();
    for command in ["remove", "reset", "scrub", "compact", "stat"] {
        let sentence = refusal(&bench.command([command, ""]).output().unwrap(), 2);
        assert!(sentence.contains("DEVICE"), "{sentence}");
        assert!(sentence.contains("has no value"), "{sentence}");
    }
}

#[test]
fn what_is_asked_for_is_no_error() {
    let bench = Bench::new();
    assert!(
        bench
            .done("--help")
            .contains("Usage: trueno-ublk <COMMAND>")
    );
    assert!(bench.done("create --help").contains("--size <SIZE>"));
    assert!(bench.done("--version").starts_with("trueno-ublk "));
}

#[test]
fn memory_limit_below_the_floor() {
    misused("create --size 1G --mem-limit 4K", &["4096", "1048576"]);
}

#[test]
fn swap_on_loop_without_force() {
    misused(
        "create --size 1G --swap --transport loop",
        &["swap", "loop", "--force"],
    );
}

#[test]
fn numbers_out_of_range() {
    misused("create --size 1G --queues 0", &["0 queues"]);
    misused("create --size 1G --queues 70000", &["70000 queues", "64"]);
    misused("create --size 1G --dev-id 1048576", &["1048576", "1048575"]);
    misused("create --size 1G --depth 129", &["129", "128"]);
    misused(
        "create --size 1G --block-size 1024",
        &["1024", "512 or 4096"],
    );
    misused("create --size 1G --swap 40000", &["40000", "32767"]);
    misused("create --size 1G --swap --reserve 1M", &["1048576", "8M"]);
}

#[test]
fn nothing_to_look_at() {
    misused("entropy", &["PATH", "missing"]);
    misused("entropy --pages 0 /bin/sh", &["\"0\"", "--pages"]);
    misused("estimate", &["--pid", "missing"]);
    misused("estimate --pid 1 --all", &["--pid", "--all"]);
    misused("estimate --all --algorithm lzma", &["\"lzma\"", "lz4"]);
    let bench = Bench::new();
    for (line, word) in [
        ("entropy /nothing", "/nothing"),
        ("entropy /", "neither a file nor a block device"),
        ("entropy /dev/null", "neither a file nor a block device"),
    ] {
        let sentence = bench.refused(line, 1);
        assert!(sentence.contains(word), "{sentence}");
    }
}

#[test]
fn no_page_to_explain() {
    misused("explain", &["PATH", "missing"]);
    misused("explain /bin/sh --pid 1", &["PATH", "--pid"]);
    misused("explain /bin/sh --page x", &["--page", "\"x\""]);
    misused("explain /bin/sh --address 1000", &["PATH", "--address"]);
    misused(
        "explain --pid 1 --address 1000 --page 1",
        &["--page", "--address"],
    );
    misused("explain --pid 1 --address 7g", &["\"7g\"", "hexadecimal"]);
    misused(
        "explain /bin/sh --favour cheap",
        &["--favour", "'cheap'", "speed, balanced, memory"],
    );
    let bench = Bench::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pages");
    let file = file.to_str().unwrap();
    std::fs::write(file, "").unwrap();
    let empty = bench.refused(&format!("explain {file}"), 1);
    assert!(empty.contains("has no pages"), "{empty}");
    std::fs::write(file, [1; 4097]).unwrap();
    let beyond = bench.refused(&format!("explain {file} --page 2"), 1);
    assert!(beyond.contains("no page 2: give --page 0 to 1"), "{beyond}");
    let us = std::process::id();
    for (line, words) in [
        ("/nothing".to_string(), "cannot open /nothing"),
        ("/".to_string(), "neither a file nor a block device"),
        // Above the highest number that a process may have.
        ("--pid 4194305".to_string(), "no process 4194305"),
        (format!("--pid {us} --address 0x10"), "no memory at 0x10"),
        (
            format!("--pid {us} --address ffffffffffffffff"),
            "no memory at 0xffffffffffffffff",
        ),
    ] {
        let sentence = bench.refused(&format!("explain {line}"), 1);
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[test]
fn no_root() {
    let bench = Bench::new();
    let mut command = bench.command(["create", "--size", "1G"]);
    if rooted() {
        // The binary may lie where only root can go: a copy where everyone can.
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let copy = directory.path().join("trueno-ublk");
        // Not by this process: another test's fork would have it open for writing, and the program
        // be "busy".
        let copied = Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_trueno-ublk"))
            .arg(&copy)
            .status();
        assert!(copied.unwrap().success());
        command = Command::new(&copy);
        command
            .args(["create", "--size", "1G"])
            .uid(65534)
            .current_dir("/");
        let sentence = refusal(&command.output().unwrap(), 1);
        assert!(
            sentence.contains("root") && sentence.contains("sudo"),
            "{sentence}"
        );
        return;
    }
    let sentence = refusal(&command.output().unwrap(), 1);
    assert!(
        sentence.contains("root") && sentence.contains("sudo"),
        "{sentence}"
    );
}

/// What `create` says where `/dev` holds nothing but `null` and what `make` puts there; none where
/// this process cannot change its `/dev`.
fn refusal_with_bare_dev(make: &str) -> Option<String> {
    let unshare = Command::new("unshare").args(["-m", "true"]).status();
    if !can(
        "root with mount namespaces",
        rooted() && unshare.is_ok_and(|s| s.success()),
    ) {
        return None;
    }
    let script = format!(
        "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && {make} && \
         exec \"$0\" create --size 1G"
    );
    let bench = Bench::new();
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c"])
        .args([&script, env!("CARGO_BIN_EXE_trueno-ublk")])
        .env("TRUENO_RUN_DIR", bench.run_dir())
        .output()
        .unwrap();
    let sentence = refusal(&output, 1);
    assert!(bench.left_behind().is_empty());
    Some(sentence)
}

#[test]
fn no_ublk_and_no_fuse() {
    let Some(sentence) = refusal_with_bare_dev("true") else {
        return;
    };
    assert!(
        sentence.contains("ublk") && sentence.contains("/dev/fuse"),
        "{sentence}"
    );
}

/// A driver that is there and not for us is no reason to give up: the other transport is asked.
#[test]
fn a_ublk_driver_that_cannot_be_opened_is_passed_over() {
    let Some(sentence) = refusal_with_bare_dev("mkdir /dev/ublk-control") else {
        return;
    };
    for word in ["cannot open /dev/ublk-control", "/dev/fuse"] {
        assert!(sentence.contains(word), "{sentence}");
    }
}

#[test]
fn device_id_in_use() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    bench.done("create --size 64M --transport loop --dev-id 7");
    let sentence = bench.refused("create --size 64M --transport loop --dev-id 7", 1);
    assert!(sentence.contains("device id 7 is in use"), "{sentence}");
    assert_eq!(bench.json("list").as_array().unwrap().len(), 1);
    bench.done("remove 7");
    assert!(bench.left_behind().is_empty());
}

#[test]
fn remove_and_reset_while_mounted() {
    if !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let device = bench.json("create --size 64M --transport loop");
    let name = device["name"].as_str().unwrap();
    let point = bench.run_dir().parent().unwrap().join("mnt");
    let mounted = Mounted::new(name, &point);
    std::fs::write(point.join("file"), "still here").unwrap();
    for line in ["remove 0", "reset 0"] {
        let sentence = bench.refused(line, 1);
        for words in [name, "mounted at", "umount"] {
            assert!(sentence.contains(words), "{sentence:?} lacks {words:?}");
        }
    }
    assert_eq!(
        std::fs::read_to_string(point.join("file")).unwrap(),
        "still here"
    );
    drop(mounted);
    bench.done("remove 0");
    assert!(bench.left_behind().is_empty());
}

#[test]
fn swap_where_only_loop_is_possible() {
    let has_ublk = std::path::Path::new("/dev/ublk-control").exists();
    if has_ublk || !can_make_devices() {
        return;
    }
    let bench = Bench::new();
    let sentence = bench.refused("create --size 64M --swap", 1);
    assert!(
        sentence.contains("loop") && sentence.contains("--force"),
        "{sentence}"
    );
    assert!(bench.left_behind().is_empty());
}

#[test]
fn devices_that_do_not_exist() {
    let bench = Bench::new();
    for line in [
        "remove 7",
        "reset /dev/ublkb7",
        "stat loop7",
        "stat --mm-stat 7",
    ] {
        let sentence = bench.refused(line, 1);
        assert!(
            sentence.contains('7') && sentence.contains("list"),
            "{sentence}"
        );
    }
    let sentence = bench.refused("stat", 1);
    assert!(sentence.contains("create"), "{sentence}");
}

#[test]
fn no_modprobe_to_load_the_driver_with() {
    let has_ublk = std::path::Path::new("/dev/ublk-control").exists();
    if has_ublk || !can("root", rooted()) {
        return;
    }
    let bench = Bench::new();
    let output = bench
        .command(["create", "--size", "1G", "--transport", "ublk"])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let sentence = refusal(&output, 1);
    for words in ["not loaded", "no program `modprobe`", "kmod"] {
        assert!(sentence.contains(words), "{sentence:?} lacks {words:?}");
    }
    assert!(!sentence.contains("kernel has no ublk"), "{sentence}");
}

/// The sentence and the chain of causes each told it once.
#[test]
fn a_daemon_that_cannot_be_reached_gives_its_cause_once() {
    let bench = Bench::new();
    let error = trueno_ublk::control::client::request(
        &bench.run_dir().join("0.sock"),
        &trueno_ublk::control::protocol::Op::Ping,
    )
    .unwrap_err();
    let sentence = format!("{:#}", anyhow::Error::from(error));
    assert_eq!(sentence.matches("os error").count(), 1, "{sentence}");
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_error() {
    let script = "\"$0\" list; echo $? >&2";
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let bench = Bench::new();
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_trueno-ublk")])
        .env("TRUENO_RUN_DIR", bench.run_dir())
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "0\n");
}
