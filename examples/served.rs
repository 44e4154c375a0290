//! The runtime of the end-to-end tests: an HTTP server, and an echo server on UDP. A file in its own store path sets its behaviour.
//! It behaves as a careful service: it serves many connections at once, keeps them alive, and on SIGTERM it answers every client
//! before it exits. A request for `/say/BYTES` makes it print that many bytes before it answers, and `/account` answers with secrets.
//!
//! `served make` is the builder of such store paths, `served check` the builder of a check; both are the derivations of a
//! flake that has this program in its tree. The file contains words: `ok`, or `slow=N:MS` (after N greetings, every answer takes
//! MS), `bug` (`/crash` aborts), `fails-check`, `wrong` (an answer that no golden run expects),
//! `logs` (it prints a line for each request), `never-ready`, `notify` (the
//! service is ready only when it sends READY=1), `slow-start=MS` and `slow-end=MS` (it takes that long to be ready or to stop, and
//! requests 3 s more, twice a second), `orphan=SOCKET` (it leaves a process behind, which approves the waiting evolutions as soon
//! as the supervisor is gone), and any other word, which makes the version different from others.

use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{SockFlag, SockType, accept4};

/// The first descriptor of socket activation.
const LISTEN_FDS_START: i32 = 3;
/// The pause between two checks of an idle thread for SIGTERM.
const LOOK: Duration = Duration::from_millis(20);
/// How long an idle connection is kept after SIGTERM: meanwhile its client sends its next request, and the answer says that it was
/// the last one.
const LINGER: Duration = Duration::from_secs(2);

/// How long the answer to a health probe takes. If the service answered at once, the scheduler of a busy machine would decide the
/// measured latency: a process that waits 10 ms for a processor would look a hundred times slower.
const HEALTH: Duration = Duration::from_millis(30);

/// What `/account` answers: secrets and personal data.
const ACCOUNT: &str = "{\"email\":\"user.answered@example.org\",\"token\":\"tok-answered-5d41402abc4b\",\"card\":\"5555 5555 5555 4444\"}";

static ENDS: AtomicBool = AtomicBool::new(false);

extern "C" fn end(_: i32) {
    ENDS.store(true, Ordering::Relaxed);
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("make") => make(),
        Some("check") => check(),
        Some("leave-orphan") => leave_orphan(),
        Some("orphan") => approve_as_an_orphan(),
        _ => serve(),
    }
}

fn attribute(name: &str) -> String {
    std::env::var(name).expect("an attribute of the derivation")
}

fn make() -> ExitCode {
    let out = PathBuf::from(attribute("out"));
    std::fs::create_dir_all(out.join("bin")).expect("an output");
    std::os::unix::fs::symlink(attribute("program"), out.join("bin/served")).expect("a link");
    std::fs::write(out.join("behaviour"), attribute("behaviour")).expect("a file");
    ExitCode::SUCCESS
}

fn check() -> ExitCode {
    if attribute("behaviour").split_whitespace().any(|word| word == "fails-check") {
        println!("1 of 1 tests failed");
        return ExitCode::FAILURE;
    }
    std::fs::write(attribute("out"), "1 of 1 tests passed\n").expect("an output");
    ExitCode::SUCCESS
}

/// Starts this program again, with these arguments and an empty environment, so that no variable identifies it.
fn run_in_a_clean_environment(args: &[&str]) -> std::process::Child {
    let program = std::env::args().next().expect("a program");
    std::process::Command::new(program).args(args).env_clear().spawn().expect("a process")
}

/// Forks once more, so that the child's parent is gone.
#[expect(clippy::zombie_processes, reason = "the child must outlive this process")]
fn leave_orphan() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    run_in_a_clean_environment(&["orphan", &args[0], &args[1], &std::process::id().to_string()]);
    ExitCode::SUCCESS
}

