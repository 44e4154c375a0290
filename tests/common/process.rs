//! Finds the processes of a service and its keeper in /proc, independently of rei's own answers.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// The instance: the value of `REI_INSTANCE`.
    pub instance: String,
    /// The process id.
    pub pid: u32,
}

impl Process {
    /// `a` or `b`; `None` for an instance that only serves the connections left in a queue.
    pub fn slot(&self) -> Option<&str> {
        self.instance.rsplit_once('-').map(|(_, slot)| slot).filter(|slot| *slot != "drain")
    }
}

/// All processes.
fn pids() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    rei::process::stat(pid).is_some_and(|stat| !stat.is_zombie())
}

/// The live processes of the service whose state directory is this.
pub fn of_service(state: &Path) -> Vec<Process> {
    let of = format!("STATE_DIRECTORY={}", state.join("runtime").display());
    let process = |pid: u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut words = environment.split(|byte| *byte == 0);
        let instance = words.find_map(|word| word.strip_prefix(b"REI_INSTANCE="))?;
        let instance = String::from_utf8_lossy(instance).into_owned();
        words.any(|word| word == of.as_bytes()).then_some(Process { instance, pid })
    };
    let mut found: Vec<Process> = pids().filter_map(process).collect();
    found.sort();
    found
}

/// The keeper of the service whose state directory is this.
pub fn keeper(state: &Path) -> Option<u32> {
    let socket = state.join("private/keeper.sock");
    let socket = socket.as_os_str().as_encoded_bytes();
    pids().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.any(|word| word == b"keeper") && words.any(|word| word == socket) && is_alive(*pid)
    })
}

/// The loggers of the service whose state directory is this.
pub fn loggers(state: &Path) -> Vec<u32> {
    let directory = state.join("logs");
    let directory = directory.as_os_str().as_encoded_bytes();
    let is_logger = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.contains(&&b"logger"[..]) && words.contains(&directory) && is_alive(*pid)
    };
    pids().filter(is_logger).collect()
}

/// Kills the processes that a test has left of its service.
pub fn end_all(state: &Path) {
    let taps = rei::tap::find(state).into_iter().map(|tap| tap.pid);
    for pid in of_service(state).into_iter().map(|process| process.pid).chain(keeper(state)).chain(taps) {
        send(pid, Signal::SIGKILL);
    }
}

/// Sends a signal to a process, if the process still exists.
pub fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}
