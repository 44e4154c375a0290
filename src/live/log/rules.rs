//! The form of the lines, and which keys have what.

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::config::{DurationUnit, Health, LogFormat, LogKeys};

/// The most memory of a compiled pattern, in bytes; the file is refused if a pattern needs more.
const PATTERN_BYTES_MAX: usize = 256 << 10;
/// The most memory of the states that a pattern keeps while it searches, in bytes.
const STATES_BYTES_MAX: usize = 1 << 20;

/// How lines are read. The supervisor sends this to the logger, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    pub(super) format: LogFormat,
    pub(super) unit: Option<DurationUnit>,
    #[serde(default)]
    pub(super) keys: LogKeys,
    /// The paths that rei itself asks.
    #[serde(default)]
    pub(super) own_paths: Vec<String>,
}

impl Rules {
    /// The rules of `[health]`; `None` if there is no access log.
    pub fn of(health: &Health) -> Option<Self> {
        let log = health.log.as_ref()?;
        let probe = health.http.iter().map(|probe| &probe.path);
        let paths = probe.chain(health.metrics.iter().map(|source| &source.path));
        let without_query = |path: &String| path.split('?').next().unwrap_or_default().to_owned();
        // Users ask `/`, too.
        let own_paths = paths.map(without_query).filter(|path| path != "/").collect();
        Some(Self { format: log.format.clone(), unit: log.unit, keys: log.keys.clone(), own_paths })
    }

    /// The compiled pattern of the lines; `None` if the format is no pattern.
    ///
    /// # Errors
    /// If it cannot be compiled within its bound.
    pub(super) fn pattern(&self) -> Result<Option<Regex>, regex::Error> {
        let LogFormat::Pattern(text) = &self.format else { return Ok(None) };
        RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).dfa_size_limit(STATES_BYTES_MAX).build().map(Some)
    }
}
