//! Golden runs from live traffic: of a real service, from what its users really ask.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rei::golden;
use rei::interface::operations::{GoldenRecording, Phase};
use rei::interface::types::MaintenanceAction;

use crate::lab::{Address, Lab, Setup};

const SETUP: Setup = Setup {
    health: "",
    more: "[validation]\ngolden = [\"LAB/golden\"]",
    first: "ok 1",
    runtime: "",
    promotion: "",
    unix: false,
    udp: false,
};

/// What must not be in any file: parts of requests and of answers.
const SECRETS: [&str; 9] = [
    "bearer-9b74c9897bac770f",
    "cookie-asked-2c26b46b68ff",
    "tok-asked-fcde2b2edba5",
    "user.asked@example.org",
    "4111 1111 1111 1111",
    "user.answered@example.org",
    "tok-answered-5d41402abc4b",
    "5555 5555 5555 4444",
    "cookie-answered-7f3a",
];

/// Users who ask for the same things again and again.
struct Users {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Users {
    fn of(lab: &Lab) -> Self {
        let Address::Tcp(address) = *lab.address() else { panic!("a TCP service") };
        let ends = Arc::new(AtomicBool::new(false));
        let until = ends.clone();
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                // An error means that the service is being replaced.
                let _ = visit(address);
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// One connection with each kind of request.
fn visit(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let query = "token=tok-asked-fcde2b2edba5&email=user.asked@example.org";
    let form = "card=4111 1111 1111 1111&email=user.asked@example.org&token=tok-asked-fcde2b2edba5";
    let requests: [Vec<u8>; 4] = [
        b"GET /greet HTTP/1.1\r\nhost: h\r\nauthorization: Bearer bearer-9b74c9897bac770f\r\n\r\n".to_vec(),
        format!("GET /account?{query} HTTP/1.1\r\nhost: h\r\ncookie: session=cookie-asked-2c26b46b68ff\r\n\r\n").into_bytes(),
        format!(
            "POST /pay HTTP/1.1\r\nhost: h\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
            form.len()
        )
        .into_bytes(),
        b"POST /upload HTTP/1.1\r\nhost: h\r\ncontent-type: application/octet-stream\r\ncontent-length: 4\r\n\r\n\x00\xff\xfe\x01"
            .to_vec(),
    ];
    for request in requests {
        stream.write_all(&request)?;
        let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
        while !is_whole(&answer) {
            match stream.read(&mut chunk)? {
                0 => return Ok(()),
                count => answer.extend_from_slice(&chunk[..count]),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

fn recording(lab: &Lab) -> Option<GoldenRecording> {
    lab.status()?.recordings.into_iter().find(|it| !it.standing)
}

/// The files below a directory that contain a text.
fn containing(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(containing(&path, text));
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn a_recording_has_no_secret_and_catches_a_candidate_that_breaks_a_recorded_route() {
    let Some(mut lab) = Lab::serving(SETUP) else { return };
    lab.until_settled();
    let users = Users::of(&lab);
    let mut command = lab.command(Lab::program());
    command.arg("--config").arg(lab.path("rei.toml"));
    command.args(["golden", "record", "--name", "live", "--for", "1h", "--limit", "60"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    lab.wait_for("a sample of each route", |lab| recording(lab).filter(|it| it.kept >= 40));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("an operator ended it") && said.contains("cannot be examined for secrets"), "{said}");
    drop(users);

    let run = golden::read(&lab.path("golden/live.golden.jsonl")).unwrap();
    let routes: Vec<String> = golden::routes(&run).into_keys().map(|route| route.name().to_owned()).collect();
    assert_eq!(routes, ["GET /account", "GET /greet", "POST /pay"], "a binary body is not kept: {said}");
    assert!(
        run.header
            .recording
            .as_ref()
            .is_some_and(|it| it.qualified && it.not_redactable > 0 && it.removed_credentials > 0),
        "{run:?}"
    );
    let ended = recording(&lab).unwrap();
    assert!(ended.seen >= ended.kept && ended.ended.is_some() && ended.not_redactable > 0, "{ended:?}");
    for secret in SECRETS {
        let found = [containing(&lab.path("state"), secret), containing(&lab.path("golden"), secret)].concat();
        assert!(found.is_empty(), "{secret} is in {found:?}");
    }
    let (code, said) = crate::recorded::rei(&lab, &["golden", "show", "live"]);
    assert!(code == Some(0) && said.contains("qualified on Active"), "{said}");

    let bad = lab.commit("ok wrong 2");
    let verdict = lab.verdict_on(&bad);
    assert_eq!(verdict.action, Some(MaintenanceAction::Rejected), "{verdict:#?}");
    assert!(verdict.summary.contains("live") || format!("{verdict:?}").contains("golden"), "{verdict:#?}");
}

#[test]
fn nothing_is_recorded_of_a_version_under_trial() {
    let promotion = "canary = [{ share = 0.5, for = \"2s\" }]\nobserve = \"10m\"";
    let Some(mut lab) = Lab::serving(Setup { promotion, ..SETUP }) else { return };
    lab.until_settled();
    let _users = Users::of(&lab);
    lab.ask(async |it| it.record_golden("trial".into(), None, 3_600_000, 200).await).unwrap();
    lab.wait_for("a first sample", |lab| recording(lab).filter(|it| it.kept >= 20));
    let refused = lab.ask(async |it| it.record_golden("other".into(), None, 1_000, 10).await);
    assert!(refused.is_err(), "one recording at a time");

    lab.commit("ok candidate 2");
    let mut in_canary = false;
    lab.until("the observation", |status| {
        in_canary |= status.phase == Phase::Canary;
        status.phase == Phase::Observing
    });
    let paused = lab.wait_for("requests in the pause", |lab| recording(lab).filter(|it| it.paused_requests > 50));
    assert!(paused.paused && paused.ended.is_none(), "{paused:?}");
    let ended = lab.ask(async |it| it.end_recording("trial".into()).await).unwrap();
    assert!(ended.written > 0 && ended.ended.is_some(), "{ended:?}");
    let path = ended.path.unwrap();
    assert!(containing(Path::new(&path).parent().unwrap(), "ok 1").len() == 1, "the answers of Active");
    assert_eq!(containing(Path::new(&path).parent().unwrap(), "candidate"), [""; 0]);
}

#[test]
fn a_killed_supervisor_loses_nothing_that_was_written() {
    let Some(mut lab) = Lab::serving(SETUP) else { return };
    lab.until_settled();
    let _users = Users::of(&lab);
    lab.ask(async |it| it.record_golden("killed".into(), None, 3_600_000, 100).await).unwrap();
    let before = lab.wait_for("a write", |lab| recording(lab).filter(|it| it.written > 0));
    lab.kill();
    let path = before.path.unwrap();
    let kept = golden::read(Path::new(&path)).unwrap().exchanges.len() as u64;
    assert!(kept >= before.written, "{kept} of {}", before.written);
    lab.start();
    let after = lab.wait_for("the recording", |lab| recording(lab).filter(|it| it.ended.is_some()));
    assert!(after.ended.unwrap().contains("started again"));
    assert_eq!(golden::read(Path::new(&path)).unwrap().exchanges.len() as u64, kept);
    // The next one can begin, and a re-exec takes the sample with it to the disk.
    lab.ask(async |it| it.record_golden("replaced".into(), None, 3_600_000, 100).await).unwrap();
    let before = lab.wait_for("a sample", |lab| recording(lab).filter(|it| it.kept >= 20));
    lab.ask(async |it| it.reexec().await).unwrap();
    let after = lab.wait_for("the recording", |lab| recording(lab).filter(|it| it.ended.is_some()));
    assert!(after.written + after.not_redactable > 0 && after.kept >= before.kept, "{after:?}");
}

#[test]
fn the_standing_sample_is_written_without_secrets_and_becomes_a_run() {
    let more = "[validation]\ngolden = [\"LAB/golden\"]\n[golden]\nrecord = { limit = 40 }";
    let Some(mut lab) = Lab::serving(Setup { more, ..SETUP }) else { return };
    lab.until_settled();
    let _users = Users::of(&lab);
    let standing = |lab: &Lab| lab.status()?.recordings.into_iter().find(|it| it.standing);
    let written = lab.wait_for("a write", |lab| standing(lab).filter(|it| it.written > 0));
    assert!(written.ended.is_none() && written.seen > 0 && written.kept <= 40, "{written:?}");
    for secret in SECRETS {
        let found = containing(&lab.path("state"), secret);
        assert!(found.is_empty(), "{secret} is in {found:?}");
    }
    let (code, said) = crate::recorded::rei(&lab, &["golden", "record", "--sample", "--name", "taken"]);
    assert_eq!(code, Some(0), "{said}");
    let run = golden::read(&lab.path("golden/taken.golden.jsonl")).unwrap();
    assert!(run.header.name == "taken" && run.header.recording.is_some_and(|it| it.qualified), "{said}");
    // What a new supervisor has at first is less than what the old one has written.
    let before = golden::read(Path::new(&written.path.unwrap())).unwrap().exchanges.len();
    lab.kill();
    lab.start();
    let after = lab.wait_for("a write", |lab| standing(lab).filter(|it| it.written > 0));
    assert!(after.written >= before as u64, "{after:?}");
    // Without the key there is none.
    lab.configure(SETUP);
    lab.signal(Signal::SIGHUP);
    lab.wait_for("no sample", |lab| (lab.status().is_some() && standing(lab).is_none()).then_some(()));
}
