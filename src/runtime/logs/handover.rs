//! Stops a logger that is in no descriptor store any more, or that hangs, before the next one starts: two readers of
//! one pipe would split its lines.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::poll;
use crate::process;
use crate::runtime::pidfd;

/// The process name of a logger.
pub(super) const NAME: &std::ffi::CStr = c"rei-logger";
/// The signal that asks a logger to release its pipes. It ignores the usual termination signals.
const HANDOVER_SIGNAL: Signal = Signal::SIGUSR2;
/// The wait after one signal. A signal that arrives just before the logger's poll is not noticed there, so it is sent
/// again.
const ANSWER_MAX: Duration = Duration::from_millis(50);
/// Number of signals. With the pauses the logger has one second to write its last bytes; then it is killed.
const SIGNALS_MAX: u32 = 20;

/// True if this process was asked to release its pipes.
static HANDOVER_REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    HANDOVER_REQUESTED.store(true, Ordering::Relaxed);
}

/// Installs the signal handler.
pub(super) fn listen() -> nix::Result<()> {
    // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
    unsafe { signal(HANDOVER_SIGNAL, SigHandler::Handler(on_signal)) }.map(drop)
}

/// True if this process was asked to release its pipes.
pub(super) fn is_requested() -> bool {
    HANDOVER_REQUESTED.load(Ordering::Relaxed)
}

/// Stops the loggers that write below `directory`. Blocks for at most one second for each: a logger that hangs or is
/// stopped is killed then.
///
/// Call this only in a supervisor that is about to start another logger.
pub fn stop_loggers(directory: &Path) {
    let directory = directory.as_os_str().as_encoded_bytes();
    for stat in process::all().into_iter().filter(|stat| !stat.is_zombie()) {
        let read = |file: &str| std::fs::read(format!("/proc/{}/{file}", stat.pid)).unwrap_or_default();
        if read("comm").trim_ascii_end() != NAME.to_bytes() {
            continue;
        }
        // The pidfd is opened first, so everything read afterwards is about its process, or about none.
        let Ok(logger) = pidfd::open(stat.pid) else { continue };
        let line = read("cmdline");
        let mut words = line.split(|byte| *byte == 0);
        if !words.any(|word| word == b"--directory") || words.next() != Some(directory) {
            continue;
        }
        let ended = |_| {
            // If it may not be signalled, or has exited, the wait below shows it.
            let _ = pidfd::signal(&logger, HANDOVER_SIGNAL);
            poll::wait(&mut [PollFd::new(logger.as_fd(), PollFlags::POLLIN)], ANSWER_MAX).is_ok_and(|ready| ready > 0)
        };
        if !(0..SIGNALS_MAX).any(ended) {
            tracing::warn!(pid = stat.pid, "killing a logger that did not exit in time");
            let _ = pidfd::signal(&logger, Signal::SIGKILL);
        }
    }
}
