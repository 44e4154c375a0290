//! Requests that overlapped in the recording overlap in the replay.

use rei::golden::{GoldenRun, Recorded};

use super::*;

/// A run of answered requests: path, answer, connection, begin and duration in milliseconds.
fn run(asked: &[(&str, &str, u64, u64, u64)]) -> GoldenRun {
    let exchange = |&(path, good, connection, began_ms, took_ms): &(&str, &str, u64, u64, u64)| Exchange {
        request: Request::get(path),
        response: Some(Expected { status: 200, headers: vec![], body: Some(good.as_bytes().to_vec()) }),
        recorded: Some(Recorded { connection, began_ms, took_ms }),
        ..Exchange::default()
    };
    let header = Header::of_live("pairs", "http", Timestamp::from_unix_ms(0), Default::default());
    GoldenRun { header, exchanges: asked.iter().map(exchange).collect() }
}

fn write(lab: &Lab, name: &str, run: GoldenRun) -> GoldenFact {
    let path = lab.dir.path().join(format!("{name}.golden.jsonl"));
    let mut writer = Writer::create(&path, &run.header).unwrap();
    run.exchanges.into_iter().for_each(|exchange| writer.push(exchange).unwrap());
    writer.finish().unwrap();
    let sha256 = digest::sha256_of_file(&path).unwrap();
    GoldenFact {
        name: name.into(),
        listener: "http".into(),
        bodies: rei::golden::directory_if_any(&path),
        path,
        sha256,
    }
}

#[tokio::test]
async fn overlapping_requests_find_a_race_and_a_version_that_answers_one_at_a_time() {
    let Some(lab) = Lab::open().await else { return };
    let active = lab.version("pair");
    let pairs = [
        ("/greet", "{\"hello\":\"world\",\"id\":0,\"pid\":0}", 1, 0, 5),
        // A long poll: it is answered only because another request comes.
        ("/wait", "awake", 1, 10, 90),
        ("/wake", "woken", 2, 60, 10),
        ("/name/ada", "ada", 1, 200, 300),
        ("/name/bob", "bob", 2, 250, 300),
    ];
    let mut recorded = run(&pairs);
    recorded.header.normalisers =
        ["/pid", "/id"].map(|pointer| Normaliser::Ignore { pointer: pointer.into() }).to_vec();
    let golden = write(&lab, "pairs", recorded);
    let alone = "exchange 2 of 5, GET /wait: answer: recorded an answer, answered no complete answer";
    let cases = [
        ("pair", Verdict::Pass, "5 of 5 exchanges are answered as recorded"),
        ("pair_alone", Verdict::Fail, alone),
        ("pair_race", Verdict::Fail, "exchange 4 of 5, GET /name/ada: body/line     1: recorded \"ada\""),
    ];
    for (behaviour, verdict, reason) in cases {
        let mut facts = lab.facts(&lab.version_knowing(behaviour, "another"), &active);
        facts.golden = vec![golden.clone()];
        let report = lab.judge(&facts).await;
        let check = report.checks.iter().find(|check| check.name == "golden/pairs").unwrap();
        assert_eq!(check.verdict, verdict, "{behaviour}: {check:#?}");
        let words = format!("{} {}", check.summary, check.details.join(" "));
        assert!(words.contains(reason), "{behaviour}: {check:#?}");
    }
    // Qualification asks Active in the same way, or the long poll would be dropped.
    let found = rei::validation::qualify(&lab.config, &active, &golden, Path::new(&lab.program), "1", lab.means());
    let found = found.await.unwrap().unwrap();
    assert_eq!(found.run.exchanges.len(), 5, "{found:#?}");
}
