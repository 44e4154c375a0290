//! `rei reexec`: another program in the same process. Its children stay its children, its listeners stay with the
//! descriptor store and the instances, and the new program takes over as after a crash; only that nothing has crashed.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};

use crate::runtime::keeper::exec_fds;

/// What would end the process while it has no handlers: it waits until the new program has some.
const HELD: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];

fn held() -> SigSet {
    HELD.into_iter().collect()
}

/// Lets through what came while there were no handlers. To be called when there are.
///
/// # Errors
/// Never with a set of real signals.
pub fn release_signals() -> std::io::Result<()> {
    Ok(held().thread_unblock()?)
}

/// Replaces the program, and hands descriptors over to it. Returns only if that failed.
///
/// # Errors
/// When the program cannot be run.
pub fn exec(exe: &Path, handed: &[(String, OwnedFd)]) -> Result<Infallible, std::io::Error> {
    let text = |word: OsString| CString::new(word.into_vec()).map_err(std::io::Error::other);
    let program = text(exe.as_os_str().to_owned())?;
    let args = std::env::args_os().map(text).collect::<Result<Vec<_>, _>>()?;
    let ours = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", exec_fds::VARIABLE];
    let mut variables: Vec<(OsString, OsString)> =
        std::env::vars_os().filter(|(name, _)| !ours.iter().any(|known| name == known)).collect();
    if !handed.is_empty() {
        variables.push(exec_fds::announce(handed)?);
    }
    let variables = variables.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        text(name)
    });
    let variables = variables.collect::<Result<Vec<_>, _>>()?;
    held().thread_block()?;
    let Err(errno) = nix::unistd::execve(&program, &args, &variables);
    release_signals()?;
    Err(errno.into())
}
