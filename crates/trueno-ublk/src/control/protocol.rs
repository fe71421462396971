//! What goes over the control socket: a line of JSON for a request, a line for the answer.
//!
//! ```text
//! → {"v":1,"op":"stat"}
//! ← {"v":1,"ok":{…}}          or          {"v":1,"error":"one sentence"}
//! ```
//!
//! | op | with | answers |
//! |---|---|---|
//! | `ping` | | `"pong"` |
//! | `info` | | [`Info`] |
//! | `stat` | | [`Stat`] |
//! | `reset` | | `null`; all data is gone |
//! | `remove` | `force` (false) | [`Removed`]; the daemon ends |
//! | `hand_over` | `program` | the process that goes on; the daemon ends |
//! | `mem_limit` | `bytes` (absent: none) | `null` |
//! | `compact` | | bytes that became free |
//! | `scrub` | `rate`: bytes a second | [`Scrub`], which has begun |
//! | `scrub_state` | | [`Scrub`], the last one; `null`: there was none |
//! | `scrub_stop` | | [`Scrub`], which was under way |
//!
//! A connection may carry any number of requests, one after the other. Fields may be added within
//! a version; who reads ignores those it does not know.

use crate::daemon::harden;
use crate::daemon::policy::Asked;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use trueno_zram_cli::sysfs::{IoStat, MmStat};
use trueno_zram_store::ChosenStats;

/// The version that this code speaks.
pub const VERSION: u64 = 1;

/// Bytes of the longest line; a longer one is not read to its end.
pub const LINE_MAX: usize = 64 << 10;

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Are you there?
    Ping,
    /// What are you?
    Info,
    /// How are you doing?
    Stat,
    /// Forget all data.
    Reset,
    /// Take the device away and end.
    Remove {
        /// Also while it is mounted.
        #[serde(default)]
        force: bool,
    },
    /// Let another process go on with the device, and end.
    HandOver {
        /// The program to start for that: another version of this one.
        program: PathBuf,
    },
    /// Change the memory limit.
    MemLimit {
        /// The new one; none: no limit.
        #[serde(default)]
        bytes: Option<u64>,
    },
    /// Move objects together wherever that frees memory.
    Compact,
    /// Begin to check all pages.
    Scrub {
        /// The most bytes of uncompressed pages to check in a second.
        rate: u64,
    },
    /// How far is the scrub?
    ScrubState,
    /// End the scrub that is under way.
    ScrubStop,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Our number of it.
    pub id: u32,
    /// The block device.
    pub name: PathBuf,
    /// `ublk` or `loop`.
    pub transport: String,
    /// Why that transport.
    pub transport_reason: String,
    /// Bytes of the device.
    pub disksize: u64,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// How pages are compressed.
    #[serde(flatten)]
    pub asked: Asked,
    /// I/O threads.
    pub streams: usize,
    /// The swap priority, in swap mode.
    pub swap: Option<u16>,
    /// Where the store's memory comes from.
    pub memory: String,
    /// The daemon's process.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
}

impl Info {
    /// Whether the block device still serves our store. A loop device can be detached from outside
    /// and given to another file; a ublk device cannot.
    pub fn is_still_ours(&self) -> bool {
        if self.transport != "loop" {
            return true;
        }
        let Some(block) = self.name.file_name() else {
            return false;
        };
        let file = PathBuf::from("/sys/block")
            .join(block)
            .join("loop/backing_file");
        std::fs::read_to_string(file).is_ok_and(|shown| {
            shown
                .trim_end()
                .ends_with(&format!("/{}/fuse/device", self.id))
        })
    }
}

/// How a device does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    /// What it is.
    pub device: Info,
    /// Memory, in the kernel's terms.
    pub mm_stat: MmStat,
    /// Requests that went wrong or freed pages, in the kernel's terms.
    pub io_stat: IoStat,
    /// What the kernel has no terms for.
    pub store: StoreStat,
    /// The size classes that have memory: bytes of a slot, slots, objects in them, pages of memory.
    #[serde(default)]
    pub classes: Vec<[u64; 4]>,
    /// The algorithms that a page can be compressed with, and what became of that in this process.
    #[serde(default)]
    pub chosen: Vec<Chosen>,
    /// What keeps it alive under memory pressure.
    pub hardening: harden::Report,
    /// The process that takes over when the daemon dies, where one stands by.
    #[serde(default)]
    pub standby: Option<u32>,
    /// The scrub under way, or the last one, where this process has done one.
    #[serde(default)]
    pub scrub: Option<Scrub>,
}

