//! What is believed only when it was seen to work: the sandbox, the switch of connections, process descriptors.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use super::{Context, Finding};
use crate::config::{Listen, ListenAddress};
use crate::nix::{Builder, Nix, prove};
use crate::poll::wait;
use crate::report::chain;
use crate::runtime::keeper::NoStore;
use crate::runtime::pidfd;
use crate::runtime::traffic::{Routing, Setup, Slot, Traffic};

/// How long a connection to this machine may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take to be in its slot's queue; it takes microseconds.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Does a Nix sandbox hold here? One derivation is built, whose builder looks around from inside.
pub(super) fn sandbox(context: &Context<'_>) -> Option<Finding> {
    // Without Nix there is a line that says so already.
    which::which("nix-store").ok()?;
    let place = match Place::make() {
        Ok(place) => place,
        Err(error) => {
            let line = format!("the sandbox cannot be tried: no temporary directory: {error}");
            return Some(Finding::fail(line, "free space on /tmp, or set TMPDIR"));
        }
    };
    let proved = context.runtime.block_on(async {
        let nix = Nix::locate(&place.0.join("home")).await.map_err(|error| (chain(&error), error.hint()))?;
        let told = |refusal: crate::nix::Refusal| (chain(&refusal), refusal.hint());
        let builder = Builder::this_program().map_err(told)?;
        prove(&nix, &builder, &place.0).await.map_err(told)?;
        Ok((nix.version(), nix.system().to_owned()))
    });
    Some(match proved {
        Ok((version, system)) => {
            Finding::ok(format!("Nix {version} builds for {system} in a sandbox: tried, and seen from inside"))
        }
        Err((line, hint)) => {
            Finding::fail(line, hint.unwrap_or_else(|| "without a sandbox rei judges nothing".to_owned()))
        }
    })
}

/// A directory of this process alone, removed with this value.
struct Place(PathBuf);

impl Place {
    fn make() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("rei-check-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays is small, and in a temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Do new connections go where they are sent? Two slots are opened on this machine's own address and switched once.
pub(super) fn switch(_: &Context<'_>) -> Option<Finding> {
    let hint = "rei needs SO_ATTACH_REUSEPORT_CBPF (Linux 4.5); a container's seccomp filter may forbid it";
    Some(match switched() {
        Ok(took) => Finding::ok(format!("the kernel switches new connections between slots, here in {took:?}")),
        Err(why) => Finding::fail(format!("new connections cannot be switched between slots: {why}"), hint),
    })
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
pub(super) fn pidfds(_: &Context<'_>) -> Option<Finding> {
    Some(match pidfd::open(std::process::id()) {
        Ok(_) => Finding::ok("process descriptors can be had"),
        Err(error) => Finding::fail(format!("there are no process descriptors: {error}"), "use Linux 5.4 or later"),
    })
}
