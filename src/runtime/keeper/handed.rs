//! Descriptors from one program to the next in the same process, across `execve`.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The variable that announces them: the process, then `NUMBER NAME` for each, a line each.
pub const VARIABLE: &str = "REI_HANDED";

/// Makes the descriptors survive `execve` and gives the variable that announces them. Dropping `fds` takes it back.
///
/// # Errors
/// When the system refuses, which it does not for open descriptors.
pub fn announce(fds: &[(String, OwnedFd)]) -> std::io::Result<(OsString, OsString)> {
    let mut value = std::process::id().to_string();
    for (name, fd) in fds {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        value.push_str(&format!("\n{} {name}", fd.as_raw_fd()));
    }
    Ok((VARIABLE.into(), value.into()))
}

/// Takes what the program before this one in this process has announced.
///
/// # Safety
/// At most one call in a process, before anybody else uses inherited descriptors.
pub(super) unsafe fn take() -> Option<Vec<(String, OwnedFd)>> {
    let value = std::env::var(VARIABLE).ok()?;
    let mut lines = value.lines();
    // A child that inherited the variable has inherited nothing.
    if lines.next()?.parse() != Ok(std::process::id()) {
        return None;
    }
    let numbers = lines.filter_map(|line| line.split_once(' '));
    let numbers = numbers.filter_map(|(number, name)| Some((number.parse::<RawFd>().ok()?, name.to_owned())));
    let mut taken = Vec::new();
    for (number, name) in numbers {
        // SAFETY: announced by the program before, in this very process; by the contract nobody else took it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        if fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_ok() {
            taken.push((name, fd));
        }
    }
    Some(taken)
}
