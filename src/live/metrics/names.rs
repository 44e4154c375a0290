//! The usual names of metrics and labels: one table.
//!
//! A name stands here without `_total`, `_count`, `_sum` and `_bucket`. A name that begins with `http_` is also found
//! behind a prefix, as in `shop_http_requests_total`.

/// What a metric of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A counter of requests.
    Counter,
    /// A histogram or a summary of durations, and how many microseconds its unit has.
    Durations(u32),
    /// A counter for each status, which is the end of the name.
    PerStatus,
}

const S: Kind = Kind::Durations(1_000_000);
const MS: Kind = Kind::Durations(1_000);
const COUNTER: Kind = Kind::Counter;

/// The names, and who uses them. Of two that fit equally well, the first one is used. Names with a page in
/// `tests/fixtures/metrics` are marked with *; the others are from the documentation of their libraries.
pub(super) const METRICS: &[(&str, Kind)] = &[
    // OpenTelemetry since 1.23 *, .NET 8, Rack's collector for Ruby
    ("http_server_request_duration_seconds", S),
    ("http_server_request_duration", S),
    // OpenTelemetry before *
    ("http_server_duration_milliseconds", MS),
    ("http_server_duration_seconds", S),
    ("http_server_duration", MS),
    // Micrometer: Spring *, Quarkus, Micronaut, Ktor
    ("http_server_requests_seconds", S),
    ("http_server_requests_milliseconds", MS),
    // prom-client *, client_golang *, FastAPI *, Flask *, Caddy *, prometheus-net
    ("http_request_duration_seconds", S),
    // The fork for several processes of the client for Ruby *, which also has a summary under the name above
    ("http_req_duration_seconds", S),
    // axum-prometheus *, actix-web-prom
    ("http_requests_duration_seconds", S),
    ("http_request_duration_milliseconds", MS),
    ("http_request_duration_ms", MS),
    ("http_request_latency_seconds", S),
    ("http_request_seconds", S),
    ("http_response_time_seconds", S),
    ("http_response_duration_seconds", S),
    ("http_request_duration", S),
    // Vert.x
    ("vertx_http_server_response_time_seconds", S),
    // Django *
    ("django_http_requests_latency_seconds_by_view_method", S),
    // Starlette *
    ("starlette_request_duration_seconds", S),
    ("starlette_requests_processing_time_seconds", S),
    // aiohttp, Tornado, Go and others by hand
    ("request_duration_seconds", S),
    ("request_latency_seconds", S),
    ("request_duration_milliseconds", MS),
    ("request_duration_ms", MS),
    // Phoenix
    ("phoenix_endpoint_stop_duration_milliseconds", MS),
    // Traefik; gunicorn has no page of its own, only one through the exporter of statsd
    ("traefik_entrypoint_request_duration_seconds", S),
    ("gunicorn_request_duration", S),
    // FastAPI *, axum-prometheus *, Ruby *, client_golang, prom-client, actix-web-prom
    ("http_server_requests", COUNTER),
    ("http_requests", COUNTER),
    // Flask
    ("http_request", COUNTER),
    ("http_responses", COUNTER),
    ("http_server_request", COUNTER),
    // Starlette
    ("starlette_requests", COUNTER),
    ("starlette_responses", COUNTER),
    // Django
    ("django_http_responses_total_by_status_view_method", COUNTER),
    ("django_http_responses_total_by_status", COUNTER),
    // HAProxy, Envoy, Traefik
    ("haproxy_frontend_http_responses", COUNTER),
    ("envoy_http_downstream_rq_xx", COUNTER),
    ("traefik_entrypoint_requests", COUNTER),
    ("requests", COUNTER),
    ("request", COUNTER),
    // gunicorn through the exporter of statsd: gunicorn_request_status_200
    ("gunicorn_request_status", Kind::PerStatus),
];

/// A name with one of these words is about the requests that the runtime makes itself, or about its metrics page.
const NOT_SERVED: &[&str] = &["client", "outbound", "outgoing", "upstream", "promhttp", "fetch"];

/// The labels with the status or its class.
pub(super) const STATUS: &[&str] = &[
    "http_response_status_code",
    "http_status_code",
    "status_code",
    "status",
    "code",
    "http_status",
    "http_code",
    "response_code",
    "response_status",
    "statusCode",
    "envoy_response_code_class",
];

/// The labels with the method.
pub(super) const METHOD: &[&str] =
    &["http_request_method", "http_method", "method", "request_method", "requestMethod", "verb"];

/// The labels with the route.
pub(super) const ROUTE: &[&str] = &[
    "http_route",
    "route",
    "path_template",
    "path",
    "handler",
    "uri",
    "endpoint",
    "view",
    "http_target",
    "url_path",
    "url",
    "target",
    "resource",
];

/// The label that OpenTelemetry sets if there was no answer.
pub(super) const ERROR_TYPE: &str = "error_type";

/// When the process began, in seconds since 1970: the libraries for Go, Python, Java, Ruby and Node.js have it.
pub(super) const PROCESS_START: &str = "process_start_time_seconds";

/// What follows the name of a metric in the name of a series.
const ENDS: &[&str] = &["_total", "_count", "_sum", "_bucket"];

/// A metric of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usual {
    /// Its place in the table; a metric behind a prefix is after all others.
    pub(super) rank: usize,
    pub(super) kind: Kind,
}

/// Finds the metric to which a series belongs.
pub(super) fn usual(metric: &str) -> Option<Usual> {
    if NOT_SERVED.iter().any(|word| metric.contains(word)) {
        return None;
    }
    METRICS.iter().enumerate().find_map(|(rank, (name, kind))| {
        let behind =
            |metric: &str| name.starts_with("http_") && metric.strip_suffix(name).is_some_and(|it| it.ends_with('_'));
        let per_status =
            || *kind == Kind::PerStatus && metric.strip_prefix(name).is_some_and(|end| end.starts_with('_'));
        if metric == *name || per_status() {
            Some(Usual { rank, kind: *kind })
        } else {
            behind(metric).then_some(Usual { rank: METRICS.len() + rank, kind: *kind })
        }
    })
}

/// The name of the metric of a series, and what followed it.
pub(super) fn split(series: &str) -> (&str, &'static str) {
    let end = ENDS.iter().copied().find(|end| series.ends_with(end)).unwrap_or_default();
    (&series[..series.len() - end.len()], end)
}

/// How many microseconds the unit has that a name ends with.
pub(super) fn unit_us(metric: &str) -> u32 {
    let ends = |all: &[&str]| all.iter().any(|end| metric.ends_with(end));
    if ends(&["_ms", "_msec", "_millis", "_milliseconds"]) {
        1_000
    } else if ends(&["_us", "_usec", "_micros", "_microseconds"]) {
        1
    } else {
        1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_are_found_and_those_of_clients_are_not() {
        for name in [
            "http_requests",
            "shop_http_requests",
            "http_server_request_duration_seconds",
            "gunicorn_request_status_200",
        ] {
            assert!(usual(name).is_some(), "{name}");
        }
        for name in
            ["http_client_requests", "promhttp_metric_handler_requests", "redis_requests", "xhttp_requests", "up", ""]
        {
            assert_eq!(usual(name), None, "{name}");
        }
        assert!(usual("http_requests").unwrap().rank < usual("shop_http_requests").unwrap().rank);
    }

    #[test]
    fn a_name_stands_once_in_the_table() {
        let mut names: Vec<&str> = METRICS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        assert!(names.iter().all(|name| split(name).1.is_empty()), "without the end of a series");
    }
}