/// What became of the pages that an algorithm was chosen for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Its name.
    pub algorithm: String,
    /// How often, since this process serves the device; a page that is written twice counts twice.
    pub pages: u64,
    /// How often of these the block did not get small enough, so that the page is kept as it is.
    pub in_vain: u64,
    /// Bytes of the blocks of the others.
    pub bytes: u64,
}

impl From<(String, ChosenStats)> for Chosen {
    fn from((algorithm, stats): (String, ChosenStats)) -> Chosen {
        Chosen {
            algorithm,
            pages: stats.pages,
            in_vain: stats.in_vain,
            bytes: stats.bytes,
        }
    }
}

/// The store's numbers that the kernel's zram has no names for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStat {
    /// Pages that hold data: `same_pages` + `compressed_pages` + `huge_pages`.
    pub pages_stored: u64,
    /// Pages of zeros among them.
    pub zero_pages: u64,
    /// Pages kept as a block that a codec made.
    #[serde(default)]
    pub compressed_pages: u64,
    /// Objects in the pool: those of `compressed_pages`, and of same-filled pages whose word fits in
    /// no entry of the page table.
    #[serde(default)]
    pub objects: u64,
    /// Pages written, ever.
    pub pages_written: u64,
    /// Pages read, ever.
    pub pages_read: u64,
    /// Pages that a codec made smaller, ever.
    pub pages_compressed: u64,
    /// Pages kept raw without trying, ever.
    pub skipped_pages: u64,
    /// Bytes written as objects, ever.
    pub bytes_encoded: u64,
    /// Bytes of page table in use.
    pub table_bytes: u64,
    /// Bytes of what is known of the pool: where slabs lie and which slots are taken.
    #[serde(default)]
    pub overhead_bytes: u64,
    /// Writes that failed for the memory limit.
    pub failed_limit: u64,
    /// Writes that failed since no memory was ready.
    pub failed_memory: u64,
    /// How often an object was found damaged, by reads, writes, scrubs or a recovery.
    pub damaged_objects: u64,
}

/// A check of all pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// Which one of this process, from 1 on.
    pub number: u64,
    /// How far it is.
    pub phase: ScrubPhase,
    /// The most bytes of uncompressed pages that it checks in a second.
    pub rate: u64,
    /// Bytes of the device that it has passed.
    pub position: u64,
    /// Pages that held data, and were checked.
    pub pages_checked: u64,
    /// Of these, pages that cannot be read.
    pub pages_damaged: u64,
    /// Where the first 16 of them begin, in bytes.
    pub damaged: Vec<u64>,
    /// Milliseconds since its begin, or from there to its end.
    pub elapsed_ms: u64,
}

/// How far a scrub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubPhase {
    /// It is under way.
    Running,
    /// It has seen all pages.
    Done,
    /// It was told to end.
    Stopped,
}

impl fmt::Display for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (checked, damaged) = (self.pages_checked, self.pages_damaged);
        let seconds = self.elapsed_ms as f64 / 1000.0;
        write!(
            f,
            "{checked} pages checked in {seconds:.1} s, {damaged} damaged"
        )
    }
}

/// The answer to `remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// What its users have to expect, where it was in use.
    pub warning: Option<String>,
    /// What could not be taken away, since somebody uses it; none: everything is gone.
    #[serde(default)]
    pub remains: Vec<String>,
}

/// Why a line is no request.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// Not JSON.
    Json(String),
    /// Another version, or none.
    Version(Option<Value>),
    /// JSON, but nothing we know.
    Op(String),
    /// Longer than [`LINE_MAX`].
    TooLong,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Json(why) => write!(f, "the request is not JSON: {why}"),
            RequestError::Version(Some(version)) => {
                write!(
                    f,
                    "protocol version {version} is not known here: speak {VERSION}"
                )
            }
            RequestError::Version(None) => {
                write!(
                    f,
                    "the request has no protocol version: add \"v\":{VERSION}"
                )
            }
            RequestError::Op(why) => write!(f, "the request is not understood: {why}"),
            RequestError::TooLong => {
                write!(f, "the request is longer than {LINE_MAX} bytes")
            }
        }
    }
}

