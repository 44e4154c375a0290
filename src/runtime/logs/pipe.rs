//! The pipe of an instance's output, and its fill level.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

/// Capacity of a pipe, in bytes: the maximum for an unprivileged process.
pub const PIPE_BYTES: i32 = 1 << 20;

/// Prefix of a pipe's name in a descriptor store; the instance id follows.
pub const PIPE_PREFIX: &str = "log/";
/// Suffix of the name of a pipe's memory in a descriptor store.
pub const MEMORY_SUFFIX: &str = "/memory";

/// Makes a pipe for a log, both ends with close-on-exec: the read end, and the end for standard output and error. The
/// latter is opened for reading as well, so the pipe never breaks. If no process of rei reads, the instance blocks when
/// the pipe is full, and continues with the next supervisor. A broken pipe would kill most programs at their next line
/// (SIGPIPE).
///
/// # Errors
/// If there are no free descriptors.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // Without /proc a normal write end is used.
    let both =
        open(format!("/proc/self/fd/{}", write.as_raw_fd()).as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    let write = both.unwrap_or(write);
    // Refused if the pipes of this user already have too much memory; then the default size is used.
    let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok((read, write))
}

/// The number of bytes in a pipe, and its capacity in bytes.
///
/// # Errors
/// If it is not a pipe.
pub(super) fn fill(pipe: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: the descriptor is open, and FIONREAD writes one int to the address of `waiting`.
    if unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut waiting) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let capacity = fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?;
    Ok((u64::try_from(waiting).unwrap_or(0), u64::try_from(capacity).unwrap_or(0)))
}

/// The read end of the pipe that a process writes its output to, if no store has it. `None` if the output does not
/// go to a pipe, or if /proc may not be read.
pub fn reopen(pid: u32) -> Option<OwnedFd> {
    [1, 2].iter().find_map(|number| {
        let path = format!("/proc/{pid}/fd/{number}");
        if !fs::metadata(&path).ok()?.file_type().is_fifo() {
            return None;
        }
        open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()).ok()
    })
}
