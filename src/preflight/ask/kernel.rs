//! What the kernel is believed to do only if it was seen: the switch of connections, process descriptors.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use crate::config::{Listen, ListenAddress};
use crate::poll::wait;
use crate::preflight::answer::Answer;
use crate::report::chain;
use crate::runtime::keeper::NoStore;
use crate::runtime::pidfd;
use crate::runtime::traffic::{Routing, Setup, Slot, Traffic};

/// How long a connection to this machine may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take to be in its slot's queue; it takes microseconds.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Do new connections go where they are sent? Two slots are opened on this machine's own address and switched once.
pub fn switch() -> Vec<Answer> {
    let hint = "rei needs SO_ATTACH_REUSEPORT_CBPF (Linux 4.5); a container's seccomp filter may forbid it";
    vec![match switched() {
        Ok(took) => Answer::ok(format!("the kernel switches new connections between slots, here in {took:?}")),
        Err(why) => Answer::fail(format!("new connections cannot be switched between slots: {why}"), hint),
    }]
}

fn switched() -> Result<Duration, String> {
    let loopback = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
    let listens = [Listen { name: "check".to_owned(), address: loopback }];
    let setup = Setup { listens: &listens, interface: None };
    let mut traffic = Traffic::open(setup, Routing::All(Slot::A), &mut NoStore).map_err(|error| chain(&error))?;
    let Some(ListenAddress::Tcp(address)) = traffic.addresses().pop().map(|listen| listen.address) else {
        return Err("it has no address".to_owned());
    };
    arrives(&traffic, address, Slot::A)?;
    let routed = traffic.route(Routing::All(Slot::B)).map_err(|error| chain(&error))?;
    arrives(&traffic, address, Slot::B)?;
    Ok(routed.took)
}

/// Connects, and looks whether the connection waits in this slot.
fn arrives(traffic: &Traffic, address: SocketAddr, slot: Slot) -> Result<(), String> {
    let connected = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT);
    let _connection = connected.map_err(|error| format!("cannot connect to {address}: {error}"))?;
    let fds = traffic.slot_fds(slot);
    let mut fds: Vec<PollFd<'_>> = fds.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match wait(&mut fds, QUEUE_TIMEOUT) {
        Ok(1) => Ok(()),
        _ => Err(format!("a connection did not come to slot {slot:?}")),
    }
}

/// Can a process be named for good?
pub fn pidfds() -> Vec<Answer> {
    vec![match pidfd::open(std::process::id()) {
        Ok(_) => Answer::ok("process descriptors can be had"),
        Err(error) => Answer::fail(format!("there are no process descriptors: {error}"), "use Linux 5.4 or later"),
    }]
}
