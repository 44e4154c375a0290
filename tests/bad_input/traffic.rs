//! What clients, pages of metrics and logs send that no reader should trust: users' connections go on as without rei, and
//! what is bounded says so.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use rei::interface::operations::TrafficStatus;

use crate::common::process;
use crate::lab::{Lab, Supervisor};

/// Memory of its own that a process of rei may have had at most, in KiB, in a debug build: far less than the 100 MB that
/// are sent to it.
const RESIDENT_KIB_MAX: u64 = 48 << 10;
/// The same for the tap: a shared buffer, and what receivers did not take yet.
const TAP_KIB_MAX: u64 = 16 << 10;
/// The length of the answer to `/large`.
const LARGE_BYTES: usize = 4 << 20;

/// A figure of `/proc/PID/status`, in KiB.
fn kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn configure(lab: &Lab, env: &str, health: &str) {
    let probe = "http = { listen = \"http\", path = \"/healthz\", interval = \"500ms\", timeout = \"5s\" }";
    lab.configure_with(&format!("env = {{ {env} }}\n"), &format!("[health]\n{probe}\n{health}\n"));
}

/// What a source saw of Active in the last minute.
fn seen(supervisor: &Supervisor, source: &str) -> Option<TrafficStatus> {
    let active = supervisor.status()?.active?;
    active.traffic.into_iter().find(|traffic| traffic.source == source)
}

