//! What a changed `rei.toml` means for a supervisor that runs.

use serde::Serialize;
use serde_json::Value;

use super::Config;

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

/// One key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key, as in `promotion.observe`. Its values are not told: they may be secrets.
    pub key: String,
    /// When it takes effect.
    pub when: When,
}

/// Keys, or beginnings of keys, whose change is not taken at once.
const LATER: [(&str, When); 15] = [
    ("runtime.name", When::Restart),
    ("runtime.source", When::Restart),
    ("runtime.listen", When::Restart),
    ("runtime.command", When::NextStart),
    ("runtime.env", When::NextStart),
    ("runtime.stop_timeout", When::NextStart),
    ("runtime.stop_signal", When::NextStart),
    ("runtime.stop_mode", When::NextStart),
    ("health.notify", When::NextStart),
    ("health.interface", When::Restart),
    ("isolation", When::NextStart),
    ("state.log_bytes", When::NextStart),
    ("state.runs", When::Now),
    ("state.evidence_bytes", When::Now),
    ("state", When::Restart),
];

/// The keys that differ, in the order of the file's sections.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    // Cannot fail: the types hold no maps with keys that are not strings.
    let tree = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let mut changes = Vec::new();
    compare("", &tree(old), &tree(new), &mut changes);
    changes
}

fn compare(key: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    // A section is two names deep at most: `health.http`, `agents.fixer`.
    let (Value::Object(old), Value::Object(new), true) = (old, new, key.matches('.').count() < 1) else {
        let covers = |name: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let when = LATER.iter().find(|(name, _)| covers(name)).map_or(When::Now, |(_, when)| *when);
        changes.push(Change { key: key.to_owned(), when });
        return;
    };
    let names = new.keys().chain(old.keys().filter(|name| !new.contains_key(*name)));
    for name in names {
        let path = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        let side = |tree: &serde_json::Map<String, Value>| tree.get(name).cloned().unwrap_or_default();
        compare(&path, &side(old), &side(new), changes);
    }
}
