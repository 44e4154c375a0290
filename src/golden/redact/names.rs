//! The placeholder of each value: equal values have equal placeholders.
//!
//! So a token that one answer gives and a later request uses stays one token, and a replay can fill the request with what
//! the new answer gives.

use std::collections::BTreeMap;

use crate::golden::placeholder::{Kind, Placeholder};
use crate::redact::{Found, FoundKind};

/// Maximum number of values that are remembered, for memory. Further values have placeholders without a number.
const VALUES_MAX: usize = 10_000;

/// Minimum length of a value that is searched for in the rest of the messages, in bytes. A shorter one is a common word.
const ECHO_BYTES_MIN: usize = 8;

/// From this length on, in bytes, a value needs no digit to be searched for.
const ECHO_LETTERS_MIN: usize = 16;

/// Maximum number of values that are searched for, the latest first: each costs a search of every text.
const ECHOES_MAX: usize = 256;

/// Placeholders by value.
#[derive(Debug, Default)]
pub(super) struct Names {
    of_value: BTreeMap<String, Placeholder>,
    /// The number of different values of a kind and name.
    counts: BTreeMap<(Kind, String), usize>,
    /// The values that are searched for in every text, with their placeholders.
    echoes: Vec<(String, String)>,
}

impl Names {
    /// The placeholder of a value that the redactor found.
    pub(super) fn of_found(&mut self, found: &Found<'_>) -> String {
        let kind = match found.kind {
            FoundKind::Secret => Kind::Secret,
            FoundKind::Email => Kind::Email,
            FoundKind::Card => Kind::Card,
        };
        let name = found.key.filter(|_| kind == Kind::Secret).unwrap_or_default();
        self.give(kind, name, found.value)
    }

    /// The placeholder of a value.
    pub(super) fn give(&mut self, kind: Kind, name: &str, value: &str) -> String {
        let mut placeholder = Placeholder::new(kind, name);
        // A short value can occur twice by chance: it is the same only under the same name.
        let key = if is_telling(value) { value.to_owned() } else { format!("{}={value}", placeholder.key()) };
        if let Some(known) = self.of_value.get(&key) {
            return known.to_string();
        }
        if self.of_value.len() < VALUES_MAX {
            let count = self.counts.entry((kind, placeholder.name.clone())).or_default();
            *count += 1;
            placeholder.number = *count;
            self.of_value.insert(key, placeholder.clone());
            if is_telling(value) {
                if self.echoes.len() == ECHOES_MAX {
                    self.echoes.remove(0);
                }
                self.echoes.push((value.to_owned(), placeholder.to_string()));
            }
        }
        placeholder.to_string()
    }

    /// The text with the placeholder of each known value that it has.
    pub(super) fn echo(&self, text: &str) -> String {
        let mut text = text.to_owned();
        // The longest first: a value can contain another one.
        let mut found: Vec<&(String, String)> = self.echoes.iter().filter(|(value, _)| text.contains(value)).collect();
        found.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        for (value, placeholder) in found {
            text = text.replace(value, placeholder);
        }
        text
    }

    /// True if a text has a known value.
    pub(super) fn has_echo(&self, text: &str) -> bool {
        self.echoes.iter().any(|(value, _)| text.contains(value))
    }
}

/// True if a value is so long that it is no word.
fn is_telling(value: &str) -> bool {
    value.len() >= ECHO_LETTERS_MIN
        || value.len() >= ECHO_BYTES_MIN && value.bytes().any(|byte| byte.is_ascii_digit() || byte == b'@')
}
