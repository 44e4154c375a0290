//! Listeners back from running instances, where no store has them.
//!
//! An instance has the sockets of its slot, and no guard. Which is which is told by what a socket is: its type, that it listens,
//! and where it is bound; and by the slot, which the instance's id names. That the instance could have changed the marks by which
//! members are told apart later is why they are put on again.

use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use nix::sys::socket::{SockType, setsockopt, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::exchange;
use super::label::Label;
use super::listeners::Setup;
use super::rejoin::is_for;
use super::slot::{Role, Slot};
use super::socket::{self, Mark};
use crate::config::types::{Listen, ListenAddress};
use crate::process;
use crate::runtime::pidfd;

/// Descriptors of one process that are looked at. An instance inherits its listeners as 3, 4, …, so they are the first of them.
const FDS_MAX: usize = 4096;

/// A process that inherited the sockets of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// When it was started, in clock ticks since boot, where that is known.
    pub start_ticks: Option<u64>,
    /// The slot.
    pub slot: Slot,
}

/// Why sockets could not be taken from a process that has some.
#[derive(Debug)]
pub struct Refused {
    /// The process.
    pub holder: Holder,
    /// What the system said.
    pub why: io::Error,
}

/// Adds to what a store kept copies of the sockets that it has not, from the processes that inherited them. Gives the processes
/// that may not be asked. What comes of it goes to [`super::Traffic::adopt`].
pub fn take_back(setup: Setup<'_>, holders: &[Holder], kept: &mut Vec<(String, OwnedFd)>) -> Vec<Refused> {
    let had: Vec<Label> = kept.iter().filter_map(|(name, _)| Label::parse(name)).collect();
    let mut found: Vec<(Label, OwnedFd)> = Vec::new();
    let mut refused = Vec::new();
    for &holder in holders {
        let is_there = |place: &Place<'_>| {
            let mut labels = had.iter().chain(found.iter().map(|(label, _)| label));
            labels.any(|label| label.name == place.name() && label.role == Role::Slot(holder.slot))
        };
        let mut wanted: Vec<Place<'_>> = Place::of(setup, holder.slot).filter(|place| !is_there(place)).collect();
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
        // The kernel moves the last into each hole, so the only one that is left is the first.
        if alone && !socket::is_unix(&fd) {
            label.place = 0;
        }
        kept.push((label.to_string(), fd));
    }
    refused
}

/// Takes what is wanted out of one process. A process that is gone has nothing.
fn take_from(holder: Holder, wanted: &mut Vec<Place<'_>>, found: &mut Vec<(Label, OwnedFd)>) -> io::Result<()> {
    // The pidfd first: whatever /proc says afterwards is of this process, or of none that it gives descriptors of.
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
            // It closed this one meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => continue,
            Err(error) => return Err(error),
        };
        let Some(at) = wanted.iter().position(|place| place.is_of(&fd)) else { continue };
        let place = wanted.remove(at);
        if let Some(label) = place.label(holder.slot, &fd) {
            found.push((label, fd));
        }
    }
    Ok(())
}

/// A listener whose socket is looked for.
enum Place<'a> {
    Listener(&'a Listen),
    Interface(std::path::PathBuf),
}

impl<'a> Place<'a> {
    /// Those of a slot, in the order in which an instance inherits them.
    fn of(setup: Setup<'a>, slot: Slot) -> impl Iterator<Item = Self> {
        let interface = setup.interface.map(|directory| Self::Interface(exchange::private_path(directory, slot)));
        setup.listens.iter().map(Self::Listener).chain(interface)
    }

    fn name(&self) -> &str {
        match self {
            Self::Listener(listen) => &listen.name,
            Self::Interface(_) => exchange::INTERFACE,
        }
    }

    fn is_of(&self, fd: &OwnedFd) -> bool {
        match self {
            Self::Listener(Listen { address: ListenAddress::Unix(path), .. }) => exchange::is_at(path, fd),
            Self::Listener(Listen { address: ListenAddress::Tcp(address), .. }) => {
                is_for(*address, SockType::Stream, fd)
            }
            Self::Listener(Listen { address: ListenAddress::Udp(address), .. }) => {
                is_for(*address, SockType::Datagram, fd)
            }
            Self::Interface(path) => exchange::is_at(path, fd),
        }
    }

    /// Its name in a store; `None` where it cannot be used again.
    fn label(&self, slot: Slot, fd: &OwnedFd) -> Option<Label> {
        let place = match self {
            Self::Listener(Listen { address: ListenAddress::Unix(path), .. }) | Self::Interface(path) => {
                exchange::file_of(path, fd)?
            }
            Self::Listener(_) => {
                Mark::of(slot).put(fd).ok()?;
                setsockopt(fd, sockopt::ReusePort, &true).ok()?;
                // As a fresh group has it. Where that is not so, the search finds the order.
                slot.index() as u64
            }
        };
        let cookie = socket::cookie(fd).ok()?;
        Some(Label { name: self.name().to_owned(), role: Role::Slot(slot), place, cookie })
    }
}

/// The descriptors of a process that are sockets, lowest first.
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

/// A copy of a process's descriptor.
fn getfd(process: &OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    Ok(pidfd_getfd(process, number, PidfdGetfdFlags::empty())?)
}
