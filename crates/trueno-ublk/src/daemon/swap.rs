//! Swap on a device of ours: the header that `mkswap` would write, and `swapon`.
//!
//! ```text
//! 0       1024      1028        1032          1036    1052       1068            4086        4096
//! │ unused │ version │ last page │ bad pages=0 │ UUID  │ label    │ zeros         │ SWAPSPACE2 │
//! ```
//! (`union swap_header` of `linux/swap.h`; numbers in the machine's byte order.)
#![forbid(unsafe_code)]

use super::sys;
use anyhow::Context as _;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::path::Path;
use trueno_zram_core::PAGE_SIZE;

const MAGIC: &[u8; 10] = b"SWAPSPACE2";
const LABEL: &[u8] = b"trueno";
const VERSION: u32 = 1;

/// Makes `device`, of `size` bytes, swap space and gives it to the kernel. What was on it is lost.
pub fn enable(device: &Path, size: u64, priority: u16) -> anyhow::Result<()> {
    let shown = device.display();
    let mut file = OpenOptions::new()
        .write(true)
        .open(device)
        .with_context(|| format!("cannot open {shown}"))?;
    file.write_all(&header(size, random_uuid()?))
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write the swap header to {shown}"))?;
    drop(file);
    sys::swapon(device, priority).with_context(|| format!("cannot swap on {shown}"))
}

/// The first page of swap space of `size` bytes.
fn header(size: u64, uuid: [u8; 16]) -> [u8; PAGE_SIZE] {
    // The largest device, 16 TiB, has a last page of 2^32 - 1.
    let last_page = u32::try_from(size / PAGE_SIZE as u64 - 1).unwrap_or(u32::MAX);
    let mut page = [0; PAGE_SIZE];
    page[1024..1028].copy_from_slice(&VERSION.to_ne_bytes());
    page[1028..1032].copy_from_slice(&last_page.to_ne_bytes());
    page[1036..1052].copy_from_slice(&uuid);
    page[1052..1052 + LABEL.len()].copy_from_slice(LABEL);
    page[PAGE_SIZE - MAGIC.len()..].copy_from_slice(MAGIC);
    page
}

/// A random UUID (version 4 of RFC 9562).
fn random_uuid() -> anyhow::Result<[u8; 16]> {
    let mut uuid = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut uuid))
        .context("cannot read /dev/urandom")?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_one_that_mkswap_writes() {
        let size = 1 << 20;
        let ours = header(size, [0x41; 16]);
        assert_eq!(&ours[4086..], b"SWAPSPACE2");
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        let made = std::process::Command::new("mkswap")
            .args(["-L", "trueno", "-U", "41414141-4141-4141-4141-414141414141"])
            .arg(file.path())
            .output();
        match made {
            Ok(output) if output.status.success() => {
                let theirs = std::fs::read(file.path()).unwrap();
                assert!(ours[..] == theirs[..PAGE_SIZE], "not what mkswap wrote");
            }
            other => {
                assert!(std::env::var_os("CI").is_none(), "mkswap: {other:?}");
                eprintln!("SKIPPED: no mkswap to compare with: {other:?}");
            }
        }
    }

    #[test]
    fn uuids_differ_and_say_that_they_are_random() {
        let (a, b) = (random_uuid().unwrap(), random_uuid().unwrap());
        assert_ne!(a, b);
        assert_eq!((a[6] >> 4, a[8] >> 6), (4, 2));
    }
}
