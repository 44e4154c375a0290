use std::fmt::Write;

use super::*;
use crate::live::{Class, Latencies, Sample};
use crate::time::Timestamp;

fn at(second: u64) -> Timestamp {
    Timestamp::from_unix_ms(1_700_000_000_000 + second * 1_000)
}

fn rules() -> Rules {
    Rules {
        own_paths: ["/metrics", "/healthz", "/actuator/prometheus"].map(str::to_owned).to_vec(),
        ..Rules::default()
    }
}

const NONE: Own = Own { scrapes: 0, probes: 0 };

/// The sample between two pages.
fn between(rules: Rules, before: &str, after: &str, own: Own) -> (Option<Sample>, String) {
    let mut scrape = Scrape::new(rules);
    assert_eq!(scrape.take(before.as_bytes(), false, at(0), Own::default()), None, "the first page tells nothing new");
    let sample = scrape.take(after.as_bytes(), false, at(1), own);
    (sample, scrape.found().to_owned())
}

/// The routes of a sample, each with its successes and failures.
fn routes(sample: &Sample) -> String {
    let line = |(route, counts): (&crate::live::Route, &crate::live::Counts)| {
        let other = counts.total() - counts.of(Class::Success) - counts.failed();
        assert_eq!(other, 0, "{route}");
        format!("{route} {}+{}", counts.of(Class::Success), counts.failed())
    };
    sample.routes().map(line).collect::<Vec<_>>().join(", ")
}

