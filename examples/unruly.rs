//! The runtime that the tests of bad input supervise: a small HTTP service whose behaviour is a file in its own store
//! path, from well to unruly. It is also the builder that makes such store paths, and the builder of the flake's checks.
//!
//! | called as | does |
//! |---|---|
//! | `unruly make` | writes `$out`, as a builder |
//! | `unruly try` | a check: what `$try` says |
//! | `unruly agent` | an agent: what the file `agent` in its workspace's parent says, see `agent` |
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

/// Whether it was asked to become sick.
static SICK: AtomicBool = AtomicBool::new(false);

/// What a look at its health takes: beside it, the time for which a busy machine lets a process wait is little.
const HEALTH: Duration = Duration::from_millis(20);

/// A reply that no supervisor should take, in bytes.
const HUGE_BYTES: usize = 100 << 20;
/// What a flood prints at once, and altogether, in bytes.
const FLOOD_CHUNK: usize = 1 << 20;
const FLOOD_BYTES: usize = 300 << 20;

/// The last words of a Go program.
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
        // Whether what is to be checked is right: the file in the tree says so.
        "reads" => {
            let text = std::fs::read_to_string(attribute("subject")).unwrap_or_default();
            println!("the subject says {:?}", text.trim());
            if text.contains("wrong") || !pass() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        "passes" if pass() => ExitCode::SUCCESS,
        // What differs from one build to the next: a file that is let into the sandbox.
        "by chance" if Path::new("/chance/good").exists() && pass() => ExitCode::SUCCESS,
        // Prints a verdict, leaves one where rei's own checks leave theirs, and ends well without an output.
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

/// An agent. What it does is the last word of its command.
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
        // Makes the service wrong, and in another way where it knows that this was refused.
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
        // Tells its keys, in its environment and in a file, to both streams, and leaves them where it can write.
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
        // Puts a verdict wherever a judge might look for one, and ends well.
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
            // SAFETY: the child goes on alone with what one thread has; nothing else runs in this process yet.
            if unsafe { libc::fork() } != 0 {
                return ExitCode::SUCCESS;
            }
            // Nobody sees it serve before the first one has ended.
            while std::os::unix::process::parent_id() == first {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // As a candidate, not where it is judged: leaves its listeners to the next version as nobody can use them.
        "poisons" if std::env::var_os("REI_INSTANCE").is_some() => {
            ["http", "udp"].into_iter().filter_map(listener).for_each(poison);
            std::thread::sleep(Duration::from_secs(120));
        }
        "slow_start" => std::thread::sleep(Duration::from_secs(120)),
        _ => {}
    }
    let end = wish_to_end(does == "ignores_term");
    let alone = does.to_owned();
    match does {
        "floods" => drop(std::thread::spawn(flood)),
        "leaks_memory" => drop(std::thread::spawn(leak_memory)),
        "leaks_fds" => drop(std::thread::spawn(leak_fds)),
        _ => {}
    }
    if let Some(fd) = listener("rei") {
        // SAFETY: socket activation promises a listener there, and nothing else here uses it.
        let socket = unsafe { UnixListener::from_raw_fd(fd) };
        std::thread::spawn(move || {
            for stream in socket.incoming().flatten() {
                let does = alone.clone();
                std::thread::spawn(move || report(stream, &does));
            }
        });
    }
    // SAFETY: as above.
    let http = unsafe { TcpListener::from_raw_fd(listener("http").expect("a listener named http")) };
    serve_until(&end, &http, |stream| answer(stream, does, version));
    ExitCode::SUCCESS
}

/// The wish that this process ends, which is looked at between two connections alone: SIGTERM takes nobody's answer away.
/// Threads that begin afterwards leave it to this one. One that ignores the signal has no such wish.
fn wish_to_end(ignores: bool) -> Option<SignalFd> {
    let term = SigSet::from(Signal::SIGTERM);
    if ignores {
        // SAFETY: ignoring a signal installs no handler.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        return None;
    }
    term.thread_block().expect("a mask of signals");
    Some(SignalFd::new(&term).expect("a descriptor of signals"))
}

/// Serves one connection after another, until the end is wished for. Whoever waits in the queue then is the next one's.
fn serve_until(end: &Option<SignalFd>, http: &TcpListener, mut serve: impl FnMut(TcpStream)) {
    loop {
        let mut waits = vec![PollFd::new(http.as_fd(), PollFlags::POLLIN)];
        waits.extend(end.iter().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
        // Only a signal that nobody blocks interrupts it, and then it is asked again.
        if poll(&mut waits, PollTimeout::NONE).is_err() {
            continue;
        }
        if waits.get(1).is_some_and(|end| end.any() == Some(true)) {
            return;
        }
        // Another process on the same listener was quicker, or the client has gone.
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
        // Ends as a Go program that panics, with one plain word, or without a word.
        "/panic" => {
            eprint!("{PANIC}");
            std::process::exit(2)
        }
        "/quit" => {
            eprintln!("bye");
            std::process::exit(1)
        }
        "/silent" => std::process::exit(7),
        // Last words that would rewrite a terminal.
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
    // A client that has gone away misses its answer; the next one is served.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// Sets what hurts whoever inherits a listener after this one. What is refused is not set.
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
    // SAFETY: integers.
    unsafe {
        libc::listen(fd, 0);
        libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC);
    }
}

/// Answers on the interface as no runtime should.
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
        // A call that is never answered.
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
