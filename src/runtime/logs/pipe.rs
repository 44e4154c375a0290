//! What an instance writes into.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

/// What a pipe holds until the logger reads it, in bytes: the most that an unprivileged process may ask for.
pub const PIPE_BYTES: i32 = 1 << 20;

/// A pipe for a log, both ends close-on-exec: the reader's end, and the one for standard output and error. The latter can be read
/// too, so that whoever has it never finds the pipe broken: should nobody read for a while, the next reader goes on.
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
