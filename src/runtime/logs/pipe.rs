//! What an instance writes into, and how full it is.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

/// What a pipe holds until the logger reads it, in bytes: the most that an unprivileged process may ask for.
pub const PIPE_BYTES: i32 = 1 << 20;

/// Names pipes in a descriptor store, before the instance.
pub const PIPE_PREFIX: &str = "log/";
/// Names the memory of a pipe in a descriptor store, behind the pipe's name.
pub const MEMORY_SUFFIX: &str = "/memory";

/// A pipe for a log, both ends close-on-exec: the reader's end, and the one for standard output and error. The latter can be read
/// too, so that whoever has it never finds the pipe broken. If nobody of rei is left who reads, the instance waits once the
/// pipe is full, and goes on with the next supervisor; a broken pipe would end most programs at their next line (SIGPIPE).
///
/// # Errors
/// When descriptors have run out.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // Without /proc it is as pipes are.
    let both =
        open(format!("/proc/self/fd/{}", write.as_raw_fd()).as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    let write = both.unwrap_or(write);
    // Refused where the user's pipes hold too much already; the default size does too.
    let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    Ok((read, write))
}

/// How much waits in a pipe and how much it can hold, in bytes.
///
/// # Errors
/// When it is no pipe.
pub(super) fn fill(pipe: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: the descriptor is open, and FIONREAD writes one int to where the pointer leads.
    if unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut waiting) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let capacity = fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?;
    Ok((u64::try_from(waiting).unwrap_or(0), u64::try_from(capacity).unwrap_or(0)))
}

/// The reader's end of the pipe that a process prints to, where nobody kept it. `None` where it prints elsewhere, or may not be
/// asked.
pub fn reopen(pid: u32) -> Option<OwnedFd> {
    [1, 2].iter().find_map(|number| {
        let path = format!("/proc/{pid}/fd/{number}");
        if !fs::metadata(&path).ok()?.file_type().is_fifo() {
            return None;
        }
        open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()).ok()
    })
}
