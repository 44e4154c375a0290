use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::http::{Request, Response};
use crate::time::Timestamp;

fn header() -> Header {
    Header::new("greeting", "http", Timestamp::from_unix_ms(1_795_359_670_250))
}

fn parse(text: &str) -> Result<GoldenRun, Error> {
    super::file::parse(Path::new("g.golden.jsonl"), Path::new("g.bodies"), text.as_bytes())
}

fn error_of(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

const HEAD: &str =
    r#"{"schema":"rei-golden/1.0","name":"greeting","listener":"http","created":"2026-11-22T15:01:10.250Z"}"#;

#[test]
fn a_written_run_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("greeting.golden.jsonl");
    let mut header = header();
    header.normalisers = vec![
        Normaliser::Ignore { pointer: "/at".into() },
        Normaliser::Tolerance { pointer: "/load".into(), by: 0.5 },
        Normaliser::Replace { regex: "id=[0-9]+".into(), with: "id=N".into() },
    ];
    let request = Request {
        method: "POST".into(),
        path: "/x?a=1".into(),
        headers: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        body: vec![0, 255],
    };
    let response = Expected {
        status: 200,
        headers: vec![("content-type".into(), "text/plain".into())],
        body: Some(b"hi\n".to_vec()),
    };
    let exchanges = vec![
        Exchange { request, response: Some(response), after_ms: 5, ..Exchange::default() },
        Exchange { request: Request::get("/crash"), response: None, after_ms: 0, ..Exchange::default() },
    ];
    let mut writer = Writer::create(&path, &header).unwrap();
    for exchange in &exchanges {
        writer.push(exchange.clone()).unwrap();
    }
    writer.finish().unwrap();
    assert!(Writer::create(&path, &header).is_err(), "a run is never overwritten");
    insta::assert_snapshot!(std::fs::read_to_string(&path).unwrap());
    assert_eq!(read(&path).unwrap(), GoldenRun { header: header.clone(), exchanges });

    let listed = list(&[dir.path().to_owned(), dir.path().join("absent")]).unwrap();
    assert_eq!((listed.len(), &listed[0].header, listed[0].exchanges), (1, &header, 2));
    std::fs::copy(&path, dir.path().join("again.golden.jsonl")).unwrap();
    assert!(matches!(list(&[dir.path().to_owned()]), Err(Error::Twice { .. })));
}

#[test]
fn a_bad_file_is_refused_by_line_and_reason() {
    let later = HEAD.replace("/1.0", "/1.7");
    assert!(parse(&later).is_ok(), "a later minor version is accepted");
    let newer = HEAD.replace("/1.0", "/2.0");
    insta::assert_snapshot!(
        [
            error_of(""),
            error_of("{}"),
            error_of("nonsense"),
            error_of(&newer),
            error_of(&HEAD.replace("greeting", "../../etc")),
            error_of(&HEAD.replace(
                "\"created\"",
                "\"normalisers\":[{\"kind\":\"replace\",\"regex\":\"(\",\"with\":\"\"}],\"created\""
            )),
            error_of(&format!("{HEAD}\n{{\"request\":{{\"method\":\"GET\",\"path\":\"/\"}}}}\n{{\"request\": 7}}")),
            error_of(&format!("{HEAD}\n{{\"request\":{{\"method\":\"GET\",\"path\":\"x\"}}}}")),
            error_of(&format!(
                "{HEAD}\n{{\"request\":{{\"method\":\"GET\",\"path\":\"/\"}},\"response\":{{\"status\":7}}}}"
            )),
            error_of(&format!(
                "{HEAD}\n{{\"request\":{{\"method\":\"GET\",\"path\":\"/\",\"body\":\"a\",\"body_base64\":\"aa==\"}}}}"
            )),
            error_of(&format!("{HEAD}\n{{\"request\":{{\"method\":\"GET\",\"path\":\"/\",\"body_base64\":\"*\"}}}}")),
            error_of(&format!("{HEAD}\n{{\"request\":{{\"method\":\"GET\",\"path\":\"/\"}},\"after_ms\":999999}}")),
            error_of(&format!("{HEAD}\n{{\"request\":{{\"method\":\"GET\",\"path\":\"/\"")),
        ]
        .join("\n")
    );
}