/// Users had all their answers, no incident is open, and the supervisor was never large.
fn all_is_well(lab: &Lab, mut supervisor: Supervisor, load: crate::lab::Load) {
    let asked = load.count();
    supervisor.until("requests meanwhile", |_| load.count() > asked + 50);
    load.none_lost();
    assert!(lab.ask("/").is_ok());
    let status = supervisor.status().expect("a status");
    assert_eq!(status.open_incidents, [], "{}", supervisor.output());
    let most = kib(supervisor.pid(), "VmHWM");
    assert!(most < RESIDENT_KIB_MAX, "{most} KiB");
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn pages_of_metrics_that_no_reader_should_trust() {
    let Some(lab) = Lab::of("shop") else { return };
    lab.commit("1 pages=hostile");
    configure(&lab, "", "metrics = { path = \"/metrics\", interval = \"500ms\", timeout = \"10s\" }");
    let mut supervisor = lab.serving();
    let load = lab.load();
    let mut found = BTreeSet::new();
    supervisor.until("requests on the pages that are right", |it| {
        let Some(traffic) = seen(it, "metrics") else { return false };
        found.insert(traffic.found);
        traffic.requests > 50
    });
    println!("{found:#?}");
    assert!(found.iter().any(|text| text.contains("too large")), "{found:?}");
    let traffic = seen(&supervisor, "metrics").expect("a source");
    assert!(traffic.failed == 0 && traffic.requests < 100_000, "no counter that went back is traffic: {traffic:?}");
    all_is_well(&lab, supervisor, load);
}

#[test]
fn lines_of_a_log_that_no_reader_should_trust() {
    let Some(lab) = Lab::of("shop") else { return };
    lab.commit("1 lines=hostile");
    configure(
        &lab,
        "SHOP_LOG = \"json\"",
        "log = { format = \"json\", status = \"status\", duration = \"duration_ms\" }",
    );
    let mut supervisor = lab.serving();
    let load = lab.load();
    supervisor.until("requests in the log", |it| seen(it, "log").is_some_and(|traffic| traffic.requests > 50));
    let traffic = seen(&supervisor, "log").expect("a source");
    println!("{traffic:#?}");
    assert!(traffic.unread >= 3 && traffic.found.contains("some do not fit"), "{traffic:?}");
    let logger = process::loggers(&lab.path("state"));
    assert_eq!(logger.len(), 1, "{logger:?}");
    let most = kib(logger[0], "VmHWM");
    assert!(most < RESIDENT_KIB_MAX, "{most} KiB in the logger");
    all_is_well(&lab, supervisor, load);
}

/// Sends a request on a connection of its own.
fn begun(lab: &Lab, text: &str) -> TcpStream {
    let mut client = TcpStream::connect(lab.address()).unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    client.write_all(text.as_bytes()).unwrap();
    client
}

/// Reads an answer without its head.
fn body(client: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    let head = answer.windows(4).position(|it| it == b"\r\n\r\n").expect("a head");
    answer.split_off(head + 4)
}

#[test]
fn clients_that_no_reader_should_trust() {
    let Some(lab) = Lab::of("shop") else { return };
    let mut supervisor = lab.serving();
    let load = lab.load();
    supervisor.until("a tap", |it| seen(it, "tap").is_some_and(|traffic| traffic.requests > 0));
    let taps = rei::tap::find(&lab.path("state"));
    assert_eq!(taps.len(), 1);
    // Two lengths, a head without end, an answer without end, and one that is never read: they stay until the end.
    let mut smuggler = begun(
        &lab,
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled ",
    );
    let mut endless_head = begun(&lab, "GET / HTTP/1.1\r\n");
    let mut endless_answer = begun(&lab, "GET /endless HTTP/1.1\r\n\r\n");
    let _unread = begun(&lab, "GET /endless HTTP/1.1\r\n\r\n");
    let mut smuggled = [0; 12];
    smuggler.read_exact(&mut smuggled).unwrap();
    assert_eq!(&smuggled, b"HTTP/1.1 200");
    for _ in 0..2_000 {
        endless_head.write_all(&[b'x'; 100]).unwrap();
    }
    let mut part = vec![0; 1 << 20];
    endless_answer.read_exact(&mut part).unwrap();
    let chunks = part.windows(16).filter(|it| it == b"0123456789abcdef").count();
    assert!(chunks > 47_000, "{chunks} chunks of 22 bytes");
    // A client that has said all closes its side, and gets the whole answer.
    let mut half = begun(&lab, "GET /large HTTP/1.1\r\nConnection: close\r\n\r\n");
    half.shutdown(Shutdown::Write).unwrap();
    assert!(body(&mut half).len() == LARGE_BYTES, "the half-closed client has its answer");
    // A client that reads byte by byte, and one that leaves in the middle.
    let mut slow = begun(&lab, "GET /large HTTP/1.1\r\nConnection: close\r\n\r\n");
    let leaves = begun(&lab, "GET /large HTTP/1.1\r\nConnection: close\r\n\r\n");
    let mut byte = [0];
    (0..2_000).for_each(|_| slow.read_exact(&mut byte).unwrap());
    drop(leaves);
    let asked = load.count();
    supervisor.until("requests of others meanwhile", |_| load.count() > asked + 50);
    let rest = {
        let mut rest = Vec::new();
        slow.read_to_end(&mut rest).unwrap();
        rest.len()
    };
    assert!(rest + 2_000 > LARGE_BYTES, "the slow client has its answer: {rest}");
    let most = kib(taps[0].pid, "RssAnon");
    println!("{most} KiB in the tap");
    assert!(most < TAP_KIB_MAX, "{most} KiB");
    assert_eq!(rei::tap::find(&lab.path("state"))[0].pid, taps[0].pid, "the same tap carried all of them");
    drop((smuggler, endless_head, endless_answer));
    all_is_well(&lab, supervisor, load);
}

#[test]
fn a_tap_without_descriptors() {
    let Some(lab) = Lab::of("shop") else { return };
    let mut supervisor = lab.serving();
    let load = lab.load();
    supervisor.until("a tap", |it| seen(it, "tap").is_some_and(|traffic| traffic.requests > 0));
    let tap = rei::tap::find(&lab.path("state"))[0].pid;
    let few = libc::rlimit { rlim_cur: 40, rlim_max: 40 };
    // SAFETY: the pointer is to a valid value, and no old value is asked for.
    let set = unsafe { libc::prlimit(tap.cast_signed(), libc::RLIMIT_NOFILE, &raw const few, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let idle: Vec<TcpStream> = (0..400).map(|_| TcpStream::connect(lab.address()).unwrap()).collect();
    supervisor.says("the tap has no place for more connections");
    supervisor.until("another tap", |_| rei::tap::find(&lab.path("state")).iter().any(|it| it.pid != tap));
    drop(idle);
    all_is_well(&lab, supervisor, load);
}
