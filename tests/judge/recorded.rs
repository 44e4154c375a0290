//! Runs from live traffic: recorded from a real server, qualified in a real sandbox, replayed against versions.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::time::{Duration, Instant, SystemTime};

use rei::config::Fixture;
use rei::golden::{Captured, GoldenRun, Recorder, SampleLimits};
use rei::http::{Address, Connection, Extent};
use rei::validation::{Qualified, qualify};

use super::*;

const LONG: Duration = Duration::from_secs(20);
const LIMITS: SampleLimits = SampleLimits { exchanges: 100, bytes: 1 << 20, age: Duration::from_secs(3_600) };

/// A version that serves outside a sandbox, in a directory with state.
struct Served {
    child: Child,
    address: Address,
    directory: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(version: &Version) -> Served {
    let directory = tempfile::tempdir().unwrap();
    // What a service has that has served for a while.
    std::fs::write(directory.path().join("notes"), "seeded").unwrap();
    std::fs::write(directory.path().join("visits"), "x").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let fd = listener.as_raw_fd();
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\"", &format!("{}/bin/judged", version.store_path)]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http").current_dir(directory.path());
    // SAFETY: only two system calls that take integers run between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::libc::dup2(fd, 3);
            nix::libc::fcntl(3, nix::libc::F_SETFD, 0);
            Ok(())
        });
    }
    Served { child: command.spawn().unwrap(), address, directory }
}

/// The exchanges of one connection of a client, as a tap in front of the server sees them.
async fn connection(address: &Address, connection: u64, paths: &[&str], recorder: &mut Recorder) {
    let mut open = Connection::open(address, LONG).await.unwrap();
    for (index, path) in (0..).zip(paths) {
        let request = Request { headers: vec![("cookie".into(), "session=abc".into())], ..Request::get(*path) };
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let at = Timestamp::from_unix_ms(u64::try_from(at).unwrap());
        let events = (*path == "/events").then_some(2);
        let begun = Instant::now();
        let response = open.send(&request, LONG, Extent { bytes_max: 1 << 20, events }).await.unwrap();
        let duration = begun.elapsed();
        recorder.offer(Captured {
            at,
            connection,
            index,
            listener: "http".to_owned(),
            request,
            response,
            events,
            duration,
        });
    }
}

async fn record(served: &Served) -> GoldenRun {
    let mut recorder = Recorder::new(LIMITS, 1, Timestamp::from_unix_ms(0));
    connection(&served.address, 1, &["/order", "/notes", "/visit"], &mut recorder).await;
    recorder.pause(true);
    connection(&served.address, 2, &["/healthz"], &mut recorder).await;
    recorder.pause(false);
    connection(&served.address, 3, &["/order", "/noise", "/visit"], &mut recorder).await;
    connection(&served.address, 4, &["/events"], &mut recorder).await;
    assert_eq!(recorder.counts(), (7, 7, 1), "what came during the pause is not in the sample");
    recorder.finish("live", "http")
}

fn write(lab: &Lab, name: &str, run: GoldenRun) -> GoldenFact {
    let path = lab.dir.path().join(format!("{name}.golden.jsonl"));
    let mut writer = Writer::create(&path, &run.header).unwrap();
    run.exchanges.into_iter().for_each(|exchange| writer.push(exchange).unwrap());
    writer.finish().unwrap();
    assert!(!std::fs::read_to_string(&path).unwrap().contains("session=abc"), "no credential reaches a file");
    let sha256 = digest::sha256_of_file(&path).unwrap();
    GoldenFact {
        name: "live".into(),
        listener: "http".into(),
        bodies: rei::golden::directory_if_any(&path),
        path,
        sha256,
    }
}

async fn qualified(lab: &Lab, active: &Version, recording: &GoldenFact) -> Qualified {
    let found = qualify(&lab.config, active, recording, Path::new(&lab.program), "1", lab.means()).await.unwrap();
    found.unwrap()
}

fn asked(run: &GoldenRun) -> Vec<&str> {
    run.exchanges.iter().map(|exchange| exchange.request.path.as_str()).collect()
}

#[tokio::test]
async fn a_recording_keeps_what_a_fresh_instance_repeats_and_finds_what_users_would() {
    let Some(mut lab) = Lab::open().await else { return };
    let active = lab.version("kept");
    let served = serve(&active);
    let recording = write(&lab, "recorded", record(&served).await);

    // Without state: notes and visits of the live service are not there, and the noise has nothing to compare.
    let alone = qualified(&lab, &active, &recording).await;
    let recorded = alone.run.header.recording.clone().unwrap();
    assert_eq!(asked(&alone.run), ["/order", "/order", "/events"], "{alone:#?}");
    let dropped = [("state", 2), ("status", 1), ("too_different", 1)].map(|(reason, count)| (reason.to_owned(), count));
    assert_eq!((recorded.sampled, recorded.qualified, recorded.dropped), (7, true, dropped.into()), "{alone:#?}");
    assert_eq!(recorded.learned, [("pattern".to_owned(), 2), ("type".to_owned(), 2)].into());
    assert_eq!(alone.summary, "Active repeats 3 of 7 recorded exchanges");
    assert!(alone.details[0].contains("dropped: a fresh instance answers with another status"), "{alone:#?}");

    // A program of the version makes the notes.
    lab.config.validation.state = Some(Fixture::Command(vec!["bin/judged".into(), "seed".into()]));
    let seeded = qualified(&lab, &active, &recording).await;
    assert_eq!(asked(&seeded.run), ["/order", "/notes", "/order", "/events"], "{seeded:#?}");

    // A copy of the state: also the visits, which depend on the order of the requests.
    let fixture = lab.dir.path().join("fixture");
    std::fs::create_dir(&fixture).unwrap();
    std::fs::write(fixture.join("notes"), std::fs::read(served.directory.path().join("notes")).unwrap()).unwrap();
    std::fs::write(fixture.join("visits"), "x").unwrap();
    lab.config.validation.state = Some(Fixture::Directory(fixture));
    let whole = qualified(&lab, &active, &recording).await;
    assert_eq!(asked(&whole.run), ["/order", "/notes", "/visit", "/order", "/visit", "/events"], "{whole:#?}");

    // Two requests of one connection, a value that noise would hide, and an honest version.
    let golden = write(&lab, "live", whole.run);
    let cases = [
        ("kept", Verdict::Pass, "6 of 6 exchanges are answered as recorded"),
        ("kept_breaks_second", Verdict::Fail, "exchange 2 of 6, GET /notes: status: recorded 200, answered 500"),
        ("kept_other", Verdict::Fail, "exchange 6 of 6, GET /events: body/line     2: recorded \"data: world 0\""),
        ("kept_empty_id", Verdict::Fail, "exchange 1 of 6, GET /order: body/id: recorded"),
    ];
    for (behaviour, verdict, reason) in cases {
        let mut facts = lab.facts(&lab.version_knowing(behaviour, "another"), &active);
        facts.golden = vec![golden.clone()];
        let report = lab.judge(&facts).await;
        assert_eq!(verdict_of(&report, "golden/live"), verdict, "{behaviour}: {report:#?}");
        assert!(word(&report, "golden/live").contains(reason), "{behaviour}: {report:#?}");
    }

    // A fixture that cannot be made is a finding with its reason.
    lab.config.validation.state = Some(Fixture::Command(vec!["bin/judged".into(), "fail".into()]));
    let report = lab.judge(&lab.facts(&active, &active)).await;
    let reason = "validation.state: bin/judged ended with exit code 1; it printed: one test failed";
    assert!(word(&report, "boot").contains(reason), "{report:#?}");
}
