//! Varlink's framing, bounded: JSON messages that each end with a NUL byte.

use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::types::MESSAGE_BYTES_MAX;

/// The bound of writing one message; a peer that takes longer does not read and is dropped.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The smallest buffer for one read, in bytes: most messages fit into one read, and an idle connection costs little.
const READ_BYTES: usize = 8 << 10;

/// What is read ahead from a peer while a call of its is being answered, in bytes.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// Why no message could be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The message is larger than any may be.
    #[error("a message is larger than {limit} bytes")]
    TooLarge {
        /// The bound, in bytes.
        limit: usize,
    },
    /// The peer went away in the middle of a message.
    #[error("the connection ended inside a message, after {bytes} bytes of it")]
    Ended {
        /// What had come of it, in bytes.
        bytes: usize,
    },
    /// The peer does not read.
    #[error("the peer took no message within {after:?}")]
    SlowReader {
        /// The bound.
        after: Duration,
    },
    /// A message cannot be written as JSON.
    #[error("a message cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[source] std::io::Error),
}

/// Reads messages. If a peer also sends descriptors, the kernel discards them, because no code asks for them.
#[derive(Debug)]
pub(super) struct Reader {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
    /// No NUL byte is before this index.
    searched: usize,
    ended: bool,
}

impl Reader {
    pub(super) fn new(half: OwnedReadHalf) -> Self {
        Self { half, buffer: Vec::new(), searched: 0, ended: false }
    }

    /// The next message without its NUL byte; `None` when the peer is done. Cancel safe.
    pub(super) async fn message(&mut self) -> Result<Option<Vec<u8>>, WireError> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            if self.ended {
                let bytes = self.buffer.len();
                return if bytes == 0 { Ok(None) } else { Err(WireError::Ended { bytes }) };
            }
            self.fill().await?;
        }
    }

    /// Returns when the peer has closed its side, as far as that can be seen: a peer that sends ahead more than
    /// [`AHEAD_BYTES_MAX`] has to wait for its answer and is found to be gone when that is written. Cancel safe.
    pub(super) async fn gone(&mut self) {
        while !self.ended {
            if self.buffer.len() >= AHEAD_BYTES_MAX {
                return std::future::pending().await;
            }
            if self.fill().await.is_err() {
                return;
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<Vec<u8>>, WireError> {
        let nul = self.buffer[self.searched..].iter().position(|byte| *byte == 0);
        let length = nul.map_or(self.buffer.len(), |index| self.searched + index);
        if length > MESSAGE_BYTES_MAX {
            return Err(WireError::TooLarge { limit: MESSAGE_BYTES_MAX });
        }
        self.searched = length;
        if nul.is_none() {
            return Ok(None);
        }
        let rest = self.buffer.split_off(length + 1);
        let mut message = std::mem::replace(&mut self.buffer, rest);
        message.truncate(length);
        self.searched = 0;
        Ok(Some(message))
    }

    async fn fill(&mut self) -> Result<(), WireError> {
        self.buffer.reserve(READ_BYTES);
        let bytes = self.half.read_buf(&mut self.buffer).await.map_err(WireError::Io)?;
        self.ended = bytes == 0;
        Ok(())
    }
}

/// Writes messages.
#[derive(Debug)]
pub(super) struct Writer {
    half: OwnedWriteHalf,
    /// Whether a message was begun and not finished.
    broken_off: bool,
}

impl Writer {
    pub(super) fn new(half: OwnedWriteHalf) -> Self {
        Self { half, broken_off: false }
    }

    /// Whether a message was begun and not finished, because it failed or its sender was dropped.
    pub(super) fn is_broken_off(&self) -> bool {
        self.broken_off
    }

    /// Writes one message of [`encode`] whole, or fails and leaves the connection unusable.
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), WireError> {
        self.broken_off = true;
        match timeout(WRITE_TIMEOUT, self.half.write_all(message)).await {
            Ok(result) => {
                result.map_err(WireError::Io)?;
                self.broken_off = false;
                Ok(())
            }
            Err(_) => Err(WireError::SlowReader { after: WRITE_TIMEOUT }),
        }
    }
}

/// One message with its NUL byte.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let mut message = serde_json::to_vec(value).map_err(WireError::Json)?;
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge { limit: MESSAGE_BYTES_MAX });
    }
    message.push(0);
    Ok(message)
}
