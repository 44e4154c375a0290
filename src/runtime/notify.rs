//! `sd_notify`, both sides: messages from instances to rei, and from rei to the service manager.
//!
//! A message of an instance is evidence and never a command. It counts only if the kernel says that its sender is in
//! the instance's tree. A malformed message is a health signal like any other.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram as StdUnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recv, recvmsg, setsockopt};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::isolation::User;
use super::tree::Tree;

/// Maximum length of a message, in bytes. systemd had the same limit for a long time.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// Maximum length of a stored status text, in bytes.
pub const STATUS_BYTES_MAX: usize = 512;

/// Maximum extension that an instance can request for its own deadline in one message.
pub const EXTEND_MAX: Duration = Duration::from_secs(300);

/// Maximum number of descriptors in a message; the kernel drops the rest. They are closed when the message has been
/// handled; `BARRIER=1` waits for that.
const DESCRIPTORS_MAX: usize = 4;

/// One assignment of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// `READY=1`
    Ready,
    /// `RELOADING=1`
    Reloading,
    /// `STOPPING=1`
    Stopping,
    /// `WATCHDOG=1`
    Watchdog,
    /// `WATCHDOG=trigger`: the instance asks to be treated as hung.
    WatchdogTrigger,
    /// `STATUS=…`, truncated to [`STATUS_BYTES_MAX`].
    Status(String),
    /// `EXTEND_TIMEOUT_USEC=…`, limited to [`EXTEND_MAX`].
    ExtendTimeout(Duration),
    /// `MAINPID=…`. It is ignored: the main process is always the one that rei started.
    MainPid(String),
    /// A malformed message, with the reason.
    Garbage(String),
    /// A message of a process outside the tree, with its pid. It is ignored.
    Stranger(i32),
}

/// Parses one message. Unknown fields are skipped, as in systemd.
pub fn parse(message: &[u8]) -> Vec<Notification> {
    let Ok(text) = std::str::from_utf8(message) else {
        return vec![Notification::Garbage("not UTF-8".into())];
    };
    text.split('\n').filter(|line| !line.is_empty()).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Notification> {
    let Some((name, value)) = line.split_once('=') else {
        return Some(Notification::Garbage(format!("no assignment: {:?}", cut(line))));
    };
    let garbage = || Some(Notification::Garbage(format!("{name}={:?}", cut(value))));
    match (name, value) {
        ("READY", "1") => Some(Notification::Ready),
        ("RELOADING", "1") => Some(Notification::Reloading),
        ("STOPPING", "1") => Some(Notification::Stopping),
        ("WATCHDOG", "1") => Some(Notification::Watchdog),
        ("WATCHDOG", "trigger") => Some(Notification::WatchdogTrigger),
        ("READY" | "RELOADING" | "STOPPING" | "WATCHDOG", _) => garbage(),
        ("STATUS", text) => Some(Notification::Status(cut(text).to_owned())),
        ("EXTEND_TIMEOUT_USEC", us) => match us.parse() {
            Ok(us) => Some(Notification::ExtendTimeout(Duration::from_micros(us).min(EXTEND_MAX))),
            Err(_) => garbage(),
        },
        ("MAINPID", pid) => Some(Notification::MainPid(cut(pid).to_owned())),
        _ => None,
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(STATUS_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The notification socket of one instance.
#[derive(Debug)]
pub struct NotifySocket {
    path: PathBuf,
    socket: UnixDatagram,
}

impl NotifySocket {
    /// Binds the socket at `path`, so that only the supervisor and `user` can write to it. An existing one (of a
    /// supervisor that died) is replaced: its instance finds the new one at the same path.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub fn bind(path: &Path, user: Option<&User>) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = StdUnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, PassCred, &true)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        if let Some(user) = user {
            chown(path, Some(user.uid), Some(user.gid))?;
        }
        Ok(Self { path: path.to_owned(), socket: UnixDatagram::from_std(socket)? })
    }

    /// Adopts the socket that an earlier supervisor bound at `path` and that the store returned. Messages that were
    /// sent meanwhile wait in it.
    ///
    /// # Errors
    /// If the event loop cannot register it.
    pub fn adopt(path: &Path, socket: OwnedFd) -> io::Result<Self> {
        let socket = StdUnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self { path: path.to_owned(), socket: UnixDatagram::from_std(socket)? })
    }

    /// The path for `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Receives one message. `READY=1` is sent only once, so `on_ready` is called while the message is still in the
    /// socket. If the supervisor dies at any moment, the next one finds the message or what `on_ready` has recorded.
    /// Cancel safe.
    ///
    /// # Errors
    /// If the socket fails; with a working kernel it never does.
    pub async fn receive(&self, tree: &Tree, on_ready: impl Fn()) -> io::Result<Vec<Notification>> {
        let receive = || {
            let heard = peek(&self.socket, tree)?;
            if heard.contains(&Notification::Ready) {
                on_ready();
            }
            // This also discards the rest of the message and its descriptors.
            recv(self.socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT)?;
            Ok(heard)
        };
        self.socket.async_io(Interest::READABLE, receive).await
    }

    /// Receives messages until the task is aborted, and forwards them. If the receiver is too slow, messages about the
    /// current state are dropped: the next message repeats it. For `on_ready` see [`NotifySocket::receive`].
    pub fn forward(
        self,
        tree: Tree,
        to: mpsc::Sender<Notification>,
        on_ready: impl Fn() + Send + Sync + 'static,
    ) -> JoinHandle<()> {
        tokio::spawn(async move {
            while let Ok(notifications) = self.receive(&tree, &on_ready).await {
                for notification in notifications {
                    // READY, STOPPING and other one-time messages must not be lost, so they wait for space in the
                    // channel.
                    match notification {
                        Notification::Watchdog
                        | Notification::Status(_)
                        | Notification::Garbage(_)
                        | Notification::Stranger(_) => {
                            let _ = to.try_send(notification);
                        }
                        _ if to.send(notification).await.is_err() => return,
                        _ => {}
                    }
                }
            }
        })
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // A successor may have replaced it already; then this removes nothing of value to rei, and an error is ignored.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads the next message without removing it from the socket.
fn peek(socket: &UnixDatagram, tree: &Tree) -> io::Result<Vec<Notification>> {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    let mut control = nix::cmsg_space!(UnixCredentials, [std::os::fd::RawFd; DESCRIPTORS_MAX]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let (mut sender, mut descriptors) = (None, Vec::new());
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::ScmCredentials(credentials) => sender = Some(credentials.pid()),
            ControlMessageOwned::ScmRights(fds) => {
                // SAFETY: the kernel has just created these descriptors for us, and no other code owns them.
                descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            _ => {}
        }
    }
    let (bytes, truncated) = (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC));
    let pid = sender.unwrap_or_default();
    if !u32::try_from(pid).is_ok_and(|pid| tree.contains(pid)) {
        return Ok(vec![Notification::Stranger(pid)]);
    }
    if truncated {
        return Ok(vec![Notification::Garbage(format!("longer than {MESSAGE_BYTES_MAX} bytes"))]);
    }
    Ok(parse(&buffer[..bytes]))
}

/// Sends a message to the service manager that runs rei. Returns true if there is one.
///
/// # Errors
/// If the socket that `NOTIFY_SOCKET` names does not accept the message.
pub fn notify_systemd(message: &str) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(address) => send_to(&address, message).map(|()| true),
        None => Ok(false),
    }
}

