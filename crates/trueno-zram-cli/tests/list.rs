//! `trueno-zram list` shows the zram devices that this kernel has, and what it is asked for.

use std::process::{Command, Output};

fn list(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trueno-zram"));
    command
        .arg("list")
        .args(args)
        .output()
        .expect("the binary runs")
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The kernel's own list, in its order of numbers.
fn kernels_list() -> Vec<String> {
    let mut numbers: Vec<u32> = std::fs::read_dir("/sys/block")
        .expect("/sys/block")
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix("zram")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers
        .iter()
        .map(|number| format!("/dev/zram{number}"))
        .collect()
}

#[test]
fn every_device_is_listed_with_its_size() {
    let json = text(list(&["--json"]));
    let devices: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let devices = devices.as_array().expect("an array");
    let names: Vec<&str> = devices.iter().filter_map(|d| d["name"].as_str()).collect();
    assert_eq!(names, kernels_list());
    for device in devices {
        let number = device["name"]
            .as_str()
            .unwrap()
            .strip_prefix("/dev/")
            .unwrap();
        let disksize = std::fs::read_to_string(format!("/sys/block/{number}/disksize")).unwrap();
        assert_eq!(device["disksize"].to_string(), disksize.trim());
    }
}

#[test]
fn the_table_has_a_heading_unless_told_otherwise() {
    let lines = |args: &[&str]| text(list(args)).lines().count();
    assert!(text(list(&[])).starts_with("NAME"));
    assert_eq!(lines(&["--bytes"]), kernels_list().len() + 1);
    assert_eq!(lines(&["--noheadings"]), kernels_list().len());
}

#[test]
fn wrong_usage_is_one_sentence_and_status_2() {
    for (args, words) in [
        (&["--json", "--bytes"][..], "--bytes"),
        (&["--nonsense"], "\"--nonsense\""),
    ] {
        let output = list(args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let sentence = String::from_utf8(output.stderr).expect("text");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
        assert!(sentence.starts_with("trueno-zram: "), "{sentence}");
        assert!(sentence.contains(words), "{sentence}");
    }
}
