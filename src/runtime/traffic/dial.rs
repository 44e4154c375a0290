//! Connections from the supervisor to the instance of one slot, whether the slot has traffic or not.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::{SockType, setsockopt, sockopt};
use tokio::net::{TcpSocket, UnixStream};

use super::listeners::{Endpoint, Traffic};
use super::slot::Slot;
use crate::runtime::fetch::Stream;
use crate::runtime::probe::Dial;

/// Connects to the slots of shared listeners.
#[derive(Clone)]
pub struct SlotDial(Arc<Mutex<Traffic>>);

impl SlotDial {
    /// Makes a dialler for these listeners.
    pub fn new(traffic: Arc<Mutex<Traffic>>) -> Self {
        Self(traffic)
    }
}

impl Dial for SlotDial {
    async fn dial(&self, listener: &str, slot: usize) -> io::Result<Box<dyn Stream>> {
        let slot = if slot == 0 { Slot::A } else { Slot::B };
        let endpoint = self.0.lock().unwrap_or_else(PoisonError::into_inner).endpoint(listener, slot);
        match endpoint {
            Some(Endpoint::Tcp { address, field }) => Ok(Box::new(connect(address, field).await?)),
            Some(Endpoint::Unix(path)) => Ok(Box::new(UnixStream::connect(path).await?)),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no listener {listener}"))),
        }
    }
}

async fn connect(address: SocketAddr, field: u8) -> io::Result<tokio::net::TcpStream> {
    TcpSocket::from_std_stream(marked_socket(address, field)?.into()).connect(address).await
}

/// Makes a socket, not blocking and not connected yet, whose connection to a listener the program sends to the instance
/// of a slot, never to a tap.
///
/// # Errors
/// If there are no free descriptors, or the machine does not have the address any more.
pub fn marked_socket(address: SocketAddr, field: u8) -> io::Result<OwnedFd> {
    let socket = super::socket::inet(address, SockType::Stream)?;
    super::socket::set_nonblocking(&socket, true)?;
    if address.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4Tos, &i32::from(field))?;
    } else {
        setsockopt(&socket, sockopt::Ipv6TClass, &i32::from(field))?;
    }
    // The program obeys only connections whose source address equals their destination. For any address of 127.0.0.0/8
    // the kernel would choose the source 127.0.0.1, so bind to the destination address. With IP_BIND_ADDRESS_NO_PORT
    // the port is chosen at connect, as for any other client.
    super::socket::set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    super::socket::bind_inet(&socket, SocketAddr::new(address.ip(), 0))?;
    Ok(socket)
}
