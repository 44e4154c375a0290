//! Messages of errors, with numbers and identifiers taken out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::route::PLACEHOLDER;

/// The most different messages that are kept for a version. More are only counted.
pub const TEMPLATES_MAX: usize = 64;
/// The longest message that is kept, in bytes.
const TEMPLATE_BYTES_MAX: usize = 160;
/// The longest word that is no identifier, in bytes.
const WORD_BYTES_MAX: usize = 32;
/// The shortest word of hexadecimal digits that is an identifier, in bytes.
const HEX_BYTES_MIN: usize = 8;

/// The messages of errors that a version wrote, each with its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Templates {
    messages: BTreeMap<String, u64>,
    /// Messages that came when [`TEMPLATES_MAX`] others were there.
    rest: u64,
}

impl Templates {
    /// Counts a message.
    pub fn add(&mut self, message: &str) {
        let template = template(message);
        if !template.is_empty() {
            self.count(&template, 1);
        }
    }

    fn count(&mut self, template: &str, count: u64) {
        if let Some(known) = self.messages.get_mut(template) {
            *known = known.saturating_add(count);
        } else if self.messages.len() < TEMPLATES_MAX {
            self.messages.insert(template.to_owned(), count);
        } else {
            self.rest = self.rest.saturating_add(count);
        }
    }

    /// Adds all messages of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.messages.iter().for_each(|(template, count)| self.count(template, *count));
        self.rest = self.rest.saturating_add(other.rest);
    }

    /// The messages that the baseline never wrote, the most frequent first. There are none if the baseline wrote more
    /// different messages than are kept: then it is not known which are new.
    pub fn new_templates(&self, baseline: &Self) -> Vec<(&str, u64)> {
        if baseline.rest > 0 {
            return Vec::new();
        }
        let mut new = self.by_count();
        new.retain(|(template, _)| !baseline.messages.contains_key(*template));
        new
    }

    /// The messages with their numbers, the most frequent first.
    pub fn by_count(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<(&str, u64)> =
            self.messages.iter().map(|(template, count)| (template.as_str(), *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }

    /// The same messages, each as `clean` returns it.
    #[must_use]
    pub fn cleaned(&self, mut clean: impl FnMut(&str) -> String) -> Self {
        let mut all = Self { rest: self.rest, ..Self::default() };
        self.messages.iter().for_each(|(template, count)| all.count(&clean(template), *count));
        all
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.rest == 0
    }

    /// The memory of the messages, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.messages.keys().map(|template| template.len() + 2 * size_of::<usize>()).sum::<usize>()
    }
}

/// The message with numbers, identifiers and long words taken out.
fn template(message: &str) -> String {
    let mut template = String::new();
    let mut rest = message.trim();
    while let Some(first) = rest.chars().next() {
        if template.len() >= TEMPLATE_BYTES_MAX {
            break;
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (word, after) = rest.split_at(length);
        rest = after;
        if is_value(word) {
            // A time or an address of many numbers is one value.
            let before = template.trim_end_matches([':', '.', '-', '/', '+', ',']).len();
            if template[..before].ends_with(PLACEHOLDER) {
                template.truncate(before);
            } else {
                template.push_str(PLACEHOLDER);
            }
        } else if word.chars().all(char::is_whitespace) {
            if !template.ends_with(' ') {
                template.push(' ');
            }
        } else if !first.is_control() {
            template.push_str(word);
        }
    }
    let end = template.floor_char_boundary(TEMPLATE_BYTES_MAX);
    template.truncate(end);
    template
}

fn is_value(word: &str) -> bool {
    let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
    let is_hex = word.len() >= HEX_BYTES_MIN && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    has_digit || is_hex || word.len() > WORD_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_identifiers_are_taken_out() {
        let cases = [
            ("user 42 not found", "user {} not found"),
            ("2024-01-31T10:00:00.123Z pool timeout after 30s", "{} pool timeout after {}"),
            ("connect 10.0.0.1:5432: refused", "connect {}: refused"),
            ("job 0b9c2f6e-6a39-4d1e-9b0a-2f8f7c1d9a77 failed", "job {} failed"),
            ("column \"name\" does not exist", "column \"name\" does not exist"),
            ("  two\t\twords ", "two words"),
            ("deadbeef is wrong", "{} is wrong"),
        ];
        for (message, expected) in cases {
            assert_eq!(template(message), expected);
        }
        assert!(template(&"w\u{fc}rd ".repeat(1_000)).len() <= TEMPLATE_BYTES_MAX);
        assert!(template(&"x".repeat(10 << 20)).len() <= TEMPLATE_BYTES_MAX);
    }

    #[test]
    fn only_messages_that_the_baseline_never_wrote_are_new() {
        let of = |messages: &[&str]| {
            let mut all = Templates::default();
            messages.iter().for_each(|message| all.add(message));
            all
        };
        let (baseline, candidate) =
            (of(&["user 1 not found"]), of(&["user 7 not found", "no pool", "no pool", "new 1"]));
        assert_eq!(candidate.new_templates(&baseline), [("no pool", 2), ("new {}", 1)]);
        let mut many = Templates::default();
        for length in 0..10_000 {
            many.add(&format!("{} {}", "x".repeat(length % 30), "y".repeat(length / 400)));
        }
        assert!(many.messages.len() == TEMPLATES_MAX && many.rest > 0 && many.bytes() < 32 << 10);
        assert_eq!(candidate.new_templates(&many), [], "the baseline may have written them");
    }
}