#[test]
fn archives_and_lists_are_converted_to_requests() {
    let har = json!({"log": {"entries": [
        {"request": {"method": "GET", "url": "https://x.test/a?b=1#c", "headers": [{"name": ":authority", "value": "x"}, {"name": "Accept", "value": "*/*"}]},
         "response": {"status": 200, "headers": [{"name": "Content-Encoding", "value": "gzip"}], "content": {"text": "aGk=", "encoding": "base64"}}},
        {"request": {"method": "POST", "url": "https://x.test", "postData": {"text": "q"}}, "response": {"status": 0}},
    ]}});
    let import = |text: &str| from_har(Path::new("x.har"), text.as_bytes(), header(), &Chosen::default());
    let run = import(&har.to_string()).unwrap().run;
    // The service may have several names: the one that was asked stays.
    let request = Request {
        method: "GET".into(),
        path: "/a?b=1".into(),
        headers: vec![("host".into(), "x.test".into()), ("accept".into(), "*/*".into())],
        body: vec![],
    };
    let response = Expected { status: 200, headers: vec![], body: Some(b"hi".to_vec()) };
    assert_eq!(run.exchanges, vec![Exchange { request, response: Some(response), after_ms: 0, ..Exchange::default() }]);
    assert!(import("{}").is_err());

    let requests = parse_requests("# two\nGET http://h:1/x?y\n\nDELETE /z\n").unwrap();
    assert_eq!(requests[0], Request::get("/x?y"));
    assert_eq!((requests[1].method.as_str(), requests[1].path.as_str()), ("DELETE", "/z"));
    let error = parse_requests("GET /\nGET nowhere").unwrap_err();
    assert_eq!(error.to_string(), "line 2 of the list is not a request: \"GET nowhere\"");
}

fn rules(rules: &[Normaliser]) -> Normalisers {
    Normalisers::compile(rules).unwrap()
}

fn answer(body: &str) -> Response {
    Response { status: 200, headers: vec![("content-type".into(), "x".into())], body: body.as_bytes().to_vec() }
}

