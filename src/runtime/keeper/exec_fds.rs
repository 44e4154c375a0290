//! Passes descriptors to the next program in the same process, across `execve`.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The environment variable that lists them: first a line with the pid, then a line `NUMBER NAME` for each.
pub const VARIABLE: &str = "REI_HANDED";

/// Clears close-on-exec on the descriptors, and returns the variable that lists them. Dropping `fds` cancels this,
/// because it closes them.
///
/// # Errors
/// If the system refuses; for open descriptors it never does.
pub fn announce(fds: &[(String, OwnedFd)]) -> std::io::Result<(OsString, OsString)> {
    let mut value = std::process::id().to_string();
    for (name, fd) in fds {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        value.push_str(&format!("\n{} {name}", fd.as_raw_fd()));
    }
    Ok((VARIABLE.into(), value.into()))
}

/// Takes the descriptors that the previous program in this process has listed.
///
/// # Safety
/// Call this at most once per process, before any other code uses inherited descriptors.
pub(super) unsafe fn take() -> Option<Vec<(String, OwnedFd)>> {
    let value = std::env::var(VARIABLE).ok()?;
    let mut lines = value.lines();
    // A child process inherits the variable, but not the descriptors.
    if lines.next()?.parse() != Ok(std::process::id()) {
        return None;
    }
    let numbers = lines.filter_map(|line| line.split_once(' '));
    let numbers = numbers.filter_map(|(number, name)| Some((number.parse::<RawFd>().ok()?, name.to_owned())));
    let mut taken = Vec::new();
    for (number, name) in numbers {
        // SAFETY: the previous program in this same process passed this descriptor, and by the contract no other code
        // took it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        if fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_ok() {
            taken.push((name, fd));
        }
    }
    Some(taken)
}
