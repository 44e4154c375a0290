//! A logger that no store leads to any more, or that hangs, makes way for the next one: two readers of one pipe would tear
//! its lines.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::poll;
use crate::process;
use crate::runtime::pidfd;

/// The name of a logger's process.
pub(super) const NAME: &std::ffi::CStr = c"rei-logger";
/// What asks a logger to leave its pipes to another. The signals that end what is around it are ignored.
const MAKE_WAY: Signal = Signal::SIGUSR2;
/// The wait for an answer to one signal. A signal that comes just before a logger waits is not seen: it is sent again.
const ANSWER_MAX: Duration = Duration::from_millis(50);
/// Signals that are sent. The last bytes have a second to get to the disk; then the logger is killed.
const SIGNALS_MAX: u32 = 20;

/// Whether this process was asked to make way.
static MAKES_WAY: AtomicBool = AtomicBool::new(false);

extern "C" fn make_way(_: libc::c_int) {
    MAKES_WAY.store(true, Ordering::Relaxed);
}

/// Lets this process be asked to make way.
pub(super) fn listen() -> nix::Result<()> {
    // SAFETY: the handler stores to an atomic and does nothing else.
    unsafe { signal(MAKE_WAY, SigHandler::Handler(make_way)) }.map(drop)
}

/// Whether this process was asked to make way.
pub(super) fn is_asked() -> bool {
    MAKES_WAY.load(Ordering::Relaxed)
}

/// Ends the loggers that write below `directory`. Blocks for a second at most for each: one that hangs, or that somebody has
/// stopped, is killed then.
///
/// Only for a supervisor that is about to have another one.
pub fn end_loggers(directory: &Path) {
    let directory = directory.as_os_str().as_encoded_bytes();
    for stat in process::all().into_iter().filter(|stat| !stat.is_zombie()) {
        let read = |file: &str| std::fs::read(format!("/proc/{}/{file}", stat.pid)).unwrap_or_default();
        if read("comm").trim_ascii_end() != NAME.to_bytes() {
            continue;
        }
        // The descriptor first: what is read afterwards is of its process, or of nobody's.
        let Ok(logger) = pidfd::open(stat.pid) else { continue };
        let line = read("cmdline");
        let mut words = line.split(|byte| *byte == 0);
        if !words.any(|word| word == b"--directory") || words.next() != Some(directory) {
            continue;
        }
        let ended = |_| {
            // One that may not be signalled, or has ended, is waited for as well.
            let _ = pidfd::signal(&logger, MAKE_WAY);
            poll::wait(&mut [PollFd::new(logger.as_fd(), PollFlags::POLLIN)], ANSWER_MAX).is_ok_and(|ready| ready > 0)
        };
        if !(0..SIGNALS_MAX).any(ended) {
            tracing::warn!(pid = stat.pid, "a logger does not leave its logs, and is killed");
            let _ = pidfd::signal(&logger, Signal::SIGKILL);
        }
    }
}
