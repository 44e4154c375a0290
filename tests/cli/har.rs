//! Archives as browsers and proxies write them, imported by the program: what the run has, and what the command reports.

use serde_json::{Value, json};

use super::{rei, rei_toml, text};

/// What the command printed and wrote.
struct Import {
    code: Option<i32>,
    out: String,
    err: String,
    /// The lines of the golden file; empty if there is none.
    lines: Vec<Value>,
}

impl Import {
    /// Imports an archive with these options.
    fn new(archive: &[u8], options: &[&str]) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let here = parent.path();
        rei_toml(here, "listen = [\"http=127.0.0.1:1\"]\n[validation]\ngolden = [\"golden\"]\n");
        std::fs::write(here.join("case.har"), archive).unwrap();
        let output = rei(here, &[&["golden", "import", "case.har"], options].concat());
        let file = std::fs::read_to_string(here.join("golden/case.golden.jsonl")).unwrap_or_default();
        let lines = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr), lines }
    }

    /// Imports `tests/fixtures/har/NAME.har`.
    fn fixture(name: &str) -> Self {
        let path = format!("{}/tests/fixtures/har/{name}.har", env!("CARGO_MANIFEST_DIR"));
        Self::new(&std::fs::read(path).unwrap(), &[])
    }

    /// Imports an archive with these entries.
    fn entries(entries: Value) -> Self {
        Self::new(json!({"log": {"version": "1.2", "entries": entries}}).to_string().as_bytes(), &[])
    }

    /// The exchanges, if the import succeeded.
    #[track_caller]
    fn exchanges(&self) -> &[Value] {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        &self.lines[1..]
    }

    /// The request of the only exchange.
    #[track_caller]
    fn request(&self) -> &Value {
        assert_eq!(self.exchanges().len(), 1, "{}", self.out);
        &self.exchanges()[0]["request"]
    }

    /// The paths of all requests.
    #[track_caller]
    fn paths(&self) -> Vec<&str> {
        self.exchanges().iter().map(|it| it["request"]["path"].as_str().unwrap()).collect()
    }

    #[track_caller]
    fn reports(&self, lines: &[&str]) {
        for line in lines {
            assert!(self.out.lines().any(|printed| printed == *line), "{line:?} is not in\n{}", self.out);
        }
    }
}

/// An entry for a URL with an answer `ok`.
fn entry(url: &str) -> Value {
    json!({"request": {"method": "GET", "url": url, "headers": []},
           "response": {"status": 200, "headers": [], "content": {"size": 2, "mimeType": "text/plain", "text": "ok"}}})
}

/// The entry with another value at a pointer.
fn with(mut entry: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    entry.pointer_mut(parent).unwrap()[name] = value;
    entry
}

const HERE: &str = "http://127.0.0.1:8080/a";

