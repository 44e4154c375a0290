//! The description of each key, in `options.toml`, as far as a running rei needs it.

use serde::Serialize;
use toml_edit::{Document, Table, Value};

/// The descriptions. rei.toml's template, docs/options.md and the options of the NixOS module are made from them, too.
pub(super) const TEXT: &str = include_str!("options.toml");

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At once.
    Now,
    /// For the next instance that is started.
    NextStart,
    /// When rei itself is started again; until then the old value holds.
    Restart,
}

impl When {
    fn of(word: &str) -> Option<Self> {
        [("now", Self::Now), ("next-start", Self::NextStart), ("restart", Self::Restart)]
            .into_iter()
            .find_map(|(known, when)| (known == word).then_some(when))
    }
}

/// A key right below a section.
#[derive(Debug)]
pub(super) struct Key {
    /// Its name in the file, as `state.log`.
    pub name: String,
    /// Its names in [`super::Config`], as `state.log_bytes`.
    pub fields: Vec<String>,
    /// When a change of it takes effect.
    pub when: When,
}

/// The keys right below a section, as described.
pub(super) fn keys() -> Vec<Key> {
    let document = document();
    let tables = document.get("key").and_then(|item| item.as_array_of_tables());
    tables.into_iter().flatten().filter_map(key).collect()
}

/// The descriptions as TOML.
pub(super) fn document() -> Document<&'static str> {
    // Cannot fail: the text is a constant, and every test of this module reads it.
    Document::parse(TEXT).expect("options.toml is TOML")
}

fn key(table: &Table) -> Option<Key> {
    let name = text(table, "name")?;
    let (section, _) = name.split_once('.').filter(|(_, key)| !key.contains('.'))?;
    let others = table.get("fields").and_then(|item| item.as_array());
    let fields = match others {
        Some(fields) => fields.iter().filter_map(Value::as_str).map(|field| format!("{section}.{field}")).collect(),
        None => vec![name.to_owned()],
    };
    let when = text(table, "when").and_then(When::of).unwrap_or(When::Now);
    Some(Key { name: name.to_owned(), fields, when })
}

/// A text of a description.
pub(super) fn text<'a>(table: &'a Table, name: &str) -> Option<&'a str> {
    table.get(name).and_then(|item| item.as_str())
}
