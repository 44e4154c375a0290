//! `health.metrics` and `health.log`: where the requests of users are counted.

use std::collections::BTreeMap;

use regex::RegexBuilder;

use super::super::section::{At, Node, Read, Section};
use super::super::value::one_of;
use super::super::{DurationUnit, FailedRequests, Listen, LogFormat, LogKeys, LogSource, MetricsSource};
use super::asked::{asked, interval, path};

/// The most memory of one compiled pattern, in bytes. A pattern that needs more takes too long for each line.
const PATTERN_BYTES_MAX: usize = 256 << 10;

pub(super) fn metrics(mut section: Section<'_>, listeners: Option<&[Listen]>) -> Option<MetricsSource> {
    let listen = asked(&mut section, listeners);
    let path = path(&mut section, "as in \"/metrics\"");
    let (interval, timeout) = (interval(&mut section), section.value("timeout"));
    let (requests, latency) = (metric(&mut section, "requests"), metric(&mut section, "latency"));
    let failed = section.optional::<FailedRequests>("failed");
    if let Some((key, message)) = failed.as_ref().and_then(|at| failed_fault(&at.value)) {
        let span = failed.as_ref().map_or(0..0, |at| at.span.clone());
        section.impossible("failed", &span, format!("{key}{message}"), "as in { code = \"5..\" }");
    }
    section.close();
    Some(MetricsSource {
        listen: listen?,
        path: path?,
        interval: interval?,
        timeout: timeout?.value,
        requests,
        failed: failed.map(|at| at.value),
        latency,
    })
}

/// The name of a metric.
fn metric(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let at = section.optional::<String>(key)?;
    if !is_metric(&at.value) {
        section.impossible(
            key,
            &at.span,
            format!("`{}` is no name of a metric", at.value),
            "as in \"http_requests_total\"",
        );
    }
    Some(at.value)
}

fn is_metric(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:.".contains(&byte))
}

impl Read for FailedRequests {
    const WHAT: &'static str = "a table of labels with patterns, or the name of a metric";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        if node.table().is_none() {
            return String::read(node).map(Self::Counter);
        }
        let labels = Section::element(&node)?.named_values::<String>();
        Some(Self::Labels(labels.into_iter().map(|(name, at)| (name, at.value)).collect::<BTreeMap<_, _>>()))
    }
}

/// What is wrong with `failed`.
fn failed_fault(failed: &FailedRequests) -> Option<(String, String)> {
    match failed {
        FailedRequests::Counter(name) => {
            (!is_metric(name)).then(|| (format!("`{name}`"), " is no name of a metric".to_owned()))
        }
        FailedRequests::Labels(labels) if labels.is_empty() => {
            Some(("it".to_owned(), " names no label, so that every request would have failed".to_owned()))
        }
        FailedRequests::Labels(labels) => {
            let fault = |(name, pattern): (&String, &String)| {
                let error = compile(pattern).err()?;
                Some((format!("the pattern of `{name}`"), format!(" cannot be used: {}", last_line(&error))))
            };
            labels.iter().find_map(fault)
        }
    }
}

/// Compiles a pattern within its bound.
fn compile(pattern: &str) -> Result<regex::Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build()
}

