//! What a daemon is told: a device's configuration, complete and checked.
//!
//! The command line turns what was typed into a [`Plan`]; whoever holds one knows that its
//! numbers are possible. Whether the machine allows it is found out by the daemon.
#![forbid(unsafe_code)]

use super::policy::{Policy, PolicyError};
use crate::ublk::{DEPTH_MAX, ID_MAX};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use trueno_zram_store::{Config, CreateError, Growth};

/// The algorithm of a device where none is given.
pub const ALGORITHM: &str = "lz4";

/// The priority of a swap device where none is given: above that of swap on a disk (−2), and as
/// high as that of zram devices set up by the usual tools.
pub const SWAP_PRIORITY: u16 = 100;
/// The highest priority that the kernel takes.
pub const SWAP_PRIORITY_MAX: u16 = 0x7fff;

/// Memory kept ready by default in swap mode.
const RESERVE: u64 = 32 << 20;
/// The least reserve: below it the thread that fills it cannot keep up.
const RESERVE_MIN: u64 = 8 << 20;

/// More threads than any machine has use for.
pub const QUEUES_MAX: u16 = 64;
const QUEUES_DEFAULT_MAX: usize = 4;
const QUEUES_SWAP_MAX: usize = 2;

/// Which transport the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportWish {
    /// The best that works.
    #[default]
    Auto,
    /// ublk or nothing.
    Ublk,
    /// loop or nothing.
    Loop,
}

/// How the store's memory grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Memory {
    /// As it is needed.
    OnDemand,
    /// Ahead of need by so many bytes.
    Reserve(u64),
    /// All of it at the start.
    Populated,
}

/// What is wanted of a device, before it is checked. Empty: the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Bytes.
    pub size: u64,
    /// What decides how pages are compressed.
    pub policy: Option<Policy>,
    /// I/O threads.
    pub queues: Option<u64>,
    /// Requests in flight per queue.
    pub depth: Option<u64>,
    /// The most bytes that objects may take.
    pub mem_limit: Option<u64>,
    /// The device number.
    pub id: Option<u64>,
    /// Bytes of a logical block.
    pub block_size: u64,
    /// The transport.
    pub transport: TransportWish,
    /// Use it as swap, with this priority.
    pub swap: Option<u64>,
    /// Bytes to keep ready.
    pub reserve: Option<u64>,
    /// Take all memory at the start.
    pub populate: bool,
    /// Do it although it may be harmful.
    pub force: bool,
}

/// A device's configuration, complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Bytes, a multiple of 4096.
    pub size: u64,
    /// What decides how pages are compressed.
    #[serde(flatten)]
    pub policy: Policy,
    /// I/O threads; none given: as many as the transport finds right.
    pub queues: Option<u16>,
    /// Requests in flight per queue, which is a matter of ublk; none given: the default.
    pub depth: Option<u16>,
    /// The most bytes that objects may take.
    pub mem_limit: Option<u64>,
    /// The device number; none given: the lowest that is free.
    pub id: Option<u32>,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// The transport.
    pub transport: TransportWish,
    /// The swap priority, in swap mode.
    pub swap: Option<u16>,
    /// How memory grows.
    pub memory: Memory,
    /// Whether swap on a transport that cannot promise it is wanted all the same.
    pub force: bool,
}

/// Why wishes make no plan.
#[derive(Debug)]
#[non_exhaustive]
pub enum PlanError {
    /// Pages cannot be compressed so.
    Policy(PolicyError),
    /// The store does not take the size or limit.
    Store(CreateError),
    /// The device number is higher than there are.
    Id(u64),
    /// The logical block is neither of the two.
    BlockSize(u64),
    /// Too few or too many I/O threads.
    Queues(u64),
    /// Too small or large a depth.
    Depth(u64),
    /// Depth was given with the transport that has none.
    DepthOnLoop(u64),
    /// The priority is higher than the kernel takes.
    Priority(u64),
    /// The reserve is smaller than what works.
    Reserve(u64),
    /// Swap on the loop transport, which cannot promise to work.
    SwapOnLoop,
    /// Swap with blocks smaller than a page.
    SwapBlockSize(u64),
    /// Consent to what was not asked for.
    ForceWithoutSwap,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Policy(error) => error.fmt(f),
            PlanError::Store(error) => error.fmt(f),
            PlanError::Id(id) => {
                write!(f, "device id {id} is not possible: give 0 to {ID_MAX}")
            }
            PlanError::BlockSize(bytes) => {
                write!(f, "block size {bytes} is not possible: give 512 or 4096")
            }
            PlanError::Queues(count) => {
                write!(f, "{count} queues are not possible: give 1 to {QUEUES_MAX}")
            }
            PlanError::Depth(depth) => {
                write!(f, "depth {depth} is not possible: give 1 to {DEPTH_MAX}")
            }
            PlanError::DepthOnLoop(depth) => write!(
                f,
                "depth {depth} means nothing to the loop transport: leave --depth out, or use \
                 --transport ublk"
            ),
            PlanError::Priority(priority) => write!(
                f,
                "swap priority {priority} is too high: give 0 to {SWAP_PRIORITY_MAX}"
            ),
            PlanError::Reserve(bytes) => write!(
                f,
                "a reserve of {bytes} bytes is too small: give at least {RESERVE_MIN} (8M)"
            ),
            PlanError::SwapOnLoop => f.write_str(
                "swap on the loop transport can dead-lock the machine when memory is short, since \
                 FUSE allocates memory for each request: use a kernel with ublk, or --force if you \
                 accept that",
            ),
            PlanError::SwapBlockSize(bytes) => write!(
                f,
                "block size {bytes} is of no use to swap, which writes whole pages: leave \
                 --block-size out"
            ),
            PlanError::ForceWithoutSwap => {
                f.write_str("--force is for --swap, which is not given: leave --force out")
            }
        }
    }
}

