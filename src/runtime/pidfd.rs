//! Process descriptors: the names of processes that no later process can have.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::signal::Signal;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::exit::Exit;
use crate::process;

/// What waitid says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It has ended so.
    Ended(Exit),
    /// It runs.
    Running,
    /// It is no child of ours, so only its parent can tell.
    NotOurs,
}

/// Opens the process that has this pid now.
///
/// # Errors
/// When there is none.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Gives the descriptor to the event loop: it becomes readable when the process has ended.
///
/// # Errors
/// When the loop cannot take it.
pub fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open, owned by what is made here, and closed by nobody else.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

/// Sends a signal to exactly this process.
///
/// # Errors
/// When it is gone, or may not be signalled.
pub fn signal(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    let signal = rustix::process::Signal::from_named_raw(signal as i32).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_send_signal(pidfd, signal)?)
}

/// Signals the process that had this pid and start, and no other. Says whether it was there.
pub fn signal_exactly(pid: u32, start_ticks: u64, what: Signal) -> bool {
    let Ok(pidfd) = open(pid) else { return false };
    // The descriptor came first, so what is read now is of its process or of nobody's.
    process::stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks) && signal(&pidfd, what).is_ok()
}

/// Waits until the process that had this pid and start has ended. `false` when it cannot be watched.
pub async fn ended(pid: u32, start_ticks: u64) -> bool {
    let Ok(pidfd) = open(pid) else { return process::stat(pid).is_none() };
    if process::stat(pid).is_none_or(|stat| stat.start_ticks != start_ticks || stat.is_zombie()) {
        return true;
    }
    let Ok(pidfd) = watch(pidfd) else { return false };
    // An error means that the event loop is going down.
    pidfd.readable().await.is_ok()
}

/// Looks how a process ended, and leaves it to be reaped.
pub fn peek(pidfd: impl AsFd) -> Waited {
    wait(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
}

/// Reaps a process that has ended.
pub fn reap(pidfd: impl AsFd) -> Waited {
    wait(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

fn wait(pidfd: impl AsFd, options: WaitIdOptions) -> Waited {
    match retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), options)) {
        Err(_) => Waited::NotOurs,
        Ok(None) => Waited::Running,
        Ok(Some(status)) => Waited::Ended(Exit {
            code: status.exit_status(),
            signal: status.terminating_signal(),
            core: status.dumped(),
        }),
    }
}

/// The kernel's `struct pidfd_info`, first version.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    pid: u32,
    thread_group: u32,
    parent: u32,
    users_and_groups: [u32; 8],
    exit_code: i32,
}

/// How a process ended that somebody else has reaped. `None` where the kernel does not tell (before Linux 6.15), or
/// before it is reaped.
pub fn exit_after_reap(pidfd: impl AsFd) -> Option<Exit> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    /// `_IOWR(0xFF, 11, struct pidfd_info)`
    const PIDFD_GET_INFO: libc::Ioctl =
        ((3 << 30) | ((size_of::<Info>() as u64) << 16) | (0xff << 8) | 11) as libc::Ioctl;
    let mut info = Info { mask: PIDFD_INFO_EXIT, ..Info::default() };
    // SAFETY: the number carries the size of the structure that is passed.
    let done = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (done == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| Exit::from_wait_status(info.exit_code))
}
