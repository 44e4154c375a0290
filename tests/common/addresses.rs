//! Addresses for the services of tests, so that tests that run side by side do not disturb each other.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// An address that no other test on this machine uses, with a free port. Clients use another address, so no client takes the port
/// while the service is not listening.
pub fn own() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // The address contains the number of the process and the number of the test: all of 127.0.0.0/8 is loopback.
    let number = std::process::id().wrapping_mul(256).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed) % 256);
    let [_, b, c, d] = number.to_be_bytes();
    // 127.0.*.* is not used, because other programs use 127.0.0.1. The last bytes 0 and 255 are not used either.
    let host = Ipv4Addr::new(127, b % 254 + 1, c, d % 254 + 1);
    let listener = TcpListener::bind(SocketAddrV4::new(host, 0)).expect("a free port");
    listener.local_addr().expect("an address")
}