#[test]
fn a_byte_order_mark_is_skipped() {
    assert_eq!(Import::fixture("comment-and-pages").paths(), ["/a"]);
    let archive = json!({"log": {"entries": [entry(HERE)]}}).to_string();
    let utf16: Vec<u8> = "\u{feff}".encode_utf16().chain(archive.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    assert_eq!(Import::new(&utf16, &[]).paths(), ["/a"]);
}

#[test]
fn a_form_is_built_from_its_fields() {
    let import = Import::fixture("params");
    assert_eq!(import.request()["body"], "a=b+c&d=%C3%A9");
    assert_eq!(import.request()["headers"]["content-type"], "application/x-www-form-urlencoded");

    let import = Import::fixture("multipart");
    let part = "--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nhello\r\n--X--\r\n";
    assert_eq!(import.request()["body"], part);

    // A browser does not write the content of a file.
    let form = json!({"mimeType": "multipart/form-data", "params": [{"name": "f", "fileName": "a.txt"}]});
    let import = Import::entries(json!([with(entry(HERE), "/request/postData", form), entry(HERE)]));
    assert_eq!(import.exchanges().len(), 1);
    import.reports(&[r#"left out  entry 1: GET /a: the archive does not have the content of the file "a.txt""#]);
}

#[test]
fn a_body_in_base64_is_decoded() {
    assert_eq!(Import::fixture("postdata-base64").request()["body"], r#"{"a":1}"#);
    let image = include_bytes!("../fixtures/har/base64.har");
    let kept = Import::new(image, &["--keep-credentials"]);
    assert_eq!(kept.exchanges()[0]["response"]["body_base64"], "iVBORw==");
    // An image can be personal. Its digest is enough for a comparison.
    let digest = Import::new(image, &[]).exchanges()[0]["response"]["body"].to_string();
    assert!(digest.starts_with("\"{{rei:sha256:4-"), "{digest}");
    let bad = json!({"mimeType": "text/plain", "text": "*", "encoding": "base64"});
    let import = Import::entries(json!([with(entry(HERE), "/request/postData", bad), entry(HERE)]));
    assert_eq!(import.exchanges().len(), 1);
    assert!(
        import.out.contains("left out  entry 1: GET /a: log.entries[0].request.postData.text is not base64"),
        "{}",
        import.out
    );
}

#[test]
fn a_path_is_encoded_and_its_fragment_removed() {
    assert_eq!(Import::fixture("fragment-space").paths(), ["/a%20b?q=%C3%BC"]);
    let import = Import::entries(json!([
        entry("http://127.0.0.1:8080/%C3%A9/é?x=%20&y=\"<"),
        entry("http://127.0.0.1:8080?a=1")
    ]));
    assert_eq!(import.paths(), ["/%C3%A9/%C3%A9?x=%20&y=%22%3C", "/?a=1"]);
}

#[test]
fn repeated_headers_are_kept_and_those_of_the_connection_are_not() {
    let import = Import::fixture("duplicate-headers");
    assert_eq!(import.exchanges()[0]["response"]["headers"]["set-cookie"].as_array().unwrap().len(), 2);
    let import = Import::fixture("chrome-h2");
    // The service may have several names, so the name that was asked stays.
    assert_eq!(import.request()["headers"], json!({"host": "example.org", "accept": "*/*"}));
    assert_eq!(import.exchanges()[0]["response"]["headers"], json!({"content-type": "text/plain"}));
}

#[test]
fn one_origin_is_taken() {
    let import = Import::fixture("other-hosts");
    assert_eq!(import.paths(), ["/a"]);
    import.reports(&[
        "left out  entry 1: GET https://cdn.x.test/lib.js: another origin",
        "took      entry 2: GET /a",
        "took 1 of 2 entries, all of http://127.0.0.1:8080; left out 1",
        "  1 of another origin",
    ]);
    // The page's own origin is asked less often than the others.
    let page = with(entry("https://x.test/"), "/response/content/mimeType", json!("text/html"));
    let of_page =
        |url: &str| with(entry(url), "/request/headers", json!([{"name": "Referer", "value": "https://x.test/"}]));
    let archive = json!({"log": {"entries": [page, of_page("https://cdn.x.test/1"), of_page("https://cdn.x.test/2")]}})
        .to_string();
    let import = Import::new(archive.as_bytes(), &[]);
    assert_eq!(import.paths(), ["/"]);
    assert!(import.err.contains("--origin https://cdn.x.test"), "{}", import.err);
    let import = Import::new(archive.as_bytes(), &["--origin", "https://cdn.x.test"]);
    assert_eq!(import.paths(), ["/1", "/2"]);
    let import = Import::new(archive.as_bytes(), &["--origin", "https://example.org"]);
    assert_eq!((import.code, import.lines.len()), (Some(1), 0));
    assert!(import.err.contains("case.har: no entry is of https://example.org"), "{}", import.err);
}

#[test]
fn what_cannot_be_replayed_is_left_out_with_its_reason() {
    for (name, reason) in [
        ("data-url", "GET data:…: no server is asked for a data: URL"),
        ("status-0", "GET /a: it has no answer: log.entries[0].response.status is 0"),
        ("status-null", "GET /a: it has no answer: log.entries[0].response.status is null"),
    ] {
        let import = Import::fixture(name);
        assert_eq!(import.paths(), ["/a"], "{name}");
        import.reports(&[&format!("left out  entry 1: {reason}"), "took      entry 2: GET /a"]);
    }
    let socket = Import::fixture("websocket");
    assert_eq!(socket.paths(), ["/ws", "/a"], "its messages are in the archive");
    let entries = json!([
        entry("blob:http://127.0.0.1:8080/0c1"),
        entry("chrome-extension://abc/x.js"),
        with(entry(HERE), "/response/status", json!(-1)),
        with(entry(HERE), "/request/headers", Value::Null),
        with(entry(HERE), "/response", Value::Null),
        with(entry(HERE), "/response/status", json!(304)),
        with(entry(HERE), "/response/status", json!(101)),
        with(entry(HERE), "/response/content/size", json!((64 << 20) + 1)),
        with(entry(HERE), "/request/method", json!("CONNECT")),
        with(entry(HERE), "/request/bodySize", json!(12)),
        with(entry(HERE), "/request/headers", json!([{"name": "a b", "value": "1"}])),
        with(entry(HERE), "/_fromCache", json!("disk")),
        with(entry(HERE), "/response/content/mimeType", json!("text/event-stream")),
        json!(7),
        entry(HERE),
    ]);
    let import = Import::entries(entries);
    assert_eq!(import.paths(), ["/a"]);
    for (n, reason) in [
        "GET blob:…: no server is asked for a blob: URL",
        "GET chrome-extension:…: no server is asked for a chrome-extension: URL",
        "GET /a: it has no answer: log.entries[2].response.status is -1",
        "GET /a: log.entries[3].request.headers is null, not a list",
        "GET /a: it has no answer: log.entries[4].response is null",
        "GET /a: 304 depends on the client's cache",
        "GET /a: the archive does not have the messages of the WebSocket",
        "GET /a: the body of the answer has 67108865 bytes; a replay reads at most 67108864",
        "CONNECT /a: the method is for proxies",
        "GET /a: the archive has 0 of the 12 bytes of the request's body",
        "GET /a: log.entries[10].request.headers[0].name \"a b\" is not a valid name of a header",
        "GET /a: the answer is from the client's cache, not from the server",
        "GET /a: a stream of events has no end",
        "log.entries[13] is 7, not an object",
    ]
    .iter()
    .enumerate()
    {
        import.reports(&[&format!("left out  entry {}: {reason}", n + 1)]);
    }
    import.reports(&[
        "took 1 of 15 entries, all of http://127.0.0.1:8080; left out 14",
        "  2 without an answer",
        "  1 with a body over 64 MiB",
    ]);
}

#[test]
fn large_bodies_are_files_and_websockets_have_their_messages() {
    let large = "one line of text\n".repeat(1 << 17);
    let mut upload = with(entry(HERE), "/request/postData", json!({"mimeType": "text/plain", "text": large}));
    upload["request"]["method"] = json!("POST");
    let download = with(entry(HERE), "/response/content/text", json!(large));
    let mut socket = with(entry("ws://127.0.0.1:8080/ws"), "/response/status", json!(101));
    let message = |kind: &str, data: &str| json!({"type": kind, "time": 1.0, "opcode": 1, "data": data});
    socket["_webSocketMessages"] =
        json!([message("send", r#"{"token":"s3cr3t-t0ken-12345"}"#), message("receive", "hi")]);
    let parent = tempfile::tempdir().unwrap();
    let here = parent.path();
    rei_toml(here, "listen = [\"http=127.0.0.1:8080\"]\n[validation]\ngolden = [\"golden\"]\n");
    let archive = json!({"log": {"version": "1.2", "entries": [upload, download, socket]}});
    std::fs::write(here.join("case.har"), archive.to_string()).unwrap();
    let output = rei(here, &["golden", "import", "case.har"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let bodies: Vec<_> = std::fs::read_dir(here.join("golden/case.bodies")).unwrap().map(Result::unwrap).collect();
    assert_eq!((bodies.len(), bodies[0].metadata().unwrap().len()), (1, large.len() as u64));
    let file = std::fs::read_to_string(here.join("golden/case.golden.jsonl")).unwrap();
    assert!(file.len() < 4_096 && file.starts_with("{\"schema\":\"rei-golden/1.2\""), "{file}");
    assert!(file.contains("{{rei:secret:token}}") && file.contains("{\"receive\":\"hi\"}"), "{file}");
    let shown = text(&rei(here, &["golden", "show", "case"]).stdout);
    assert!(shown.contains("conversations: 1, each on a connection of its own"), "{shown}");
    assert!(shown.contains("large bodies: 2 in files beside the run, 4456448 bytes"), "{shown}");
    // A second import leaves the run alone.
    let again = rei(here, &["golden", "import", "case.har"]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    assert_eq!(std::fs::read_dir(here.join("golden/case.bodies")).unwrap().count(), 1);
    std::fs::remove_file(bodies[0].path()).unwrap();
    let broken = rei(here, &["golden", "show", "case"]);
    assert!(
        text(&broken.stderr).contains("case.golden.jsonl:2: the request has its body in"),
        "{}",
        text(&broken.stderr)
    );
}

#[test]
fn a_transcript_becomes_a_run_of_lines_that_is_replayed() {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for greeting in ["220 ready\r\n", "221 busy\r\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(greeting.as_bytes()).unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            heard.push(line);
            stream.write_all(b"+OK\r\n").unwrap();
        }
        heard
    });
    let parent = tempfile::tempdir().unwrap();
    let here = parent.path();
    rei_toml(here, &format!("listen = [\"line={address}\"]\n[validation]\ngolden = [\"golden\"]\n"));
    std::fs::write(here.join("talk.txt"), "# redis\n< 220 ready\n> AUTH hunter2\n< +OK\n").unwrap();
    let import = rei(here, &["golden", "import", "talk.txt", "--crlf"]);
    assert_eq!(import.status.code(), Some(0), "{}{}", text(&import.stdout), text(&import.stderr));
    let file = std::fs::read_to_string(here.join("golden/talk.golden.jsonl")).unwrap();
    assert!(file.contains("\"protocol\":\"crlf-lines\"") && !file.contains("hunter2"), "{file}");
    std::fs::write(here.join("values"), "secret:password=hunter2\n").unwrap();
    let replay = |code| {
        let output = rei(here, &["golden", "replay", "--secrets", "values"]);
        assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    assert!(replay(0).contains("1 of 1 exchanges answered as recorded"));
    let differs = replay(6);
    assert!(differs.contains("exchange 1: lines \"AUTH {{rei:secret:password}}\""), "{differs}");
    assert!(differs.contains("body/0: recorded \"220 ready\", answered \"221 busy\""), "{differs}");
    assert_eq!(service.join().unwrap(), ["AUTH hunter2\r\n", "AUTH hunter2\r\n"]);
}

#[test]
fn a_body_that_the_archive_does_not_have_is_not_compared() {
    let cut = with(entry(HERE), "/response/content/size", json!(100));
    let absent = with(entry(HERE), "/response/content", json!({"size": 100, "mimeType": "text/plain"}));
    let lossy = with(entry(HERE), "/response/content/text", json!("caf\u{fffd}"));
    let import = Import::entries(json!([cut, absent, lossy]));
    assert!(import.exchanges().iter().all(|it| it["response"].get("body").is_none()), "{:?}", import.lines);
    import.reports(&[
        "took      entry 1: GET /a (without the body of the answer: the archive has 2 of its 100 bytes)",
        "took      entry 2: GET /a (without the body of the answer: the archive does not have it)",
        "took      entry 3: GET /a (without the body of the answer: the archive has lost characters of it)",
    ]);
    // A file that is not UTF-8 loses only the texts that are not.
    assert_eq!(Import::fixture("latin1").paths(), ["/a"]);
}

#[test]
fn an_archive_without_entries_is_an_error_that_names_file_and_place() {
    for (import, message) in [
        (Import::fixture("no-entries"), "case.har: log.entries is empty"),
        (Import::fixture("truncated"), "case.har:1:300: the file ends early"),
        (Import::new(b"{\"log\": {}}", &[]), "case.har: log.entries is missing"),
        (Import::new(b"{\"log\": {\n \"entries\": 7}}", &[]), "case.har: log.entries is 7, not a list"),
        (Import::new(b"{\"log\":\n  [}", &[]), "case.har:2:4: not JSON: expected value"),
        (Import::entries(json!([entry("data:,x")])), "case.har: all entries are left out"),
    ] {
        assert_eq!((import.code, import.lines.len()), (Some(1), 0), "{}", import.out);
        assert!(import.err.contains(message), "{message:?} is not in {}", import.err);
    }
}

#[test]
fn an_import_has_placeholders_in_place_of_secrets() {
    let import = Import::fixture("secrets");
    let exchange = &import.exchanges()[0];
    assert_eq!(exchange["request"]["path"], "/a?token={{rei:secret:token}}");
    assert_eq!(exchange["request"]["headers"]["authorization"], "Bearer {{rei:bearer}}");
    assert_eq!(exchange["request"]["headers"]["cookie"], "session={{rei:cookie:session}}");
    assert_eq!(exchange["response"]["body"], r#"{"password":"{{rei:secret:password}}","email":"{{rei:email}}"}"#);
    let all = format!("{}{}{:?}", import.out, import.err, import.lines);
    for secret in ["abc123secret", "sk-live", "deadbeef", "hunter2", "ada@"] {
        assert!(!all.contains(secret), "{secret} is in {all}");
    }
    // A text that looks like a placeholder would be filled with a secret of the operator.
    let import = Import::entries(json!([entry("http://127.0.0.1:8080/?q={{rei:bearer}}"), entry(HERE)]));
    assert_eq!(import.paths(), ["/a"]);
    assert!(import.out.contains("left out  entry 1: "), "{}", import.out);
}

/// A service with a login: each login gives another session, and only the last one is known. `/admin` wants a key.
fn service_with_login() -> std::net::SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (mut stream, mut request) = (stream.unwrap(), [0; 4096]);
            let read = stream.read(&mut request).unwrap();
            let request = text(&request[..read]).to_ascii_lowercase();
            static SESSION: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
            let mut session = SESSION.lock().unwrap();
            let (status, header, body) = if request.starts_with("post /login") {
                *session = format!("session-of-request-{number}");
                (200, format!("set-cookie: sid={session}; Path=/\r\n"), "welcome ada@example.org".to_owned())
            } else if request.starts_with("get /me") && request.contains(&format!("cookie: sid={session}\r\n")) {
                (200, String::new(), "{\"email\": \"ada@example.org\"}".to_owned())
            } else if request.starts_with("get /admin") && request.contains("authorization: bearer right-key\r\n") {
                (200, String::new(), "hello".to_owned())
            } else {
                (401, String::new(), String::new())
            };
            let head =
                format!("HTTP/1.1 {status} X\r\n{header}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + body.as_str()).as_bytes());
        }
    });
    address
}

#[test]
fn a_replay_fills_placeholders_from_earlier_answers_and_from_a_file() {
    let address = service_with_login();
    let parent = tempfile::tempdir().unwrap();
    let here = parent.path();
    rei_toml(here, &format!("listen = [\"http={address}\"]\n[validation]\ngolden = [\"golden\"]\n"));
    let headers = |name: &str, value: &str| json!([{"name": name, "value": value}]);
    let url = |path: &str| entry(&format!("http://{address}{path}"));
    let login = with(
        with(url("/login"), "/request/method", json!("POST")),
        "/response/content",
        json!({"text": "welcome ada@example.org"}),
    );
    let login = with(login, "/response/headers", headers("Set-Cookie", "sid=q1w2e3r4t5z6; Path=/"));
    let me = with(url("/me"), "/response/content", json!({"text": "{\"email\": \"ada@example.org\"}"}));
    let me = with(me, "/request/headers", headers("Cookie", "sid=q1w2e3r4t5z6"));
    let admin = with(url("/admin"), "/response/content", json!({"text": "hello"}));
    let admin = with(admin, "/request/headers", headers("Authorization", "Bearer an-old-key-1"));
    std::fs::write(here.join("a.har"), json!({"log": {"entries": [login, me, admin]}}).to_string()).unwrap();
    let import = rei(here, &["golden", "import", "a.har"]);
    assert!(import.status.success(), "{}{}", text(&import.stdout), text(&import.stderr));

    // The session is that of the new login. Only the operator knows the key.
    let replay = rei(here, &["golden", "replay"]);
    let said = text(&replay.stdout);
    assert!(said.contains("2 of 3 exchanges") && said.contains("exchange 3: GET /admin\n"), "{said}");
    std::fs::write(here.join("values"), "# of the test system\nbearer=right-key\n").unwrap();
    let replay = rei(here, &["golden", "replay", "--secrets", "values"]);
    let said = text(&replay.stdout);
    assert!(replay.status.success() && said.contains("3 of 3 exchanges") && !said.contains("right-key"), "{said}");
    std::fs::write(here.join("values"), "bearer=right-key\nright-key\n").unwrap();
    let replay = rei(here, &["golden", "replay", "--secrets", "values"]);
    let said = text(&replay.stderr);
    assert!(said.contains("values: line 2: there is no `=`") && !said.contains("right-key"), "{said}");
}
