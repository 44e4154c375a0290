//! Why listeners could not be opened, taken back or switched, with the operator's next step.

use std::io;
use std::path::PathBuf;

use super::slot::Slot;
use crate::config::types::ListenAddress;
use crate::runtime::keeper;

/// Why the listeners could not be opened or taken back.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two listeners have one address: they would share connections by chance.
    #[error("listeners {first} and {second} both want {address}")]
    SameAddress {
        /// One listener's name.
        first: String,
        /// The other's.
        second: String,
        /// The address.
        address: ListenAddress,
    },
    /// A name is used twice, or is the Interface's own.
    #[error("the listener name {name} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A name cannot stand in `LISTEN_FDNAMES`.
    #[error("the listener name {name:?} is empty, too long or has a character that socket activation does not allow")]
    BadName {
        /// The name.
        name: String,
    },
    /// Somebody listens there.
    #[error("listener {name}: {address} is in use")]
    InUse {
        /// The listener's name.
        name: String,
        /// The address.
        address: ListenAddress,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The address may not be used by this user.
    #[error("listener {name}: no permission to listen on {address}")]
    Permission {
        /// The listener's name.
        name: String,
        /// The address.
        address: ListenAddress,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The machine has no such address, or no such directory.
    #[error("listener {name}: there is no {address} here")]
    NoSuchAddress {
        /// The listener's name.
        name: String,
        /// The address.
        address: ListenAddress,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A unix socket's path, with the suffix that a second socket needs, does not fit the system's bound.
    #[error("listener {name}: the path {path} is {bytes} bytes long, at most {max} fit")]
    PathTooLong {
        /// The listener's name.
        name: String,
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        bytes: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// Something that is no socket has the path; it is never removed.
    #[error("listener {name}: {path} exists and is not a socket")]
    NotASocket {
        /// The listener's name.
        name: String,
        /// The path.
        path: PathBuf,
    },
    /// Sockets that are not the supervisor's take connections of the same address.
    #[error("listener {name}: sockets that are not this supervisor's share {address}")]
    Strangers {
        /// The listener's name.
        name: String,
        /// The address.
        address: ListenAddress,
    },
    /// Anything else that the system refused.
    #[error("listener {name}: cannot {act} {address}")]
    System {
        /// The listener's name.
        name: String,
        /// What was tried.
        act: &'static str,
        /// The address.
        address: ListenAddress,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The sockets are open, but the store did not take them, so they would not outlive the supervisor.
    #[error("cannot keep the listeners' sockets for the next supervisor")]
    Store(#[source] keeper::StoreError),
}

impl OpenError {
    /// The operator's next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::SameAddress { .. } | Self::NameTaken { .. } | Self::BadName { .. } => {
                Some("change `runtime.listen` in rei.toml".into())
            }
            Self::InUse { address: ListenAddress::Tcp(address), .. } => {
                Some(format!("see who has it: ss -ltnp 'sport = :{}'", address.port()))
            }
            Self::InUse { address: ListenAddress::Udp(address), .. } => {
                Some(format!("see who has it: ss -lunp 'sport = :{}'", address.port()))
            }
            Self::InUse { address: ListenAddress::Unix(path), .. } => {
                Some(format!("see who has it: ss -lxp src {}", path.display()))
            }
            Self::Permission { address: ListenAddress::Unix(path), .. } => {
                Some(format!("let this user write to {}", path.parent().unwrap_or(path).display()))
            }
            Self::Permission { .. } => Some(
                "ports below `sysctl net.ipv4.ip_unprivileged_port_start` need root or CAP_NET_BIND_SERVICE; or take a higher one"
                    .into(),
            ),
            Self::NoSuchAddress { address: ListenAddress::Unix(path), .. } => {
                Some(format!("mkdir -p {}", path.parent().unwrap_or(path).display()))
            }
            Self::NoSuchAddress { .. } => Some("see which there are: ip address".into()),
            Self::PathTooLong { .. } => Some("take a shorter path, below /run for example".into()),
            Self::NotASocket { path, .. } => Some(format!("look at it, then move it away: ls -l {}", path.display())),
            Self::Strangers { address: ListenAddress::Tcp(address) | ListenAddress::Udp(address), .. } => {
                Some(format!("end the processes that hold it: ss -lntup 'sport = :{}'", address.port()))
            }
            Self::Strangers { .. } | Self::System { .. } => None,
            Self::Store(error) => error.hint(),
        }
    }

    /// Sorts a system error by what an operator can do about it.
    pub(super) fn of(name: &str, act: &'static str, address: &ListenAddress, source: io::Error) -> Self {
        let (name, address) = (name.to_owned(), address.clone());
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { name, address, source },
            io::ErrorKind::PermissionDenied => Self::Permission { name, address, source },
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::NotFound => Self::NoSuchAddress { name, address, source },
            _ => Self::System { name, act, address, source },
        }
    }
}

/// Why a listener was not switched; the others were.
#[derive(Debug, thiserror::Error)]
#[error("listener {name} could not be switched towards slot {towards}")]
pub struct RouteError {
    /// The first listener that was not switched.
    pub name: String,
    /// The slot that was to get the larger part.
    pub towards: Slot,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl RouteError {
    /// The operator's next step.
    pub fn hint(&self) -> Option<String> {
        match self.source.kind() {
            io::ErrorKind::NotFound => Some(
                "the socket's file was removed: let nothing but rei touch it, then `rei rollback` or restart rei"
                    .into(),
            ),
            _ => None,
        }
    }
}
