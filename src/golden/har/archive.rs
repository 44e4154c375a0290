//! The text of an archive, and its JSON with the path of each value, for errors.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Maximum length of a value that a reason quotes, in characters.
const QUOTE_CHARS_MAX: usize = 40;

/// Why an archive gives no run.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is not JSON.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// It has no list of entries.
    #[error("{}: {reason}", path.display())]
    Entries {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the path of the value in the JSON.
        reason: String,
    },
    /// No entry can be taken.
    #[error("{}: all entries are left out", path.display())]
    AllLeftOut {
        /// The file.
        path: PathBuf,
    },
    /// No entry has the origin that the caller asked for.
    #[error("{}: no entry is of {origin}", path.display())]
    Origin {
        /// The file.
        path: PathBuf,
        /// The origin.
        origin: String,
        /// The origins that the archive has, the most frequent first.
        others: Vec<String>,
    },
    /// The origin that the caller asked for is none.
    #[error("{text:?} is not an origin")]
    NotAnOrigin {
        /// The text.
        text: String,
    },
}

impl ArchiveError {
    /// A hint for the operator.
    pub fn hint(&self) -> String {
        match self {
            Self::Json { .. } | Self::Entries { .. } => "export the archive again, as HAR with content".into(),
            Self::AllLeftOut { .. } => "the lines above say why; record requests that the service answers".into(),
            Self::Origin { others, .. } if others.is_empty() => "no entry of the archive has a URL of a server".into(),
            Self::Origin { others, .. } => format!("the archive has {}", others.join(", ")),
            Self::NotAnOrigin { .. } => "write scheme, host and port, as in https://example.org:8443".into(),
        }
    }
}

/// The text of a file: without a byte order mark, and from UTF-16 if the mark says so. Bytes that are no characters are
/// replaced; an entry whose text has lost characters in this way is known by its replacement characters.
pub(super) fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    let utf16 = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, _) = rest.as_chunks::<2>();
        String::from_utf16_lossy(&pairs.iter().map(|pair| unit(*pair)).collect::<Vec<u16>>())
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        [0xff, 0xfe, rest @ ..] => Cow::Owned(utf16(rest, u16::from_le_bytes)),
        [0xfe, 0xff, rest @ ..] => Cow::Owned(utf16(rest, u16::from_be_bytes)),
        bytes => String::from_utf8_lossy(bytes),
    }
}

/// The parsed archive: the whole, for the pages, and the entries.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Value, ArchiveError> {
    let text = text_of(bytes);
    serde_json::from_str(&text).map_err(|error| {
        let words = error.to_string();
        // The place is in the error's own fields.
        let words = words.split(" at line ").next().unwrap_or_default();
        let reason = match error.is_eof() {
            true => "the file ends early".to_owned(),
            false => format!("not JSON: {words}"),
        };
        ArchiveError::Json { path: path.to_owned(), line: error.line(), column: error.column(), reason }
    })
}

/// A value with its path: `log.entries[3].request.url`.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    value: Option<&'a Value>,
    path: String,
}

impl<'a> Node<'a> {
    /// The whole archive, whose path is empty.
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value: Some(value), path: String::new() }
    }

    /// The member with this name, which may be missing.
    pub(super) fn get(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { value: self.value.and_then(|value| value.get(name)), path }
    }

    /// The value; `None` if it is missing or null.
    fn present(&self) -> Option<&'a Value> {
        self.value.filter(|value| !value.is_null())
    }

    /// True if it is missing or null.
    pub(super) fn is_absent(&self) -> bool {
        self.present().is_none()
    }

    /// True if it is there, and neither `null` nor `false` nor empty.
    pub(super) fn is_set(&self) -> bool {
        self.present().is_some_and(|value| *value != Value::Bool(false) && value.as_str() != Some(""))
    }

    /// `log.entries[3].request.url is missing`, or its value.
    pub(super) fn is(&self) -> String {
        match self.value {
            None => format!("{} is missing", self.path),
            Some(value) => {
                let text = match value {
                    Value::Array(_) => "a list".to_owned(),
                    Value::Object(_) => "an object".to_owned(),
                    scalar => scalar.to_string(),
                };
                format!("{} is {}", self.path, shorten(&text))
            }
        }
    }

    /// `PATH is VALUE, not a list`.
    fn not(&self, kind: &str) -> String {
        match self.value {
            None => self.is(),
            Some(_) => format!("{}, not {kind}", self.is()),
        }
    }

    /// `PATH REASON`.
    pub(super) fn wrong(&self, reason: &str) -> String {
        format!("{} {reason}", self.path)
    }

    /// A text that must be there.
    pub(super) fn text(&self) -> Result<&'a str, String> {
        self.value.and_then(Value::as_str).ok_or_else(|| self.not("a text"))
    }

    /// A text that may be missing or null.
    pub(super) fn optional_text(&self) -> Result<Option<&'a str>, String> {
        self.present().map(|_| self.text()).transpose()
    }

    /// A number of 0 or more that may be missing; a negative one, which means "unknown", counts as missing.
    pub(super) fn size(&self) -> Option<u64> {
        self.value.and_then(|value| value.as_u64().or_else(|| value.as_f64().filter(|n| *n > 0.0).map(|n| n as u64)))
    }

    /// A duration in milliseconds; `None` if it is missing or unknown, which is negative.
    pub(super) fn duration_ms(&self) -> Option<u64> {
        self.value.and_then(Value::as_f64).filter(|ms| *ms >= 0.0).map(|ms| ms as u64)
    }

    /// A number.
    pub(super) fn number(&self) -> Option<u64> {
        self.value.and_then(Value::as_u64)
    }

    /// An object that must be there.
    pub(super) fn object(&self) -> Result<(), String> {
        self.value.filter(|value| value.is_object()).map(drop).ok_or_else(|| self.not("an object"))
    }

    /// The elements of a list that must be there.
    pub(super) fn items(&self) -> Result<Vec<Self>, String> {
        let list = self.value.and_then(Value::as_array).ok_or_else(|| self.not("a list"))?;
        let item = |(index, value)| Self { value: Some(value), path: format!("{}[{index}]", self.path) };
        Ok(list.iter().enumerate().map(item).collect())
    }

    /// The elements of a list that may be missing, but not null.
    pub(super) fn items_if_any(&self) -> Result<Vec<Self>, String> {
        if self.value.is_none() { Ok(Vec::new()) } else { self.items() }
    }
}

/// The text, or its beginning.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
