//! The runtime of the bad-input tests: a small HTTP service. A file in its own store path sets its behaviour, from good to hostile.
//! This program is also the builder that makes such store paths, and the builder of the flake's checks.
//!
//! | called as | does |
//! |---|---|
//! | `unruly make` | writes `$out`, as a builder |
//! | `unruly try` | a check that does what `$try` says |
//! | `unruly agent WORD` | an agent that does what the word says, see `agent` |
//! | `unruly` | serves on the inherited sockets |

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, FromRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

/// Whether a request to `/sicken` has made the service fail its health probes.
static SICK: AtomicBool = AtomicBool::new(false);

/// How long the answer to a health probe takes: long compared with the time that a process waits on a busy machine.
const HEALTH: Duration = Duration::from_millis(20);

/// A reply that no supervisor should take, in bytes.
const HUGE_BYTES: usize = 100 << 20;
/// The bytes that a flood prints at once, and in total.
const FLOOD_CHUNK: usize = 1 << 20;
const FLOOD_BYTES: usize = 300 << 20;

/// The last output of a Go program that panics.
const PANIC: &str = "panic: assignment to entry in nil map\n\ngoroutine 1 [running]:\nmain.put(...)\n\t/src/store.go:21\n\
                     main.main()\n\t/src/main.go:9 +0x1d\nexit status 2\n";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("make") => make(),
        Some("try") => check(),
        Some("agent") => agent(),
        _ => serve(),
    }
}

