//! Large bodies, chunks, WebSockets and lines: real services, in a real sandbox.

use rei::golden::{self, Data, GoldenRun, Message, Protocol, Recorded, Side, parse_transcript};

use super::*;

const LARGE_BYTES: usize = 8 << 20;

/// As the service makes it.
fn large() -> Vec<u8> {
    let byte = |at: usize| if at % 80 == 79 { b'\n' } else { b'a' + u8::try_from((at / 7 + at / 4096) % 26).unwrap() };
    (0..LARGE_BYTES).map(byte).collect()
}

fn run(name: &str, exchanges: Vec<Exchange>) -> GoldenRun {
    GoldenRun { header: Header::new(name, "http", Timestamp::from_unix_ms(0)), exchanges }
}

fn write(lab: &Lab, run: GoldenRun) -> GoldenFact {
    let name = run.header.name.clone();
    let path = lab.dir.path().join(format!("{name}.golden.jsonl"));
    golden::write(&path, run).unwrap();
    let sha256 = digest::sha256_of_file(&path).unwrap();
    GoldenFact { name, listener: "http".into(), bodies: golden::directory_if_any(&path), path, sha256 }
}

fn post(path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>, good: impl Into<Vec<u8>>) -> Exchange {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let method = String::from("POST");
    let response = Expected { status: 200, headers: vec![], body: Some(good.into()) };
    Exchange {
        request: Request { method, path: path.into(), headers, body: body.into() },
        response: Some(response),
        ..Exchange::default()
    }
}

/// Judges versions with a golden run; the summary of each must begin like this.
async fn judge(lab: &Lab, active: &Version, golden: &GoldenFact, cases: &[(&str, Verdict, &str)]) {
    let name = format!("golden/{}", golden.name);
    for (behaviour, verdict, reason) in cases {
        let mut facts = lab.facts(&lab.version_knowing(behaviour, "another"), active);
        facts.golden = vec![golden.clone()];
        let report = lab.judge(&facts).await;
        let check = report.checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.verdict, *verdict, "{behaviour}: {check:#?}");
        assert!(check.summary.contains(reason), "{behaviour}: {check:#?}");
    }
}

async fn kept(lab: &Lab, active: &Version, golden: &GoldenFact) -> GoldenRun {
    let found = rei::validation::qualify(&lab.config, active, golden, Path::new(&lab.program), "1", lab.means());
    let found = found.await.unwrap().unwrap();
    println!("{}: {:#?}", found.summary, found.details);
    found.run
}

#[tokio::test]
async fn one_byte_of_a_large_body_is_found_and_named_by_its_block() {
    let Some(lab) = Lab::open().await else { return };
    let active = lab.version("parts");
    let sum = format!("{LARGE_BYTES} bytes {}", digest::sha256(large()));
    let place = Some(Recorded { connection: 1, began_ms: 0, took_ms: 1 });
    let upload = Exchange { recorded: place, ..post("/upload", &[], large(), sum.clone()) };
    let download = Exchange { recorded: place, ..post("/download", &[], "", large()) };
    let chunked = post("/upload", &[("transfer-encoding", "chunked")], large(), sum);
    let golden = write(&lab, run("large", vec![upload, download, chunked]));
    let lines = std::fs::read_to_string(&golden.path).unwrap();
    assert!(lines.len() < 4_096 && lines.contains("\"rei-golden/1.2\""), "the bodies are beside the run: {lines}");
    let bodies: Vec<_> = std::fs::read_dir(golden.bodies.as_ref().unwrap()).unwrap().collect();
    assert_eq!(bodies.len(), 1, "equal bodies are one file");
    let block = "exchange 2 of 3, POST /download: body/block   81 (from byte 5242880): recorded";
    let cases = [
        ("parts", Verdict::Pass, "3 of 3 exchanges are answered as recorded"),
        ("parts_corrupt_download", Verdict::Fail, block),
        ("parts_corrupt_upload", Verdict::Fail, "exchange 1 of 3, POST /upload: body/line     1: recorded"),
    ];
    judge(&lab, &active, &golden, &cases).await;

    // The qualified run has its bodies beside it again.
    let whole = kept(&lab, &active, &golden).await;
    assert_eq!(whole.exchanges.len(), 3);
    let copy = GoldenRun { header: Header { name: "copy".into(), ..whole.header.clone() }, ..whole };
    let copy = write(&lab, copy);
    assert_ne!(copy.bodies, golden.bodies);
    assert_eq!(std::fs::read_dir(copy.bodies.as_ref().unwrap()).unwrap().count(), 1);

    // A body that has changed since is no candidate's fault.
    let file = bodies[0].as_ref().unwrap().path();
    let mut bytes = large();
    bytes[7] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut facts = lab.facts(&lab.version_knowing("parts", "third"), &active);
    facts.golden = vec![golden.clone()];
    let report = lab.judge(&facts).await;
    assert_eq!(verdict_of(&report, "golden/large"), Verdict::Inconclusive, "{report:#?}");
    assert!(word(&report, "golden/large").contains("has changed"), "{report:#?}");
}

