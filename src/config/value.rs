//! The kinds of values that a `rei.toml` is made of.

use std::time::Duration;

use toml_edit::Value;

use super::duration::parse_duration;
use super::section::{Content, Node, Read};

/// The longest time that means anything to a supervisor.
const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);

impl Read for String {
    const WHAT: &'static str = "a string";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        match node.content {
            Content::Value(Value::String(text)) if text.value().contains('\0') => {
                node.wrong("holds a NUL character", None)
            }
            Content::Value(Value::String(text)) => Some(text.value().clone()),
            Content::Value(Value::Array(_) | Value::InlineTable(_)) | Content::Table(..) | Content::Tables(_) => {
                node.wrong_type(Self::WHAT, None)
            }
            Content::Value(_) => node.wrong_type(Self::WHAT, Some("write it in quotes".to_owned())),
        }
    }
}

impl Read for bool {
    const WHAT: &'static str = "true or false";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        match node.content {
            Content::Value(Value::Boolean(on)) => Some(*on.value()),
            _ => node.wrong_type(Self::WHAT, None),
        }
    }
}

impl Read for u64 {
    const WHAT: &'static str = "a whole number";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        match node.content {
            Content::Value(Value::Integer(number)) => {
                u64::try_from(*number.value()).ok().or_else(|| node.wrong("must not be negative", None))
            }
            _ => node.wrong_type(Self::WHAT, None),
        }
    }
}

impl Read for f64 {
    const WHAT: &'static str = "a number";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        let number = match node.content {
            Content::Value(Value::Float(number)) => *number.value(),
            // A share of 0 or 1 is refused by its range, in better words than by its type.
            Content::Value(Value::Integer(number)) => i32::try_from(*number.value()).map_or(f64::INFINITY, f64::from),
            _ => return node.wrong_type(Self::WHAT, None),
        };
        if number.is_finite() { Some(number) } else { node.wrong("is out of range", None) }
    }
}

impl Read for Duration {
    const WHAT: &'static str = "a duration as in \"250ms\", \"1s\", \"5m\", \"2h\"";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        let hint = || Some("write a whole number and ms, s, m, h or d in quotes: \"500ms\", \"30s\"".to_owned());
        let Content::Value(Value::String(text)) = node.content else {
            return node.wrong_type("a duration", hint());
        };
        match parse_duration(text.value()) {
            None => node.wrong(format!("is not a duration: `{}`", text.value()), hint()),
            Some(duration) if duration.is_zero() => node.wrong("must be longer than 0", hint()),
            Some(duration) if duration > DURATION_MAX => node.wrong("is longer than a year", hint()),
            Some(duration) => Some(duration),
        }
    }
}

/// A number of bytes: `"64MiB"`, or a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

/// Each unit of a size, and by how many bits a number of that unit is shifted left to give bytes.
const SIZES: [(&str, u32); 5] = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

impl Read for Bytes {
    const WHAT: &'static str = "a size as in \"64MiB\"";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        let hint = || {
            Some(
                "write a whole number of bytes, or a number and B, KiB, MiB, GiB or TiB in quotes: \"64MiB\""
                    .to_owned(),
            )
        };
        let size = match node.content {
            Content::Value(Value::Integer(number)) => u64::try_from(*number.value()).ok(),
            Content::Value(Value::String(text)) => parse_size(text.value()),
            _ => return node.wrong_type(Self::WHAT, hint()),
        };
        match size {
            None => node.wrong("is not a size, or too large", hint()),
            Some(0) => node.wrong("must be more than 0", hint()),
            Some(bytes) => Some(Self(bytes)),
        }
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, shift) = SIZES.into_iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl<T: Read> Read for Vec<T> {
    const WHAT: &'static str = "an array";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        let Some(elements) = node.elements() else {
            let one = match node.content {
                Content::Value(Value::String(text)) => Some(format!("write [{:?}]", text.value())),
                _ => None,
            };
            return node.wrong_type(Self::WHAT, one);
        };
        // All elements are read before the first fault stops the reading, so that every fault is reported.
        let read: Vec<Option<T>> = elements.into_iter().map(T::read).collect();
        read.into_iter().collect()
    }
}

impl<T: Read> Read for super::section::At<T> {
    const WHAT: &'static str = T::WHAT;

    fn read(node: Node<'_, '_>) -> Option<Self> {
        Some(Self { value: T::read(node)?, span: node.span(), given: true })
    }
}

/// Reads one of a few words as a variant; says which ones there are.
pub(super) fn one_of<T: Copy>(node: Node<'_, '_>, words: &[(&str, T)]) -> Option<T> {
    let word = String::read(node)?;
    let found = words.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    let all: Vec<String> = words.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    found.or_else(|| node.wrong(format!("cannot be \"{word}\""), Some(format!("it is one of {}", all.join(", ")))))
}
