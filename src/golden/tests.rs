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
    super::format::parse(Path::new("g.golden.jsonl"), text.as_bytes())
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
