//! Errors of opening, adopting and switching listeners, each with a hint for the operator.

use std::io;
use std::path::PathBuf;

use super::slot::Slot;
use crate::config::types::ListenAddress;
use crate::runtime::keeper;

/// Why the listeners could not be opened or adopted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two listeners have the same address: the kernel would split the connections between them at random.
    #[error("listeners {first} and {second} have the same address {address}")]
    SameAddress {
        /// One listener's name.
        first: String,
        /// The other listener's name.
        second: String,
        /// The address.
        address: ListenAddress,
    },
    /// A name is used twice, or is reserved for the Interface.
    #[error("the listener name {name} is used twice or reserved")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A name is not allowed in `LISTEN_FDNAMES`.
    #[error("the listener name {name:?} is empty, too long or has a character that socket activation does not allow")]
    BadName {
        /// The name.
        name: String,
    },
    /// Another process listens at the address.
    #[error("listener {name}: {address} is in use")]
    InUse {
        /// The listener's name.
        name: String,
        /// The address.
        address: ListenAddress,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// This user has no permission to use the address.
    #[error("listener {name}: no permission to listen on {address}")]
    Permission {
        /// The listener's name.
        name: String,
        /// The address.
        address: ListenAddress,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The machine does not have this address, or the directory does not exist.
    #[error("listener {name}: the address {address} does not exist on this machine")]
    NoSuchAddress {
        /// The listener's name.
        name: String,
        /// The address.
        address: ListenAddress,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The path of a Unix socket, together with the suffix of the second socket, is longer than the system allows.
    #[error("listener {name}: the path {path} has {bytes} bytes, more than the maximum of {max}")]
    PathTooLong {
        /// The listener's name.
        name: String,
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        bytes: usize,
        /// The maximum in bytes.
        max: usize,
    },
    /// A file that is not a socket has the path. rei never removes it.
    #[error("listener {name}: {path} exists and is not a socket")]
    NotASocket {
        /// The listener's name.
        name: String,
        /// The path.
        path: PathBuf,
    },
    /// Sockets of other processes receive connections for the same address.
    #[error("listener {name}: sockets of other processes share {address}")]
    Strangers {
        /// The listener's name.
        name: String,
        /// The address.
        address: ListenAddress,
    },
    /// Any other error of the system.
    #[error("listener {name}: cannot {act} {address}")]
    System {
        /// The listener's name.
        name: String,
        /// The operation that failed.
        act: &'static str,
        /// The address.
        address: ListenAddress,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The sockets are open, but the descriptor store did not accept them, so they would be lost when the supervisor
    /// exits.
    #[error("cannot store the listeners' sockets for the next supervisor")]
    Store(#[source] keeper::StoreError),
}

impl OpenError {
    /// A hint for the operator.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::SameAddress { .. } | Self::NameTaken { .. } | Self::BadName { .. } => {
                Some("change `runtime.listen` in rei.toml".into())
            }
            Self::InUse { address: ListenAddress::Tcp(address), .. } => {
                Some(format!("see which process uses it: ss -ltnp 'sport = :{}'", address.port()))
            }
            Self::InUse { address: ListenAddress::Udp(address), .. } => {
                Some(format!("see which process uses it: ss -lunp 'sport = :{}'", address.port()))
            }
            Self::InUse { address: ListenAddress::Unix(path), .. } => {
                Some(format!("see which process uses it: ss -lxp src {}", path.display()))
            }
            Self::Permission { address: ListenAddress::Unix(path), .. } => {
                Some(format!("give this user write permission for {}", path.parent().unwrap_or(path).display()))
            }
            Self::Permission { .. } => Some(
                "ports below `sysctl net.ipv4.ip_unprivileged_port_start` need root or CAP_NET_BIND_SERVICE; or use a higher port"
                    .into(),
            ),
            Self::NoSuchAddress { address: ListenAddress::Unix(path), .. } => {
                Some(format!("mkdir -p {}", path.parent().unwrap_or(path).display()))
            }
            Self::NoSuchAddress { .. } => Some("list the addresses of this machine: ip address".into()),
            Self::PathTooLong { .. } => Some("use a shorter path, for example below /run".into()),
            Self::NotASocket { path, .. } => Some(format!("check this file, then move it away: ls -l {}", path.display())),
            Self::Strangers { address: ListenAddress::Tcp(address) | ListenAddress::Udp(address), .. } => {
                Some(format!("stop the processes that use it: ss -lntup 'sport = :{}'", address.port()))
            }
            Self::Strangers { .. } | Self::System { .. } => None,
            Self::Store(error) => error.hint(),
        }
    }

    /// Chooses the variant by what an operator can do about the error.
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

/// A listener could not be switched. The other listeners were switched.
#[derive(Debug, thiserror::Error)]
#[error("cannot switch listener {name} towards slot {towards}")]
pub struct RouteError {
    /// The first listener that was not switched.
    pub name: String,
    /// The slot that was to get the larger part.
    pub towards: Slot,
    /// The error of the system.
    #[source]
    pub source: io::Error,
}

impl RouteError {
    /// A hint for the operator.
    pub fn hint(&self) -> Option<String> {
        match self.source.kind() {
            io::ErrorKind::NotFound => Some(
                "the socket's file was removed: make sure that only rei changes it, then run `rei rollback` or restart rei"
                    .into(),
            ),
            _ => None,
        }
    }
}
