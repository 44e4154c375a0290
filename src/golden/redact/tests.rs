use super::*;
use crate::golden::format::{Exchange, Expected, GoldenRun, Header};
use crate::golden::message::{Data, Message, Side};
use crate::golden::normalise::{Normaliser, Normalisers};
use crate::golden::{Facets, Noise, compare};
use crate::http::Request;
use crate::redact::{Secret, Secrets};
use crate::time::Timestamp;

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn post(path: &str, kind: &str, body: impl Into<Vec<u8>>) -> Request {
    Request { method: "POST".into(), path: path.into(), headers: vec![header("content-type", kind)], body: body.into() }
}

fn answer(kind: &str, body: impl Into<Vec<u8>>) -> Option<Expected> {
    Some(Expected { status: 200, headers: vec![header("content-type", kind)], body: Some(body.into()) })
}

fn run(exchanges: Vec<(Request, Option<Expected>)>) -> GoldenRun {
    let header = Header::new("x", "http", Timestamp::default());
    let exchange = |(request, response)| Exchange { request, response, ..Exchange::default() };
    GoldenRun { header, exchanges: exchanges.into_iter().map(exchange).collect() }
}

fn redaction() -> Redaction {
    Redaction::new(&Secrets::default())
}

/// One exchange after its redaction.
fn redacted(request: Request, response: Option<Expected>) -> Result<Exchange, NotKept> {
    let mut exchange = Exchange { request, response, ..Exchange::default() };
    redaction().exchange(&mut exchange).map(|_| exchange)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The recorded answer still passes the comparison.
fn passes(run: &GoldenRun, recorded: &[Expected]) {
    let rules = Normalisers::compile(&run.header.normalisers).unwrap();
    for (exchange, recorded) in run.exchanges.iter().zip(recorded) {
        let want = Facets::of_expected(exchange.response.as_ref().unwrap(), &rules);
        let is = Facets::of_expected(recorded, &rules);
        assert_eq!(compare(&want, &is, &Noise::none(), &rules), []);
    }
}

#[test]
fn secrets_are_replaced_and_listed() {
    let request = Request {
        method: "POST".into(),
        path: "/login?token=abc123secret&page=2&X-Amz-Signature=9f86d081884c7d659a2feaa0c55ad015".into(),
        headers: vec![
            header("authorization", "Bearer sk-live-abcdef0123456789"),
            header("proxy-authorization", "Basic YWRhOmh1bnRlcjI="),
            header("cookie", "session=deadbeefcafe; theme=dark; empty="),
            header("x-api-key", "k1"),
            header("x-forwarded-jwt", "eyJhbGciOi.eyJzdWIiOi.c2ln"),
            header("referer", "https://x.test/a?access_token=q1w2e3r4#id_token=t5z6u7i8"),
            header("content-type", "application/x-www-form-urlencoded"),
            header("accept", "*/*"),
        ],
        body: b"user=ada&password=hunter%32&next=%2F".to_vec(),
    };
    let body = br#"{"password": "hunter2", "email": "ada@example.org", "all": [{"api_key": "k2", "card": 4111111111111111}], "n": 1}"#;
    let cookie = "session=deadbeefcafe; Path=/; expires=Thu, 01 Jan 2026 00:00:00 GMT; HttpOnly";
    let headers = vec![header("set-cookie", cookie), header("etag", "1")];
    let response = Expected { status: 200, headers, body: Some(body.to_vec()) };
    let mut run = run(vec![(request, Some(response.clone()))]);
    let result = redaction().run(&mut run);
    assert_eq!(result.not_kept, []);
    assert_eq!(
        result.places.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "query token",
            "query X-Amz-Signature",
            "request header authorization",
            "request header proxy-authorization",
            "request header cookie",
            "request header x-api-key",
            "request header x-forwarded-jwt",
            "request header referer",
            "request form password",
            "answer header set-cookie",
            "answer body /password",
            "answer body /email",
            "answer body /all/*/api_key",
            "answer body /all/*/card",
        ]
        .map(|what| format!("exchange 1: {what}"))
    );
    let all = format!("{run:?}");
    for secret in [
        "abc123", "9f86", "sk-live", "YWRh", "deadbeef", "k1", "k2", "eyJ", "hunter", "ada@", "4111", "dark", "q1w2",
        "t5z6",
    ] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
    let Exchange { request, response: given, .. } = &run.exchanges[0];
    assert_eq!(request.path, "/login?token={{rei:secret:token}}&page=2&X-Amz-Signature={{rei:secret:x-amz-signature}}");
    assert_eq!(request.headers[0].1, "Bearer {{rei:bearer}}");
    assert_eq!(request.headers[1].1, "Basic {{rei:basic}}");
    assert_eq!(request.headers[2].1, "session={{rei:cookie:session}}; theme={{rei:cookie:theme}}; empty=");
    assert_eq!(text(&request.body), "user=ada&password={{rei:secret:password}}&next=%2F");
    let given = given.as_ref().unwrap();
    assert_eq!(given.headers[0].1, "session={{rei:cookie:session}}; Path=/; expires={{rei:date}}; HttpOnly");
    assert_eq!(
        text(given.body.as_ref().unwrap()),
        r#"{"password":"{{rei:secret:password}}","email":"{{rei:email}}","all":[{"api_key":"{{rei:secret:api_key}}","card":"{{rei:card}}"}],"n":1}"#
    );
    passes(&run, std::slice::from_ref(&response));
    // A wrong answer does not pass.
    let rules = Normalisers::compile(&run.header.normalisers).unwrap();
    let wrong = Expected {
        body: Some(text(response.body.as_ref().unwrap()).replace("ada@example.org", "none").into()),
        ..response
    };
    let want = Facets::of_expected(run.exchanges[0].response.as_ref().unwrap(), &rules);
    let found = compare(&want, &Facets::of_expected(&wrong, &rules), &Noise::none(), &rules);
    assert_eq!(found.iter().map(|it| it.at.as_str()).collect::<Vec<_>>(), ["body/email"]);
}

