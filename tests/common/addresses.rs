//! Where a test's service listens, so that tests which run side by side are not in each other's way.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// An address that no other test of this machine has, with a port that is free. Clients have another address, so none takes
/// the port while nobody listens there.
pub fn own() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // A process's number, and behind it the test's: 127.0.0.0/8 is the machine's own, all of it.
    let number = std::process::id().wrapping_mul(256).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed) % 256);
    let [_, b, c, d] = number.to_be_bytes();
    // 127.0.*.* is left to whoever takes 127.0.0.1, and .0 and .255 to nobody.
    let host = Ipv4Addr::new(127, b % 254 + 1, c, d % 254 + 1);
    let listener = TcpListener::bind(SocketAddrV4::new(host, 0)).expect("a free port");
    listener.local_addr().expect("an address")
}
