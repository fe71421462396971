//! Which transport serves a device, and why that one.
#![forbid(unsafe_code)]

use super::plan::TransportWish;
use crate::transport::Kind;
use crate::{loopdev, ublk};
use anyhow::bail;

/// A transport, and the reason for it in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Which.
    pub kind: Kind,
    /// Why.
    pub reason: String,
}

/// Finds the transport for `wish` on this machine, loading the ublk driver if it is not loaded.
pub fn choose(wish: TransportWish) -> anyhow::Result<Chosen> {
    decide(wish, ublk_available, loopdev::available)
}

/// Whether ublk can be used; if not, why, in words.
fn ublk_available() -> Result<(), String> {
    if !ublk::ctrl::available() {
        ublk::ctrl::load_module().map_err(|error| error.to_string())?;
    }
    // The driver may be there and yet not be for us: no permission, or no io_uring.
    match ublk::ctrl::Control::open() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The decision, apart from the machine. Loop is asked about only where it matters.
fn decide(
    wish: TransportWish,
    ublk: impl FnOnce() -> Result<(), String>,
    fuse: impl FnOnce() -> Result<(), String>,
) -> anyhow::Result<Chosen> {
    let chosen = |kind, reason: String| Ok(Chosen { kind, reason });
    match wish {
        TransportWish::Ublk => match ublk() {
            Ok(()) => chosen(Kind::Ublk, "as asked for".to_string()),
            Err(why) => {
                bail!(
                    "transport ublk is not possible: {why}; --transport loop works with any \
                     kernel that has FUSE"
                )
            }
        },
        TransportWish::Loop => match fuse() {
            Ok(()) => chosen(Kind::Loop, "as asked for".to_string()),
            Err(why) => bail!("transport loop is not possible: {why}"),
        },
        TransportWish::Auto => match ublk() {
            Ok(()) => chosen(Kind::Ublk, "this kernel has the ublk driver".to_string()),
            Err(no_ublk) => match fuse() {
                Ok(()) => chosen(Kind::Loop, no_ublk),
                Err(no_fuse) => bail!("no transport is possible: {no_ublk}, and {no_fuse}"),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no(why: &str) -> Result<(), String> {
        Err(why.to_string())
    }

    #[test]
    fn ublk_comes_first_and_loop_says_why_it_came() {
        let chosen = decide(TransportWish::Auto, || Ok(()), || unreachable!()).unwrap();
        assert_eq!(chosen.kind, Kind::Ublk);
        let chosen = decide(TransportWish::Auto, || no("module not found"), || Ok(())).unwrap();
        assert_eq!(chosen.kind, Kind::Loop);
        assert!(
            chosen.reason.contains("module not found"),
            "{}",
            chosen.reason
        );
    }

    #[test]
    fn a_wish_is_followed_or_refused() {
        let chosen = decide(TransportWish::Loop, || unreachable!(), || Ok(())).unwrap();
        assert_eq!(chosen.kind, Kind::Loop);
        let error = decide(TransportWish::Ublk, || no("no module"), || Ok(())).unwrap_err();
        assert!(error.to_string().contains("--transport loop"), "{error}");
    }

    #[test]
    fn without_both_the_sentence_names_both() {
        let error = decide(
            TransportWish::Auto,
            || no("no module"),
            || no("no /dev/fuse"),
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("no module") && text.contains("no /dev/fuse"),
            "{text}"
        );
    }
}
