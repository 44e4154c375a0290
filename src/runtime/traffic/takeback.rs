//! Listeners back from running instances, where no store has them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::label::Label;
use super::socket;

/// Descriptors of one process that are looked at. An instance inherits its listeners as 3, 4, …, so they are the first of them.
const FDS_MAX: usize = 4096;

/// Fetches copies of the sockets named by `labels` (see [`super::Traffic::labels`]) from the processes that inherited them.
///
/// Processes that are gone or may not be asked, and sockets that none of them has, are left out: the guards always are, for
/// no instance has them. What comes back goes to [`super::Traffic::adopt`].
pub fn take_back(pids: &[i32], labels: &[String]) -> Vec<(String, OwnedFd)> {
    let mut wanted: BTreeMap<u64, &String> =
        labels.iter().filter_map(|name| Some((Label::parse(name)?.cookie, name))).collect();
    let mut found = Vec::new();
    for &pid in pids {
        if wanted.is_empty() {
            break;
        }
        // The pidfd first: whatever /proc says afterwards is of this process, or of none that it gives descriptors of.
        let Ok(process) = pidfd_open(pid) else { continue };
        for number in sockets_of(pid) {
            if wanted.is_empty() {
                break;
            }
            let Ok(fd) = pidfd_getfd(&process, number) else { continue };
            if let Some(name) = socket::cookie(&fd).ok().and_then(|cookie| wanted.remove(&cookie)) {
                found.push((name.clone(), fd));
            }
        }
    }
    found
}

/// The descriptors of a process that are sockets, lowest first.
fn sockets_of(pid: i32) -> Vec<RawFd> {
    let Ok(directory) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let is_socket = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let mut numbers: Vec<RawFd> = directory
        .take(FDS_MAX)
        .flatten()
        .filter(is_socket)
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

fn pidfd_getfd(process: &OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes three integers, the first an open descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    owned(fd)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us (closed on exec), and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
