//! The candidate of the judge's tests: a small HTTP server. A file in its own store path sets its behaviour, from honest to
//! hostile. This program is also the builder that makes such store paths, and the builder of the checks.
//!
//! `judged builder` does the same as `rei builder`; `judged make` writes `$out`; `judged fail` is a check that fails; without an
//! `judged seed` makes the first content of the state directory; without an argument the program serves on the inherited socket.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;

#[path = "judged/talks.rs"]
mod talks;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("builder") => rei::validation::builder_main(),
        Some("make") => make(),
        Some("seed") => {
            std::fs::write("notes", "seeded").expect("a writable state directory");
            ExitCode::SUCCESS
        }
        Some("fail") => {
            println!("one test failed");
            ExitCode::FAILURE
        }
        _ => serve(),
    }
}

/// Makes a version: a reference to this program and the name of a behaviour.
fn make() -> ExitCode {
    let attribute = |name: &str| std::env::var(name).expect("an attribute of the derivation");
    let out = PathBuf::from(attribute("out"));
    std::fs::create_dir_all(out.join("bin")).expect("an output");
    std::os::unix::fs::symlink(attribute("program"), out.join("bin/judged")).expect("a link");
    std::fs::write(out.join("behaviour"), attribute("behaviour")).expect("a file");
    std::fs::write(out.join("knows"), attribute("knows")).expect("a file");
    ExitCode::SUCCESS
}

fn serve() -> ExitCode {
    let program = PathBuf::from(std::env::args().next().unwrap_or_default());
    let home = program.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_owned();
    let behaviour = std::fs::read_to_string(home.join("behaviour")).unwrap_or_else(|_| "ok".into());
    assert_eq!(std::env::var("LISTEN_PID").ok(), Some(std::process::id().to_string()), "LISTEN_PID");
    assert_eq!(std::env::var("LISTEN_FDNAMES").as_deref(), Ok("http"), "LISTEN_FDNAMES");
    std::fs::write("state", "its own directory is writable").expect("a writable working directory");
    match behaviour.as_str() {
        // SAFETY: ignoring a signal installs no handler.
        "ignores_term" => drop(unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }),
        // Exits a little later, so that its child has answered before. SAFETY: this process has one thread.
        "forks" if unsafe { libc::fork() } != 0 => {
            std::thread::sleep(Duration::from_millis(100));
            return ExitCode::SUCCESS;
        }
        "says_passed" => {
            println!("all 12 checks passed\n{{\"verdict\":\"pass\"}}");
            return ExitCode::SUCCESS;
        }
        "writes_verdict" => write_verdict(&home),
        "kills_judge" => kill_judge(),
        _ => {}
    }
    let answers = if behaviour == "reads_answers" { read_answers(&home) } else { None };
    // SAFETY: socket activation puts a listener at this descriptor, and no other code here uses it.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    for stream in listener.incoming().flatten() {
        // Versions that serve their connections beside each other, as most services do.
        if behaviour.starts_with("parts") || behaviour.starts_with("lines") {
            let behaviour = behaviour.clone();
            std::thread::spawn(move || match behaviour.starts_with("parts") {
                true => talks::serve(stream, &behaviour),
                false => drop(talks::lines(stream, &behaviour)),
            });
        } else if behaviour.starts_with("pair") && behaviour != "pair_alone" {
            let behaviour = behaviour.clone();
            std::thread::spawn(move || answer(stream, &behaviour, answers));
        } else {
            answer(stream, &behaviour, answers);
        }
    }
    ExitCode::SUCCESS
}

/// Answers the request of a connection; a version that keeps connections answers all of them.
fn answer(mut stream: TcpStream, behaviour: &str, answers: Option<&str>) {
    let mut number = 0;
    let keeps = behaviour.starts_with("kept") || behaviour.starts_with("pair");
    while answer_one(&mut stream, behaviour, answers, number) && keeps {
        number += 1;
    }
}

