//! The shadow: a version that answers otherwise is rejected before a user reaches it. The users' connections are real, and so
//! are the candidates.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rei::interface::types::MaintenanceAction;

use crate::lab::{Lab, Supervisor};

/// Users, and the pause between two requests of each: about 100 requests a second together.
const USERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(40);
/// How long a user waits for an answer. A test with an answer that takes longer fails.
const ANSWER: Duration = Duration::from_secs(10);

/// What users got.
#[derive(Debug, Default)]
struct Got {
    /// Answers by the version that gave them.
    answers: BTreeMap<String, u64>,
    /// Requests that failed, and why.
    failures: Vec<String>,
}

/// Users who ask until they are dropped.
struct Users {
    end: Arc<AtomicBool>,
    got: Arc<Mutex<Got>>,
    threads: Vec<JoinHandle<()>>,
}

impl Users {
    fn start(address: SocketAddr) -> Self {
        let (end, got) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Got::default())));
        let user = |number| {
            let (end, got) = (end.clone(), got.clone());
            std::thread::spawn(move || {
                let mut asked = number;
                while !end.load(Ordering::Relaxed) {
                    match ask(address, asked) {
                        Ok(version) => *got.lock().unwrap().answers.entry(version).or_default() += 1,
                        Err(error) => got.lock().unwrap().failures.push(error.to_string()),
                    }
                    asked += USERS;
                    std::thread::sleep(PAUSE);
                }
            })
        };
        let threads = (0..USERS).map(user).collect();
        Self { end, got, threads }
    }

    /// The answers of a version.
    fn answers_of(&self, version: &str) -> u64 {
        self.got.lock().unwrap().answers.get(version).copied().unwrap_or_default()
    }

    fn none_failed(&self) {
        let failures = &self.got.lock().unwrap().failures;
        assert!(failures.is_empty(), "{failures:?}");
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Asks once; returns the version that answered.
fn ask(address: SocketAddr, number: usize) -> std::io::Result<String> {
    let (method, target, body) = match number % 10 {
        0..=4 => ("GET", format!("/orders/{number}"), 0),
        5..=6 => ("GET", "/items?page=1".to_owned(), 0),
        7 => ("HEAD", format!("/items/{number}"), 0),
        _ => ("POST", "/cart".to_owned(), 100),
    };
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let head = format!("{method} {target} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nUser-Agent: a user\r\n");
    stream.write_all(format!("{head}Content-Length: {body}\r\n\r\n{}", "x".repeat(body)).as_bytes())?;
    let mut reader = BufReader::new(stream);
    let (mut version, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        if let Some(value) = line.strip_prefix("X-Version: ") {
            value.trim().clone_into(&mut version);
        }
        line.clear();
    }
    reader.read_to_end(&mut Vec::new())?;
    if version.is_empty() { Err(std::io::Error::other("no answer")) } else { Ok(version) }
}

fn lab(shadow: &str) -> Option<Lab> {
    let lab = Lab::of("shop")?;
    lab.configure_with(
        "env = { SHOP_LOG = \"json\" }\n",
        &format!(
            "[health]\nhttp = {{ listen = \"http\", path = \"/healthz\", interval = \"200ms\", timeout = \"2s\" }}\n\
             log = {{ format = \"json\", status = \"status\", duration = \"duration_ms\", method = \"method\", path = \"path\" }}\n\
             [promotion]\nshadow = {shadow}\ncanary = [{{ share = 0.3, for = \"3s\" }}]\nobserve = \"3s\"\nhold = \"60s\"\n\
             on_inconclusive = \"revert\"\n[evolution]\nbudget = {{ per_hour = 1000 }}\n"
        ),
    );
    lab.commit("1 stamp");
    Some(lab)
}

/// The lines of the access log of all instances of a version: the requests that reached it.
fn reached(lab: &Lab, version: usize) -> Vec<String> {
    let directory = lab.path("state/logs/b");
    let mut lines = Vec::new();
    let files = std::fs::read_dir(&directory).map(|files| files.flatten().collect::<Vec<_>>()).unwrap_or_default();
    for file in files {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        if text.contains(&format!("version {version}\n")) {
            lines.extend(text.lines().filter(|line| line.contains("\"method\"")).map(str::to_owned));
        }
    }
    lines
}

/// Waits until users of Active were seen.
fn until_seen(supervisor: &mut Supervisor) {
    supervisor.until("requests that the tap sees", |it| {
        let active = it.status().and_then(|status| status.active);
        active.is_some_and(|it| it.traffic.iter().any(|one| one.source == "tap" && one.requests >= 100))
    });
}

#[test]
fn a_version_that_answers_otherwise_is_rejected_before_a_user_reaches_it() {
    let Some(lab) = lab("{ share = 1.0, for = \"4s\" }") else { return };
    let mut supervisor = lab.serving();
    let users = Users::start(lab.address());
    until_seen(&mut supervisor);
    let bad = [
        ("fail=1 route=/orders", "GET /orders/", "status: 200 by Active, 500 by the candidate"),
        ("price=11 route=/items method=GET", "GET /items?page=1", "body/price: 10 by Active, 11 by the candidate"),
        ("redirect=0.4 method=GET", "GET /", "another"),
        ("hang=1 route=/items", "/items", "no answer (none within 2 s)"),
        ("reset=1 route=/orders", "GET /orders/", "no answer ("),
        ("endless=1 route=/orders", "GET /orders/", "no answer (a body of more than 262144 bytes)"),
        ("flood=1 route=/orders", "GET /orders/", "no answer ("),
    ];
    for (index, (behaviour, route, words)) in bad.into_iter().enumerate() {
        let version = index + 2;
        let rev = lab.commit(&format!("{version} stamp {behaviour}"));
        let end = supervisor.verdict_on(&rev);
        println!("{behaviour}: {:?}: {}", end.action, end.summary);
        assert_eq!(end.action, Some(MaintenanceAction::Rejected), "{behaviour}: {}", end.summary);
        assert!(end.summary.contains(route), "{behaviour}: {}", end.summary);
        assert!(words == "another" || end.summary.contains(words), "{behaviour}: {}", end.summary);
        assert_eq!(users.answers_of(&version.to_string()), 0, "a user reached version {version}");
        if !words.contains("no answer") {
            // The service logs what it answers. The logger may write the last lines after the verdict.
            supervisor.until("lines of the candidate", |_| !reached(&lab, version).is_empty());
        }
        let lines = reached(&lab, version);
        assert!(!lines.iter().any(|line| line.contains("POST")), "{behaviour}: a POST was asked: {lines:?}");
    }
    users.none_failed();
    let version = bad.len() + 2;
    let rev = lab.commit(&format!("{version} stamp"));
    let end = supervisor.verdict_on(&rev);
    assert_eq!(end.action, Some(MaintenanceAction::Promoted), "{}", end.summary);
    assert!(users.answers_of(&version.to_string()) > 0);
    users.none_failed();
    drop(users);
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_listed_route_is_asked_too_and_rei_s_own_requests_are_not_counted_as_those_of_users() {
    let Some(lab) = lab("{ share = 1.0, for = \"15s\", routes = [\"POST /cart\"], except = [\"GET /orders/{}\"] }")
    else {
        return;
    };
    let mut supervisor = lab.serving();
    let users = Users::start(lab.address());
    until_seen(&mut supervisor);
    lab.commit("2 stamp");
    supervisor.until("an honest version that was asked", |_| reached(&lab, 2).len() >= 100);
    let lines = reached(&lab, 2);
    assert!(lines.iter().any(|line| line.contains("POST")) && !lines.iter().any(|line| line.contains("/orders")));
    let status = supervisor.status().expect("an answer");
    assert_eq!(status.phase, rei::interface::operations::Phase::Shadow);
    // No user's request reached it, so its log shows none.
    let counted: u64 = status.candidate.iter().flat_map(|it| &it.traffic).map(|traffic| traffic.requests).sum();
    assert!(counted <= 10, "{counted} of {} requests are counted as those of users", lines.len());
    let rev = lab.commit("3 stamp fail=1 method=POST");
    let end = supervisor.verdict_on(&rev);
    assert_eq!(end.action, Some(MaintenanceAction::Rejected), "{}", end.summary);
    assert!(end.summary.contains("POST /cart"), "{}", end.summary);
    users.none_failed();
    drop(users);
    assert_eq!(supervisor.stop(), Some(0));
}