impl std::error::Error for RequestError {}

/// The line that asks for `op`, with its line feed.
pub fn request_line(op: &Op) -> serde_json::Result<String> {
    let mut request = serde_json::to_value(op)?;
    request["v"] = VERSION.into();
    Ok(request.to_string() + "\n")
}

/// What a line asks for.
pub fn parse_request(line: &[u8]) -> Result<Op, RequestError> {
    let request: Value =
        serde_json::from_slice(line).map_err(|error| RequestError::Json(error.to_string()))?;
    match request.get("v") {
        Some(version) if *version == VERSION => {}
        other => return Err(RequestError::Version(other.cloned())),
    }
    serde_json::from_value(request).map_err(|error| RequestError::Op(error.to_string()))
}

/// The line that answers, with its line feed.
pub fn answer_line(result: &Result<Value, String>) -> String {
    let answer = match result {
        Ok(value) => serde_json::json!({"v": VERSION, "ok": value}),
        Err(sentence) => serde_json::json!({"v": VERSION, "error": sentence}),
    };
    answer.to_string() + "\n"
}

/// What a line answers; the outer error is a line that is no answer.
pub fn parse_answer(line: &[u8]) -> Result<Result<Value, String>, String> {
    let mut answer: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if answer.get("v").is_none_or(|version| *version != VERSION) {
        return Err(format!("it does not speak protocol version {VERSION}"));
    }
    if let Some(sentence) = answer.get("error").and_then(Value::as_str) {
        return Ok(Err(sentence.to_string()));
    }
    match answer.get_mut("ok") {
        Some(value) => Ok(Ok(value.take())),
        None => Err("it answered neither `ok` nor `error`".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        for op in [
            Op::Ping,
            Op::Info,
            Op::Stat,
            Op::Reset,
            Op::Remove { force: true },
            Op::MemLimit {
                bytes: Some(1 << 30),
            },
            Op::MemLimit { bytes: None },
            Op::Compact,
            Op::Scrub { rate: 1 << 20 },
            Op::ScrubState,
            Op::ScrubStop,
        ] {
            assert_eq!(parse_request(request_line(&op).unwrap().as_bytes()), Ok(op));
        }
        assert_eq!(
            parse_request(br#"{"v":1,"op":"remove"}"#),
            Ok(Op::Remove { force: false })
        );
        assert_eq!(
            parse_request(br#"{"v":1,"op":"stat","later":7}"#),
            Ok(Op::Stat)
        );
    }

    #[test]
    fn rubbish_is_told_apart() {
        type Reason = fn(&RequestError) -> bool;
        let cases: [(&[u8], Reason); 6] = [
            (b"", |e| matches!(e, RequestError::Json(_))),
            (b"\xff\xfe{", |e| matches!(e, RequestError::Json(_))),
            (b"[]", |e| matches!(e, RequestError::Version(None))),
            (br#"{"op":"stat"}"#, |e| {
                matches!(e, RequestError::Version(None))
            }),
            (br#"{"v":2,"op":"stat"}"#, |e| {
                matches!(e, RequestError::Version(Some(_)))
            }),
            (
                br#"{"v":1,"op":"dance"}"#,
                |e| matches!(e, RequestError::Op(why) if why.contains("dance")),
            ),
        ];
        for (line, reason) in cases {
            let error = parse_request(line).unwrap_err();
            assert!(
                reason(&error),
                "{:?}: {error:?}",
                String::from_utf8_lossy(line)
            );
        }
    }

    #[test]
    fn answers_survive_the_wire() {
        for result in [
            Ok(Value::Null),
            Ok(serde_json::json!({"a": 1})),
            Err("no".to_string()),
        ] {
            assert_eq!(parse_answer(answer_line(&result).as_bytes()), Ok(result));
        }
        assert!(parse_answer(b"{\"v\":2,\"ok\":null}").is_err());
        assert!(parse_answer(b"{\"v\":1}").is_err());
    }
}
