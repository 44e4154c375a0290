//! What a changed `rei.toml` means for a supervisor that runs.

use serde::Serialize;
use serde_json::Value;

use super::Config;
use super::options::{Key, When, keys};

/// One key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key, as in `promotion.observe`. Its values are left out: they may be secrets.
    pub key: String,
    /// When it takes effect.
    pub when: When,
}

/// The keys that differ, in the order of the file's sections.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    // Cannot fail: the types hold no maps with keys that are not strings.
    let tree = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let mut changes = Vec::new();
    compare("", &tree(old), &tree(new), &keys(), &mut changes);
    changes
}

fn compare(path: &str, old: &Value, new: &Value, keys: &[Key], changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    // A section is two names deep at most: `health.http`, `agents.fixer`.
    let (Value::Object(old), Value::Object(new), true) = (old, new, path.matches('.').count() < 1) else {
        let key = keys.iter().find(|key| key.fields.iter().any(|field| field == path));
        // What has no key has a name of the operator's, as an agent: it is looked up each time.
        let (name, when) = key.map_or((path, When::Now), |key| (key.name.as_str(), key.when));
        if changes.iter().all(|change| change.key != name) {
            changes.push(Change { key: name.to_owned(), when });
        }
        return;
    };
    let names = new.keys().chain(old.keys().filter(|name| !new.contains_key(*name)));
    for name in names {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let side = |tree: &serde_json::Map<String, Value>| tree.get(name).cloned().unwrap_or_default();
        compare(&path, &side(old), &side(new), keys, changes);
    }
}