/// Waits until the processes that know it are gone, then approves each possible evolution again and again, and appends the replies
/// to a file. It stops when the control socket is gone.
fn approve_as_an_orphan() -> ExitCode {
    use std::os::unix::net::UnixStream;
    let args: Vec<String> = std::env::args().skip(2).collect();
    nix::unistd::setsid().expect("a session");
    // Its parent exits, so the supervisor becomes its parent. Then the supervisor is killed, and the next parent knows nothing of it.
    let reaper = |not: nix::unistd::Pid| loop {
        match nix::unistd::getppid() {
            parent if parent == not => std::thread::sleep(LOOK),
            parent => break parent,
        }
    };
    let parent = nix::unistd::Pid::from_raw(args[2].parse().expect("a process"));
    reaper(reaper(parent));
    let approve = |id: u32| -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&args[0])?;
        let call = r#"{"method":"io.openexec.Supervisor.Approve","parameters":{"id":"#;
        stream.write_all(format!("{call}\"evo_{id:04}\"}}}}\0").as_bytes())?;
        let (mut reply, mut byte) = (Vec::new(), [0]);
        while stream.read(&mut byte)? == 1 && byte != [0] {
            reply.push(byte[0]);
        }
        Ok(reply)
    };
    let mut file = std::fs::File::options().create(true).append(true).open(&args[1]).expect("a file");
    loop {
        for id in 1..=3 {
            match approve(id) {
                Ok(reply) => file.write_all(&[&reply[..], b"\n"].concat()).expect("disk space"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return ExitCode::SUCCESS,
                Err(_) => {}
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// The behaviour of a version.
struct Version {
    text: String,
    slow: Option<(u64, Duration)>,
    greeted: AtomicU64,
    open: AtomicUsize,
}

impl Version {
    fn of(program: &Path) -> Self {
        let home = program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let text = std::fs::read_to_string(home.join("behaviour")).unwrap_or_else(|_| "ok".into()).trim().to_owned();
        let slow = text.split_whitespace().find_map(|word| word.strip_prefix("slow=")?.split_once(':'));
        let slow = slow.map(|(after, ms)| {
            let number = |text: &str| text.parse().expect("slow=N:MS");
            (number(after), Duration::from_millis(number(ms)))
        });
        Self { text, slow, greeted: AtomicU64::new(0), open: AtomicUsize::new(0) }
    }

    /// Waits as long as the word says, and requests more time meanwhile.
    fn wait_as_told_by(&self, word: &str) {
        let Some(ms) = self.text.split_whitespace().find_map(|known| known.strip_prefix(word)) else { return };
        let (begun, all) = (Instant::now(), Duration::from_millis(ms.parse().expect("milliseconds")));
        while begun.elapsed() < all {
            let _ = notify("EXTEND_TIMEOUT_USEC=3000000");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn has(&self, word: &str) -> bool {
        self.text.split_whitespace().any(|known| known == word)
    }
}

fn serve() -> ExitCode {
    let version = Arc::new(Version::of(Path::new(&std::env::args().next().unwrap_or_default())));
    assert_eq!(std::env::var("LISTEN_PID").ok(), Some(std::process::id().to_string()), "LISTEN_PID");
    let count: i32 = std::env::var("LISTEN_FDS").expect("LISTEN_FDS").parse().expect("a number");
    // SAFETY: the handler only stores into an atomic. Ignoring SIGPIPE turns a broken connection into an error of the write.
    unsafe {
        signal(Signal::SIGTERM, SigHandler::Handler(end)).expect("a handler");
        signal(Signal::SIGPIPE, SigHandler::SigIgn).expect("a handler");
    }
    println!("serving {}", version.text);
    if let Some(socket) = version.text.split_whitespace().find_map(|word| word.strip_prefix("orphan=")) {
        let said = PathBuf::from(std::env::var_os("STATE_DIRECTORY").expect("a state directory")).join("said");
        run_in_a_clean_environment(&["leave-orphan", socket, &said.to_string_lossy()]).wait().expect("an end");
    }
    version.wait_as_told_by("slow-start=");
    println!("sent READY=1: {:?}", notify("READY=1"));
    let accepting: Vec<_> = (LISTEN_FDS_START..LISTEN_FDS_START + count)
        .map(|fd| {
            let version = version.clone();
            std::thread::spawn(move || accept(fd, &version))
        })
        .collect();
    for thread in accepting {
        thread.join().expect("no panic");
    }
    version.wait_as_told_by("slow-end=");
    let asked = Instant::now();
    while version.open.load(Ordering::SeqCst) > 0 && asked.elapsed() < 2 * LINGER {
        std::thread::sleep(LOOK);
    }
    println!("finished {}", version.text);
    ExitCode::SUCCESS
}

/// Sends a message to the service manager, if there is one.
fn notify(message: &str) -> io::Result<usize> {
    let path = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    UnixDatagram::unbound()?.send_to(message.as_bytes(), path)
}

fn accept(listener: i32, version: &Arc<Version>) {
    // SAFETY: socket activation puts a listener at this descriptor, and no other code here uses it.
    let owned = unsafe { OwnedFd::from_raw_fd(listener) };
    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&owned, flags).expect("a socket");
    if nix::sys::socket::getsockopt(&owned, nix::sys::socket::sockopt::SockType) == Ok(SockType::Datagram) {
        return echo(&UdpSocket::from(owned), version);
    }
    while !ENDS.load(Ordering::Relaxed) {
        let timeout = PollTimeout::try_from(LOOK).expect("short");
        let waiting = poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(&owned), PollFlags::POLLIN)], timeout);
        if waiting != Ok(0) {
            match accept4(listener, SockFlag::SOCK_CLOEXEC) {
                // SAFETY: accept4 has just returned it. A TcpStream reads and writes any stream socket in the same way.
                Ok(fd) => converse(unsafe { TcpStream::from_raw_fd(fd) }, version),
                // Another process on the same listener accepted the connection first, or the client has gone.
                Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(errno) => panic!("accept: {errno}"),
            }
        }
    }
}

/// Answers each datagram with the same bytes and the version. After SIGTERM it also answers the datagrams that already wait.
fn echo(socket: &UdpSocket, version: &Version) {
    let mut datagram = [0_u8; 1024];
    loop {
        let ends = ENDS.load(Ordering::Relaxed);
        let timeout = PollTimeout::try_from(LOOK).expect("short");
        let _ = poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(socket), PollFlags::POLLIN)], timeout);
        while let Ok((n, from)) = socket.recv_from(&mut datagram) {
            let answer = [&datagram[..n], b" ", version.text.as_bytes()].concat();
            // An error means that the client has gone.
            let _ = socket.send_to(&answer, from);
        }
        if ends {
            return;
        }
    }
}

