//! What a log shows about the end of a process.

use crate::health::Exit;
use crate::interface::types::StackTrace;
use crate::redact::{Redactor, Secrets, strip_ansi};

use super::traces::{Found, find, is_library};
use super::words::{LINES_LOOK_MAX, last_line, last_lines};

/// Size of the end of the log that is read for a crash, in bytes.
pub const CRASH_LOG_BYTES_MAX: usize = 64 << 10;

/// Maximum number of lines after a trace that explains the end. A server continues after a panic that it caught, and
/// what it logged hours ago did not end it.
const LINES_AFTER_MAX: usize = LINES_LOOK_MAX;

/// Signals that come from outside: from a person, the kernel's OOM killer or a supervisor. No trace explains them.
const EXTERNAL_SIGNALS: [i32; 6] = [1, 2, 3, 9, 13, 15];

/// The unexpected end of an instance, with the panic message and frames from the end of its log, or else its last
/// meaningful lines, or else its last line; without secrets.
///
/// `log_tail` is the end of what this instance printed, without output of earlier instances. Takes at most a few
/// milliseconds: start the instance again first, and call this outside the event loop.
pub fn exit(code: Option<i32>, signal: Option<i32>, ran_ms: u64, log_tail: &[u8], secrets: &Secrets) -> Exit {
    let mut exit = Exit { code, signal, ran_ms, reason: None, frames: Vec::new(), ..Exit::default() };
    if code == Some(0) || signal.is_some_and(|signal| EXTERNAL_SIGNALS.contains(&signal)) {
        return exit;
    }
    let tail = &log_tail[log_tail.len().saturating_sub(CRASH_LOG_BYTES_MAX)..];
    let text = String::from_utf8_lossy(tail);
    let (found, lines) = find(&text);
    let mut redactor = Redactor::knowing(secrets);
    if let Some(Found { fault, .. }) = found.last().filter(|last| lines - last.end <= LINES_AFTER_MAX) {
        exit.reason = Some(redactor.text(&fault.reason())).filter(|reason| !reason.is_empty());
        let frames = fault.stack().into_iter().flat_map(important_frames);
        exit.frames = frames.map(|frame| redactor.text(frame)).collect();
    }
    if exit.reason.is_none() {
        let plain = strip_ansi(&text);
        exit.last_output = last_lines(&plain).iter().map(|line| redactor.text(line)).collect();
        if exit.last_output.is_empty() {
            exit.last_line = last_line(&plain).map(|line| redactor.text(&line));
        }
    }
    exit
}

/// The frames without those of the panic handling and the standard library; all frames if no others are left.
fn important_frames(trace: &StackTrace) -> impl Iterator<Item = &String> {
    let library = |frame: &String| is_library(&trace.language, frame);
    let own = trace.frames.iter().any(|frame| !library(frame));
    trace.frames.iter().filter(move |frame| !own || !library(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: Option<i32>, signal: Option<i32>, ran_ms: u64, log: &[u8]) -> Exit {
        super::exit(code, signal, ran_ms, log, &Secrets::default())
    }
    use crate::health::fingerprint;

    const RUST: &[u8] = include_bytes!("samples/rust-backtrace.txt");

    #[test]
    fn the_last_panic_is_the_cause_without_frames_of_panic_handling() {
        let exit = exit(Some(101), None, 9, RUST);
        assert_eq!(exit.reason.as_deref(), Some("no worker left"));
        assert_eq!(exit.frames[0], "svc::main (./svc.rs:3:158)");
    }

    #[test]
    fn a_panic_caught_long_ago_explains_neither_an_exit_nor_a_kill() {
        let mut log = RUST.to_vec();
        log.extend("GET / 200\n".repeat(LINES_AFTER_MAX + 1).as_bytes());
        let late = exit(Some(1), None, 9, &log);
        assert_eq!((late.reason, late.last_output.len()), (None, 0));
        assert_eq!(exit(None, Some(9), 9, RUST).reason, None, "SIGKILL comes from outside");
        assert_eq!(exit(None, Some(6), 9, RUST).reason.as_deref(), Some("no worker left"), "panic = abort");
        assert_eq!(exit(Some(0), None, 9, RUST).reason, None);
        assert_eq!(exit(Some(2), None, 9, b"\xff\xfe"), Exit { code: Some(2), ran_ms: 9, ..Exit::default() });
    }

    #[test]
    fn the_panicking_goroutine_and_the_root_cause_are_found() {
        let golang = exit(Some(2), None, 9, include_bytes!("samples/go-panic.txt"));
        assert_eq!(golang.frames[0], "main.(*Server).lookup (greeter/main.go:11)");
        let map = exit(Some(2), None, 9, include_bytes!("samples/go-map.txt"));
        assert_eq!(map.frames, ["main.main.func1 (greeter/main.go:32)"]);
        let java = exit(Some(1), None, 9, include_bytes!("samples/java-caused.txt"));
        let reason = "java.lang.IllegalStateException: cannot read order; caused by: java.lang.NumberFormatException: For \
                      input string: \"y\"";
        assert_eq!(java.reason.as_deref(), Some(reason));
        assert_eq!(java.frames[0], "Svc.parse (Svc.java:2)");
        let rust = exit(Some(101), None, 9, include_bytes!("samples/rust-full.txt"));
        assert_eq!(rust.frames[0], "multi::main (/srv/app/multi.rs:1:94)", "{:?}", rust.frames);
        let node = exit(Some(1), None, 9, include_bytes!("samples/node-rejection.txt"));
        assert_eq!(node.frames, ["fetchOrder ([eval]:1:36)", "[eval]:1:74", "[eval]-wrapper:6:24"]);
    }

    #[test]
    fn the_same_bug_with_other_numbers_has_the_same_fingerprint() {
        let text = String::from_utf8(RUST.to_vec()).unwrap();
        let other = text.replace("3:158", "7:21").replace("(1942)", "(77)");
        let print = |log: &str| {
            let exit = exit(Some(101), None, 9, log.as_bytes());
            fingerprint("crash", &exit.reason.unwrap(), &exit.frames)
        };
        assert_eq!(print(&text), print(&other));
        assert_ne!(print(&text), print(&text.replace("svc::main", "svc::other")));
    }

    #[test]
    fn a_secret_in_a_panic_message_does_not_reach_an_incident() {
        let log = b"thread 'main' panicked at a.rs:1:1:\nlogin failed: password=hunter22\nnote: run with\n";
        assert_eq!(exit(Some(101), None, 9, log).reason.as_deref(), Some("login failed: password=[redacted]"));
    }
}
