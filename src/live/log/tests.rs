use super::*;
use crate::config::{DurationUnit, LogFormat, LogKeys};
use crate::live::{Class, Latencies, Sample};

fn rules(format: LogFormat) -> Rules {
    Rules { format, unit: None, keys: LogKeys::default(), own_paths: vec!["/healthz".to_owned()] }
}

fn read(rules: Rules, text: &str) -> Sample {
    let mut tally = Tally::new(rules).unwrap();
    tally.take(text.as_bytes());
    tally.finish()
}

/// The only request of a line: its route, class, and duration in microseconds; 0 if the duration is not known.
fn request(rules: Rules, line: &str) -> (String, Option<Class>, u64) {
    let sample = read(rules, &format!("{line}\n"));
    assert!(sample.routes().count() <= 1, "{sample:?}");
    let Some((route, counts)) = sample.routes().next() else { return (String::new(), None, 0) };
    let class = Class::ALL.into_iter().find(|class| counts.of(*class) == 1);
    (route.name().to_owned(), class, counts.latencies.quantile_us(1.0))
}

fn us(us: u64) -> u64 {
    Latencies::edge_us(Latencies::bucket(us))
}

#[test]
fn lines_of_nginx_and_apache_are_read() {
    let (ok, failed) = (Some(Class::Success), Some(Class::ServerError));
    let cases = [
        (
            "127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] \"GET /a/17?x=1 HTTP/1.1\" 200 2326 \"-\" \"curl/8\"",
            ("GET /a/{}", ok, 0),
        ),
        (
            "::1 - a user [10/Oct/2000:13:55:36 -0700] \"POST /a HTTP/2.0\" 502 - \"http://x.test/\" \"a \\\" b\" 0.250",
            ("POST /a", failed, us(250_000)),
        ),
        (
            "h - - [10/Oct/2000:13:55:36 -0700] \"GET /b HTTP/1.1\" 200 0 \"-\" \"-\" \"10.0.0.1\" rt=0.004 uct=\"-\"",
            ("GET /b", ok, us(4_000)),
        ),
        // Bytes that are no request.
        (
            "h - - [10/Oct/2000:13:55:36 -0700] \"\\x16\\x03\\x01\" 400 0 \"-\" \"-\"",
            ("*", Some(Class::ClientError), 0),
        ),
        // rei's own.
        ("h - - [10/Oct/2000:13:55:36 -0700] \"GET /b HTTP/1.1\" 200 0 \"-\" \"rei/0.1.0\"", ("", None, 0)),
        ("h - - [10/Oct/2000:13:55:36 -0700] \"GET /healthz HTTP/1.1\" 200 0 \"-\" \"x\"", ("", None, 0)),
    ];
    for (line, (route, class, us)) in cases {
        assert_eq!(request(rules(LogFormat::Combined), line), (route.to_owned(), class, us), "{line}");
    }
    let common = "h - - [10/Oct/2000:13:55:36 -0700] \"GET /a HTTP/1.0\" 404 12";
    assert_eq!(request(rules(LogFormat::Common), common), ("GET /a".to_owned(), Some(Class::ClientError), 0));
    assert_eq!(read(rules(LogFormat::Combined), &format!("{common}\n")).unread, 1);
}

#[test]
fn lines_of_json_are_read_by_the_usual_keys_and_by_named_ones() {
    let ok = Some(Class::Success);
    let cases = [
        // pino-http
        (
            "{\"level\":30,\"req\":{\"method\":\"GET\",\"url\":\"/a/1\"},\"res\":{\"statusCode\":200},\"responseTime\":12,\"msg\":\"done\"}",
            ("GET /a/{}", ok, us(12_000)),
        ),
        // zap and slog
        (
            "{\"level\":\"info\",\"method\":\"GET\",\"path\":\"/a\",\"status\":200,\"duration_ms\":3.5}",
            ("GET /a", ok, us(3_500)),
        ),
        ("{\"method\":\"GET\",\"path\":\"/a\",\"status\":200,\"latency\":\"1.5ms\"}", ("GET /a", ok, us(1_500))),
        // Elastic's names with dots in the key
        ("{\"http.response.status_code\":200,\"url.path\":\"/a\",\"http.request.method\":\"GET\"}", ("GET /a", ok, 0)),
        // Caddy
        (
            "{\"request\":{\"method\":\"GET\",\"uri\":\"/a\",\"headers\":{\"User-Agent\":[\"x\"]}},\"status\":200,\"size\":3,\"duration\":0.5}",
            ("GET /a", ok, 0),
        ),
        // nginx, all texts
        ("{\"request\":\"GET /a HTTP/1.1\",\"status\":\"200\",\"request_time\":\"0.010\"}", ("GET /a", ok, us(10_000))),
        // Not about a request that was served.
        ("{\"level\":\"info\",\"msg\":\"started\",\"code\":200}", ("", None, 0)),
        ("{\"method\":\"GET\",\"path\":\"/a\",\"status\":200,\"user_agent\":\"rei/0.1.0\"}", ("", None, 0)),
    ];
    for (line, (route, class, us)) in cases {
        assert_eq!(request(rules(LogFormat::Json), line), (route.to_owned(), class, us), "{line}");
    }
    let named = |key: &str| Some(key.to_owned());
    let keys = LogKeys { status: named("out.result"), duration: named("t"), ..LogKeys::default() };
    let own = Rules { keys, unit: Some(DurationUnit::Us), ..rules(LogFormat::Json) };
    assert_eq!(
        request(own, "{\"out\":{\"result\":503},\"t\":700}"),
        ("*".to_owned(), Some(Class::ServerError), us(700))
    );
}

