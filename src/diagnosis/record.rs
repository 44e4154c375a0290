//! A line of a log in JSON.

use serde_json::{Map, Value};

/// Fields with the level of a line.
pub(super) const LEVELS: [&str; 7] = ["level", "severity", "lvl", "log.level", "levelname", "@l", "Level"];
/// Fields that say what happened, by priority.
pub(super) const FIELDS: [&str; 8] = ["msg", "message", "event", "@m", "@mt", "error", "err", "exception"];

/// The fields of a line.
pub(super) struct Record(Map<String, Value>);

impl Record {
    /// The record, if the line is a JSON object.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok().map(Self)
    }

    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The level in lower case; empty if there is none. Pino and Bunyan use numbers.
    pub fn level(&self) -> String {
        match LEVELS.iter().find_map(|name| self.field(name)) {
            Some(Value::String(level)) => level.to_ascii_lowercase(),
            Some(Value::Number(level)) => match level.as_u64() {
                Some(60..) => "fatal".into(),
                Some(50..) => "error".into(),
                Some(40..) => "warn".into(),
                Some(10..) => "info".into(),
                _ => String::new(),
            },
            _ => String::new(),
        }
    }

    /// What the line says: the first line of each field that says what happened. Other fields are times, processes and
    /// requests.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = FIELDS.iter().filter_map(|name| self.text(name)).collect();
        words.dedup();
        words
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = match self.field(name)? {
            Value::String(text) => text,
            Value::Object(inner) => inner.get("message")?.as_str()?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => return None,
        };
        text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }

    /// A field by its name; `a.b` is a name, or the field `b` of `a`.
    fn field(&self, name: &str) -> Option<&Value> {
        self.0.get(name).or_else(|| {
            let (outer, inner) = name.split_once('.')?;
            self.0.get(outer)?.get(inner)
        })
    }
}