/// The line of an error that says what is wrong; those before it show the pattern.
fn last_line(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

pub(super) fn log(mut section: Section<'_>) -> Option<LogSource> {
    let format = section.required::<String>("format", "\"combined\"");
    let unit = section.value::<Unit>("unit").map(|at| at.value.0);
    let mut key = |name: &'static str| section.optional::<String>(name);
    let keys = [key("status"), key("duration"), key("method"), key("path"), key("level"), key("message")];
    let format = format.and_then(|at| log_format(&section, &at));
    let has_keys = matches!(format, Some(LogFormat::Json | LogFormat::Logfmt) | None);
    let names = ["status", "duration", "method", "path", "level", "message"];
    for (name, at) in names.iter().zip(&keys).filter_map(|(name, at)| Some((name, at.as_ref()?))) {
        if !has_keys {
            let message = format!("the lines of this format have no key `{}`", at.value);
            section.impossible(name, &at.span, message, "only \"json\" and \"logfmt\" have keys");
        }
    }
    section.close();
    let [status, duration, method, path, level, message] = keys.map(|at| at.map(|at| at.value));
    let keys = LogKeys { status, duration, method, path, level, message };
    Some(LogSource { format: format?, unit: unit?, keys })
}

/// The unit of durations, or none for `auto`.
struct Unit(Option<DurationUnit>);

impl Read for Unit {
    const WHAT: &'static str = "a unit";

    fn read(node: Node<'_, '_>) -> Option<Self> {
        let units = [
            ("auto", None),
            ("s", Some(DurationUnit::S)),
            ("ms", Some(DurationUnit::Ms)),
            ("us", Some(DurationUnit::Us)),
            ("ns", Some(DurationUnit::Ns)),
        ];
        one_of(node, &units).map(Self)
    }
}

/// The longest regular expression, in bytes: the logger gets it in a packet.
const PATTERN_LENGTH_MAX: usize = 4 << 10;

fn log_format(section: &Section<'_>, at: &At<String>) -> Option<LogFormat> {
    let hint = "it is \"combined\", \"common\", \"json\", \"logfmt\", or a regular expression as in \
                '\"(?<method>\\w+) (?<path>\\S+) .*\" (?<status>\\d+)'";
    match at.value.as_str() {
        "combined" => Some(LogFormat::Combined),
        "common" => Some(LogFormat::Common),
        "json" => Some(LogFormat::Json),
        "logfmt" => Some(LogFormat::Logfmt),
        pattern => {
            let message = match compile(pattern) {
                _ if pattern.len() > PATTERN_LENGTH_MAX => {
                    format!("a regular expression has at most {PATTERN_LENGTH_MAX} bytes")
                }
                Err(error) => format!("`{pattern}` cannot be used: {}", last_line(&error)),
                Ok(compiled) if !compiled.capture_names().any(|name| name == Some("status")) => {
                    format!("`{pattern}` is no known format, and a regular expression needs a group named `status`")
                }
                Ok(_) => return Some(LogFormat::Pattern(pattern.to_owned())),
            };
            section.impossible("format", &at.span, message, hint);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Config, Place};
    use super::*;

    fn health(lines: &str) -> Result<super::super::super::Health, String> {
        let text = format!(
            "[runtime]\nname = \"a\"\nsource = \"/a\"\ncommand = [\"b\"]\nlisten = [\"http=127.0.0.1:1\"]\n[health]\n{lines}\n"
        );
        let place = Place { directory: "/etc/rei".into(), root: true, state_home: None };
        Config::from_toml(&text, &place).map(|config| config.health).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn sources_of_requests_are_read() {
        let metrics =
            health("metrics = { failed = { code = \"5..\" }, requests = \"a_total\" }").unwrap().metrics.unwrap();
        assert_eq!((metrics.listen.as_str(), metrics.path.as_str()), ("http", "/metrics"));
        let labels = BTreeMap::from([("code".to_owned(), "5..".to_owned())]);
        assert_eq!(metrics.failed, Some(FailedRequests::Labels(labels)));
        let metrics = health("metrics = { failed = \"lost_total\" }").unwrap().metrics.unwrap();
        assert_eq!(metrics.failed, Some(FailedRequests::Counter("lost_total".to_owned())));
        let log = health("log = { format = \"json\", duration = \"t\", unit = \"ms\" }").unwrap().log.unwrap();
        assert_eq!(
            (log.format, log.unit, log.keys.duration.as_deref()),
            (LogFormat::Json, Some(DurationUnit::Ms), Some("t"))
        );
        let log = health("log = { format = '(?<status>\\d+)' }").unwrap().log.unwrap();
        assert_eq!((log.format, log.unit), (LogFormat::Pattern("(?<status>\\d+)".to_owned()), None));
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (lines, word) in [
            ("metrics = { path = \"metrics\" }", "is no path"),
            ("metrics = { requests = \"a b\" }", "is no name of a metric"),
            ("metrics = { failed = {} }", "names no label"),
            ("metrics = { failed = { code = \"(\" } }", "cannot be used"),
            ("metrics = { failed = { code = \"(a{1000}){1000}\" } }", "cannot be used"),
            ("log = true", "`format` is missing"),
            ("log = { format = \"clf\" }", "needs a group named `status`"),
            ("log = { format = \"(\" }", "cannot be used"),
            ("log = { format = \"combined\", status = \"s\" }", "have no key"),
            ("log = { format = \"json\", unit = \"h\" }", "cannot be"),
        ] {
            let error = health(lines).unwrap_err();
            assert!(error.contains(word), "{lines}: {error}");
        }
    }
}
