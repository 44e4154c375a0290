//! Finds taps whose connection is lost, and makes them release their listeners.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::poll;
use crate::process;
use crate::runtime::pidfd;

/// The name of a tap's process while it accepts connections.
pub(super) const NAME: &CStr = c"rei-tap";
/// The name of a tap's process that only relays what it has, and exits after that.
const LEAVES: &CStr = c"rei-tap-leaves";
/// The signal that asks a tap to release its listeners. It ignores the usual termination signals.
pub(super) const SIGNAL: Signal = Signal::SIGUSR2;
/// How long a tap may take to release its listeners. A tap that hangs is killed then.
const RELEASE_MAX: Duration = Duration::from_secs(1);
/// The pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Shows that the listeners are released.
pub(super) fn announce() {
    // If it fails, the supervisor kills this process, with its relays.
    let _ = prctl::set_name(LEAVES);
}

/// A tap's process that accepts connections of a service.
#[derive(Debug)]
pub struct TapProcess {
    /// Its pid.
    pub pid: u32,
    pidfd: OwnedFd,
}

/// The taps of the service whose state directory this is.
pub fn find(directory: &Path) -> Vec<TapProcess> {
    let directory = directory.as_os_str().as_encoded_bytes();
    let mut taps = Vec::new();
    for stat in process::all().into_iter().filter(|stat| !stat.is_zombie()) {
        if name(stat.pid) != NAME.to_bytes() {
            continue;
        }
        // The pidfd is opened first, so everything read afterwards is about its process, or about none.
        let Ok(pidfd) = pidfd::open(stat.pid) else { continue };
        let line = std::fs::read(format!("/proc/{}/cmdline", stat.pid)).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        if words.any(|word| word == b"--directory") && words.next() == Some(directory) {
            taps.push(TapProcess { pid: stat.pid, pidfd });
        }
    }
    taps
}

impl TapProcess {
    /// Makes it release its listeners. It continues to relay the connections that it has, and then exits. Blocks for at
    /// most a second; a tap that hangs is killed then.
    pub fn release(&self) {
        let begun = Instant::now();
        // If it may not be signalled, or has exited, the loop shows it.
        let _ = pidfd::signal(&self.pidfd, SIGNAL);
        while begun.elapsed() < RELEASE_MAX {
            let mut exit = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            if poll::wait(&mut exit, LOOK_PAUSE).is_ok_and(|ready| ready > 0) || name(self.pid) == LEAVES.to_bytes() {
                return;
            }
        }
        self.kill();
    }

    /// Ends it at once, with the connections that it relays.
    pub fn kill(&self) {
        tracing::warn!(pid = self.pid, "the tap does not answer and is killed, with the connections that it relays");
        let _ = pidfd::signal(&self.pidfd, Signal::SIGKILL);
    }
}

fn name(pid: u32) -> Vec<u8> {
    let mut name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.truncate(name.trim_ascii_end().len());
    name
}