/// The differences, with Active's two answers as the source of noise.
fn differs(recorded: &str, active: Option<(&str, &str)>, candidate: &str, normalisers: &Normalisers) -> Vec<String> {
    let facets = |body: &str| Facets::of_response(&answer(body), normalisers);
    let noise = active.map_or(Noise::none(), |(a, b)| Noise::between(facets(a), facets(b)));
    let found = compare(&facets(recorded), &facets(candidate), &noise, normalisers);
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn noise_is_subtracted_fact_by_fact() {
    let none = rules(&[]);
    let active = (r#"{"id":1,"name":"a","tags":["x"]}"#, r#"{"name":"a","id":2,"tags":["x","y"]}"#);
    let recorded = r#"{"id":9,"name":"a","tags":["x"]}"#;
    assert!(differs(recorded, Some(active), r#"{"id":5,"name":"a","tags":["x","q","r"]}"#, &none).is_empty());
    assert_eq!(
        differs(recorded, Some(active), r#"{"id":5,"name":"b","tags":["z"],"more":1}"#, &none),
        [
            r#"body/more: recorded nothing, answered 1"#,
            r#"body/name: recorded "a", answered "b""#,
            r#"body/tags/0: recorded "x", answered "z""#
        ]
    );
    // If Active's answers agree, the candidate must match the recorded answer, even if Active does not.
    assert_eq!(differs("new", Some(("old", "old")), "old", &none).len(), 1);
    // Lines of a text are separate facts, too.
    assert_eq!(
        differs("at 1\nhello", Some(("at 2\nhello", "at 3\nhello")), "at 4\nbye", &none),
        [r#"body/line     2: recorded "hello", answered "bye""#]
    );
    // A JSON answer that turns into a text or into nothing is one divergence.
    assert_eq!(differs(recorded, Some(active), "oops", &none).len(), 1);
}

#[test]
fn a_further_answer_of_active_adds_noise_and_takes_none_away() {
    let none = Normalisers::compile(&[]).unwrap();
    let facets = |body: &str| Facets::of_response(&answer(body), &none);
    let differs = |noise: &Noise| -> Vec<String> {
        let found = compare(&facets(r#"{"a":1,"b":1,"c":1}"#), &facets(r#"{"a":2,"b":2,"c":2}"#), noise, &none);
        found.into_iter().map(|divergence| divergence.at).collect()
    };
    let mut noise = Noise::between(facets(r#"{"a":1,"b":1,"c":1}"#), facets(r#"{"a":7,"b":1,"c":1}"#));
    assert_eq!(differs(&noise), ["body/b", "body/c"]);
    noise.and(facets(r#"{"a":1,"b":7,"c":1}"#));
    assert_eq!(differs(&noise), ["body/c"]);
    let mut nothing = Noise::none();
    nothing.and(facets(r#"{"a":1}"#));
    assert_eq!(differs(&nothing).len(), 3, "without two answers everything counts");
}

#[test]
fn normalisers_exclude_differences() {
    let all = rules(&[
        Normaliser::Ignore { pointer: "/items/*/id".into() },
        Normaliser::Unordered { pointer: "/items".into() },
        Normaliser::Tolerance { pointer: "/load".into(), by: 0.5 },
        Normaliser::Replace { regex: "v[0-9]+".into(), with: "vN".into() },
    ]);
    let recorded = r#"{"items":[{"id":1,"n":"a"},{"id":2,"n":"b"}],"load":1.0,"by":"v1"}"#;
    assert!(
        differs(recorded, None, r#"{"by":"v22","load":1.4,"items":[{"n":"b","id":7},{"n":"a","id":8}]}"#, &all)
            .is_empty()
    );
    let found = differs(recorded, None, r#"{"by":"w","load":1.6,"items":[{"n":"b"},{"n":"c","id":8}]}"#, &all);
    let places: Vec<&str> = found.iter().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(places, ["body/by", "body/items/0/n", "body/items/1/id", "body/load"]);
    for bad in [Normaliser::Ignore { pointer: "x".into() }, Normaliser::Tolerance { pointer: String::new(), by: -1.0 }]
    {
        assert!(Normalisers::compile(&[bad]).is_err());
    }
}

#[test]
fn recorded_headers_must_match_and_others_are_ignored() {
    let rules = rules(&[Normaliser::IgnoreHeader { name: "X-Request-Id".into() }]);
    let facets = |status, headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Facets::of_response(&Response { status, headers, body: vec![] }, &rules)
    };
    let recorded = facets(200, &[("date", "then"), ("x-request-id", "1"), ("set-cookie", "a"), ("set-cookie", "b")]);
    let same = facets(200, &[("set-cookie", "a"), ("set-cookie", "b"), ("new", "1")]);
    assert_eq!(compare(&recorded, &same, &Noise::none(), &rules), []);
    let other = facets(500, &[("set-cookie", "b")]);
    let found = compare(&recorded, &other, &Noise::none(), &rules);
    assert_eq!(found.iter().map(|d| d.at.as_str()).collect::<Vec<_>>(), ["status", "header/set-cookie"]);
}

#[test]
fn the_diff_shows_both_sides_and_hides_noise() {
    let rules = rules(&[]);
    let facets = |body: &str| Facets::of_response(&answer(body), &rules);
    let noise = Noise::between(facets(r#"{"at":1,"who":"a"}"#), facets(r#"{"at":2,"who":"a"}"#));
    let lines =
        diff(&facets(r#"{"at":3,"who":"a","z":[1]}"#), &facets(r#"{"at":4,"who":"b","z":[1]}"#), &noise, &rules);
    insta::assert_snapshot!(lines.join("\n"));
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4_i64).prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Without noise, a comparison finds nothing if and only if the two answers are equal.
    #[test]
    fn without_noise_only_equal_answers_pass(a in json_value(), b in json_value()) {
        let (a, b) = (json!({"root": a}), json!({"root": b}));
        let found = differs(&a.to_string(), Some((&a.to_string(), &a.to_string())), &b.to_string(), &rules(&[]));
        prop_assert_eq!(found.is_empty(), a == b);
    }

    /// Whatever else differs between Active's answers, a difference where they agree is found.
    #[test]
    fn noise_never_hides_a_stable_difference(
        one in json_value(), two in json_value(), theirs in json_value(), recorded in json_value(),
        stable in json_value(), changed in json_value(),
    ) {
        prop_assume!(stable != changed);
        let body = |noisy: &Value, stable: &Value| json!({"noisy": noisy, "list": [stable, noisy]}).to_string();
        let active = (body(&one, &stable), body(&two, &stable));
        let found = differs(&body(&recorded, &stable), Some((&active.0, &active.1)), &body(&theirs, &changed), &rules(&[]));
        prop_assert!(found.iter().any(|line| line.starts_with("body/list/0")), "{found:?}");
    }

    /// A candidate that gives one of Active's two answers passes, if the other one of them is recorded.
    #[test]
    fn an_answer_of_active_is_never_a_divergence(one in json_value(), two in json_value()) {
        let (one, two) = (json!({"r": one}).to_string(), json!({"r": two}).to_string());
        prop_assert_eq!(differs(&one, Some((&one, &two)), &two, &rules(&[])), Vec::<String>::new());
    }

    /// A golden file with arbitrary bytes is parsed or refused, without a panic.
    #[test]
    fn garbage_is_refused(text in "\\PC{0,80}") {
        let _ = parse(&format!("{HEAD}\n{text}"));
        let _ = parse(&text);
    }
}

const PARTS: &str =
    r#"{"schema":"rei-golden/1.2","name":"big","listener":"http","created":"2026-11-22T15:01:10.250Z"}"#;

/// A run with a body of 2 MiB in a file, as it was written.
fn with_large_body(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let path = dir.join("big.golden.jsonl");
    let body: Vec<u8> = (0..2_u32 << 20).map(|at| b'a' + u8::try_from(at / 999 % 26).unwrap()).collect();
    let response = Some(Expected { status: 200, headers: vec![], body: Some(body) });
    let exchange = Exchange { request: Request::get("/big"), response, ..Exchange::default() };
    write(&path, GoldenRun { header: Header { name: "big".into(), ..header() }, exchanges: vec![exchange] }).unwrap();
    let file = std::fs::read_dir(directory_of(&path)).unwrap().next().unwrap().unwrap().path();
    (path, file)
}

#[test]
fn a_large_body_is_beside_the_run_and_refused_if_it_is_not_the_recorded_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = with_large_body(dir.path());
    assert_eq!(directory_of(&path), dir.path().join("big.bodies"));
    let run = read(&path).unwrap();
    assert_eq!(
        (run.header.schema.as_str(), run.exchanges[0].response.as_ref().unwrap().body.clone()),
        ("rei-golden/1.2", None)
    );
    let body = run.exchanges[0].files.answer.clone().unwrap();
    assert_eq!((&body.path, body.digests.bytes, body.digests.blocks.len()), (&file, 2 << 20, 32));
    // A copy of the run, in another directory, has its bodies too.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    write(&other.join("big.golden.jsonl"), run.clone()).unwrap();
    let copied = read(&other.join("big.golden.jsonl")).unwrap();
    assert_eq!(copied.exchanges[0].files.answer.as_ref().unwrap().digests, body.digests);

    let good = std::fs::read(&file).unwrap();
    let refused = |why: &str| {
        for error in [read(&path).unwrap_err(), verify(&path).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("big.golden.jsonl:2: the response has its body in") && text.contains(why), "{text}");
        }
    };
    let changed = |bytes: Vec<u8>| std::fs::write(&file, bytes).unwrap();
    let mut flipped = good.clone();
    flipped[1 << 20] ^= 1;
    changed(flipped);
    refused("which has changed");
    changed(good[..100].to_vec());
    refused("and has 100 bytes with another");
    changed([&good[..], b"x"].concat());
    refused("and has more bytes with another");
    std::fs::remove_file(&file).unwrap();
    refused("No such file");
    // A link to the same content is a file that another user may change.
    std::fs::write(dir.path().join("target"), &good).unwrap();
    std::os::unix::fs::symlink(dir.path().join("target"), &file).unwrap();
    refused("it is a symbolic link");
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("it is no regular file");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    refused("it is no regular file");
    assert!(list(&[dir.path().to_owned()]).is_ok(), "a list reads no bodies");
}

#[test]
fn the_file_of_a_body_has_a_name_and_a_size_within_bounds() {
    let line = |answer: &str| {
        error_of(&format!(
            "{PARTS}\n{{\"request\":{{\"method\":\"GET\",\"path\":\"/\"}},\"response\":{{\"status\":200,{answer}}}}}"
        ))
    };
    let hash = "0".repeat(64);
    let cases = [
        (r#""body_file":"../../etc/passwd","body_bytes":1"#.to_owned(), "is no SHA-256 in lower-case hex"),
        (format!(r#""body_file":"{hash}""#), "needs both"),
        (format!(r#""body_file":"{hash}","body_bytes":1,"body":"x""#), "both a body and a body_file"),
        (format!(r#""body_file":"{hash}","body_bytes":99999999"#), "more than the maximum of 67108864"),
        (format!(r#""body_file":"{hash}","body_bytes":99999999999"#), "the bodies of the run have more than 536870912"),
        (format!(r#""body_file":"{hash}","body_bytes":1"#), "cannot be read"),
    ];
    for (answer, reason) in cases {
        let error = line(&answer);
        assert!(error.contains(reason), "{error}");
    }
    // The log of a runtime names no file.
    let text = format!(r#"{{"request":{{"method":"GET","path":"/","body_file":"{hash}","body_bytes":1}}}}"#);
    assert!(Exchange::parse(&text).unwrap_err().contains("which only a run can have"));
}

#[test]
fn unused_bodies_are_removed_and_other_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = with_large_body(dir.path());
    let run = read(&path).unwrap();
    let beside = directory_of(&path);
    std::fs::write(beside.join("1".repeat(64)), "old").unwrap();
    std::fs::write(beside.join("README"), "mine").unwrap();
    prune(&path, run.exchanges.iter().map(|exchange| &exchange.files)).unwrap();
    assert!(file.exists() && beside.join("README").exists() && !beside.join("1".repeat(64)).exists());
    prune(&path, std::iter::empty()).unwrap();
    assert!(!file.exists() && beside.exists());
    std::fs::remove_file(beside.join("README")).unwrap();
    prune(&path, std::iter::empty()).unwrap();
    assert!(!beside.exists(), "an empty directory goes too");
    prune(&path, std::iter::empty()).unwrap();
}

#[test]
fn conversations_are_written_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let message = |from, data| Message { from, data };
    let said = vec![
        message(Side::Client, Data::Text("a".into())),
        message(Side::Service, Data::Text(r#"{"n":1}"#.into())),
        message(Side::Client, Data::Binary(vec![0, 255])),
        message(Side::Service, Data::Binary(vec![1]).digested()),
        message(Side::Service, Data::Binary(vec![2])),
    ];
    let mut request = Request::get("/ws");
    let own = ["Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Extensions", "sec-websocket-protocol"];
    request.headers = own.map(|name| (name.to_owned(), "x".to_owned())).to_vec();
    let socket = Exchange::of_websocket(request, vec![("connection".into(), "upgrade".into())], said).unwrap();
    assert_eq!(socket.request.headers, [("sec-websocket-protocol".to_owned(), "x".to_owned())]);
    let path = dir.path().join("talk.golden.jsonl");
    let run = GoldenRun { header: header(), exchanges: vec![socket] };
    write(&path, run.clone()).unwrap();
    let found = read(&path).unwrap();
    assert_eq!((found.header.schema.as_str(), &found.exchanges), ("rei-golden/1.2", &run.exchanges));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text.contains(
            r#""messages":[{"send":"a"},{"receive":"{\"n\":1}"},{"send_base64":"AP8="},{"receive_sha256":"1-"#
        ),
        "{text}"
    );
    assert!(!text.contains("\"body\""), "what was received is there once: {text}");

    let lines = GoldenRun {
        header: Header { protocol: Protocol::CrlfLines, ..header() },
        exchanges: parse_transcript("> PING\n< +PONG\n").unwrap(),
    };
    let path = dir.path().join("lines.golden.jsonl");
    write(&path, lines.clone()).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text.ends_with("\"protocol\":\"crlf-lines\"}\n{\"messages\":[{\"send\":\"PING\"},{\"receive\":\"+PONG\"}]}\n"),
        "{text}"
    );
    assert_eq!(read(&path).unwrap().exchanges, lines.exchanges);
}

#[test]
fn bad_conversations_are_refused() {
    let lines = PARTS.replace("\"created\"", "\"protocol\":\"lines\",\"created\"");
    let many = format!("{{\"messages\":[{}]}}", vec![r#"{"send":"x"}"#; 1_001].join(","));
    let large = format!("{{\"messages\":[{{\"send\":\"{}\"}}]}}", "x".repeat((1 << 20) + 1));
    let all =
        format!("{{\"messages\":[{}]}}", vec![format!("{{\"receive\":\"{}\"}}", "x".repeat(1 << 20)); 9].join(","));
    let get = r#""request":{"method":"GET","path":"/"}"#;
    let cases = [
        (&lines, many, "1001 messages, more than the maximum of 1000"),
        (&lines, large, "a message of 1048577 bytes"),
        (&lines, all, "9437184 bytes of messages, more than the maximum of 8388608"),
        (&lines, r#"{"messages":[]}"#.to_owned(), "an exchange of lines has messages"),
        (&lines, format!(r#"{{{get},"messages":[{{"send":"x"}}]}}"#), "neither request nor response"),
        (&lines, r#"{"messages":[{"send":"x\ny"}]}"#.to_owned(), "the end of a line inside"),
        (&lines, r#"{"messages":[{"send_base64":"AA=="}]}"#.to_owned(), "no text, in a run of lines"),
        (&lines, r#"{"messages":[{"send":"x","receive":"y"}]}"#.to_owned(), "a message has one of"),
        (&lines, r#"{"messages":[{}]}"#.to_owned(), "a message has one of"),
        (&lines, r#"{"messages":[{"receive_sha256":"1-zz"}]}"#.to_owned(), "is not SIZE-HASH"),
        (&lines, r#"{"messages":[{"say":"x"}]}"#.to_owned(), "unknown field `say`"),
        (&PARTS.to_owned(), r#"{"messages":[{"send":"x"}]}"#.to_owned(), "missing field `request`"),
        (
            &PARTS.to_owned(),
            format!(r#"{{{get},"response":{{"status":200}},"messages":[{{"send":"x"}}]}}"#),
            "is not 101",
        ),
        (&PARTS.replace("\"created\"", "\"protocol\":\"smoke\",\"created\""), String::new(), "unknown variant `smoke`"),
    ];
    for (head, line, reason) in cases {
        let error = error_of(&format!("{head}\n{line}"));
        assert!(error.contains(reason), "{reason}: {error}");
    }
}
