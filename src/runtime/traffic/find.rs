//! Finds who is where in a group by asking the kernel, without touching other clients.
//!
//! A program can send the connections of one source port to one index and leave all others as they were. A connection from that
//! port comes to the guard's queue, or shows in `sock_diag` with the mark of the slot that it came to, even where an instance
//! accepts it at once. The instance sees a connection that ends without a byte, as from a TCP health check.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{SockFlag, SockType, SockaddrStorage, accept4, connect, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::diag;
use super::order::Order;
use super::program::{self, Program};
use super::slot::{Role, Slot};
use super::socket;
use crate::poll::wait;

/// How long one connection of the machine to itself may take, in milliseconds. It takes microseconds; a full queue never answers.
const CONNECT_MS_MAX: u16 = 100;
/// Tries at an index whose connection could not be seen: an instance may have ended it at once.
const TRIES_MAX: usize = 3;
/// Connections taken off the guard's queue at most; more than any queue holds.
const STRAYS_MAX: usize = 65_536;

/// A search in one group.
pub(super) struct Search<'a> {
    /// The group's address.
    pub address: SocketAddr,
    /// TCP, not UDP.
    pub stream: bool,
    /// The member that only the supervisor holds.
    pub guard: &'a OwnedFd,
    /// What must happen to everybody else meanwhile.
    pub rest: &'a dyn Fn() -> Program,
}

impl Search<'_> {
    /// The order of the group, or `None` when the guard is not last or the members contradict each other.
    ///
    /// `whole` says that no member has left as far as we know. Then the guard in its place proves that none has moved since the
    /// order was written down, because whatever leaves moves the last; so no instance is bothered.
    /// Datagrams leave no trace to look at, so for UDP only the guard is found.
    pub fn order(&self, expected: Order, whole: bool) -> io::Result<Option<Order>> {
        let last = expected.index(Role::Guard);
        if !self.stream || whole {
            let found =
                if self.stream { self.member(last)? == Some(Role::Guard) } else { self.datagram_to_guard(last)? };
            if found || !self.stream {
                return Ok((found && expected.guarded()).then_some(expected));
            }
        }
        let found = [self.member(0)?, self.member(1)?, self.member(2)?];
        let seen: Vec<Role> = found.iter().flatten().copied().collect();
        let order = match (found, seen.len()) {
            (_, 3) => Order::of(&seen),
            // Two that were seen tell the third. The guard alone tells that the slots are where we left them.
            (_, 2) => [Order::joined(Slot::A), Order::joined(Slot::B)].into_iter().find(|order| agrees(*order, &found)),
            ([None, None, Some(Role::Guard)], _) => Some(expected),
            _ => None,
        };
        Ok(order.filter(|order| order.guarded()))
    }

    /// The member at an index, or `None` where no connection to it could be seen.
    fn member(&self, index: u32) -> io::Result<Option<Role>> {
        let server = SocketAddr::new(reachable(self.address.ip()), self.address.port());
        for _ in 0..TRIES_MAX {
            let client = socket::inet(server, SockType::Stream)?;
            socket::bind_inet(&client, SocketAddr::new(server.ip(), 0))?;
            let from = socket::address(&client).ok_or(io::ErrorKind::AddrNotAvailable)?;
            self.steer(from.port(), index)?;
            setsockopt(&client, sockopt::SendTimeout, &TimeVal::milliseconds(CONNECT_MS_MAX.into()))?;
            let connected = connect(client.as_raw_fd(), &SockaddrStorage::from(server));
            if self.empty_guard(from) {
                return Ok(Some(Role::Guard));
            }
            if let Some(slot) = connected.ok().map(|()| diag::slot_of(server, from)).transpose()?.flatten() {
                return Ok(Some(Role::Slot(slot)));
            }
        }
        Ok(None)
    }

    /// Whether the guard is at this index of a UDP group. If not, a slot gets one empty datagram.
    fn datagram_to_guard(&self, index: u32) -> io::Result<bool> {
        let server = SocketAddr::new(reachable(self.address.ip()), self.address.port());
        let client = UdpSocket::bind((server.ip(), 0))?;
        let from = client.local_addr()?;
        self.steer(from.port(), index)?;
        client.send_to(&[], server)?;
        let guard = UdpSocket::from(self.guard.try_clone()?);
        for _ in 0..STRAYS_MAX {
            let mut fds = [PollFd::new(guard.as_fd(), PollFlags::POLLIN)];
            if wait(&mut fds, Duration::from_millis(CONNECT_MS_MAX.into()))? == 0 {
                return Ok(false);
            }
            match guard.recv_from(&mut [0]) {
                Ok((_, sender)) if sender == from => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn steer(&self, source_port: u16, index: u32) -> io::Result<()> {
        socket::attach(self.guard, &mut program::probe(self.address.is_ipv6(), source_port, index, (self.rest)()))
    }

    /// Takes what came to the guard off its queue, so that its alarm is quiet again, and says whether this client was among it.
    /// No instance could ever serve the others.
    fn empty_guard(&self, client: SocketAddr) -> bool {
        let mut found = false;
        for _ in 0..STRAYS_MAX {
            match accept4(self.guard.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Ok(fd) => {
                    // SAFETY: `accept4` has just made this descriptor, and nobody else knows of it.
                    let stray = unsafe { OwnedFd::from_raw_fd(fd) };
                    found |= socket::peer(&stray) == Some(client);
                }
                Err(Errno::ECONNABORTED | Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        found
    }
}

fn agrees(order: Order, found: &[Option<Role>; 3]) -> bool {
    found.iter().zip(0..).all(|(role, index)| role.is_none_or(|role| order.index(role) == index))
}

/// The address at which the machine itself reaches a listener.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}
