//! Connections from the tap to the instance of one slot.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{SockaddrStorage, connect, getsockname};
use tokio::net::TcpStream;

/// Begins to connect. Returns the address that the connection comes from.
pub(super) fn begin(fd: &OwnedFd, target: SocketAddr) -> io::Result<SocketAddr> {
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(target)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    address(&getsockname(fd.as_raw_fd())?).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Waits until the connection is there. There is no timeout but the system's: a client without a tap waits the same.
pub(super) async fn connected(stream: &TcpStream) -> io::Result<()> {
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(()), Err)
}

/// The internet address in an address of the system.
pub(super) fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}