#[test]
fn one_value_has_one_placeholder_in_the_whole_run() {
    let token = "9f86d081884c7d65";
    let mut first = Request::get(format!("/files/{token}/list?u=ada%40example.org"));
    first.headers.push(header("accept", "text/html"));
    let page = format!(r#"<a href="/out/{token}">ada@example.org, bob@example.org</a>"#);
    let mut second = Request::get("/x");
    second.headers.push(header("authorization", &format!("Bearer {token}")));
    let answers = vec![
        answer("text/html", page).unwrap(),
        answer("application/json", format!(r#"{{"at":"{token}","mail":"bob@example.org"}}"#)).unwrap(),
    ];
    let mut run = run(vec![(first, Some(answers[0].clone())), (second, Some(answers[1].clone()))]);
    assert_eq!(redaction().run(&mut run).not_kept, []);
    // The path does not show that it has a token; a later request does.
    assert_eq!(run.exchanges[0].request.path, "/files/{{rei:bearer}}/list?u={{rei:email}}");
    let body = |at: usize| text(run.exchanges[at].response.as_ref().unwrap().body.as_ref().unwrap()).to_owned();
    assert_eq!(body(0), r#"<a href="/out/{{rei:bearer}}">{{rei:email}}, {{rei:email~2}}</a>"#);
    assert_eq!(body(1), r#"{"at":"{{rei:bearer}}","mail":"{{rei:email~2}}"}"#);
    passes(&run, &answers);
}

#[test]
fn paths_pages_and_parts_of_forms_are_examined() {
    let path = |path: &str| redacted(Request::get(path), None).unwrap().request.path;
    assert_eq!(path("/users/ada%40example.org/orders"), "/users/{{rei:email}}/orders");
    assert_eq!(path("/app;jsessionid=1A2B3C4D5E6F7A8B9C0D/x"), "/app;jsessionid={{rei:secret:jsessionid}}/x");
    assert_eq!(path("/reset-token/9f86d081884c7d65"), "/reset-token/{{rei:secret:reset-token}}");
    assert_eq!(
        path("/cb?code=4/0AX4XfWhq1w2e3&state=af0ifjsldkj12345"),
        "/cb?code={{rei:secret:code}}&state={{rei:secret:state}}"
    );
    for same in [
        "/password/change",
        "/img/logo@2x.png",
        "/a%20b/%C3%BC?x=%20&y",
        "/orders/1764524175123",
        "/?code=de&state=open",
    ] {
        assert_eq!(path(same), same);
    }
    let page = r#"<form><input type="hidden" name="csrf_token" value="q1w2e3r4t5"><input value='z9y8x7w6' name='authenticity_token'>
        <input name=page value="2"><meta name="csrf-token" content="m1n2b3v4"></form>"#;
    let clean = redacted(Request::get("/"), answer("text/html", page)).unwrap().response.unwrap().body.unwrap();
    let expected = page
        .replace("q1w2e3r4t5", "{{rei:secret:csrf_token}}")
        .replace("z9y8x7w6", "{{rei:secret:authenticity_token}}");
    assert_eq!(text(&clean), expected.replace("m1n2b3v4", "{{rei:secret:csrf-token}}"));

    let form = "--Xy\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nhunter2\r\n--Xy\r\nContent-Disposition: \
                form-data; name=\"page\"\r\n\r\n2\r\n--Xy\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.json\"\r\n\
                Content-Type: application/json\r\n\r\n{\"pin\":1234}\r\n--Xy--\r\n";
    let clean = redacted(post("/", "multipart/form-data; boundary=Xy", form), None).unwrap().request.body;
    let expected = form.replace("hunter2", "{{rei:secret:password}}").replace("1234", "\"{{rei:secret:pin}}\"");
    assert_eq!(text(&clean), expected);

    let plain = "<input name=api_key value=x> api_key=0a1b2c3d4e5f";
    let clean = redacted(Request::get("/"), answer("text/plain", plain)).unwrap().response.unwrap().body.unwrap();
    assert_eq!(text(&clean), "<input name=api_key value=x> api_key={{rei:secret:api_key}}");
    // Latin-1 stays Latin-1.
    let latin =
        redacted(Request::get("/"), answer("text/plain; charset=iso-8859-1", b"\xfc password=hunter2".to_vec()));
    assert_eq!(latin.unwrap().response.unwrap().body.unwrap(), b"\xfc password={{rei:secret:password}}");
}

#[test]
fn the_secrets_of_the_configuration_are_found_in_every_form() {
    let secrets = Secrets::new(vec![Secret { place: "runtime.env.API_KEY".into(), value: "s3cr3t value".into() }]);
    let mut exchange = Exchange {
        request: post("/?q=s3cr3t%20value", "text/plain", "x s3cr3t value y czNjcjN0IHZhbHVl"),
        response: None,
        ..Exchange::default()
    };
    Redaction::new(&secrets).exchange(&mut exchange).unwrap();
    assert_eq!(exchange.request.path, "/?q={{rei:secret:runtime.env.api_key}}");
    assert!(!text(&exchange.request.body).contains("s3cr3t") && !text(&exchange.request.body).contains("czNj"));
}

#[test]
fn what_cannot_be_examined_is_not_kept() {
    for (request, reason) in [
        (post("/", "image/png", vec![0x89, 0xff]), "its body of the type \"image/png\" is no text"),
        (post("/", "multipart/form-data", "x"), "its multipart body names no boundary"),
        (post("/", "multipart/form-data; boundary=X", "x"), "its multipart body does not have its boundary"),
        (
            post(
                "/",
                "multipart/form-data; boundary=X",
                b"--X\r\nContent-Type: image/png\r\n\r\n\x89\xff\r\n--X--".to_vec(),
            ),
            "its multipart body has a part that cannot be examined: its body of the type \"image/png\" is no text",
        ),
    ] {
        let error = redacted(request, None).unwrap_err();
        assert_eq!(error.to_string(), format!("the request may have secrets: {reason}"));
    }
    let mut packed = post("/", "application/json", "{}");
    packed.headers.push(header("content-encoding", "gzip"));
    assert!(redacted(packed, None).unwrap_err().to_string().ends_with("its body is encoded as \"gzip\""));

    // Of an answer that is no text, only its digest is kept, and it is still compared.
    let (image, other) =
        (answer("image/png", vec![0x89, 0xff]).unwrap(), answer("image/png", vec![0x89, 0xfe]).unwrap());
    let mut run = run(vec![(Request::get("/"), Some(image.clone()))]);
    assert_eq!(redaction().run(&mut run).places[0].to_string(), "exchange 1: answer body (as its SHA-256)");
    let kept = run.exchanges[0].response.clone().unwrap();
    assert!(text(kept.body.as_ref().unwrap()).starts_with("{{rei:sha256:2-"));
    passes(&run, &[image]);
    let rules = Normalisers::compile(&[]).unwrap();
    let found =
        compare(&Facets::of_expected(&kept, &rules), &Facets::of_expected(&other, &rules), &Noise::none(), &rules);
    assert_eq!(found.len(), 1);
}

#[test]
fn a_text_that_looks_like_a_placeholder_is_not_kept() {
    let mark = "{{rei:bearer}}";
    let mut in_header = Request::get("/");
    in_header.headers.push(header("x-a", mark));
    for request in [
        Request::get(format!("/{mark}")),
        Request::get("/?a=%7B%7Brei:bearer}}"),
        Request::get("/%7b%7Brei:bearer}}"),
        in_header,
        post("/", "text/plain", mark),
        post("/", "application/json", r#"{"a":["\u007b{rei:bearer}}"]}"#),
        post("/", "application/x-www-form-urlencoded", "a=%7B%7Brei%3Abearer}}"),
        post(
            "/",
            "multipart/form-data; boundary=X",
            format!("--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{mark}\r\n--X--"),
        ),
    ] {
        let exchange = Exchange { request: request.clone(), response: None, ..Exchange::default() };
        assert!(has_mark(&exchange).is_err(), "{request:?}");
        let error = redacted(request, None).unwrap_err();
        assert!(error.to_string().contains("{{rei:"), "{error}");
    }
    assert!(
        has_mark(&Exchange {
            request: Request::get("/{{x}}"),
            response: answer("text/html", "{{rei}}"),
            ..Exchange::default()
        })
        .is_ok()
    );
    // Others of the run are kept.
    let mut run = run(vec![(Request::get(format!("/{mark}")), None), (Request::get("/"), None)]);
    let result = redaction().run(&mut run);
    assert_eq!((result.not_kept.len(), result.not_kept[0].0, run.exchanges.len()), (1, 1, 1));
}

#[test]
fn an_object_whose_keys_are_personal_is_present_and_not_compared() {
    let recorded = answer("application/json", r#"{"by":{"ada@example.org":1},"n":2}"#).unwrap();
    let mut run = run(vec![(Request::get("/"), Some(recorded.clone()))]);
    redaction().run(&mut run);
    assert!(!format!("{run:?}").contains("ada@"));
    assert_eq!(run.header.normalisers, [Normaliser::Ignore { pointer: "/by".into() }]);
    passes(&run, &[recorded]);
}

#[test]
fn what_has_no_secrets_stays_as_it_is() {
    for (request, response) in [
        (Request::get("/a?page=2&q=token%20ring"), answer("text/plain", "caf\u{e9} @ home, 10 % of {{x}}")),
        (post("/", "application/json", r#"{ "a" : [1, "b"],  "c":null}"#), answer("application/json", "[]")),
        (post("/", "application/x-www-form-urlencoded", "a=%2f+b&&c"), answer("", "")),
    ] {
        let exchange = Exchange { request, response, ..Exchange::default() };
        let mut clean = exchange.clone();
        assert_eq!(redaction().exchange(&mut clean), Ok(RedactedExchange::default()));
        assert_eq!(clean, exchange);
    }
}

#[test]
fn only_valid_numbers_of_cards_are_replaced() {
    let body = |body: &str| {
        let clean = redacted(Request::get("/"), answer("text/plain", body)).unwrap().response.unwrap().body.unwrap();
        text(&clean).to_owned()
    };
    for card in ["4111111111111111", "5500 0055 5555 5559", "3782-822463-10005", "6011000990139424", "2223003122003222"]
    {
        assert_eq!(body(&format!("paid by {card}.")), "paid by {{rei:card}}.");
    }
    for number in ["4111111111111112", "1764524175123456", "9780306406157", "4111-1111", "00004111111111111111"] {
        assert_eq!(body(number), number);
    }
}

fn said(sent: &str) -> Message {
    Message { from: Side::Client, data: Data::Text(sent.into()) }
}

#[test]
fn the_messages_of_conversations_are_redacted() {
    let received = |data| Message { from: Side::Service, data };
    let messages = vec![
        said(r#"{"password":"hunter2-and-more","n":1}"#),
        received(Data::Text(r#"{"user":"ada@example.org"}"#.into())),
        received(Data::Binary(vec![0, 255])),
    ];
    let socket = Exchange::of_websocket(Request::get("/ws"), vec![], messages).unwrap();
    let mut run = GoldenRun { header: Header::new("a", "http", Timestamp::from_unix_ms(0)), exchanges: vec![socket] };
    let found = redaction().run(&mut run);
    assert_eq!(found.not_kept, []);
    let places: Vec<&str> = found.places.iter().map(|it| it.what.as_str()).collect();
    assert_eq!(places, ["sent message 1", "received message 2", "received message 3 (as its SHA-256)"]);
    let all = format!(
        "{:?} {}",
        run.exchanges[0].messages,
        text(run.exchanges[0].response.as_ref().unwrap().body.as_ref().unwrap())
    );
    assert!(!all.contains("hunter2") && !all.contains("ada@") && all.contains("{{rei:secret:password}}"), "{all}");
    assert!(all.contains(r#"[{"user":"{{rei:email}}"},"2 bytes, sha256 "#), "{all}");

    let mut opaque = Exchange::of_websocket(
        Request::get("/ws"),
        vec![],
        vec![Message { from: Side::Client, data: Data::Binary(vec![255]) }],
    )
    .unwrap();
    let why = redaction().exchange(&mut opaque).unwrap_err().reason;
    assert_eq!(why, "the sent message 1 may have secrets: it is no text");
    let mut marked = Exchange::of_lines(vec![said("GET {{rei:bearer}}"), received(Data::Text("x".into()))]);
    assert!(has_mark(&marked).is_err() && redaction().exchange(&mut marked).is_err());
}

#[test]
fn the_logins_of_line_protocols_are_redacted() {
    let clean = |lines: &[&str]| {
        let mut exchange = Exchange::of_lines(lines.iter().map(|line| said(line)).collect());
        redaction().exchange(&mut exchange).unwrap();
        let shown = |message: Message| match message.data {
            Data::Text(text) => text,
            other => other.to_string(),
        };
        exchange.messages.into_iter().map(shown).collect::<Vec<_>>()
    };
    let first = "{{rei:secret:password}}";
    assert_eq!(clean(&["AUTH hunter2", "PING"]), [&format!("AUTH {first}"), "PING"]);
    assert_eq!(clean(&["USER ada", "PASS hunter2"]), ["USER ada", &format!("PASS {first}")]);
    assert_eq!(clean(&["a1 LOGIN ada hunter2"]), [format!("a1 LOGIN {first}")]);
    assert_eq!(clean(&["AUTH PLAIN AGFkYQBodW50ZXIy"]), [format!("AUTH PLAIN {first}")]);
    let asked = clean(&["AUTH LOGIN", "YWRh", "aHVudGVyMg==", "NOOP"]);
    assert_eq!((asked[0].as_str(), asked[3].as_str()), ("AUTH LOGIN", "NOOP"));
    assert!(
        asked[1].starts_with("{{rei:secret:password") && asked[2].starts_with("{{rei:secret:password"),
        "{asked:?}"
    );
    assert_eq!(clean(&["GET pass", "LOGIN", "PING"])[0], "GET pass");
}
