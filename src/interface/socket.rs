//! Listening sockets in the file system: private from the start, never stale, never taken from a service that answers.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;
use tokio::net::UnixListener;

/// The mode of the socket: its owner alone may connect.
const MODE: u32 = 0o600;
/// The mode if a group may connect too.
const MODE_GROUP: u32 = 0o660;
/// The mode of the directory, if it has to be made.
const DIRECTORY_MODE: u32 = 0o700;
/// The mode if a group has to reach the socket.
const DIRECTORY_MODE_GROUP: u32 = 0o750;

/// A listening socket. Dropping it removes its file, if that is still its own.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    _file: Option<File>,
}

/// The file of a socket, known by its inode.
#[derive(Debug)]
struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another supervisor serves there.
    #[error("another process answers on {path}")]
    Answered {
        /// The path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} exists and is no socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Others could put their own socket in its place.
    #[error("{path} can be written by others (mode {mode:03o}, uid {uid})")]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
    },
    /// The system refused.
    #[error("cannot {act} {path}")]
    System {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    /// The next step of an operator, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Answered { .. } => Some("a supervisor runs already: `rei status`".into()),
            Self::NotASocket { path } => Some(format!("move {} away, or set another state directory", path.display())),
            Self::NotPrivate { path, mode, .. } if mode & 0o022 != 0 => Some(format!("chmod go-w {}", path.display())),
            Self::NotPrivate { path, .. } => Some(format!("chown $(id -un) {}", path.display())),
            Self::System { act: "bind", path, .. } if path.as_os_str().len() > 90 => {
                Some("a socket's path has at most 107 bytes: set `state.sockets` to a shorter one".into())
            }
            Self::System { .. } => None,
        }
    }
}

impl Socket {
    /// Listens at `path`, for the owner and root, and for the members of `group` if one is given.
    ///
    /// The socket is made under another name, and renamed after its mode is set, so that it is never open to others. If
    /// no process answers on an existing socket file, the file is replaced.
    ///
    /// # Errors
    /// If another process answers there, if the directory is not private, or if the system refuses.
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Self, SocketError> {
        let system = |act, path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::System { act, path, source }
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        private_directory(directory, group)?;
        refuse_answered(path)?;
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        remove(&fresh).map_err(system("remove", &fresh))?;
        let listener = StdListener::bind(&fresh).map_err(system("bind", &fresh))?;
        let finish = || {
            fs::set_permissions(&fresh, fs::Permissions::from_mode(group.map_or(MODE, |_| MODE_GROUP)))?;
            if let Some(group) = group {
                std::os::unix::fs::chown(&fresh, None, Some(group))?;
            }
            fs::rename(&fresh, path)?;
            listener.set_nonblocking(true)?;
            Ok(Self { listener: UnixListener::from_std(listener)?, _file: Some(File::at(path)?) })
        };
        finish().map_err(|source| {
            let _ = remove(&fresh); // The error that counts is the one that led here.
            system("listen at", path)(source)
        })
    }

    /// Takes over a listening socket: inherited, or kept over a re-execution. The file at `path` is removed with it, if
    /// a path is given.
    ///
    /// # Errors
    /// When it is no listening Unix socket.
    pub fn adopt(listener: OwnedFd, path: Option<&Path>) -> io::Result<Self> {
        use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};
        let address: SockaddrStorage = getsockname(listener.as_raw_fd())?;
        if address.family() != Some(AddressFamily::Unix) || !getsockopt(&listener, sockopt::AcceptConn)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a listening unix socket"));
        }
        let listener = StdListener::from(listener);
        listener.set_nonblocking(true)?;
        let file = path.map(File::at).transpose()?;
        Ok(Self { listener: UnixListener::from_std(listener)?, _file: file })
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl File {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let own = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(own) {
            let _ = fs::remove_file(&self.path); // If the file stays, the next bind finds that it is stale.
        }
    }
}

/// Makes the directory if it is missing, and refuses one in which others could replace the socket.
fn private_directory(directory: &Path, group: Option<u32>) -> Result<(), SocketError> {
    let system = |act| move |source| SocketError::System { act, path: directory.to_owned(), source };
    if !directory.exists() {
        let mode = group.map_or(DIRECTORY_MODE, |_| DIRECTORY_MODE_GROUP);
        fs::DirBuilder::new().recursive(true).mode(mode).create(directory).map_err(system("create"))?;
        if let Some(group) = group {
            std::os::unix::fs::chown(directory, None, Some(group)).map_err(system("change the group of"))?;
        }
    }
    let metadata = fs::metadata(directory).map_err(system("look at"))?;
    let (mode, uid) = (metadata.permissions().mode() & 0o777, metadata.uid());
    let own = uid == nix::unistd::geteuid().as_raw() || uid == 0;
    if own && mode & 0o022 == 0 {
        Ok(())
    } else {
        Err(SocketError::NotPrivate { path: directory.to_owned(), mode, uid })
    }
}

/// Refuses a path that a service listens on, or that is no socket.
fn refuse_answered(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::System { act: "look at", path: path.to_owned(), source }),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let ask = || {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(asking.as_raw_fd(), &UnixAddr::new(path)?)
    };
    match ask() {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        // A full queue: a service listens, however busy.
        Ok(()) | Err(Errno::EAGAIN) => Err(SocketError::Answered { path: path.to_owned() }),
        Err(errno) => Err(SocketError::System { act: "ask who serves", path: path.to_owned(), source: errno.into() }),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
