//! The messages of a conversation: of a WebSocket, or lines of text on a connection. Pure.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::digest;

/// Maximum number of messages of a conversation.
pub const MESSAGES_MAX: usize = 1_000;

/// The largest message, in bytes: that of a body in a line of a run.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The bytes of all messages of a conversation.
pub const CONVERSATION_BYTES_MAX: usize = 8 << 20;

/// Length of a message in the name of an exchange, in characters.
const QUOTE_CHARS_MAX: usize = 40;

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client: a replay sends it.
    Client,
    /// The service: a replay compares it.
    Service,
}

/// What a message has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Text; of lines, without the end of the line.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// Bytes of which only the digest is kept. Only a service's message can be this.
    Digest {
        /// Their number.
        bytes: u64,
        /// Their SHA-256, in hex.
        sha256: String,
    },
}

impl Data {
    /// Its size, in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::Digest { .. } => 0,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Only its digest, if it is not text.
    #[must_use]
    pub fn digested(self) -> Self {
        match self {
            Self::Binary(bytes) => Self::Digest { bytes: bytes.len() as u64, sha256: digest::sha256(bytes) },
            other => other,
        }
    }

    /// It as a value that is compared: JSON if it is an object or a list, else text; bytes as their digest.
    pub(super) fn value(&self) -> Value {
        match self {
            Self::Text(text) => match serde_json::from_str(text) {
                Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
                _ => Value::String(text.clone()),
            },
            Self::Binary(bytes) => json!(digest_text(bytes.len() as u64, &digest::sha256(bytes))),
            Self::Digest { bytes, sha256 } => json!(digest_text(*bytes, sha256)),
        }
    }
}

/// The words for bytes that are compared by their digest.
pub(super) fn digest_text(bytes: u64, sha256: &str) -> String {
    format!("{bytes} bytes, sha256 {sha256}")
}

/// For a person.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => match text.char_indices().nth(QUOTE_CHARS_MAX) {
                Some((at, _)) => write!(f, "{:?}…", &text[..at]),
                None => write!(f, "{text:?}"),
            },
            Self::Binary(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Digest { bytes, .. } => write!(f, "{bytes} bytes"),
        }
    }
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Message {
    /// Who sent it.
    pub from: Side,
    /// What it has.
    pub data: Data,
}

/// The stored form: exactly one of the fields.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Stored {
    #[serde(skip_serializing_if = "Option::is_none")]
    send: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receive: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receive_base64: Option<String>,
    /// `SIZE-HASH`
    #[serde(skip_serializing_if = "Option::is_none")]
    receive_sha256: Option<String>,
}

impl From<Message> for Stored {
    fn from(message: Message) -> Self {
        let none = Self::default();
        match (message.from, message.data) {
            (Side::Client, Data::Text(text)) => Self { send: Some(text), ..none },
            (Side::Service, Data::Text(text)) => Self { receive: Some(text), ..none },
            (Side::Client, Data::Binary(bytes)) => Self { send_base64: Some(STANDARD.encode(bytes)), ..none },
            (Side::Service, Data::Binary(bytes)) => Self { receive_base64: Some(STANDARD.encode(bytes)), ..none },
            (_, Data::Digest { bytes, sha256 }) => Self { receive_sha256: Some(format!("{bytes}-{sha256}")), ..none },
        }
    }
}

impl TryFrom<Stored> for Message {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let binary =
            |code: String| STANDARD.decode(code).map(Data::Binary).map_err(|error| format!("is not base64: {error}"));
        let (from, data) = match stored {
            Stored {
                send: Some(text),
                receive: None,
                send_base64: None,
                receive_base64: None,
                receive_sha256: None,
            } => (Side::Client, Data::Text(text)),
            Stored {
                send: None,
                receive: Some(text),
                send_base64: None,
                receive_base64: None,
                receive_sha256: None,
            } => (Side::Service, Data::Text(text)),
            Stored {
                send: None,
                receive: None,
                send_base64: Some(code),
                receive_base64: None,
                receive_sha256: None,
            } => (Side::Client, binary(code)?),
            Stored {
                send: None,
                receive: None,
                send_base64: None,
                receive_base64: Some(code),
                receive_sha256: None,
            } => (Side::Service, binary(code)?),
            Stored {
                send: None,
                receive: None,
                send_base64: None,
                receive_base64: None,
                receive_sha256: Some(code),
            } => {
                let parts = code.split_once('-').and_then(|(size, hash)| Some((size.parse().ok()?, hash)));
                let is_hash = |hash: &str| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
                let (bytes, hash) = parts.filter(|(_, hash)| is_hash(hash)).ok_or("receive_sha256 is not SIZE-HASH")?;
                (Side::Service, Data::Digest { bytes, sha256: hash.to_owned() })
            }
            _ => {
                return Err("a message has one of send, receive, send_base64, receive_base64 and receive_sha256".into());
            }
        };
        Ok(Self { from, data })
    }
}

/// Checks the bounds of a conversation.
///
/// # Errors
/// Which one is exceeded.
pub fn check(messages: &[Message]) -> Result<(), String> {
    if messages.len() > MESSAGES_MAX {
        return Err(format!("has {} messages, more than the maximum of {MESSAGES_MAX}", messages.len()));
    }
    if let Some(large) = messages.iter().map(|message| message.data.len()).find(|bytes| *bytes > MESSAGE_BYTES_MAX) {
        return Err(format!("has a message of {large} bytes, more than the maximum of {MESSAGE_BYTES_MAX}"));
    }
    let all: usize = messages.iter().map(|message| message.data.len()).sum();
    if all > CONVERSATION_BYTES_MAX {
        return Err(format!("has {all} bytes of messages, more than the maximum of {CONVERSATION_BYTES_MAX}"));
    }
    Ok(())
}

/// Checks that a message is one line of text.
///
/// # Errors
/// If it is not.
pub fn check_line(message: &Message) -> Result<(), String> {
    match &message.data {
        Data::Text(text) if !text.contains(['\n', '\r']) => Ok(()),
        Data::Text(_) => Err("has a message with the end of a line inside".to_owned()),
        Data::Binary(_) | Data::Digest { .. } => Err("has a message that is no text, in a run of lines".to_owned()),
    }
}

/// What a service sent, as a body: a JSON list with one element for each message.
pub(super) fn body<'a>(received: impl Iterator<Item = &'a Data>) -> Vec<u8> {
    Value::Array(received.map(Data::value).collect()).to_string().into_bytes()
}
