//! `rei reexec`: replaces the program in the same process. The children stay children of this process, and the
//! listeners stay in the descriptor store and in the instances. The new program takes over in the same way as after a
//! crash.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};

use crate::runtime::keeper::exec_fds;

/// The signals that would end the process while it has no handlers. They are blocked until the new program has
/// handlers.
const BLOCKED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];

fn blocked() -> SigSet {
    BLOCKED.into_iter().collect()
}

/// Unblocks the signals, so that those that came in the meantime are delivered. The caller must have set handlers
/// before.
///
/// # Errors
/// Never with a set of real signals.
pub fn release_signals() -> std::io::Result<()> {
    Ok(blocked().thread_unblock()?)
}

/// Replaces the program, and passes descriptors to the new one. Returns only if that failed.
///
/// # Errors
/// When the program cannot be executed.
pub fn exec(exe: &Path, passed: &[(String, OwnedFd)]) -> Result<Infallible, std::io::Error> {
    let text = |word: OsString| CString::new(word.into_vec()).map_err(std::io::Error::other);
    let program = text(exe.as_os_str().to_owned())?;
    let args = std::env::args_os().map(text).collect::<Result<Vec<_>, _>>()?;
    let ours = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", exec_fds::VARIABLE];
    let mut variables: Vec<(OsString, OsString)> =
        std::env::vars_os().filter(|(name, _)| !ours.iter().any(|known| name == known)).collect();
    if !passed.is_empty() {
        variables.push(exec_fds::announce(passed)?);
    }
    let variables = variables.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        text(name)
    });
    let variables = variables.collect::<Result<Vec<_>, _>>()?;
    blocked().thread_block()?;
    let Err(errno) = nix::unistd::execve(&program, &args, &variables);
    release_signals()?;
    Err(errno.into())
}
