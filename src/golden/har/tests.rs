use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::golden::format::Header;
use crate::time::Timestamp;

fn import(archive: &Value, chosen: &Chosen) -> Result<Imported, ArchiveError> {
    let header = Header::new("x", "http", Timestamp::default());
    from_har(Path::new("x.har"), archive.to_string().as_bytes(), header, chosen)
}

fn archive(urls: &[&str]) -> Value {
    let entry = |url: &&str| json!({"request": {"method": "GET", "url": url}, "response": {"status": 200}});
    json!({"log": {"entries": urls.iter().map(entry).collect::<Vec<_>>()}})
}

#[test]
fn the_origin_is_that_of_the_service() {
    let chosen = |archive: &Value, port| {
        let imported = import(archive, &Chosen { origin: None, port }).unwrap();
        (imported.origin.unwrap(), imported.run.exchanges.len())
    };
    let urls = ["http://x.test/1", "http://cdn.x.test/1", "http://cdn.x.test/2", "http://127.0.0.1:8080/"];
    let archive = archive(&urls);
    assert_eq!(chosen(&archive, None), ("http://cdn.x.test".into(), 2), "the most frequent one");
    assert_eq!(chosen(&archive, Some(8080)), ("http://127.0.0.1:8080".into(), 1), "the listener's");
    let mut paged = archive.clone();
    paged["log"]["pages"] = json!([{"title": "no URL"}, {"title": "http://x.test/start"}]);
    assert_eq!(chosen(&paged, None), ("http://x.test".into(), 1), "the page's");
    let equal = self::archive(&["https://x.test/", "http://x.test/", "http://localhost/", "ws://localhost/"]);
    let imported = import(&equal, &Chosen::default()).unwrap();
    assert_eq!(imported.origin.as_deref(), Some("http://localhost"), "the more frequent one, with its WebSocket");
    assert_eq!(imported.other_origins, ["https://x.test", "http://x.test"]);
    assert_eq!(imported.left_out.iter().map(|it| it.why.clone()).collect::<Vec<_>>()[2], LeftOut::WebSocket);
}

#[test]
fn a_body_is_compared_only_if_the_archive_has_all_of_it() {
    let body = |method: &str, status: u16, content: Value| {
        let entry = json!({"request": {"method": method, "url": "http://x.test/"}, "response": {"status": status, "content": content}});
        let imported = import(&json!({"log": {"entries": [entry]}}), &Chosen::default()).unwrap();
        imported.run.exchanges[0].response.clone().unwrap().body
    };
    assert_eq!(body("GET", 200, json!({"size": 2, "text": "ok"})), Some(b"ok".to_vec()));
    assert_eq!(body("GET", 200, json!({"size": 0, "text": ""})), Some(Vec::new()));
    assert_eq!(body("GET", 200, json!({"size": 0})), None, "programs write 0 for a body that they do not have");
    assert_eq!(body("HEAD", 200, json!({"size": 0})), Some(Vec::new()));
    assert_eq!(body("GET", 204, json!({"size": -1})), Some(Vec::new()));
    assert_eq!(body("GET", 200, json!({"text": "aG\nk=", "encoding": "base64"})), Some(b"hi".to_vec()));
}

#[test]
fn a_form_without_a_boundary_gets_one() {
    let data = json!({"mimeType": "multipart/form-data", "params": [{"name": "a\"b", "value": "1"}]});
    let entry =
        json!({"request": {"method": "POST", "url": "http://x.test/", "postData": data}, "response": {"status": 200}});
    let imported = import(&json!({"log": {"entries": [entry]}}), &Chosen::default()).unwrap();
    let request = &imported.run.exchanges[0].request;
    let (_, kind) = request.headers.iter().find(|(name, _)| name == "content-type").unwrap();
    let boundary = kind.split_once("boundary=").unwrap().1;
    let body = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"a%22b\"\r\n\r\n1\r\n--{boundary}--\r\n");
    assert_eq!(String::from_utf8(request.body.clone()).unwrap(), body);
}

#[test]
fn the_messages_of_a_websocket_are_taken() {
    let frames = json!([
        {"type": "send", "time": 1.5, "opcode": 1, "data": "hi"},
        {"type": "receive", "time": 1.6, "opcode": 1, "data": "{\"n\":1}"},
        {"type": "receive", "time": 1.7, "opcode": 2, "data": "AP8="},
        {"type": "receive", "time": 1.8, "opcode": 9, "data": ""},
    ]);
    let entry = |status: u16, frames: Value| {
        let headers = json!([{"name": "Sec-WebSocket-Key", "value": "x"}, {"name": "Upgrade", "value": "websocket"}]);
        let request = json!({"method": "GET", "url": "ws://127.0.0.1:8080/ws", "headers": headers});
        let entry = json!({"request": request, "response": {"status": status}, "_webSocketMessages": frames});
        import(&json!({"log": {"entries": [entry]}}), &Chosen::default()).unwrap()
    };
    let imported = entry(101, frames.clone());
    assert_eq!(imported.left_out, []);
    let exchange = &imported.run.exchanges[0];
    let said: Vec<String> = exchange.messages.iter().map(|it| format!("{:?} {}", it.from, it.data)).collect();
    assert_eq!(said, ["Client \"hi\"", "Service \"{\\\"n\\\":1}\"", "Service 2 bytes"]);
    assert_eq!((exchange.is_websocket(), exchange.request.headers.len()), (true, 0), "{exchange:?}");
    let left_out = |imported: Imported| imported.left_out[0].why.to_string();
    assert_eq!(left_out(entry(403, frames)), "it has no answer: log.entries[0].response.status is 403");
    let bad = json!([{"type": "send", "opcode": 2, "data": "?"}]);
    assert!(left_out(entry(101, bad)).starts_with("log.entries[0]._webSocketMessages[0].data is not base64"));
    let many = json!(vec![json!({"type": "send", "opcode": 1, "data": "x"}); 1_001]);
    assert_eq!(left_out(entry(101, many)), "its WebSocket has 1001 messages, more than the maximum of 1000");
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(json!("http://x.test/a")),
        Just(json!("base64")),
        Just(json!(200)),
    ];
    let names = prop_oneof![
        Just("request"),
        Just("response"),
        Just("method"),
        Just("url"),
        Just("headers"),
        Just("postData"),
        Just("params"),
        Just("name"),
        Just("value"),
        Just("text"),
        Just("encoding"),
        Just("status"),
        Just("content"),
        Just("mimeType"),
        Just("_webSocketMessages"),
        Just("opcode"),
        Just("data"),
    ];
    leaf.prop_recursive(5, 40, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// One good entry is taken, whatever stands beside it, and every entry is accounted for.
    #[test]
    fn one_bad_entry_never_refuses_the_archive(bad in proptest::collection::vec(value(), 0..6)) {
        let mut archive = archive(&["http://127.0.0.1:8080/good"]);
        let count = bad.len();
        archive["log"]["entries"].as_array_mut().unwrap().splice(0..0, bad);
        let chosen = Chosen { origin: None, port: Some(8080) };
        let imported = import(&archive, &chosen).unwrap();
        prop_assert_eq!(imported.taken.last().map(|it| it.entry), Some(count + 1));
        prop_assert_eq!(imported.taken.len() + imported.left_out.len(), count + 1);
    }
}
