//! Where rei reads what users get: the metrics and the access log of the runtime.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `health.metrics`: a page in Prometheus' text format or in OpenMetrics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricsSource {
    /// The listener that is asked.
    pub listen: String,
    /// The path of the page.
    pub path: String,
    /// The pause between two requests for it.
    pub interval: Duration,
    /// The bound of one request.
    pub timeout: Duration,
    /// The metric that counts requests; `None`: it is found by the usual names.
    pub requests: Option<String>,
    /// Which requests failed; `None`: those with a status of 5xx.
    pub failed: Option<FailedRequests>,
    /// The histogram or summary of durations; `None`: it is found by the usual names.
    pub latency: Option<String>,
}

/// `health.metrics.failed`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FailedRequests {
    /// Another metric counts them.
    Counter(String),
    /// Their labels match these patterns, each as a whole.
    Labels(BTreeMap<String, String>),
}

/// `health.log`: an access log in the captured output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogSource {
    /// The form of its lines.
    pub format: LogFormat,
    /// The unit of durations; `None`: the key or the value says it.
    pub unit: Option<DurationUnit>,
    /// The keys of lines that have keys.
    pub keys: LogKeys,
}

/// The form of the lines of an access log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// The format `combined` of nginx and Apache; what follows the user agent can be a duration.
    Combined,
    /// The format `common` of Apache.
    Common,
    /// One JSON object on each line.
    Json,
    /// `key=value` pairs.
    Logfmt,
    /// A regular expression with named groups.
    Pattern(String),
}

/// The unit of a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DurationUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

/// Where a line has what; `None`: it is found by the usual keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogKeys {
    /// The status of the answer.
    pub status: Option<String>,
    /// How long the request took.
    pub duration: Option<String>,
    /// The method of the request.
    pub method: Option<String>,
    /// The path of the request.
    pub path: Option<String>,
    /// The level of the line.
    pub level: Option<String>,
    /// The message of the line.
    pub message: Option<String>,
}
