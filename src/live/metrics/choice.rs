//! Decides which metrics of a page are the requests, and which are their durations; and reads their labels.

use std::cmp::Reverse;

use super::names::{self, Kind};
use super::rules::{Failed, Rules};
use super::series::{Labels, Metric, Page};
use crate::live::{Class, Route};

/// The metrics that are used; `None` for what the page does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) requests: Option<String>,
    pub(super) latency: Option<String>,
}

impl Choice {
    /// Chooses: what the operator names, or else the metric that tells most, and of equals the first of the table.
    pub(super) fn of(page: &Page, rules: &Rules) -> Self {
        let best = |value: &dyn Fn(&str, &Metric) -> Option<u32>| {
            let known =
                page.metrics.iter().filter_map(|(name, metric)| Some((value(name, metric)?, metric.rank, name)));
            known.max_by_key(|(value, rank, _)| (*value, Reverse(*rank))).map(|(.., name)| name.clone())
        };
        let there = |name: &String| page.metrics.contains_key(name).then(|| name.clone());
        let counts_failed = |name: &str| matches!(&rules.failed, Some(Failed::Counter(failed)) if failed == name);
        // Requests whose end is not known are not used: a source that cannot see a failure must not say that there is
        // none.
        let tells = |name: &str, metric: &Metric| {
            let has_class = metric.groups.keys().any(|labels| class(name, metric, labels, rules).is_some());
            (has_class && !counts_failed(name)).then(|| details(metric))
        };
        let times = |_: &str, metric: &Metric| {
            let has_buckets = metric.groups.values().any(|group| !group.buckets.is_empty());
            matches!(metric.kind, Kind::Durations(_)).then(|| details(metric) + if has_buckets { 4 } else { 0 })
        };
        Self {
            requests: rules.requests.as_ref().map_or_else(|| best(&tells), there),
            latency: rules.latency.as_ref().map_or_else(|| best(&times), there),
        }
    }

    /// What was found and what was not, for a person.
    pub(super) fn words(&self, page: &Page, rules: &Rules) -> String {
        let metric =
            |name: &Option<String>| name.as_ref().and_then(|name| Some((name.clone(), page.metrics.get(name)?)));
        let (requests, latency) = (metric(&self.requests), metric(&self.latency));
        let mut parts = vec![
            match (&requests, &rules.requests) {
                (Some((name, metric)), _) => format!("requests by {name}{}", failures(metric, rules)),
                (None, Some(name)) => format!("no requests: {name} is not on the page"),
                (None, None) => format!("no requests: {}", missing(page)),
            },
            match (&latency, &rules.latency) {
                (Some((name, metric)), _) if metric.groups.values().all(|group| group.buckets.is_empty()) => {
                    format!("latency by {name}, of which only the mean is known")
                }
                (Some((name, _)), _) => format!("latency by {name}"),
                (None, Some(name)) => format!("no latency: {name} is not on the page"),
                (None, None) => "no latency".to_owned(),
            },
        ];
        let routes = |(_, metric): &(String, &Metric)| metric.groups.keys().any(|labels| route_label(labels).is_some());
        if requests.as_ref().or(latency.as_ref()).is_some_and(|metric| !routes(metric)) {
            parts.push("no route label".to_owned());
        }
        if page.is_cut {
            parts.push("the page is too large: its end is not read".to_owned());
        }
        parts.join("; ")
    }
}

/// How failures are told from other requests, for a person.
fn failures(metric: &Metric, rules: &Rules) -> String {
    match &rules.failed {
        Some(Failed::Counter(name)) => format!(", failures by {name}"),
        Some(Failed::Labels(labels)) => {
            let labels: Vec<&str> = labels.iter().map(|(name, _)| name.as_str()).collect();
            format!("{{{}}}", labels.join(","))
        }
        None => {
            let status = metric.groups.keys().find_map(|labels| label(labels, names::STATUS));
            status.map_or_else(String::new, |(name, _)| format!("{{{name}}}"))
        }
    }
}

/// Why a page has no requests, for a person.
fn missing(page: &Page) -> String {
    match (page.metrics.iter().find(|(_, metric)| !metric.groups.is_empty()), page.others.is_empty()) {
        (Some((name, _)), _) => format!("{name} has no label with the status"),
        (None, false) => format!("no usual name is on the page; it has {}", page.others.join(", ")),
        (None, true) => "no usual name is on the page".to_owned(),
    }
}

/// How much the labels of a metric tell.
fn details(metric: &Metric) -> u32 {
    let has = |what: fn(&Labels) -> bool| u32::from(metric.groups.keys().any(what));
    2 * has(|labels| route_label(labels).is_some()) + has(|labels| label(labels, names::METHOD).is_some())
}

/// How the requests of a group ended; `None` if it cannot be known.
pub(super) fn class(name: &str, metric: &Metric, labels: &Labels, rules: &Rules) -> Option<Class> {
    if let Some(Failed::Labels(failed)) = &rules.failed {
        let value = |name: &str| labels.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        if failed.iter().all(|(name, pattern)| pattern.is_match(value(name))) {
            return Some(Class::ServerError);
        }
    }
    let status = match metric.kind {
        Kind::PerStatus => name.rsplit('_').next(),
        _ => label(labels, names::STATUS).map(|(_, value)| value),
    };
    match status.and_then(of_status) {
        Some(class) => Some(class),
        None if rules.failed.is_some() => Some(Class::Success),
        None => label(labels, &[names::ERROR_TYPE]).filter(|(_, value)| !value.is_empty()).map(|_| Class::Aborted),
    }
}

/// The class of `503`, `5xx`, `5XX` or `5`.
fn of_status(text: &str) -> Option<Class> {
    let (first, rest) = text.split_at_checked(1)?;
    let is_number = rest.len() == 2 && rest.bytes().all(|byte| byte.is_ascii_digit());
    let is_status = rest.is_empty() || is_number || rest.eq_ignore_ascii_case("xx");
    Class::of_status(first.parse::<u16>().ok().filter(|_| is_status)? * 100)
}

/// The route of the requests of a group.
pub(super) fn route(labels: &Labels) -> Route {
    let method = label(labels, names::METHOD).map_or("", |(_, value)| value);
    match route_label(labels).unwrap_or_default() {
        // The label can have the path as it was requested.
        path if path.starts_with('/') => {
            // express-prom-bundle writes `/users/#val`; here `#` begins no fragment.
            let template = Route::of_request("GET", &path.replace('#', ":"));
            Route::named(method, template.name().trim_start_matches("GET "))
        }
        name => Route::named(method, name),
    }
}

/// The value of the label with the route.
fn route_label(labels: &Labels) -> Option<&str> {
    let (name, value) = label(labels, names::ROUTE)?;
    // Caddy's label has the kind of the handler, such as `subroute`, and is there beside that of the server.
    let is_kind = name == "handler" && labels.iter().any(|(key, _)| key == "server");
    (!is_kind).then_some(value)
}

/// The first of these labels that is there, with its value.
pub(super) fn label<'a>(labels: &'a Labels, known: &[&'static str]) -> Option<(&'static str, &'a str)> {
    known.iter().find_map(|name| labels.iter().find(|(key, _)| key == name).map(|(_, value)| (*name, value.as_str())))
}