#[test]
fn lines_of_logfmt_and_of_a_pattern_are_read() {
    let ok = Some(Class::Success);
    let line = "time=2024-01-31T10:00:00Z level=info msg=\"request \\\"done\\\"\" method=GET path=/a/2 status=200 duration=12ms";
    assert_eq!(request(rules(LogFormat::Logfmt), line), ("GET /a/{}".to_owned(), ok, us(12_000)));
    // Heroku's router
    let line = "at=info method=GET path=\"/a\" status=200 service=18ms bytes=1548";
    assert_eq!(request(rules(LogFormat::Logfmt), line).0, "GET /a");
    // uvicorn, gin
    let pattern = |text: &str| rules(LogFormat::Pattern(text.to_owned()));
    let uvicorn = "\"(?<method>\\w+) (?<path>\\S+) [^\"]*\" (?<status>\\d{3})";
    assert_eq!(
        request(pattern(uvicorn), "INFO: 127.0.0.1:1 - \"GET /a/3 HTTP/1.1\" 200 OK"),
        ("GET /a/{}".to_owned(), ok, 0)
    );
    let gin = "\\|\\s*(?<status>\\d{3}) \\|\\s*(?<duration>[^|]+?) \\|[^|]*\\| (?<method>\\w+)\\s+\"(?<path>[^\"]*)\"";
    let line = "[GIN] 2024/01/31 - 10:00:00 | 200 |     45.1\u{b5}s |       127.0.0.1 | GET      \"/a\"";
    assert_eq!(request(pattern(gin), line), ("GET /a".to_owned(), ok, us(45)));
    let keyed = "(?<status>\\d+) (?<duration_ms>\\S+) \"(?<request>[^\"]*)\"";
    assert_eq!(
        request(pattern(keyed), "500 2 \"PUT /b HTTP/1.1\""),
        ("PUT /b".to_owned(), Some(Class::ServerError), us(2_000))
    );
    assert!(Tally::new(pattern("(?:a{1000}){1000}(?<status>b)")).is_err(), "a pattern is bounded");
}

#[test]
fn errors_and_lines_that_do_not_fit_are_counted() {
    let text = "{\"level\":\"error\",\"msg\":\"user 7 is gone\"}\n{\"level\":50,\"msg\":\"user 8 is gone\"}\n\
                {\"level\":\"info\",\"msg\":\"no error\"}\n{broken\n\n2024-01-31 ERROR no pool\n";
    let sample = read(rules(LogFormat::Json), text);
    assert_eq!((sample.error_lines, sample.unread, sample.total().total()), (3, 2, 0));
    let none = crate::live::Templates::default();
    assert_eq!(sample.errors.new_templates(&none), [("user {} is gone", 2), ("{} ERROR no pool", 1)]);
    let nginx = "2024/01/31 10:00:00 [error] 7#7: *1 connect() failed\nI say an error is no ERR\n";
    let sample = read(rules(LogFormat::Combined), nginx);
    assert_eq!((sample.error_lines, sample.unread), (1, 2));
}

#[test]
fn a_line_of_any_length_is_bounded_and_pieces_make_lines() {
    let line = "{\"method\":\"GET\",\"path\":\"/a\",\"status\":200}\n";
    let mut tally = Tally::new(rules(LogFormat::Json)).unwrap();
    let long = vec![b'x'; 10 << 20];
    for piece in long.chunks(64 << 10) {
        tally.take(piece);
    }
    assert!(tally.is_empty() && format!("{tally:?}").len() < 100_000, "the long line is not kept");
    tally.take(b"\n");
    for byte in line.as_bytes() {
        tally.take(&[*byte]);
    }
    let sample = tally.finish();
    assert_eq!((sample.unread, sample.total().total()), (1, 1));
    // A flood: whole lines of it are not read, and the line at its end neither.
    tally.skip(b"a\nb\n{\"method\":\"GET\",");
    tally.take(b"\"path\":\"/a\",\"status\":200}\n");
    tally.take(line.as_bytes());
    let sample = tally.finish();
    assert_eq!((sample.unread, sample.total().total()), (3, 1));
    assert!(tally.is_empty());
}

#[test]
fn lines_of_any_bytes_do_no_harm() {
    use proptest::prelude::*;
    let formats = [
        LogFormat::Combined,
        LogFormat::Common,
        LogFormat::Json,
        LogFormat::Logfmt,
        LogFormat::Pattern("(?<status>\\d+)( (?<duration>\\S+))?".to_owned()),
    ];
    let piece = prop_oneof![
        Just("] \"".to_owned()),
        Just("\" ".to_owned()),
        Just("\\".to_owned()),
        Just("=".to_owned()),
        Just("200".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("{\"status\":".to_owned()),
        Just("}".to_owned()),
        Just("duration=1e308h".to_owned()),
        Just("\n".to_owned()),
        ".{0,6}",
    ];
    proptest!(|(pieces in prop::collection::vec(piece, 0..60))| {
        for format in &formats {
            read(rules(format.clone()), &pieces.concat());
        }
    });
}
