//! Reads typed fields from a map. Each field is read once; errors are collected, and reading continues.

use super::yaml::{Node, Place, Problem, Value, problem};

/// Maximum length of a text (the longest is a goal), in bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// Maximum length of a name, in bytes. Names become file names.
const NAME_BYTES_MAX: usize = 64;
/// Maximum number of names in a list.
const LIST_MAX: usize = 64;

/// A word of the file with its line and column.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub text: String,
    pub place: Place,
}

/// The fields of one map.
pub(super) struct Fields<'n> {
    node: &'n Node,
    what: String,
}

impl<'n> Fields<'n> {
    /// Reads `node` as a map with these keys. Unknown keys are problems. `None` if it is not a map, which is a problem,
    /// too.
    pub fn of(node: &'n Node, what: &str, known: &[&str], problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            problems.push(problem(
                node.place,
                format!("{what} must be a map"),
                format!("its keys: {}", known.join(", ")),
            ));
            return None;
        };
        for (key, _) in entries {
            if key.name == "commands" {
                let hint = "use a command of rei.toml: action: run, command: NAME";
                problems.push(problem(key.place, "shell commands are not allowed in a blueprint".into(), hint));
            } else if !known.contains(&key.name.as_str()) {
                let message = format!("unknown key {:?} in {what}", key.name);
                problems.push(problem(key.place, message, format!("known keys: {}", known.join(", "))));
            }
        }
        Some(Self { node, what: what.to_owned() })
    }

    pub fn get(&self, name: &str) -> Option<&'n Node> {
        let Value::Map(entries) = &self.node.value else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    pub fn require(&self, name: &str, hint: &str, problems: &mut Vec<Problem>) -> Option<&'n Node> {
        let found = self.get(name);
        if found.is_none() {
            problems.push(problem(self.node.place, format!("{} has no {name:?}", self.what), hint));
        }
        found
    }

    /// Reads a non-empty text.
    pub fn text(&self, name: &str, problems: &mut Vec<Problem>) -> Option<Word> {
        let node = self.get(name)?;
        match &node.value {
            Value::Scalar { text, .. } if !text.trim().is_empty() && text.len() <= TEXT_BYTES_MAX => {
                Some(Word { text: text.clone(), place: node.place })
            }
            Value::Scalar { text, .. } if text.len() > TEXT_BYTES_MAX => {
                let message = format!("{name:?} is longer than {TEXT_BYTES_MAX} bytes");
                problems.push(problem(node.place, message, "shorten it"));
                None
            }
            _ => {
                problems.push(problem(
                    node.place,
                    format!("{name:?} must be text"),
                    format!("write: {name}: some text"),
                ));
                None
            }
        }
    }

    /// Reads a name: letters, digits, `_`, `-` and `.`, beginning with a letter or digit.
    pub fn name(&self, name: &str, problems: &mut Vec<Problem>) -> Option<Word> {
        let word = self.text(name, problems)?;
        check_name(&word, name, problems).then_some(word)
    }

    /// Reads a list of names; empty if the key is absent.
    pub fn names(&self, name: &str, problems: &mut Vec<Problem>) -> Vec<Word> {
        let Some(node) = self.get(name) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            problems.push(problem(node.place, format!("{name:?} must be a list"), format!("write: {name}: [a, b]")));
            return Vec::new();
        };
        if items.len() > LIST_MAX {
            problems.push(problem(node.place, format!("{name:?} has more than {LIST_MAX} entries"), "shorten it"));
            return Vec::new();
        }
        let mut words: Vec<Word> = Vec::new();
        for item in items {
            let Value::Scalar { text, .. } = &item.value else {
                problems.push(problem(item.place, format!("an entry of {name:?} must be a name"), "write a word"));
                continue;
            };
            let word = Word { text: text.clone(), place: item.place };
            if words.iter().any(|known| known.text == word.text) {
                problems.push(problem(word.place, format!("{:?} is listed twice", word.text), "list it once"));
            } else if check_name(&word, name, problems) {
                words.push(word);
            }
        }
        words
    }

    /// Reads a whole number from 0 to `max`, written without quotes.
    pub fn number(&self, name: &str, max: u32, problems: &mut Vec<Problem>) -> Option<u32> {
        let node = self.get(name)?;
        let number = match &node.value {
            Value::Scalar { text, plain: true } => text.parse().ok().filter(|number| *number <= max),
            _ => None,
        };
        if number.is_none() {
            let message = format!("{name:?} must be a whole number from 0 to {max}");
            problems.push(problem(node.place, message, format!("write: {name}: 2")));
        }
        number
    }

    /// Reads `true` or `false`.
    pub fn flag(&self, name: &str, problems: &mut Vec<Problem>) -> Option<bool> {
        let node = self.get(name)?;
        match &node.value {
            Value::Scalar { text, plain: true } if text == "true" => Some(true),
            Value::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => {
                let message = format!("{name:?} must be true or false");
                problems.push(problem(node.place, message, format!("write: {name}: true")));
                None
            }
        }
    }

    /// Reads one of the given words.
    pub fn choice<T: Copy>(&self, name: &str, of: &[(&str, T)], problems: &mut Vec<Problem>) -> Option<T> {
        let node = self.get(name)?;
        let found = match &node.value {
            Value::Scalar { text, .. } => of.iter().find(|(word, _)| word == text).map(|(_, value)| *value),
            _ => None,
        };
        if found.is_none() {
            let words: Vec<&str> = of.iter().map(|(word, _)| *word).collect();
            let hint = format!("one of: {}", words.join(", "));
            problems.push(problem(node.place, format!("{name:?} has an unknown value"), hint));
        }
        found
    }
}

/// True if `text` is a valid name of a blueprint, stage, artifact, agent or command, and so of a file.
pub(crate) fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    text.len() <= NAME_BYTES_MAX
        && text.bytes().all(good)
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

fn check_name(word: &Word, field: &str, problems: &mut Vec<Problem>) -> bool {
    if is_name(&word.text) {
        return true;
    }
    let message = format!("{:?} is not a valid name in {field:?}", word.text);
    let hint = format!("use at most {NAME_BYTES_MAX} letters, digits, _ - and ., beginning with a letter or digit");
    problems.push(problem(word.place, message, hint));
    false
}
