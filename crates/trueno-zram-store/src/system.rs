//! How much memory the system can give at once.
//!
//! A thread that must not wait for the device it serves (`PR_SET_IO_FLUSHER`) and asks for a page
//! when none is free is not refused: the kernel looks for one again and again. If the thread has
//! real-time priority too, it keeps everyone from its processor who might free one; on a machine
//! with one processor everything stands still for many seconds. So whoever makes the reserve grow asks
//! here first, and sleeps where there is nothing to be had.

use trueno_zram_core::PAGE_SIZE;

/// What the kernel keeps back, as it was at the start.
#[derive(Debug)]
pub(crate) struct System {
    floor: u64,
}

impl System {
    /// Reads `/proc/zoneinfo`. Without it everything that is free counts.
    pub fn read() -> System {
        let zones = std::fs::read_to_string("/proc/zoneinfo").unwrap_or_default();
        System {
            floor: floor_pages(&zones) * PAGE_SIZE as u64,
        }
    }

    /// Bytes that a thread with real-time priority gets without the kernel having to look for them.
    pub fn spare(&self) -> u64 {
        // SAFETY: a structure of integers, for which zeros are a value.
        let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
        // SAFETY: writes to `info` and nowhere else.
        if unsafe { libc::sysinfo(&mut info) } != 0 {
            return u64::MAX;
        }
        (info.freeram * u64::from(info.mem_unit)).saturating_sub(self.floor)
    }
}

/// Pages that are kept back in all zones together: those kept for requests that only a lower zone
/// can satisfy, and half of the watermark `min`, to which real-time threads may go down.
fn floor_pages(zoneinfo: &str) -> u64 {
    let (mut sum, mut min, mut managed) = (0, 0, 0);
    for line in zoneinfo.lines() {
        let mut words = line.split_whitespace();
        let key = words.next();
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match key {
            Some("min") => min = number(),
            Some("managed") => managed = number(),
            Some("protection:") => {
                let kept = line.trim_end_matches(')').rsplit(' ').next();
                let kept: u64 = kept.and_then(|word| word.parse().ok()).unwrap_or(0);
                sum += kept.min(managed) + min / 2;
            }
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_zone_keeps_its_share_back() {
        let zone = |name, min, managed, protection| {
            format!(
                "Node 0, zone {name}\n  pages free     451\n        boost    0\n        \
                 min      {min}\n        low      28\n        managed  {managed}\n        \
                 protection: ({protection})\n      nr_free_pages 451\n"
            )
        };
        let small = zone("DMA", 23, 3840, "0, 443, 443, 443, 443");
        let large = zone("DMA32", 635, 113_421, "0, 0, 0, 0, 0");
        let empty = zone("Movable", 0, 0, "0, 0, 0, 0, 0");
        assert_eq!(floor_pages(&small), 443 + 11);
        assert_eq!(floor_pages(&(small + &large + &empty)), 443 + 11 + 317);
        assert_eq!(floor_pages(&zone("DMA", 10, 300, "0, 2000")), 305);
    }

    #[test]
    fn this_machine_has_memory_to_spare() {
        let system = System::read();
        assert!(system.floor > 0);
        assert!(system.spare() > 0);
        let all = System { floor: u64::MAX };
        assert_eq!(all.spare(), 0);
    }
}