fn converse(mut stream: TcpStream, version: &Arc<Version>) {
    let version = version.clone();
    version.open.fetch_add(1, Ordering::SeqCst);
    std::thread::spawn(move || {
        // An error means that the client has gone: it gets no answer.
        let _ = answer_all(&mut stream, &version);
        version.open.fetch_sub(1, Ordering::SeqCst);
    });
}

fn answer_all(stream: &mut TcpStream, version: &Version) -> io::Result<()> {
    stream.set_read_timeout(Some(LOOK))?;
    let (mut head, mut chunk, mut asked) = (Vec::new(), [0_u8; 4096], None::<Instant>);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => head.extend_from_slice(&chunk[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        while let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let request = String::from_utf8_lossy(&head[..end]).into_owned();
            let length = request.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            // The body says nothing to this service.
            let end = end + 4 + length.unwrap_or(0);
            if head.len() < end {
                break;
            }
            head.drain(..end);
            if !answer(stream, &request, version)? {
                return Ok(());
            }
        }
        if ENDS.load(Ordering::Relaxed) && asked.get_or_insert_with(Instant::now).elapsed() > LINGER && head.is_empty()
        {
            return Ok(());
        }
    }
}

/// Prints that many bytes and a last line, and returns the last line. It blocks while standard output is full.
fn say(bytes: &str) -> String {
    let (bytes, line) = (bytes.parse::<usize>().expect("/say/BYTES"), format!("{}\n", "x".repeat(99)));
    let mut out = io::stdout().lock();
    for _ in 0..bytes / line.len() {
        out.write_all(line.as_bytes()).expect("a reader of standard output");
    }
    writeln!(out, "said {bytes} bytes").expect("a reader of standard output");
    out.flush().expect("a reader of standard output");
    format!("said {bytes} bytes")
}

/// Answers one request; returns whether the connection stays open.
fn answer(stream: &mut TcpStream, request: &str, version: &Version) -> io::Result<bool> {
    let path = request.split(' ').nth(1).unwrap_or("/");
    let greeted = version.greeted.load(Ordering::Relaxed);
    if let Some((_, pause)) = version.slow.filter(|(after, _)| greeted >= *after) {
        std::thread::sleep(pause);
    }
    if path == "/healthz" {
        std::thread::sleep(HEALTH);
    }
    let (status, body) = match path {
        "/healthz" if version.has("never-ready") => (503, "no".to_owned()),
        "/healthz" => (200, "yes".to_owned()),
        "/crash" if version.has("bug") => {
            eprintln!("thread 'main' panicked at src/greet.rs:7:5:\na real bug");
            std::process::abort();
        }
        "/crash" => (200, "repaired".to_owned()),
        // The same for each user, as a fresh instance knows no users.
        path if path.starts_with("/account") => (200, ACCOUNT.to_owned()),
        path if path.starts_with("/say/") => (200, say(&path["/say/".len()..])),
        _ => {
            version.greeted.fetch_add(1, Ordering::Relaxed);
            let word = if version.has("wrong") { "hallo" } else { "hello" };
            (200, format!("{word} from {} of {}", std::process::id(), version.text))
        }
    };
    let stays = !ENDS.load(Ordering::Relaxed) && !request.to_ascii_lowercase().contains("connection: close");
    let connection = if stays { "keep-alive" } else { "close" };
    if version.has("logs") && path != "/healthz" {
        let method = request.split(' ').next().unwrap_or_default();
        println!(r#"{{"method":"{method}","path":"{path}","status":{status},"duration_ms":1}}"#);
    }
    let length = body.len();
    let private = if path.starts_with("/account") {
        "content-type: application/json\r\nset-cookie: session=cookie-answered-7f3a; HttpOnly\r\n"
    } else {
        ""
    };
    let answer =
        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{private}connection: {connection}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes())?;
    Ok(stays)
}
