//! Finds the index of each member of a group by test connections, without an effect on other clients.
//!
//! A BPF program can send the connections of one source port to one index and route all others as before. A test
//! connection from that port arrives in the guard's queue, or `sock_diag` shows it with the mark of the slot that
//! received it, even if an instance accepts it at once. The instance sees a connection that closes without sending a
//! byte, like a TCP health check.

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
use super::slot::Role;
use super::socket;
use crate::poll::wait;

/// Timeout of one connection of the machine to itself, in milliseconds. It normally takes microseconds; a full queue
/// never answers.
const CONNECT_MS_MAX: u16 = 100;
/// Attempts for an index whose connection was not seen: the instance may have closed it at once.
const TRIES_MAX: usize = 3;
/// Maximum number of connections taken off the guard's queue; more than any queue holds.
const STRAYS_MAX: usize = 65_536;

/// A search in one group.
pub(super) struct Search<'a> {
    /// The address of the group.
    pub address: SocketAddr,
    /// True for TCP, false for UDP.
    pub stream: bool,
    /// The member that only the supervisor holds.
    pub guard: &'a OwnedFd,
    /// The program for all other connections during the search.
    pub rest: &'a dyn Fn() -> Program,
}

impl Search<'_> {
    /// The order of the group; `None` if the guard is not the last member or the results contradict each other.
    ///
    /// `complete` means that, as far as is known, no member has left. Then it is enough to find the guard at its index:
    /// if any member had left, the last one would have moved. So no instance gets a test connection. Datagrams leave no
    /// trace that could be looked up, so for UDP only the guard is searched for.
    pub fn order(&self, expected: &Order, complete: bool) -> io::Result<Option<Order>> {
        let last = expected.index(Role::Guard);
        if !self.stream || complete {
            let found =
                if self.stream { self.member(last)? == Some(Role::Guard) } else { self.datagram_to_guard(last)? };
            if found || !self.stream {
                return Ok((found && expected.guard_is_last()).then(|| expected.clone()));
            }
        }
        let found = (0..expected.len()).map(|index| self.member(index)).collect::<io::Result<Vec<_>>>()?;
        let order = Order::completed(&found, expected);
        Ok(order.filter(|order| order.guard_is_last()))
    }

    /// The member at an index; `None` if no connection to it was seen.
    fn member(&self, index: u32) -> io::Result<Option<Role>> {
        let server = SocketAddr::new(reachable(self.address.ip()), self.address.port());
        for _ in 0..TRIES_MAX {
            let client = socket::inet(server, SockType::Stream)?;
            socket::bind_inet(&client, SocketAddr::new(server.ip(), 0))?;
            let from = socket::address(&client).ok_or(io::ErrorKind::AddrNotAvailable)?;
            self.route_port(from.port(), index)?;
            setsockopt(&client, sockopt::SendTimeout, &TimeVal::milliseconds(CONNECT_MS_MAX.into()))?;
            let connected = connect(client.as_raw_fd(), &SockaddrStorage::from(server));
            if self.empty_guard(from) {
                return Ok(Some(Role::Guard));
            }
            if let Some(member) = connected.ok().map(|()| diag::member_of(server, from)).transpose()?.flatten() {
                return Ok(Some(member));
            }
        }
        Ok(None)
    }

    /// True if the guard is at this index of a UDP group. If it is not, a slot gets one empty datagram.
    fn datagram_to_guard(&self, index: u32) -> io::Result<bool> {
        let server = SocketAddr::new(reachable(self.address.ip()), self.address.port());
        let client = UdpSocket::bind((server.ip(), 0))?;
        let from = client.local_addr()?;
        self.route_port(from.port(), index)?;
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

    fn route_port(&self, source_port: u16, index: u32) -> io::Result<()> {
        socket::attach(self.guard, &mut program::probe(self.address.is_ipv6(), source_port, index, (self.rest)()))
    }

    /// Accepts all connections in the guard's queue, so that its alarm is quiet again. Returns true if the connection
    /// of this client was among them. No instance could ever serve the others.
    fn empty_guard(&self, client: SocketAddr) -> bool {
        let mut found = false;
        for _ in 0..STRAYS_MAX {
            match accept4(self.guard.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Ok(fd) => {
                    // SAFETY: `accept4` has just created this descriptor, and no other code owns it.
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

/// The address by which this machine itself reaches the listener.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}