/// Pages that real libraries made: between the two of each library, users made seven requests for a route with a
/// number, and three that failed. `tests/fixtures/metrics/README.md` says how they were made.
#[test]
fn the_pages_of_real_libraries_are_understood() {
    let cases = [
        (
            "go-promhttp",
            "GET 7+3",
            "requests by http_request_duration_seconds{code}; latency by http_request_duration_seconds; no route label",
        ),
        (
            "go-caddy",
            "GET 7+3",
            "requests by caddy_http_request_duration_seconds{code}; latency by caddy_http_request_duration_seconds; no route label",
        ),
        (
            "java-spring-boot",
            "GET /bad 0+3, GET /users/{} 7+0",
            "requests by http_server_requests_seconds{status}; latency by http_server_requests_seconds, of which only the mean is known",
        ),
        (
            "ruby-prometheus-client-mmap",
            "GET /bad 0+3, GET /users/{} 7+0",
            "requests by http_request_duration_seconds{code}; latency by http_req_duration_seconds",
        ),
        (
            "go-otelhttp",
            "GET / 7+3",
            "requests by http_server_request_duration_seconds{http_response_status_code}; latency by http_server_request_duration_seconds",
        ),
        (
            "node-express-prom-bundle",
            "GET /bad 0+3, GET /users/:val 7+0",
            "requests by http_request_duration_seconds{status_code}; latency by http_request_duration_seconds",
        ),
        (
            "node-fastify-metrics",
            "GET /bad 0+3, GET /users/:id 7+0",
            "requests by http_request_duration_seconds{status_code}; latency by http_request_duration_seconds",
        ),
        (
            "node-otel-http",
            "GET 7+3",
            "requests by http_server_request_duration{http_response_status_code}; latency by http_server_request_duration; no route label",
        ),
        (
            "node-prom-client",
            "GET /bad 0+3, GET /users/:id 7+0",
            "requests by http_request_duration_seconds{code}; latency by http_request_duration_seconds",
        ),
        (
            "node-prometheus-api-metrics",
            "GET /bad 0+3, GET /users/:id 7+0",
            "requests by http_request_duration_seconds{code}; latency by http_request_duration_seconds",
        ),
        (
            "python-django-prometheus",
            "GET bad 0+3, GET user 7+0",
            "requests by django_http_responses_total_by_status_view_method{status}; latency by django_http_requests_latency_seconds_by_view_method",
        ),
        (
            "python-fastapi-instrumentator",
            "GET /bad 0+3, GET /users/{} 7+0",
            "requests by http_requests{status}; latency by http_request_duration_seconds",
        ),
        (
            "python-flask-exporter",
            "GET /bad 0+3, GET /users/{} 7+0",
            "requests by flask_http_request_duration_seconds{status}; latency by flask_http_request_duration_seconds",
        ),
        (
            "python-otel-asgi",
            "GET /bad 0+3, GET /users/{} 7+0",
            "requests by http_server_duration_milliseconds{http_status_code}; latency by http_server_duration_milliseconds",
        ),
        (
            "python-prometheus-client",
            "GET /bad 0+3, GET /users/{} 7+0",
            "requests by http_requests{status}; latency by http_request_duration_seconds",
        ),
        (
            "python-starlette-exporter",
            "GET /bad 0+3, GET /users/{} 7+0",
            "requests by starlette_request_duration_seconds{status_code}; latency by starlette_request_duration_seconds",
        ),
        (
            "rust-axum-prometheus",
            "GET /bad 0+3, GET /users/{} 7+0",
            "requests by axum_http_requests_duration_seconds{status}; latency by axum_http_requests_duration_seconds",
        ),
    ];
    let mut wrong = String::new();
    for (library, expected, words) in cases {
        let page = |n: u32| {
            let path = format!("{}/tests/fixtures/metrics/{library}-{n}.txt", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        // These also count the request for their first page, which is that of rei.
        let own = Own { scrapes: u64::from(["go-caddy", "node-otel-http"].contains(&library)), probes: 0 };
        let (sample, found) = between(rules(), &page(1), &page(2), own);
        let sample = sample.unwrap_or_default();
        let is_timed = sample.total().latencies.total() == 10 + own.scrapes;
        if routes(&sample) != expected || found != words || !is_timed || sample.unread > 0 || !sample.coarse {
            let _ = writeln!(
                wrong,
                "{library}: {}; {found}; {} times; {} unread",
                routes(&sample),
                sample.total().latencies.total(),
                sample.unread
            );
        }
    }
    assert_eq!(wrong, "");
}

#[test]
fn the_page_of_openmetrics_is_the_same_as_that_of_prometheus() {
    let text = |name: &str| {
        let path = format!("{}/tests/fixtures/metrics/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    let open = text("python-prometheus-client-openmetrics");
    let (sample, _) = between(rules(), &text("python-prometheus-client-2"), &open, NONE);
    assert_eq!(routes(&sample.unwrap()), "GET /bad 0+3, GET /users/{} 7+0");
}

#[test]
fn the_steps_of_a_histogram_become_durations() {
    let page = |n: u64| {
        format!(
            "http_request_duration_seconds_bucket{{status=\"200\",le=\"0.01\"}} {}\n\
             http_request_duration_seconds_bucket{{status=\"200\",le=\"0.1\"}} {}\n\
             http_request_duration_seconds_bucket{{status=\"200\",le=\"+Inf\"}} {}\n\
             http_request_duration_seconds_count{{status=\"200\"}} {}\n\
             http_request_duration_seconds_sum{{status=\"200\"}} {n}\n",
            5 * n,
            8 * n,
            10 * n,
            10 * n
        )
    };
    let (sample, _) = between(rules(), &page(1), &page(2), NONE);
    let latencies = sample.unwrap().total().latencies;
    let edge = Latencies::bucket(100_000);
    let expected = [(Latencies::bucket(10_000), 5), (edge, 3), (edge + 1, 2)];
    assert_eq!(latencies.buckets().collect::<Vec<_>>(), expected);
    // The same as an exponential histogram, and as the ranges of VictoriaMetrics.
    let native = |n: u64| {
        format!(
            "http_request_duration_seconds{{status=\"200\"}} {{count:{n},sum:1,schema:0,zero_threshold:0,zero_count:0,positive_spans:[0:1],positive_buckets:[{n}]}}\n"
        )
    };
    let ranges = |n: u64| {
        format!(
            "http_request_duration_seconds_bucket{{status=\"200\",vmrange=\"8.799e-01...1.000e+00\"}} {n}\n\
             http_request_duration_seconds_count{{status=\"200\"}} {n}\n"
        )
    };
    for (before, after) in [(native(3), native(10)), (ranges(3), ranges(10))] {
        let total = between(rules(), &before, &after, NONE).0.unwrap().total();
        assert_eq!(total.latencies.buckets().collect::<Vec<_>>(), [(Latencies::bucket(1_000_000), 7)]);
        assert_eq!(total.total(), 7);
    }
}

#[test]
fn of_a_summary_only_the_mean_is_known() {
    let page = |count: u64, sum: f64| {
        format!(
            "http_server_requests_seconds{{status=\"200\",uri=\"/a\",quantile=\"0.99\"}} 9\n\
             http_server_requests_seconds_count{{status=\"200\",uri=\"/a\"}} {count}\n\
             http_server_requests_seconds_sum{{status=\"200\",uri=\"/a\"}} {sum}\n"
        )
    };
    let (sample, found) = between(rules(), &page(10, 1.0), &page(14, 1.2), NONE);
    assert_eq!(sample.unwrap().total().latencies.buckets().collect::<Vec<_>>(), [(Latencies::bucket(50_000), 4)]);
    assert!(found.contains("only the mean"), "{found}");
}

#[test]
fn a_page_that_cannot_show_failures_counts_no_requests() {
    let page = |n: u64| format!("http_requests_total{{method=\"GET\"}} {n}\nshop_requests_handled 1\n");
    let (sample, found) = between(rules(), &page(1), &page(9), NONE);
    assert_eq!(sample.unwrap().total().total(), 0);
    assert_eq!(found, "no requests: http_requests has no label with the status; no latency");
    let (_, found) = between(rules(), "shop_requests_handled 1\n", "shop_requests_handled 2\n", NONE);
    assert_eq!(found, "no requests: no usual name is on the page; it has shop_requests_handled; no latency");
}

#[test]
fn the_operator_can_name_metrics_and_failures() {
    let pattern = |text: &str| regex::Regex::new(text).unwrap();
    let page = |n: u64| {
        format!(
            "orders_total{{result=\"ok\"}} {}\norders_total{{result=\"broken\"}} {n}\norder_ms_sum {}\norder_ms_count {}\n\
             lost_total {n}\nhttp_requests_total{{status=\"200\"}} 7\n",
            9 * n,
            1_000 * n,
            10 * n
        )
    };
    let named = |failed| Rules {
        requests: Some("orders".into()),
        latency: Some("order_ms".into()),
        failed: Some(failed),
        ..rules()
    };
    let labels = Failed::Labels(vec![("result".into(), pattern("^(?:broken)$"))]);
    for (failed, words) in [
        (labels, "requests by orders{result}; latency by order_ms, of which only the mean is known; no route label"),
        (
            Failed::Counter("lost".into()),
            "requests by orders, failures by lost; latency by order_ms, of which only the mean is known; no route label",
        ),
    ] {
        let (sample, found) = between(named(failed), &page(1), &page(3), NONE);
        let total = sample.unwrap().total();
        assert_eq!((total.total(), total.failed(), found.as_str()), (20, 2, words));
        assert_eq!(total.latencies.quantile_us(0.5), Latencies::edge_us(Latencies::bucket(100_000)));
    }
}

#[test]
fn the_requests_of_rei_are_taken_out() {
    let page = |n: u64| {
        format!(
            "http_requests_total{{code=\"200\",method=\"get\"}} {n}\nhttp_requests_total{{code=\"500\",method=\"get\"}} 1\n"
        )
    };
    let (sample, _) = between(rules(), &page(10), &page(17), Own { scrapes: 1, probes: 2 });
    assert_eq!(routes(&sample.unwrap()), "GET 4+0");
    // Users ask `/`, too; so only rei's requests are taken out.
    let page = |n: u64| {
        format!(
            "http_requests_total{{code=\"200\",path=\"/\"}} {n}\nhttp_requests_total{{code=\"200\",path=\"/metrics\"}} {n}\n"
        )
    };
    let root = Rules { own_paths: vec!["/".into(), "/metrics".into()], ..Rules::default() };
    assert_eq!(routes(&between(root, &page(10), &page(17), Own { scrapes: 1, probes: 2 }).0.unwrap()), "/ 5+0");
}

/// One process with `n` requests, which says when it began.
fn process(start: Option<u64>, n: u64) -> String {
    let start = start.map_or_else(String::new, |start| format!("process_start_time_seconds {start}\n"));
    format!("{start}http_requests_total{{code=\"200\",path=\"/a\"}} {n}\n")
}

fn count(sample: Option<Sample>) -> Option<u64> {
    sample.map(|sample| sample.total().total())
}

#[test]
fn counters_that_go_back_are_no_traffic() {
    let mut scrape = Scrape::new(rules());
    let mut take = |second: u64, n: u64| count(scrape.take(process(None, n).as_bytes(), false, at(second), NONE));
    assert_eq!((take(0, 1_000), take(1, 1_010)), (None, Some(10)));
    // It began again. What it counted until now is not known to be new.
    assert_eq!(
        (take(2, 500), take(3, 510), take(4, 520), take(5, 530), take(6, 540)),
        (None, None, None, None, Some(10))
    );
    // Two processes answer in turn: their difference is no traffic.
    for second in 7..60 {
        let n = if second % 2 == 0 { 10_000 } else { 400 } + second;
        let found = take(second, n);
        assert!(found.is_none() || second == 8, "second {second}: {found:?}");
    }
    assert!(scrape.found().contains("several processes"), "{}", scrape.found());
}

#[test]
fn processes_that_say_when_they_began_are_counted_by_themselves() {
    let mut scrape = Scrape::new(rules());
    let mut take = |second: u64, start: u64, n: u64| {
        count(scrape.take(process(Some(start), n).as_bytes(), false, at(second), NONE))
    };
    let (old, other) = (1_600_000_000, 1_600_000_001);
    assert_eq!(
        (take(0, old, 1_000), take(1, other, 400), take(2, old, 1_007), take(3, other, 405)),
        (None, None, Some(7), Some(5))
    );
    // A process that began after the last page is new as a whole.
    assert_eq!(take(5, 1_700_000_004, 9), Some(9));
    for start in 0..1_000 {
        take(6, start, 1);
    }
    assert!(scrape_is_bounded(&scrape));
}

fn scrape_is_bounded(scrape: &Scrape) -> bool {
    format!("{scrape:?}").matches("process_start").count() <= 16
}

#[test]
fn series_that_appear_are_new_and_series_that_vanish_are_another_process() {
    let line = |path: &str, n: u64| format!("http_requests_total{{code=\"200\",path=\"{path}\"}} {n}\n");
    let (a, b) = (line("/a", 5), line("/b", 3));
    assert_eq!(routes(&between(rules(), &a, &[a.clone(), b.clone()].concat(), NONE).0.unwrap()), "/b 3+0");
    assert_eq!(between(rules(), &[a.clone(), b].concat(), &line("/a", 9), NONE).0, None);
    // Several processes on one page: they are added.
    let worker = |pid: u32, n: u64| format!("http_requests_total{{code=\"200\",path=\"/a\",pid=\"{pid}\"}} {n}\n");
    let (before, after) = ([worker(1, 5), worker(2, 7)].concat(), [worker(1, 6), worker(2, 9), worker(3, 1)].concat());
    assert_eq!(routes(&between(rules(), &before, &after, NONE).0.unwrap()), "/a 4+0");
}

#[test]
fn values_that_make_no_sense_are_left_out() {
    let line = |status: &str, n: &str| format!("http_requests_total{{code=\"{status}\",path=\"/a\"}} {n}\n");
    let before = line("200", "1");
    let strange =
        [line("200", "4"), line("200", "9"), line("500", "NaN"), line("404", "-3"), line("301", "+Inf"), line("", "3")];
    let (sample, _) = between(rules(), &before, &strange.concat(), NONE);
    let sample = sample.unwrap();
    // The first of two equal series counts; three requests have no status.
    assert_eq!((routes(&sample), sample.unread), ("/a 3+0".to_owned(), 4 + 3));
}

#[test]
fn a_page_of_any_size_is_bounded() {
    let line = |n: usize| format!("http_requests_total{{code=\"200\",path=\"/page/of/{n}/x\"}} 1\n");
    let mut million = String::new();
    for n in 0..1_000_000 {
        million.push_str(&line(n));
    }
    let mut scrape = Scrape::new(rules());
    assert_eq!(scrape.take(million.as_bytes(), false, at(0), NONE), None);
    assert!(scrape.found().contains("too large"), "{}", scrape.found());
    assert_eq!(count(scrape.take(million.as_bytes(), false, at(1), NONE)), Some(0));
    // No line ends.
    let endless = "x".repeat(100 << 20);
    let sample = scrape.take(endless.as_bytes(), true, at(2), NONE).unwrap();
    assert!(sample.is_empty(), "{sample:?}");
    let other = process(None, 1);
    assert_eq!(scrape.take(other.as_bytes(), false, at(3), NONE).map(|sample| sample.total().total()), Some(1));
}

#[test]
fn a_page_of_any_bytes_does_no_harm() {
    use proptest::prelude::*;
    let piece = prop_oneof![
        Just("http_requests_total".to_owned()),
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("\"".to_owned()),
        Just("\\".to_owned()),
        Just("=".to_owned()),
        Just(",".to_owned()),
        Just(" ".to_owned()),
        Just("\n".to_owned()),
        Just("code".to_owned()),
        Just("1e309".to_owned()),
        Just("{count:1,sum:1,schema:0,positive_spans:[0:1],positive_buckets:[1]}".to_owned()),
        ".{0,6}",
    ];
    proptest!(|(pages in prop::collection::vec(prop::collection::vec(piece, 0..40), 1..4))| {
        let mut scrape = Scrape::new(rules());
        for (second, page) in pages.iter().enumerate() {
            scrape.take(page.concat().as_bytes(), second == 1, at(second as u64), NONE);
        }
    });
}