fn attribute(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Makes a version: a link to this program and the name of a behaviour.
fn make() -> ExitCode {
    if attribute("behaviour").trim() == "does not build" {
        eprintln!("unruly.c:7: error: a semicolon is missing");
        return ExitCode::FAILURE;
    }
    let out = PathBuf::from(attribute("out"));
    std::fs::create_dir_all(out.join("bin")).expect("an output");
    let name = std::env::var("bin").unwrap_or_else(|_| "unruly".into());
    std::os::unix::fs::symlink(attribute("program"), out.join("bin").join(name)).expect("a link");
    std::fs::write(out.join("behaviour"), attribute("behaviour")).expect("a file");
    // Nothing to run, if the package has such an output.
    if let Ok(dev) = std::env::var("dev") {
        std::fs::write(dev, "headers").expect("another output");
    }
    ExitCode::SUCCESS
}

/// A check of the flake.
fn check() -> ExitCode {
    let out = PathBuf::from(attribute("out"));
    let pass = || std::fs::write(&out, "passed").is_ok();
    match attribute("try").as_str() {
        // Passes if the checked file in the tree does not contain "wrong".
        "reads" => {
            let text = std::fs::read_to_string(attribute("subject")).unwrap_or_default();
            println!("the subject says {:?}", text.trim());
            if text.contains("wrong") || !pass() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        "passes" if pass() => ExitCode::SUCCESS,
        // Depends on a file that the test adds to the sandbox, so two builds can differ.
        "by chance" if Path::new("/chance/good").exists() && pass() => ExitCode::SUCCESS,
        // Prints a verdict like one of rei's own checks, and exits successfully without an output.
        "says passed" => {
            println!("all 12 checks passed\n{{\"verdict\":\"pass\"}}");
            ExitCode::SUCCESS
        }
        _ => {
            println!("one test failed");
            ExitCode::FAILURE
        }
    }
}

/// An agent. The last word of its command says what it does.
fn agent() -> ExitCode {
    match std::env::args().nth(2).as_deref() {
        Some("hangs") => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        Some("floods") => {
            flood();
            ExitCode::FAILURE
        }
        Some("crashes") => std::process::abort(),
        // Makes the service wrong. If it knows that its last change was refused, it makes the service wrong in another way.
        Some("worsens") => {
            let version =
                if std::env::var_os("REI_REFUSED").is_some_and(|file| Path::new(&file).exists()) { 3 } else { 2 };
            let file = Path::new(&attribute("REI_WORKSPACE")).join("behaviour");
            if std::fs::write(file, format!("wrong {version}\n")).is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        // Prints its keys, from its environment and from a file, to both streams, and writes them into the directories it can write.
        Some("tells") => {
            let key = std::fs::read_to_string(attribute("KEY_FILE")).unwrap_or_default();
            for (name, value) in std::env::vars() {
                println!("{name}={value}");
            }
            eprintln!("the key is {key}");
            for place in ["HOME", "REI_OUTPUTS"] {
                let _ = std::fs::write(Path::new(&attribute(place)).join("left"), attribute("API_KEY") + &key);
            }
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn flood() {
    let mut line = vec![b'x'; FLOOD_CHUNK];
    line[FLOOD_CHUNK - 1] = b'\n';
    let mut stdout = std::io::stdout().lock();
    for _ in 0..FLOOD_BYTES / FLOOD_CHUNK {
        let _ = stdout.write_all(&line);
    }
}

/// The inherited descriptor with a name.
fn listener(name: &str) -> Option<RawFd> {
    let names = attribute("LISTEN_FDNAMES");
    let at = names.split(':').position(|known| known == name)?;
    RawFd::try_from(at).ok().map(|at| 3 + at)
}

fn serve() -> ExitCode {
    let program = PathBuf::from(std::env::args().next().unwrap_or_default());
    let home = program.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_owned();
    let behaviour = std::fs::read_to_string(home.join("behaviour")).unwrap_or_default();
    let behaviour = behaviour.trim().to_owned();
    let (does, version) = behaviour.split_once(' ').unwrap_or((&behaviour, "1"));
    match does {
        "exits" => return ExitCode::from(3),
        "says_passed" => {
            println!("all 12 checks passed\n{{\"verdict\":\"pass\"}}");
            return ExitCode::SUCCESS;
        }
        // Writes a verdict into every directory where a judge could search for one, and exits successfully.
        "writes_verdict" => {
            let verdict = "{\"schema\":\"rei-verdict/1.0\",\"verdict\":\"pass\",\"summary\":\"\"}";
            for dir in [attribute("out"), "..".into(), "../..".into(), "/tmp".into(), home.display().to_string()] {
                let _ = std::fs::create_dir_all(&dir);
                let _ = std::fs::write(Path::new(&dir).join("verdict.json"), verdict);
            }
            return ExitCode::SUCCESS;
        }
        "forks" => {
            let first = std::process::id();
            // SAFETY: this process has one thread, so the child has no lock of another thread.
            if unsafe { libc::fork() } != 0 {
                return ExitCode::SUCCESS;
            }
            // The child serves only after the first process has exited.
            while std::os::unix::process::parent_id() == first {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // As a candidate with traffic, not in the judge's sandbox: leaves unusable listeners to the next version.
        "poisons" if std::env::var_os("REI_INSTANCE").is_some() => {
            ["http", "udp"].into_iter().filter_map(listener).for_each(poison);
            std::thread::sleep(Duration::from_secs(120));
        }
        "slow_start" => std::thread::sleep(Duration::from_secs(120)),
        _ => {}
    }
    let term = watch_for_sigterm(does == "ignores_term");
    let alone = does.to_owned();
    match does {
        "floods" => drop(std::thread::spawn(flood)),
        "leaks_memory" => drop(std::thread::spawn(leak_memory)),
        "leaks_fds" => drop(std::thread::spawn(leak_fds)),
        _ => {}
    }
    if let Some(fd) = listener("rei") {
        // SAFETY: socket activation puts a listener at this descriptor, and no other code here uses it.
        let socket = unsafe { UnixListener::from_raw_fd(fd) };
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let does = alone.clone();
                std::thread::spawn(move || report(stream, &does));
            }
        });
    }
    // SAFETY: socket activation puts a listener at this descriptor, and no other code here uses it.
    let http = unsafe { TcpListener::from_raw_fd(listener("http").expect("a listener named http")) };
    serve_until(&term, &http, |stream| answer(stream, does, version));
    ExitCode::SUCCESS
}

/// A descriptor that becomes readable at SIGTERM. The service checks it only between two connections, so that SIGTERM interrupts no
/// answer. Threads that start later inherit the blocked signal. Without a descriptor, the process ignores SIGTERM.
fn watch_for_sigterm(ignores: bool) -> Option<SignalFd> {
    let term = SigSet::from(Signal::SIGTERM);
    if ignores {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        return None;
    }
    term.thread_block().expect("a mask of signals");
    Some(SignalFd::new(&term).expect("a descriptor of signals"))
}

/// Serves one connection after another until SIGTERM. The connections that wait in the queue then go to the next instance.
fn serve_until(term: &Option<SignalFd>, http: &TcpListener, mut serve: impl FnMut(TcpStream)) {
    loop {
        let mut waits = vec![PollFd::new(http.as_fd(), PollFlags::POLLIN)];
        waits.extend(term.iter().map(|term| PollFd::new(term.as_fd(), PollFlags::POLLIN)));
        // Only an unblocked signal interrupts poll, and then poll is called again.
        if poll(&mut waits, PollTimeout::NONE).is_err() {
            continue;
        }
        if waits.get(1).is_some_and(|term| term.any() == Some(true)) {
            return;
        }
        // Another process on the same listener accepted the connection first, or the client has gone.
        let Ok((stream, _)) = http.accept() else { continue };
        serve(stream);
    }
}

fn answer(mut stream: TcpStream, does: &str, version: &str) {
    let mut head = [0_u8; 4096];
    let n = stream.read(&mut head).unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..n]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or("/");
    if path == "/healthz" {
        std::thread::sleep(HEALTH);
    }
    let (status, body) = match path {
        "/healthz" if does == "never_ready" || SICK.load(Ordering::Relaxed) => (503, "no"),
        "/sicken" => {
            SICK.store(true, Ordering::Relaxed);
            (200, "sick")
        }
        "/healthz" => (200, "yes"),
        "/die" => std::process::abort(),
        // Exits like a Go program that panics, after one plain word, or without output.
        "/panic" => {
            eprint!("{PANIC}");
            std::process::exit(2)
        }
        "/quit" => {
            eprintln!("bye");
            std::process::exit(1)
        }
        "/silent" => std::process::exit(7),
        // Last output with escape sequences for a terminal.
        "/curse" => {
            eprintln!(
                "\u{1b}[31mfatal\u{1b}[0m: cannot open user\u{202e}txt.exe \u{9b}2J\u{7} \u{1b}]0;title\u{7}gone"
            );
            std::process::exit(5)
        }
        "/answer" if does == "wrong_answer" => (200, "41"),
        "/answer" => (200, "42"),
        _ if does == "errors" => (500, "broken"),
        _ => (200, version),
    };
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    // An error means that the client has gone: it gets no answer, and the next client is served.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// Sets options that harm the next instance that inherits the listener. Options that the seccomp filter refuses stay unset.
fn poison(fd: RawFd) {
    let one = [(libc::IPPROTO_IP, libc::IP_MINTTL, 255), (libc::IPPROTO_IP, libc::IP_TTL, 1)];
    let tcp = [(libc::TCP_MAXSEG, 100), (libc::TCP_DEFER_ACCEPT, 100), (libc::TCP_USER_TIMEOUT, 1)];
    let socket = [(libc::SO_RCVLOWAT, i32::MAX), (libc::SO_RCVBUF, 2304), (libc::SO_SNDBUF, 4608)];
    let tcp = tcp.map(|(option, value)| (libc::IPPROTO_TCP, option, value));
    let socket = socket.map(|(option, value)| (libc::SOL_SOCKET, option, value));
    for (level, option, value) in one.into_iter().chain(tcp).chain(socket) {
        // SAFETY: the pointer and the length describe an integer that lives through the call.
        unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), 4) };
    }
    // SAFETY: both calls take only integers.
    unsafe {
        libc::listen(fd, 0);
        libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC);
    }
}

/// Answers on the interface with wrong replies.
fn report(mut stream: UnixStream, does: &str) {
    let mut call = Vec::new();
    let mut byte = [0_u8; 1];
    while stream.read(&mut byte).is_ok_and(|n| n == 1) && byte[0] != 0 {
        call.push(byte[0]);
    }
    let sent = match does {
        "garbage" => stream.write_all(b"\xff\xfe{this is no JSON\0"),
        "huge" => {
            let chunk = vec![b' '; FLOOD_CHUNK];
            (0..HUGE_BYTES / FLOOD_CHUNK).try_for_each(|_| stream.write_all(&chunk))
        }
        // Never answers the call.
        _ => {
            std::thread::sleep(Duration::from_secs(3600));
            Ok(())
        }
    };
    drop(sent);
}

fn leak_memory() {
    loop {
        std::mem::forget(vec![1_u8; 4 << 20]);
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn leak_fds() {
    while let Ok(file) = std::fs::File::open("/dev/null") {
        std::mem::forget(file);
        std::thread::sleep(Duration::from_millis(5));
    }
}
