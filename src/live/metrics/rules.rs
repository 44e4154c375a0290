//! Which metrics and labels the operator names.

use regex::{Regex, RegexBuilder};

use super::names;
use crate::config::{FailedRequests, Health};

/// The most memory of one compiled pattern, in bytes: a pattern of a status needs a few hundred.
const PATTERN_BYTES_MAX: usize = 64 << 10;

/// How requests are found on a page. What is not named is found by the usual names.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The metric that counts requests, without `_total`.
    pub requests: Option<String>,
    /// Which of them failed.
    pub failed: Option<Failed>,
    /// The metric with durations, without `_bucket`.
    pub latency: Option<String>,
    /// The paths that rei itself asks: that of the page, and that of the probe. They are not users' requests.
    pub own_paths: Vec<String>,
}

/// Which requests failed.
#[derive(Clone, Debug)]
pub enum Failed {
    /// Those whose labels match all patterns.
    Labels(Vec<(String, Regex)>),
    /// Those that another counter counts.
    Counter(String),
}

impl Rules {
    /// The rules of `[health]`; `None` if no metrics are read.
    pub fn of(health: &Health) -> Option<Self> {
        let metrics = health.metrics.as_ref()?;
        let metric = |name: &String| names::split(name).0.to_owned();
        let failed = metrics.failed.as_ref().map(|failed| match failed {
            FailedRequests::Counter(name) => Failed::Counter(metric(name)),
            FailedRequests::Labels(labels) => {
                // The file is refused if a pattern is wrong.
                let compiled = |(name, text): (&String, &String)| Some((name.clone(), pattern(text).ok()?));
                Failed::Labels(labels.iter().filter_map(compiled).collect())
            }
        });
        let probe = health.http.iter().map(|probe| probe.path.clone());
        Some(Self {
            requests: metrics.requests.as_ref().map(metric),
            failed,
            latency: metrics.latency.as_ref().map(metric),
            own_paths: probe.chain([metrics.path.clone()]).map(|path| without_query(&path).to_owned()).collect(),
        })
    }
}

/// A pattern for the whole value of a label.
fn pattern(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{text})$")).size_limit(PATTERN_BYTES_MAX).build()
}

fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}
