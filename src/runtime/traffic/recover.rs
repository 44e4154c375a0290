//! Recovers listeners from running instances when no descriptor store has them.
//!
//! An instance has the sockets of its slot but not the guard. A socket is identified by its type, by whether it
//! listens, and by the address where it is bound; its slot follows from the id of the instance. The instance may have
//! changed the marks that tell the members apart later, so they are set again.

use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use nix::sys::socket::{SockType, setsockopt, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::label::Label;
use super::listeners::Setup;
use super::rejoin::is_for;
use super::slot::{Role, Slot};
use super::socket::{self, Mark};
use super::unix_pair;
use crate::config::types::{Listen, ListenAddress};
use crate::process;
use crate::runtime::pidfd;

/// Maximum number of descriptors examined per process. An instance inherits its listeners as descriptors 3, 4, …, so
/// they come first.
const FDS_MAX: usize = 4096;

/// A process that inherited the sockets of a slot, or the tap, which has those of both taps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process id.
    pub pid: u32,
    /// The start time in clock ticks since boot, if it is known.
    pub start_ticks: Option<u64>,
    /// The slot whose sockets it inherited; `None` for the tap.
    pub slot: Option<Slot>,
}

/// A process that has sockets, but whose sockets could not be copied.
#[derive(Debug)]
pub struct Refused {
    /// The process.
    pub holder: Holder,
    /// The error of the system.
    pub why: io::Error,
}

/// Adds the sockets that the store did not return to `kept`, copied from the processes that inherited them. Returns the
/// processes whose sockets may not be copied. Pass the result to [`super::Traffic::adopt`].
pub fn recover_from_instances(setup: Setup<'_>, holders: &[Holder], kept: &mut Vec<(String, OwnedFd)>) -> Vec<Refused> {
    let had: Vec<Label> = kept.iter().filter_map(|(name, _)| Label::parse(name)).collect();
    let mut found: Vec<(Label, OwnedFd)> = Vec::new();
    let mut refused = Vec::new();
    for &holder in holders {
        let is_there = |place: &Place<'_>| {
            let mut labels = had.iter().chain(found.iter().map(|(label, _)| label));
            labels.any(|label| label.name == place.name() && label.role == place.role)
        };
        let mut wanted = Place::of(setup, holder);
        wanted.retain(|place| !is_there(place));
        if wanted.is_empty() {
            continue;
        }
        if let Err(why) = take_from(holder, &mut wanted, &mut found) {
            refused.push(Refused { holder, why });
        }
    }
    let alone = |label: &Label| {
        let of_group = had.iter().chain(found.iter().map(|(label, _)| label)).filter(|other| other.name == label.name);
        of_group.count() == 1
    };
    let alone: Vec<bool> = found.iter().map(|(label, _)| alone(label)).collect();
    for ((mut label, fd), alone) in found.into_iter().zip(alone) {
        // When members leave, the kernel moves the last one into each hole, so the only one that is left has index 0.
        if alone && !socket::is_unix(&fd) {
            label.place = 0;
        }
        kept.push((label.to_string(), fd));
    }
    refused
}

/// Copies the wanted sockets of one process. A process that is gone has none.
fn take_from(holder: Holder, wanted: &mut Vec<Place<'_>>, found: &mut Vec<(Label, OwnedFd)>) -> io::Result<()> {
    // Open the pidfd first. Then everything that /proc says afterwards is about this process, or about one that the
    // pidfd does not refer to and whose descriptors it does not give.
    let Ok(process) = pidfd::open(holder.pid) else { return Ok(()) };
    let started = process::stat(holder.pid).map(|stat| stat.start_ticks);
    if started.is_none() || holder.start_ticks.is_some_and(|ticks| started != Some(ticks)) {
        return Ok(());
    }
    for number in sockets_of(holder.pid)? {
        if wanted.is_empty() {
            break;
        }
        let fd = match getfd(&process, number) {
            Ok(fd) => fd,
            // The process closed this one meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => continue,
            Err(error) => return Err(error),
        };
        let Some(at) = wanted.iter().position(|place| place.is_of(&fd)) else { continue };
        let place = wanted.remove(at);
        if let Some(label) = place.label(&fd) {
            found.push((label, fd));
        }
    }
    Ok(())
}

/// A listener whose socket is missing.
struct Place<'a> {
    role: Role,
    at: At<'a>,
    /// Whether the process has the sockets of all members, so that the mark must tell them apart. An instance may have
    /// changed the mark of its own.
    by_mark: bool,
}

enum At<'a> {
    Listener(&'a Listen),
    Interface(std::path::PathBuf),
}

impl<'a> Place<'a> {
    /// The sockets that a process inherits, in their order.
    fn of(setup: Setup<'a>, holder: Holder) -> Vec<Self> {
        let Some(slot) = holder.slot else {
            let is_tcp = |listen: &&Listen| matches!(listen.address, ListenAddress::Tcp(_));
            // The tap also holds the sockets of both slots.
            let roles = || Role::STREAM.into_iter().filter(|role| *role != Role::Guard);
            let of_tap = |listen| roles().map(move |role| Self { role, at: At::Listener(listen), by_mark: true });
            return setup.listens.iter().filter(is_tcp).flat_map(of_tap).collect();
        };
        let role = Role::Slot(slot);
        let interface =
            setup.interface.map(|directory| At::Interface(unix_pair::interface_socket_path(directory, slot)));
        setup.listens.iter().map(At::Listener).chain(interface).map(|at| Self { role, at, by_mark: false }).collect()
    }

    fn name(&self) -> &str {
        match &self.at {
            At::Listener(listen) => &listen.name,
            At::Interface(_) => unix_pair::INTERFACE,
        }
    }

    fn is_of(&self, fd: &OwnedFd) -> bool {
        if self.by_mark && Mark::read(fd).and_then(Mark::role) != Some(self.role) {
            return false;
        }
        match &self.at {
            At::Listener(Listen { address: ListenAddress::Unix(path), .. }) => unix_pair::is_at(path, fd),
            At::Listener(Listen { address: ListenAddress::Tcp(address), .. }) => is_for(*address, SockType::Stream, fd),
            At::Listener(Listen { address: ListenAddress::Udp(address), .. }) => {
                is_for(*address, SockType::Datagram, fd)
            }
            At::Interface(path) => unix_pair::is_at(path, fd),
        }
    }

    /// The name in the store; `None` if the socket cannot be used again.
    fn label(&self, fd: &OwnedFd) -> Option<Label> {
        let place = match &self.at {
            At::Listener(Listen { address: ListenAddress::Unix(path), .. }) | At::Interface(path) => {
                unix_pair::file_of(path, fd)?
            }
            At::Listener(_) => {
                Mark::of(self.role)?.put(fd).ok()?;
                setsockopt(fd, sockopt::ReusePort, &true).ok()?;
                // The index in a new group. If it is wrong, the search finds the real order.
                Role::STREAM.iter().position(|role| *role == self.role)? as u64
            }
        };
        let cookie = socket::cookie(fd).ok()?;
        Some(Label { name: self.name().to_owned(), role: self.role, place, cookie })
    }
}

/// The descriptors of a process that are sockets, in ascending order.
fn sockets_of(pid: u32) -> io::Result<Vec<RawFd>> {
    let is_socket = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let mut numbers: Vec<RawFd> = fs::read_dir(format!("/proc/{pid}/fd"))?
        .take(FDS_MAX)
        .flatten()
        .filter(is_socket)
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Copies a descriptor of a process.
fn getfd(process: &OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    Ok(pidfd_getfd(process, number, PidfdGetfdFlags::empty())?)
}