fn send_to(address: &std::ffi::OsStr, message: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;
    let address = match address.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = StdUnixDatagram::unbound()?;
    // A service manager that does not read must not block the supervisor.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_parsed() {
        let heard =
            parse(b"READY=1\nSTATUS=serving 3\nWATCHDOG=1\nX_THEIRS=1\nEXTEND_TIMEOUT_USEC=5000000\nMAINPID=17");
        let expected = [
            Notification::Ready,
            Notification::Status("serving 3".into()),
            Notification::Watchdog,
            Notification::ExtendTimeout(Duration::from_secs(5)),
            Notification::MainPid("17".into()),
        ];
        assert_eq!(heard, expected);
        assert_eq!(parse(b"STOPPING=1\n"), [Notification::Stopping]);
        assert_eq!(parse(b""), []);
    }

    #[test]
    fn malformed_messages_are_reported() {
        for message in [&b"\xff\xfe"[..], b"hello", b"READY=yes", b"EXTEND_TIMEOUT_USEC=-1", b"WATCHDOG=\0"] {
            let heard = parse(message);
            assert!(matches!(heard[..], [Notification::Garbage(_)]), "{heard:?}");
        }
    }

    #[test]
    fn long_values_are_truncated() {
        let heard = parse(format!("STATUS=x{}", "ä".repeat(1000)).as_bytes());
        let [Notification::Status(status)] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!(status.len(), STATUS_BYTES_MAX - 1);
        assert_eq!(parse(b"EXTEND_TIMEOUT_USEC=18446744073709551615"), [Notification::ExtendTimeout(EXTEND_MAX)]);
    }

    #[test]
    fn the_service_manager_is_reached_by_path_and_by_abstract_name() {
        use std::os::linux::net::SocketAddrExt;
        let dir = tempfile::tempdir().unwrap();
        let by_path = StdUnixDatagram::bind(dir.path().join("notify")).unwrap();
        let name = format!("rei-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = StdUnixDatagram::bind_addr(&address).unwrap();
        send_to(dir.path().join("notify").as_os_str(), "READY=1").unwrap();
        send_to(format!("@{name}").as_ref(), "STATUS=up").unwrap();
        let mut buffer = [0; 64];
        let n = by_path.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"READY=1");
        let n = by_name.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"STATUS=up");
        assert!(send_to("/nonexistent/notify".as_ref(), "READY=1").is_err());
    }
}