fn answer_one(stream: &mut TcpStream, behaviour: &str, answers: Option<&str>, number: u64) -> bool {
    let mut head = [0_u8; 4096];
    let n = stream.read(&mut head).unwrap_or(0);
    if n == 0 {
        return false;
    }
    let head = String::from_utf8_lossy(&head[..n]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or("/");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let hello = match behaviour {
        "ok" | "fixed" | "slow" | "never_ready" | "ignores_term" | "dies_after" | "kept" | "kept_breaks_second" => {
            "world"
        }
        "kept_empty_id" | "pair" | "pair_alone" | "pair_race" => "world",
        _ => answers.unwrap_or("wurld"),
    };
    if path == "/events" {
        // A stream without end: it ends with its client.
        let mut written = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n");
        for number in 0_u64.. {
            if written.is_err() {
                break;
            }
            written = stream.write_all(format!("event: tick\ndata: {hello} {number}\n\n").as_bytes());
        }
        return false;
    }
    let (status, body) = match path {
        _ if behaviour == "kept_breaks_second" && number > 0 => (500, "broken".into()),
        "/order" if behaviour == "kept_empty_id" => (200, order("", now)),
        "/order" => (200, order(&format!("ord-{:x}", now % 0xFFFF_FFFF), now)),
        "/notes" => match std::fs::read_to_string("notes") {
            Ok(notes) => (200, notes),
            Err(_) => (404, "no notes".into()),
        },
        "/noise" => (200, format!("{:x}", now * 7_919)),
        // The first state directory of a test is kept between requests, so the answer depends on what was asked before.
        "/visit" => {
            let visits = std::fs::read_to_string("visits").unwrap_or_default() + "x";
            std::fs::write("visits", &visits).expect("a writable state directory");
            (200, visits)
        }
        // Is answered only if another connection asks for `/wake`.
        "/wait" => {
            let waits = wait_for_wake();
            (200, if waits { "awake".into() } else { "nobody came".into() })
        }
        "/wake" => {
            wake();
            (200, "woken".into())
        }
        _ if path.starts_with("/name/") => (200, name(path.trim_start_matches("/name/"), behaviour == "pair_race")),
        "/healthz" if behaviour == "never_ready" => (503, "no".into()),
        "/healthz" => (200, "yes".into()),
        "/greet" => (200, format!("{{\"id\":\"{now}\",\"hello\":\"{hello}\",\"pid\":{}}}", std::process::id())),
        "/crash" if behaviour == "fixed" => (200, "repaired".into()),
        "/crash" => {
            eprintln!("thread 'main' panicked: a real bug");
            std::process::abort();
        }
        _ => (404, "nothing".into()),
    };
    if behaviour == "slow" && path == "/greet" {
        std::thread::sleep(Duration::from_secs(4));
    }
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", body.len());
    // An error means that the client has gone: it gets no answer, and the next client is served.
    let written = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    if behaviour == "dies_after" && path == "/greet" {
        std::process::exit(0);
    }
    written.is_ok()
}

/// Whether a client has asked for `/wake`.
static AWAKE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// Waits for a request to `/wake`, longer than any test waits for an answer.
fn wait_for_wake() -> bool {
    let awake = AWAKE.0.lock().expect("no thread panics");
    let (awake, _) =
        AWAKE.1.wait_timeout_while(awake, Duration::from_secs(20), |awake| !*awake).expect("no thread panics");
    *awake
}

fn wake() {
    *AWAKE.0.lock().expect("no thread panics") = true;
    AWAKE.1.notify_all();
}

/// The name that was asked for; with a race, the one that was asked for last.
fn name(asked: &str, races: bool) -> String {
    static LAST: Mutex<String> = Mutex::new(String::new());
    *LAST.lock().expect("no thread panics") = asked.to_owned();
    std::thread::sleep(Duration::from_millis(300));
    if races { LAST.lock().expect("no thread panics").clone() } else { asked.to_owned() }
}

fn order(id: &str, now: u128) -> String {
    format!("{{\"id\":\"{id}\",\"state\":\"open\",\"items\":[\"a\",\"b\"],\"at\":{}}}", now / 1_000_000_000)
}

/// Prints whether a hostile action worked; the tests search for the word SUCCEEDED.
fn tried<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Option<T> {
    match result {
        Ok(value) => {
            println!("{what}: SUCCEEDED");
            Some(value)
        }
        Err(error) => {
            println!("{what}: refused, {error}");
            None
        }
    }
}

fn store(home: &Path) -> PathBuf {
    home.parent().unwrap_or(Path::new("/")).to_owned()
}

/// Tries to find the output of the check and to put a verdict there.
fn write_verdict(home: &Path) {
    let verdict = "{\"schema\":\"rei-verdict/1.0\",\"verdict\":\"pass\"}";
    tried("read the judge's environment", std::fs::read("/proc/1/environ"));
    tried("make a path in the store", std::fs::create_dir(store(home).join("00000000000000000000000000000000-x")));
    tried("write into its own store path", std::fs::write(home.join("verdict.json"), verdict));
    tried("write outside its directory", std::fs::write("../verdict.json", verdict));
    tried("write into /tmp", std::fs::write("/tmp/verdict.json", verdict));
    tried("write into /dev/shm", std::fs::write("/dev/shm/verdict.json", verdict));
}

/// Tries to find the expected answers: in the store, in the judge's memory, behind its descriptors.
fn read_answers(home: &Path) -> Option<&'static str> {
    tried("list the store", std::fs::read_dir(store(home)));
    tried("list the build directory", std::fs::read_dir("../.."));
    tried("open the judge's memory", std::fs::File::open("/proc/1/mem"));
    // If builds do not have their own users, this process can list the numbers of the judge's descriptors. The numbers tell
    // nothing, but the files behind them must stay closed.
    for fd in 0..64 {
        let link = format!("/proc/1/fd/{fd}");
        let absent = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        if !std::fs::symlink_metadata(&link).is_err_and(|error| absent(&error)) {
            tried("resolve a descriptor of the judge", std::fs::read_link(&link));
            tried("open a descriptor of the judge", std::fs::File::open(&link));
        }
    }
    tried("enter the judge's root", std::fs::read_dir("/proc/1/root/"));
    // The strongest attacker knows the path of the answers: the test wrote the path into the file `knows`.
    let path = std::fs::read_to_string(home.join("knows")).unwrap_or_default();
    let text = tried("read the golden run", std::fs::read_to_string(path))?;
    text.contains("world").then_some("world")
}

fn kill_judge() {
    let judge = Pid::from_raw(1);
    tried("kill the judge", kill(judge, Signal::SIGKILL));
    tried("stop the judge", kill(judge, Signal::SIGSTOP));
    // SAFETY: PTRACE_ATTACH does not read or write memory of this process.
    let traced = unsafe { libc::ptrace(libc::PTRACE_ATTACH, 1, 0, 0) };
    let traced = if traced == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    tried("trace the judge", traced);
}
