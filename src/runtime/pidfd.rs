//! Pidfds: descriptors that name one process and never a later process with the same pid.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::signal::Signal;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::exit::Exit;
use crate::process;

/// The result of waitid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The process has exited.
    Ended(Exit),
    /// The process is running.
    Running,
    /// The process is not our child, so only its parent can wait for it.
    NotOurChild,
}

/// Opens a pidfd of the process that has this pid now.
///
/// # Errors
/// If there is no such process.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Registers the descriptor with the event loop. It becomes readable when the process has exited.
///
/// # Errors
/// If the event loop cannot register it.
pub fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open and owned by the `AsyncFd` that is made here, so no other code closes it.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

/// Sends a signal to exactly the process of this pidfd.
///
/// # Errors
/// If the process has exited, or may not be signalled.
pub fn signal(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    let signal = rustix::process::Signal::from_named_raw(signal as i32).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_send_signal(pidfd, signal)?)
}

/// Signals the process with this pid and start time, and no other. Returns true if it was sent.
pub fn signal_exactly(pid: u32, start_ticks: u64, what: Signal) -> bool {
    let Ok(pidfd) = open(pid) else { return false };
    // The pidfd is opened first, so the start time read now is that of its process, or of no process.
    process::stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks) && signal(&pidfd, what).is_ok()
}

/// Waits until the process with this pid and start time has exited. Returns false if it cannot be watched.
pub async fn wait_for_exit(pid: u32, start_ticks: u64) -> bool {
    let Ok(pidfd) = open(pid) else { return process::stat(pid).is_none() };
    if process::stat(pid).is_none_or(|stat| stat.start_ticks != start_ticks || stat.is_zombie()) {
        return true;
    }
    let Ok(pidfd) = watch(pidfd) else { return false };
    // This fails only while the event loop shuts down.
    pidfd.readable().await.is_ok()
}

/// Reads the exit status of a process without reaping it.
pub fn peek(pidfd: impl AsFd) -> Waited {
    wait(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
}

/// Reads the exit status of a process and reaps it.
pub fn reap(pidfd: impl AsFd) -> Waited {
    wait(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

fn wait(pidfd: impl AsFd, options: WaitIdOptions) -> Waited {
    match retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), options)) {
        Err(_) => Waited::NotOurChild,
        Ok(None) => Waited::Running,
        Ok(Some(status)) => Waited::Ended(Exit {
            code: status.exit_status(),
            signal: status.terminating_signal(),
            core: status.dumped(),
        }),
    }
}

/// The kernel's `struct pidfd_info`, first version (64 bytes).
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

/// The exit status of a process that another process reaped. `None` if it is not reaped yet, or before Linux 6.15.
pub fn exit_after_reap(pidfd: impl AsFd) -> Option<Exit> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    /// `_IOWR(0xFF, 11, struct pidfd_info)`
    const PIDFD_GET_INFO: libc::Ioctl =
        ((3 << 30) | ((size_of::<Info>() as u64) << 16) | (0xff << 8) | 11) as libc::Ioctl;
    let mut info = Info { mask: PIDFD_INFO_EXIT, ..Info::default() };
    // SAFETY: the request number contains the size of `Info`, so the kernel writes at most that many bytes to `info`.
    let done = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (done == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| Exit::from_wait_status(info.exit_code))
}
