//! The other side of the socket: what the command line and everyone else uses.

use super::protocol::{self, Op};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an answer may take. Taking a device away may have to wait for its requests.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Why there is no answer, or not the one hoped for.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The socket could not be reached.
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation broke off.
    Talk(io::Error),
    /// What came is no answer.
    Answer(String),
    /// The daemon refused; its sentence.
    Refused(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Connect { path, .. } => {
                write!(f, "cannot reach the daemon at {}", path.display())
            }
            ClientError::Talk(_) => f.write_str("the daemon broke off"),
            ClientError::Answer(why) => write!(f, "the daemon cannot be understood: {why}"),
            ClientError::Refused(sentence) => f.write_str(sentence),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Connect { source, .. } | ClientError::Talk(source) => Some(source),
            _ => None,
        }
    }
}

/// Asks the daemon at `socket` for `op` and waits for its answer.
pub fn request(socket: &Path, op: &Op) -> Result<Value, ClientError> {
    converse(socket, op).map(|(value, _)| value)
}

/// Like [`request`], for an answer of a known shape.
pub fn request_as<T: DeserializeOwned>(socket: &Path, op: &Op) -> Result<T, ClientError> {
    let value = request(socket, op)?;
    serde_json::from_value(value).map_err(|error| ClientError::Answer(error.to_string()))
}

/// A connection kept open after its answer.
pub struct Connection(BufReader<UnixStream>);

impl Connection {
    /// Waits until the daemon is gone: the end of the process ends the connection.
    pub fn wait_for_end(mut self) {
        // Whatever else comes, the answer has been given.
        let _ = io::copy(&mut self.0, &mut io::sink());
    }
}

/// Like [`request_as`], for an answer after which the daemon may end.
pub fn request_last<T: DeserializeOwned>(
    socket: &Path,
    op: &Op,
) -> Result<(T, Connection), ClientError> {
    let (value, stream) = converse(socket, op)?;
    let answer = serde_json::from_value(value);
    let answer = answer.map_err(|error| ClientError::Answer(error.to_string()))?;
    Ok((answer, Connection(stream)))
}

fn converse(socket: &Path, op: &Op) -> Result<(Value, BufReader<UnixStream>), ClientError> {
    let mut stream = UnixStream::connect(socket).map_err(|source| ClientError::Connect {
        path: socket.to_path_buf(),
        source,
    })?;
    stream
        .set_read_timeout(Some(ANSWER_LIMIT))
        .map_err(ClientError::Talk)?;
    let line = protocol::request_line(op).map_err(|e| ClientError::Answer(e.to_string()))?;
    stream
        .write_all(line.as_bytes())
        .map_err(ClientError::Talk)?;
    let mut reader = BufReader::new(stream);
    let mut answer = Vec::new();
    let count = reader
        .read_until(b'\n', &mut answer)
        .map_err(ClientError::Talk)?;
    if count == 0 {
        return Err(ClientError::Talk(io::ErrorKind::UnexpectedEof.into()));
    }
    match protocol::parse_answer(&answer) {
        Ok(Ok(value)) => Ok((value, reader)),
        Ok(Err(sentence)) => Err(ClientError::Refused(sentence)),
        Err(why) => Err(ClientError::Answer(why)),
    }
}