impl std::error::Error for PlanError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PlanError::Store(error) => std::error::Error::source(error),
            PlanError::Policy(error) => std::error::Error::source(error),
            _ => None,
        }
    }
}

impl From<PolicyError> for PlanError {
    fn from(error: PolicyError) -> PlanError {
        PlanError::Policy(error)
    }
}

impl Plan {
    /// Checks `wishes` and completes them. Touches nothing.
    pub fn new(wishes: Wishes) -> Result<Plan, PlanError> {
        let policy = match wishes.policy {
            Some(policy) => policy,
            None => Policy::new(ALGORITHM, None, None)?,
        };
        let block_size = match wishes.block_size {
            512 => 512,
            4096 => 4096,
            other => return Err(PlanError::BlockSize(other)),
        };
        let queues = within(wishes.queues, 1..=QUEUES_MAX, PlanError::Queues)?;
        let depth = within(wishes.depth, 1..=DEPTH_MAX, PlanError::Depth)?;
        let id = within(wishes.id, 0..=ID_MAX, PlanError::Id)?;
        let swap = within(wishes.swap, 0..=SWAP_PRIORITY_MAX, PlanError::Priority)?;
        if let (Some(depth), TransportWish::Loop) = (wishes.depth, wishes.transport) {
            return Err(PlanError::DepthOnLoop(depth));
        }
        if swap.is_some() {
            if block_size != 4096 {
                return Err(PlanError::SwapBlockSize(wishes.block_size));
            }
            if wishes.transport == TransportWish::Loop && !wishes.force {
                return Err(PlanError::SwapOnLoop);
            }
        } else if wishes.force {
            return Err(PlanError::ForceWithoutSwap);
        }
        let memory = match (wishes.populate, wishes.reserve) {
            (true, _) => Memory::Populated,
            (false, Some(bytes)) if bytes < RESERVE_MIN => return Err(PlanError::Reserve(bytes)),
            (false, Some(bytes)) => Memory::Reserve(bytes),
            (false, None) if swap.is_some() => Memory::Reserve(RESERVE),
            (false, None) => Memory::OnDemand,
        };
        let plan = Plan {
            size: wishes.size,
            policy,
            queues,
            depth,
            mem_limit: wishes.mem_limit,
            id,
            block_size,
            transport: wishes.transport,
            swap,
            memory,
            force: wishes.force,
        };
        // The store has the last word on size and limit.
        plan.store_config()?
            .memory_bytes()
            .map_err(PlanError::Store)?;
        Ok(plan)
    }

    /// The store that this plan asks for.
    pub fn store_config(&self) -> Result<Config, PlanError> {
        let mut config = self.policy.store_config(self.size)?;
        config.mem_limit = self.mem_limit;
        config.growth = match self.memory {
            Memory::OnDemand => Growth::OnDemand,
            Memory::Reserve(bytes) => Growth::Reserve(bytes),
            Memory::Populated => Growth::Populated,
        };
        Ok(config)
    }

    /// I/O threads on ublk: what was asked for, or what this machine's CPUs suggest. For swap it is
    /// two where it can be, so that a program that waits for a page does not wait behind what the
    /// kernel writes out meanwhile, and no more, since each locks its buffers.
    pub fn ublk_queues(&self) -> u16 {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        let suggested = match self.swap {
            Some(_) => cpus.min(QUEUES_SWAP_MAX),
            None => cpus.min(QUEUES_DEFAULT_MAX),
        };
        self.queues.unwrap_or(suggested as u16)
    }

    /// Requests in flight per queue on ublk.
    pub fn ublk_depth(&self) -> u16 {
        self.depth
            .unwrap_or_else(|| crate::ublk::Spec::default().depth)
    }
}

