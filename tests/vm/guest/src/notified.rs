//! In systemd's place: writes down what a service tells it.

use crate::args::Args;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;

/// The `notified` task: each message that comes to SOCKET, a line each, until it is killed.
pub fn run(mut args: Args) -> Result<u8, String> {
    let path = args.word("SOCKET")?;
    args.done()?;
    let socket = UnixDatagram::bind(&path).map_err(|error| format!("{path}: {error}"))?;
    let mut message = [0; 4096];
    loop {
        let count = socket
            .recv(&mut message)
            .map_err(|error| format!("{path}: {error}"))?;
        let text = String::from_utf8_lossy(&message[..count]);
        let line = text.trim_end().replace('\n', " ");
        writeln!(std::io::stdout(), "{line}").map_err(|error| error.to_string())?;
    }
}