#[tokio::test]
async fn the_content_counts_and_not_how_it_is_framed() {
    let Some(lab) = Lab::open().await else { return };
    let active = lab.version("parts");
    let echo = post("/echo", &[("transfer-encoding", "chunked")], "hello", "chunked: true, hello");
    let golden = write(&lab, run("chunks", vec![echo, post("/chunks", &[], "", "one, two, three, four")]));
    let first = "exchange 1 of 2, POST /echo: body/line     1: recorded \"chunked: true, hello\", answered \"chunked: true, hel\"";
    let cases = [
        ("parts", Verdict::Pass, "2 of 2"),
        ("parts_whole", Verdict::Pass, "2 of 2"),
        ("parts_cut", Verdict::Fail, "exchange 2 of 2, POST /chunks: body/line     1: recorded"),
        ("parts_first_chunk", Verdict::Fail, first),
    ];
    judge(&lab, &active, &golden, &cases).await;
}

fn messages(said: &[(&str, &str)]) -> Vec<Message> {
    let message = |(who, text): &(&str, &str)| {
        let from = if who.starts_with("send") { Side::Client } else { Side::Service };
        let data = match who.ends_with("bytes") {
            true => Data::Binary(text.as_bytes().to_vec()),
            false => Data::Text((*text).to_owned()),
        };
        Message { from, data }
    };
    said.iter().map(message).collect()
}

#[tokio::test]
async fn the_messages_of_a_websocket_are_replayed_in_order() {
    let Some(lab) = Lab::open().await else { return };
    let active = lab.version("parts");
    let said = [
        ("send", r#"{"n":1}"#),
        ("receive", r#"{"n":2,"at":1}"#),
        ("send", "burst"),
        ("receive", "a"),
        ("receive", "b"),
        ("receive", "c"),
        ("send bytes", "abc"),
        ("receive bytes", "cba"),
    ];
    let exchange = Exchange::of_websocket(Request::get("/ws"), vec![], messages(&said)).unwrap();
    let recorded = write(&lab, run("socket", vec![exchange]));
    // Qualification learns that the time of the first message differs.
    let whole = kept(&lab, &active, &recorded).await;
    let learned: Vec<String> = whole.exchanges[0].learned.iter().map(ToString::to_string).collect();
    assert_eq!(learned, ["body/0/at: type"], "{whole:#?}");
    let golden = write(&lab, GoldenRun { header: Header { name: "live".into(), ..whole.header.clone() }, ..whole });
    let number = "exchange 1 of 1, GET /ws: body/0/n: recorded 2, answered 3";
    let huge = "exchange 1 of 1, GET /ws: answer: recorded an answer, answered Space limit exceeded";
    let silent = "exchange 1 of 1, GET /ws: answer: recorded an answer, answered the conversation was not complete";
    let cases = [
        ("parts", Verdict::Pass, "1 of 1"),
        ("parts_miscounts", Verdict::Fail, number),
        ("parts_huge", Verdict::Fail, huge),
        ("parts_silent", Verdict::Fail, silent),
        ("parts_gone", Verdict::Fail, "exchange 1 of 1, GET /ws: body/0: recorded {…}, answered nothing"),
        ("parts_refuses", Verdict::Fail, "exchange 1 of 1, GET /ws: status: recorded 101, answered 404"),
    ];
    judge(&lab, &active, &golden, &cases).await;
}

#[tokio::test]
async fn lines_are_replayed_connection_by_connection() {
    let Some(mut lab) = Lab::open().await else { return };
    let text = "< 220 ready\n> PING\n< +PONG\n> SET ada\n< +OK\n> GET\n< $3\n< ada\n> TIME\n< :1700000000000\n\n\
                < 220 ready\n> SHOUT\n< -ERR\n> QUIT\n";
    let mut recorded = run("lines", parse_transcript(text).unwrap());
    recorded.header.protocol = Protocol::CrlfLines;
    let recorded = write(&lab, recorded);
    assert_eq!(golden::read(&recorded.path).unwrap().header.schema, "rei-golden/1.2");
    lab.config.health.http = None;
    lab.config.health.tcp = Some(rei::config::TcpProbe {
        listen: "http".into(),
        interval: std::time::Duration::from_secs(1),
        timeout: std::time::Duration::from_secs(1),
    });
    let active = lab.version("lines");
    let whole = kept(&lab, &active, &recorded).await;
    assert_eq!((whole.exchanges.len(), whole.exchanges[0].learned.len()), (2, 1), "{whole:#?}");
    let golden = write(&lab, GoldenRun { header: Header { name: "live".into(), ..whole.header.clone() }, ..whole });
    let of = |reason: &str| format!("exchange 1 of 2, lines \"PING\": {reason}");
    let endless = of("answer: recorded an answer, answered it sent a line of more than 1048576 bytes");
    let silent = of("answer: recorded an answer, answered the conversation was not complete");
    let wrong = of("body/1: recorded \"+PONG\", answered \"+PANG\"");
    let cases = [
        ("lines", Verdict::Pass, "2 of 2"),
        ("lines_wrong", Verdict::Fail, wrong.as_str()),
        ("lines_endless", Verdict::Fail, &endless),
        ("lines_silent", Verdict::Fail, &silent),
    ];
    judge(&lab, &active, &golden, &cases).await;
}
