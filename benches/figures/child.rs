//! The program that the benchmark measures with: a builder of its own store path, a process that reports its start, and a server.
//!
//! `make` writes `$out`; `stamp` adds its process id and the time of its first act to the file `stamps` in its working directory
//! and sleeps; `respawn` starts `stamp` again whenever it exits; `serve [ADDRESS]` answers HTTP on the inherited listener, or on
//! its own, with the version in the file beside it. Under the name of a Nix program it runs that program and writes down when it
//! ran. It is as small as possible, because the benchmark measures the supervisors and not this program.
#![no_main]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::time::{ClockId, clock_gettime};

/// Threads that each serve one connection: more than any load here keeps open.
const THREADS: usize = 64;
const STACK_BYTES: usize = 64 << 10;
/// How long open connections may take to bring their next request after SIGTERM.
const DRAIN_MAX: Duration = Duration::from_secs(5);
const DRAIN_PAUSE: Duration = Duration::from_millis(1);

/// Whether connections end with their next answer.
static DRAINING: AtomicBool = AtomicBool::new(false);
/// Connections that are open.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// The entry point, without the setup that Rust does before `main`: so it reads the clock as early as a C program.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    let begun_ns = now_ns();
    let mut args = std::env::args();
    let program = PathBuf::from(args.next().unwrap_or_default());
    let role = match program.file_name().and_then(OsStr::to_str) {
        // runit and s6 start a file `run` without arguments.
        Some("run") => Some("stamp".to_owned()),
        Some(name) if name.starts_with("nix-") => return wrap(&program, args, begun_ns),
        _ => args.next(),
    };
    match role.as_deref() {
        Some("make") => make(),
        Some("stamp") => stamp(begun_ns),
        Some("respawn") => respawn(&program),
        Some("serve") => serve(args.next().as_deref()),
        _ => return 2,
    }
    0
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Runs the program of the same name in the directory `real` beside it, and writes to the file `times` when it ran.
fn wrap(program: &Path, args: impl Iterator<Item = String>, begun_ns: u64) -> i32 {
    let (Some(dir), Some(name)) = (program.parent(), program.file_name()) else { return 2 };
    let status = Command::new(dir.join("real").join(name)).args(args).status();
    let mut times = std::fs::OpenOptions::new().append(true).create(true).open(dir.join("times")).expect("a file");
    times.write_all(format!("{begun_ns} {}\n", now_ns()).as_bytes()).expect("disk space");
    status.ok().and_then(|status| status.code()).unwrap_or(1)
}

fn make() {
    let attribute = |name: &str| std::env::var(name).expect("an attribute of the derivation");
    let out = PathBuf::from(attribute("out"));
    std::fs::create_dir_all(out.join("bin")).expect("an output");
    std::fs::copy(attribute("program"), out.join("bin/child")).expect("a program");
    std::fs::write(out.join("version"), attribute("version")).expect("a file");
}

fn stamp(begun_ns: u64) {
    let mut line = [0; 16];
    line[..8].copy_from_slice(&u64::from(std::process::id()).to_le_bytes());
    line[8..].copy_from_slice(&begun_ns.to_le_bytes());
    let mut stamps = std::fs::OpenOptions::new().append(true).create(true).open("stamps").expect("a file");
    stamps.write_all(&line).expect("disk space");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// A minimal restarter: starts `stamp` again as soon as it has exited.
fn respawn(program: &Path) {
    loop {
        let _ = Command::new(program).arg("stamp").status().expect("a process");
    }
}

fn serve(address: Option<&str>) {
    let term = SigSet::from_iter([Signal::SIGTERM]);
    term.thread_block().expect("a mask");
    let listener = match address {
        Some(address) => TcpListener::bind(address).expect("a free address"),
        // SAFETY: socket activation promises a listener there, and nothing else here uses it.
        None => unsafe { TcpListener::from_raw_fd(3) },
    };
    let program = PathBuf::from(std::env::args().next().unwrap_or_default());
    let home = program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let version: &'static str = std::fs::read_to_string(home.join("version")).unwrap_or_else(|_| "none".into()).leak();
    let listener: &'static TcpListener = Box::leak(Box::new(listener));
    for _ in 0..THREADS {
        let worker = std::thread::Builder::new().stack_size(STACK_BYTES);
        worker.spawn(move || accept(listener, version)).expect("a thread");
    }
    term.wait().expect("a signal");
    DRAINING.store(true, Ordering::Release);
    let begun = std::time::Instant::now();
    while OPEN.load(Ordering::Acquire) > 0 && begun.elapsed() < DRAIN_MAX {
        std::thread::sleep(DRAIN_PAUSE);
    }
}

fn accept(listener: &TcpListener, version: &str) {
    for stream in listener.incoming().flatten() {
        OPEN.fetch_add(1, Ordering::AcqRel);
        // An error means that the client has gone: it gets no answer, and the next client is served.
        let _ = converse(stream, version);
        OPEN.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Answers until the client, or the end of this process, closes the connection.
fn converse(mut stream: TcpStream, version: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = [0; 2048];
    let mut filled = 0;
    loop {
        let end = loop {
            if let Some(at) = head[..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read(&mut head[filled..])? {
                0 => return Ok(()),
                read => filled += read,
            }
        };
        let last = DRAINING.load(Ordering::Acquire)
            || head[..end].windows(17).any(|bytes| bytes.eq_ignore_ascii_case(b"connection: close"));
        let connection = if last { "close" } else { "keep-alive" };
        let length = version.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n{version}");
        stream.write_all(answer.as_bytes())?;
        if last {
            return Ok(());
        }
        head.copy_within(end..filled, 0);
        filled -= end;
    }
}
