//! One fact of an answer, and its path. Pure.

use std::fmt;

use serde_json::Value;

/// The path of a fact.
pub(crate) type Path = Vec<String>;

/// One fact.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    /// A number, string, boolean or null; or a digest of bytes.
    Scalar(Value),
    /// A JSON object; its members are facts below it.
    Object,
    /// A JSON list; its elements are facts below it.
    List,
    /// A text; its lines are facts below it.
    Text,
    /// A value that is present but does not count.
    Ignored,
}

/// Values are quoted as JSON, so that the text `1` and the number `1` look different.
impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(value) => write!(f, "{value}"),
            Self::Object => f.write_str("{…}"),
            Self::List => f.write_str("[…]"),
            Self::Text => f.write_str("text"),
            Self::Ignored => f.write_str("(does not count)"),
        }
    }
}
