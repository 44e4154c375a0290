//! Finds a keeper by its process if its socket was removed.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::process;
use crate::runtime::pidfd;

/// The process name of a keeper.
pub(super) const NAME: &std::ffi::CStr = c"rei-keeper";

/// Whether the keeper that was started for this socket lives.
pub fn is_alive_at(socket: &Path) -> bool {
    at(socket).is_some()
}

/// The process of the keeper that was started for this socket.
pub(super) fn at(socket: &Path) -> Option<OwnedFd> {
    let socket = socket.as_os_str().as_encoded_bytes();
    process::all().into_iter().filter(|stat| !stat.is_zombie()).find_map(|stat| {
        let named = |file: &str| std::fs::read(format!("/proc/{}/{file}", stat.pid)).unwrap_or_default();
        if named("comm").trim_ascii_end() != NAME.to_bytes() {
            return None;
        }
        // The pidfd is opened first, so everything read afterwards is about its process, or about none.
        let keeper = pidfd::open(stat.pid).ok()?;
        let line = named("cmdline");
        let mut words = line.split(|byte| *byte == 0);
        (words.any(|word| word == b"--socket") && words.next() == Some(socket)).then_some(keeper)
    })
}