/// `wish`, which must be in `range`.
fn within<T: Copy + Into<u64> + TryFrom<u64>>(
    wish: Option<u64>,
    range: RangeInclusive<T>,
    refuse: fn(u64) -> PlanError,
) -> Result<Option<T>, PlanError> {
    let range = (*range.start()).into()..=(*range.end()).into();
    let possible = |wish| T::try_from(wish).ok().filter(|_| range.contains(&wish));
    wish.map(|wish| possible(wish).ok_or(refuse(wish)))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes() -> Wishes {
        Wishes {
            size: 1 << 30,
            block_size: 4096,
            ..Wishes::default()
        }
    }

    fn refused(change: impl FnOnce(&mut Wishes)) -> String {
        let mut wishes = wishes();
        change(&mut wishes);
        Plan::new(wishes).expect_err("refused").to_string()
    }

    #[test]
    fn impossible_wishes_are_refused_with_their_value() {
        for (message, value) in [
            (refused(|w| w.size = 0), "0"),
            (refused(|w| w.size = 4097), "4097"),
            (refused(|w| w.size = (16 << 40) + 4096), "16 TiB"),
            (refused(|w| w.mem_limit = Some(5)), "5"),
            (refused(|w| w.id = Some(1 << 20)), "1048576"),
            (refused(|w| w.block_size = 1024), "1024"),
            (refused(|w| w.queues = Some(0)), "0"),
            (refused(|w| w.queues = Some(70_000)), "70000"),
            (refused(|w| w.depth = Some(5000)), "5000"),
            (
                refused(|w| (w.transport, w.depth) = (TransportWish::Loop, Some(9))),
                "9",
            ),
            (refused(|w| w.swap = Some(0x8000)), "32768"),
            (refused(|w| w.reserve = Some(4096)), "4096"),
            (
                refused(|w| (w.transport, w.swap) = (TransportWish::Loop, Some(1))),
                "--force",
            ),
            (refused(|w| (w.block_size, w.swap) = (512, Some(1))), "512"),
            (refused(|w| w.force = true), "--swap"),
        ] {
            assert!(message.contains(value), "{message:?} lacks {value:?}");
        }
    }

    #[test]
    fn swap_gets_a_reserve_and_few_queues() {
        let plan = Plan::new(Wishes {
            swap: Some(7),
            ..wishes()
        })
        .unwrap();
        assert_eq!(plan.memory, Memory::Reserve(RESERVE));
        assert!(plan.ublk_queues() <= 2);
        assert_eq!(Plan::new(wishes()).unwrap().memory, Memory::OnDemand);
    }

    /// Lines that devices in use have lying in the run directory.
    #[test]
    fn plans_of_earlier_versions_are_understood() {
        let first = concat!(
            r#"{"size":1073741824,"algorithm":"zstd1","queues":2,"depth":null,"mem_limit":null,"#,
            r#""id":0,"block_size":4096,"transport":"ublk","swap":100,"#,
            r#""memory":{"reserve":33554432},"force":false}"#
        );
        let plan: Plan = serde_json::from_str(first).unwrap();
        assert_eq!(plan.policy, Policy::new("zstd1", None, None).unwrap());
        assert_eq!(
            (plan.swap, plan.memory),
            (Some(100), Memory::Reserve(32 << 20))
        );
        assert_eq!(plan.store_config().unwrap().codecs.len(), 1);

        let without_codecs = concat!(
            r#"{"size":67108864,"algorithm":"adaptive","favour":"balanced","queues":null,"#,
            r#""depth":null,"mem_limit":null,"id":null,"block_size":4096,"transport":"auto","#,
            r#""swap":null,"memory":"on_demand","force":false}"#
        );
        let plan: Plan = serde_json::from_str(without_codecs).unwrap();
        // All that it may have used, and all that this version chooses among.
        let names = plan.policy.names();
        for one in ["lz4", "zstd(level=-1)", "zstd1", "zstd3", "zstd(price=24)"] {
            assert_eq!(names.iter().filter(|name| *name == one).count(), 1, "{one}");
        }
        assert_eq!(plan.store_config().unwrap().codecs.len(), names.len());

        let mut later: serde_json::Value = serde_json::from_str(without_codecs).unwrap();
        later["codecs"] = serde_json::json!(["lz4", "lz5"]);
        let later: Plan = serde_json::from_value(later).unwrap();
        let refused = later.store_config().err().unwrap().to_string();
        assert!(refused.contains("\"lz5\""), "{refused}");
    }

    #[test]
    fn a_plan_names_the_codecs_that_pages_may_have() {
        let policy = Policy::new("adaptive", None, None).ok();
        let plan = Plan::new(Wishes { policy, ..wishes() }).unwrap();
        let written = serde_json::to_value(&plan).unwrap();
        assert_eq!(written["codecs"], serde_json::json!(plan.policy.names()));
        assert_eq!(serde_json::from_value::<Plan>(written).unwrap(), plan);
        let plan = Plan::new(wishes()).unwrap();
        assert!(serde_json::to_value(&plan).unwrap().get("codecs").is_none());
    }

    #[test]
    fn a_plan_survives_its_way_to_the_daemon() {
        let plan = Plan::new(Wishes {
            reserve: Some(8 << 20),
            id: Some(3),
            ..wishes()
        })
        .unwrap();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}
