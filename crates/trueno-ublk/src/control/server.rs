//! The daemon's side of the socket: a few threads that each serve one client at a time.
//!
//! Clients may hang, send rubbish or vanish; each costs one of the threads for [`TIME_LIMIT`] at
//! most. The threads exist before the device does, so that their memory can be locked, and wait
//! at a gate until there is something to tell.

use super::protocol::{self, LINE_MAX, Op, RequestError};
use serde_json::Value;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a client may take to send a request, or to take an answer.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Clients served at once; the others wait in the socket's queue.
const THREADS: usize = 4;

/// JSON needs little stack; all of it is locked in swap mode.
const STACK_BYTES: usize = 256 << 10;

/// Answers requests.
pub trait Handler: Send + Sync {
    /// Does what `op` asks for: a value, or a sentence that says why not.
    fn handle(&self, op: Op) -> Answer;
}

/// What [`Handler::handle`] gives.
pub struct Answer {
    /// A value, or a sentence.
    pub result: Result<Value, String>,
    /// Told when the answer has been written, or cannot be.
    pub written: Option<Sender<()>>,
}

impl From<Result<Value, String>> for Answer {
    fn from(result: Result<Value, String>) -> Answer {
        Answer {
            result,
            written: None,
        }
    }
}

/// A bound socket whose threads wait at the gate. Dropping it closed ends them.
pub struct Server {
    gates: Vec<Sender<Arc<dyn Handler>>>,
}

impl Server {
    /// Makes the socket at `path`, which must not exist, for the owner alone. Clients can connect
    /// from now on, and are answered once it is [`open`](Server::open).
    pub fn bind(path: &Path) -> io::Result<Server> {
        let listener = Arc::new(UnixListener::bind(path)?);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let mut gates = Vec::with_capacity(THREADS);
        for number in 0..THREADS {
            let (open, gate) = channel();
            let listener = listener.clone();
            std::thread::Builder::new()
                .name(format!("control-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || serve(&listener, &gate))?;
            gates.push(open);
        }
        Ok(Server { gates })
    }

    /// Begins to answer, for the rest of the process's life.
    pub fn open(self, handler: &Arc<dyn Handler>) {
        for gate in self.gates {
            // A thread that is not there to hear it cannot be missed.
            let _ = gate.send(handler.clone());
        }
    }
}

/// One thread: waits for the gate to open, then for one client after the other.
fn serve(listener: &UnixListener, gate: &Receiver<Arc<dyn Handler>>) {
    let Ok(handler) = gate.recv() else { return };
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                // A client that went away or was too slow: nothing to be done for it.
                let _ = converse(client, &*handler);
            }
            // Out of descriptors or memory: both may pass.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Answers one client until it ends the conversation, breaks a rule or takes too long.
fn converse(mut client: UnixStream, handler: &dyn Handler) -> io::Result<()> {
    client.set_write_timeout(Some(TIME_LIMIT))?;
    let mut pending = Vec::new();
    loop {
        let line = match read_line(&mut client, &mut pending)? {
            Line::Complete(line) => line,
            Line::TooLong => {
                let refusal = Err(RequestError::TooLong.to_string());
                return client.write_all(protocol::answer_line(&refusal).as_bytes());
            }
            Line::End => return Ok(()),
        };
        let answer = match protocol::parse_request(&line) {
            Ok(op) => handler.handle(op),
            Err(error) => Answer::from(Err(error.to_string())),
        };
        let sent = client.write_all(protocol::answer_line(&answer.result).as_bytes());
        if let Some(written) = answer.written {
            // Nobody waits any more: fine.
            let _ = written.send(());
        }
        sent?;
    }
}

enum Line {
    Complete(Vec<u8>),
    TooLong,
    End,
}

/// Reads to the next line feed; what comes after it stays in `pending`.
fn read_line(client: &mut UnixStream, pending: &mut Vec<u8>) -> io::Result<Line> {
    let deadline = Instant::now() + TIME_LIMIT;
    let mut looked_at = 0;
    loop {
        if let Some(found) = pending[looked_at..].iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = pending.drain(..=looked_at + found).collect();
            line.pop();
            return Ok(Line::Complete(line));
        }
        looked_at = pending.len();
        if looked_at > LINE_MAX {
            return Ok(Line::TooLong);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        client.set_read_timeout(Some(left))?;
        let mut part = [0; 4096];
        match client.read(&mut part) {
            Ok(0) => return Ok(Line::End),
            Ok(count) => pending.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A slot in which one thread leaves requests for another.
#[derive(Debug)]
pub struct Mailbox<T>(Mutex<Vec<T>>);

impl<T> Default for Mailbox<T> {
    fn default() -> Mailbox<T> {
        Mailbox(Mutex::new(Vec::new()))
    }
}

impl<T> Mailbox<T> {
    /// Leaves `letter`.
    pub fn put(&self, letter: T) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(letter);
    }

    /// Takes everything that is there.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::client;

    struct Echo;

    impl Handler for Echo {
        fn handle(&self, op: Op) -> Answer {
            match op {
                Op::Reset => Answer::from(Err("not today".to_string())),
                op => Answer::from(Ok(format!("{op:?}").into())),
            }
        }
    }

    fn server() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.sock");
        let server = Server::bind(&path).unwrap();
        let handler: Arc<dyn Handler> = Arc::new(Echo);
        server.open(&handler);
        (directory, path)
    }

    fn raw(path: &Path, bytes: &[u8]) -> String {
        let mut client = UnixStream::connect(path).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // It may hang up on us while we still speak.
        let _ = client.write_all(bytes);
        let _ = client.shutdown(std::net::Shutdown::Write);
        let mut text = String::new();
        let _ = client.read_to_string(&mut text);
        text
    }

    #[test]
    fn clients_get_values_and_sentences() {
        let (_directory, path) = server();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(client::request(&path, &Op::Stat).unwrap(), "Stat");
        let error = client::request(&path, &Op::Reset).unwrap_err();
        assert_eq!(error.to_string(), "not today");
    }

    #[test]
    fn one_connection_carries_many_requests() {
        let (_directory, path) = server();
        let answers = raw(
            &path,
            b"{\"v\":1,\"op\":\"ping\"}\n{\"v\":1,\"op\":\"stat\"}\n",
        );
        assert_eq!(answers.lines().count(), 2, "{answers}");
    }

    #[test]
    fn rubbish_gets_a_sentence_and_the_next_client_is_served() {
        let (_directory, path) = server();
        for rubbish in [
            &b"\n"[..],
            b"\x00\xff\n",
            b"{}\n",
            b"{\"v\":1,\"op\":\"dance\"}\n",
        ] {
            let answer = raw(&path, rubbish);
            assert!(
                answer.starts_with("{\"error\":\""),
                "{rubbish:?}: {answer:?}"
            );
        }
        let answer = raw(&path, &vec![b'x'; LINE_MAX + 5000]);
        assert!(answer.contains("longer than"), "{answer:?}");
        assert_eq!(raw(&path, b"{\"v\":1,"), "", "a request cut short");
        assert_eq!(client::request(&path, &Op::Ping).unwrap(), "Ping");
    }

    #[test]
    fn clients_that_hang_do_not_stop_the_others() {
        let (_directory, path) = server();
        // One more than there are threads: the next client waits for a time limit, not longer.
        let silent: Vec<UnixStream> = (0..=THREADS)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        let begin = Instant::now();
        assert_eq!(client::request(&path, &Op::Ping).unwrap(), "Ping");
        assert!(begin.elapsed() < 3 * TIME_LIMIT);
        drop(silent);
    }
}
