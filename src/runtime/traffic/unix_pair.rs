//! A Unix listener: two bound sockets, one of which has the public path. One atomic rename swaps their paths.
//!
//! A connection goes to the socket that has the public path at that moment. So one slot gets all connections; a share
//! is not possible. Connections in a queue stay with their socket.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::poll::PollFlags;
use nix::sys::socket::SockType;

use super::diag;
use super::error::OpenError;
use super::label::Label;
use super::options::Options;
use super::rejoin::Adoption;
use super::renew::{Prepared, is_recent};
use super::slot::{NextVersion, Role, Routing, Slot};
use super::socket::{self, UNIX_PATH_BYTES_MAX};
use crate::config::types::ListenAddress;
use crate::poll::is_ready;
use crate::runtime::keeper::FdStore;

/// The mode of a public path, as in socket activation: the directory's permissions decide which users can connect.
const PUBLIC_MODE: u32 = 0o666;
/// The mode of the Interface's paths: only the supervisor connects.
const PRIVATE_MODE: u32 = 0o600;

/// The sockets of both slots, and the public path.
pub(super) struct UnixPair {
    name: String,
    path: PathBuf,
    sockets: [BoundSocket; 2],
    public: Slot,
    /// When the public path was last swapped; `None` if it never was.
    since: Option<Instant>,
    /// The options of an untouched socket.
    options: Options,
    /// True if neither socket was adopted.
    new: bool,
}

/// A listening socket and the inode of its file. The inode stays the same when the file is renamed.
struct BoundSocket {
    fd: OwnedFd,
    inode: u64,
}

/// The path with a suffix: `.rei` for the socket that is not public, `.new` for a socket that is being made.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn standby_path(path: &Path) -> PathBuf {
    with_suffix(path, ".rei")
}

fn temporary_path(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

impl UnixPair {
    /// Opens both sockets, or adopts those in `all`. A file at the path is replaced only if no process listens there.
    pub fn open(
        name: &str,
        path: &Path,
        routing: Routing,
        all: &mut Vec<(Label, OwnedFd)>,
        adoption: &mut Adoption,
    ) -> Result<Self, OpenError> {
        let error = |source| failed(name, path, source);
        check_length(name, path)?;
        let mut kept = Slot::ALL.map(|slot| take_stored(path, slot, None, all));
        let public_inode = fs::symlink_metadata(path).ok().map(|file| file.ino());
        let has_path =
            |bound: &Option<BoundSocket>| bound.as_ref().is_some_and(|bound| Some(bound.inode) == public_inode);
        let public = match &kept {
            [a, _] if has_path(a) => Slot::A,
            [_, b] if has_path(b) => Slot::B,
            // The path belongs to the lost socket, or does not exist.
            [None, Some(_)] => Slot::A,
            [Some(_), None] => Slot::B,
            _ => routing.main(),
        };
        let new = kept.iter().all(Option::is_none);
        if new {
            ensure_unused(name, path)?;
        } else {
            let lost = Slot::ALL.into_iter().zip(&kept).filter(|(_, bound)| bound.is_none());
            adoption.lost.extend(lost.map(|(slot, _)| format!("{name}/{slot}")));
        }
        let open = |slot: Slot, bound: Option<BoundSocket>| match bound {
            Some(bound) => Ok(bound),
            None => {
                let at = if slot == public { path.to_owned() } else { standby_path(path) };
                ensure_unused(name, &temporary_path(path))?;
                bind_and_publish(path, &at, PUBLIC_MODE).map_err(error)
            }
        };
        let [a, b] = &mut kept;
        // Make the public socket last: when a client finds the path, everything is ready.
        let (first, second) = (open(public.other(), if public == Slot::A { b.take() } else { a.take() })?, public);
        let last = open(second, if public == Slot::A { a.take() } else { b.take() })?;
        let sockets = if public == Slot::A { [last, first] } else { [first, last] };
        let options = Options::of(&socket::unix().map_err(error)?);
        let (name, path) = (name.to_owned(), path.to_owned());
        let mut pair = Self { name, path, sockets, public, since: (!new).then(Instant::now), options, new };
        pair.route(routing).map_err(|source| failed(&pair.name, &pair.path, source))?;
        Ok(pair)
    }

    /// True if this supervisor opened both sockets.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// The listener's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address where it is bound.
    pub fn bound(&self) -> ListenAddress {
        ListenAddress::Unix(self.path.clone())
    }

    /// Gives the public path to the slot that gets all connections. For a share, the other slot gets everything.
    /// Returns true if it was a share.
    pub fn route(&mut self, routing: Routing) -> io::Result<bool> {
        let (slot, shared) = match routing.plain() {
            Routing::All(slot) => (slot, false),
            Routing::Share { to, .. } => (to.other(), true),
        };
        if slot != self.public {
            renameat2(AT_FDCWD, &self.path, AT_FDCWD, &standby_path(&self.path), RenameFlags::RENAME_EXCHANGE)?;
            self.public = slot;
            self.since = Some(Instant::now());
        }
        Ok(shared)
    }

    /// The path where the supervisor connects to a slot now.
    pub fn endpoint(&self, slot: Slot) -> PathBuf {
        if slot == self.public { self.path.clone() } else { standby_path(&self.path) }
    }

    /// The socket of a slot.
    pub fn slot(&self, slot: Slot) -> &OwnedFd {
        &self.at(slot).fd
    }

    fn at(&self, slot: Slot) -> &BoundSocket {
        let [a, b] = &self.sockets;
        match slot {
            Slot::A => a,
            Slot::B => b,
        }
    }

    /// Number of connections in the queue of a slot.
    pub fn backlog(&self, slot: Slot) -> io::Result<u64> {
        diag::unix_queue(self.slot(slot))
    }

    /// True if the slot does not have the public path and its queue is empty. Unix sockets have no handshake.
    pub fn is_drained(&self, slot: Slot) -> io::Result<bool> {
        Ok(self.public != slot && self.backlog(slot)? == 0)
    }

    /// Resets the socket of a slot to its state when it was opened: see [`super::renew`].
    pub fn prepare(&mut self, slot: Slot, next: NextVersion, store: &mut dyn FdStore) -> Result<Prepared, OpenError> {
        let failed = |source| failed(&self.name, &self.path, source);
        let waiting = self.backlog(slot).map_err(failed)?;
        let free = self.public != slot && waiting == 0 && !is_recent(self.since);
        if (next == NextVersion::Same || !free) && reset_socket(self.slot(slot), &self.options, next) {
            return Ok(Prepared::Kept);
        }
        self.renew(slot, store)?;
        Ok(if waiting > 0 { Prepared::QueueLost } else { Prepared::Renewed })
    }

    /// Replaces the socket of a slot by a new one. A client finds the old socket or the new one at every moment.
    fn renew(&mut self, slot: Slot, store: &mut dyn FdStore) -> Result<(), OpenError> {
        let old = label(&self.name, slot, self.at(slot)).map_err(|source| failed(&self.name, &self.path, source))?;
        let at = self.endpoint(slot);
        ensure_unused(&self.name, &temporary_path(&self.path))?;
        let bound =
            bind_and_publish(&self.path, &at, PUBLIC_MODE).map_err(|source| failed(&self.name, &self.path, source))?;
        replace(store, &old, &self.name, slot, &bound)?;
        self.sockets[slot.index()] = bound;
        Ok(())
    }

    /// Replaces sockets that were shut down: such a socket refuses connections for ever.
    pub fn repair(&mut self) -> Result<(), OpenError> {
        for slot in Slot::ALL {
            if is_shut_down(self.slot(slot)) {
                let at = if slot == self.public { self.path.clone() } else { standby_path(&self.path) };
                ensure_unused(&self.name, &temporary_path(&self.path))?;
                let bound = bind_and_publish(&self.path, &at, PUBLIC_MODE)
                    .map_err(|source| failed(&self.name, &self.path, source))?;
                self.sockets[slot.index()] = bound;
            }
        }
        Ok(())
    }

    /// The sockets with their names in the descriptor store.
    pub fn labelled(&self) -> io::Result<Vec<(Label, &OwnedFd)>> {
        Slot::ALL.into_iter().map(|slot| Ok((label(&self.name, slot, self.at(slot))?, self.slot(slot)))).collect()
    }

    /// Removes both files. After that no client can connect.
    pub fn unlink(&self) {
        for path in [self.path.clone(), standby_path(&self.path)] {
            // The file may be gone already, and a failure cannot be handled here.
            let _ = fs::remove_file(path);
        }
    }
}

/// The private listeners of the Interface, one per slot. Instances inherit them under the name `rei`.
pub(super) struct InterfaceSockets {
    sockets: [(PathBuf, BoundSocket); 2],
    /// The options of an untouched socket.
    options: Options,
}

/// The name under which an instance inherits the listener of the Interface.
pub(super) const INTERFACE: &str = "rei";

impl InterfaceSockets {
    /// Opens both sockets in a directory that only the supervisor may enter, or adopts them.
    pub fn open(directory: &Path, all: &mut Vec<(Label, OwnedFd)>, adoption: &mut Adoption) -> Result<Self, OpenError> {
        let had_some = all.iter().any(|(label, _)| label.name == INTERFACE);
        let mut open = |slot: Slot| {
            let path = interface_socket_path(directory, slot);
            check_length(INTERFACE, &path)?;
            if let Some(bound) = take_stored(&path, slot, Some(INTERFACE), all) {
                return Ok((path, bound));
            }
            if had_some {
                adoption.lost.push(format!("{INTERFACE}/{slot}"));
            }
            ensure_unused(INTERFACE, &temporary_path(&path))?;
            let bound =
                bind_and_publish(&path, &path, PRIVATE_MODE).map_err(|source| failed(INTERFACE, &path, source))?;
            Ok((path, bound))
        };
        let sockets = [open(Slot::A)?, open(Slot::B)?];
        let unbound = socket::unix().map_err(|source| failed(INTERFACE, directory, source))?;
        Ok(Self { sockets, options: Options::of(&unbound) })
    }

    /// The path where the supervisor connects.
    pub fn path(&self, slot: Slot) -> &Path {
        &self.at(slot).0
    }

    /// The socket of a slot.
    pub fn slot(&self, slot: Slot) -> &OwnedFd {
        &self.at(slot).1.fd
    }

    fn at(&self, slot: Slot) -> &(PathBuf, BoundSocket) {
        &self.sockets[slot.index()]
    }

    /// Like [`UnixPair::prepare`], but the queue need not be kept, because only the supervisor connects; and each
    /// version gets a new socket.
    pub fn prepare(&mut self, slot: Slot, next: NextVersion, store: &mut dyn FdStore) -> Result<(), OpenError> {
        let (path, bound) = &self.sockets[slot.index()];
        if next == NextVersion::Same && !is_shut_down(&bound.fd) && reset_socket(&bound.fd, &self.options, next) {
            return Ok(());
        }
        let error = |source| failed(INTERFACE, path, source);
        let old = label(INTERFACE, slot, bound).map_err(error)?;
        ensure_unused(INTERFACE, &temporary_path(path))?;
        let new = bind_and_publish(path, path, PRIVATE_MODE).map_err(error)?;
        replace(store, &old, INTERFACE, slot, &new)?;
        self.sockets[slot.index()].1 = new;
        Ok(())
    }

    /// The sockets with their names in the descriptor store.
    pub fn labelled(&self) -> io::Result<Vec<(Label, &OwnedFd)>> {
        Slot::ALL.into_iter().map(|slot| Ok((label(INTERFACE, slot, &self.at(slot).1)?, self.slot(slot)))).collect()
    }

    /// Removes both files.
    pub fn unlink(&self) {
        for (path, _) in &self.sockets {
            let _ = fs::remove_file(path);
        }
    }
}

/// Resets a socket. Returns true if the next version can use it.
fn reset_socket(fd: &OwnedFd, options: &Options, next: NextVersion) -> bool {
    let restored = options.restore(fd) || next == NextVersion::Same;
    restored && socket::clear_flags(fd).is_ok() && socket::listen(fd).is_ok()
}

/// Replaces a socket in the store: adds the new one, then removes the one with the label `old`.
fn replace(store: &mut dyn FdStore, old: &Label, name: &str, slot: Slot, new: &BoundSocket) -> Result<(), OpenError> {
    let label = label(name, slot, new).map_err(|source| OpenError::Store(source.into()))?;
    store.store(&label.to_string(), new.fd.as_fd()).map_err(OpenError::Store)?;
    store.remove(&old.to_string()).map_err(OpenError::Store)
}

fn label(name: &str, slot: Slot, bound: &BoundSocket) -> io::Result<Label> {
    let cookie = socket::cookie(&bound.fd)?;
    Ok(Label { name: name.to_owned(), role: Role::Slot(slot), place: bound.inode, cookie })
}

fn failed(name: &str, path: &Path, source: io::Error) -> OpenError {
    OpenError::of(name, "listen on", &ListenAddress::Unix(path.to_owned()), source)
}

/// Takes the live socket of a slot out of `all`, if it was made for this path and its file still exists.
fn take_stored(path: &Path, slot: Slot, name: Option<&str>, all: &mut Vec<(Label, OwnedFd)>) -> Option<BoundSocket> {
    let there = |inode| {
        [path.to_owned(), standby_path(path)]
            .iter()
            .any(|path| fs::symlink_metadata(path).is_ok_and(|file| file.ino() == inode))
    };
    let at = all.iter().position(|(label, fd)| {
        label.role == Role::Slot(slot)
            && name.is_none_or(|name| label.name == name)
            && socket::is(fd, SockType::Stream)
            && socket::path(fd).is_some_and(|bound| bound == temporary_path(path))
            && !is_shut_down(fd)
            && there(label.place)
    })?;
    let (label, fd) = all.swap_remove(at);
    Some(BoundSocket { fd, inode: label.place })
}

/// The path of the Interface's socket of a slot.
pub(super) fn interface_socket_path(directory: &Path, slot: Slot) -> PathBuf {
    directory.join(format!("{INTERFACE}-{slot}.sock"))
}

/// True if it is a live socket that was made for this path.
pub(super) fn is_at(path: &Path, fd: &OwnedFd) -> bool {
    socket::is_unix(fd)
        && socket::is(fd, SockType::Stream)
        && socket::path(fd).is_some_and(|bound| bound == temporary_path(path))
        && socket::listens(fd)
        && !is_shut_down(fd)
}

/// The inode of the socket's file, if the file is still at the public or the standby path.
pub(super) fn file_of(path: &Path, fd: &OwnedFd) -> Option<u64> {
    let inode = diag::unix_file(fd).ok()?;
    let files = [path.to_owned(), standby_path(path)];
    let mut inodes = files.iter().filter_map(|path| fs::symlink_metadata(path).ok()).map(|file| file.ino());
    // The system reports only the low 32 bits.
    inodes.find(|full| full & u64::from(u32::MAX) == u64::from(inode))
}

/// True if the socket was shut down.
fn is_shut_down(fd: &OwnedFd) -> bool {
    is_ready(fd.as_fd(), PollFlags::empty()) == Ok(true)
}

/// Binds to a temporary path and then renames the file to `at`, so that a client always finds a socket that listens.
fn bind_and_publish(path: &Path, at: &Path, mode: u32) -> io::Result<BoundSocket> {
    let temporary = temporary_path(path);
    let fd = socket::unix_listener(&temporary)?;
    let inode = fs::symlink_metadata(&temporary)?.ino();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
    fs::rename(&temporary, at)?;
    Ok(BoundSocket { fd, inode })
}

fn check_length(name: &str, path: &Path) -> Result<(), OpenError> {
    let bytes = temporary_path(path).as_os_str().len();
    if bytes <= UNIX_PATH_BYTES_MAX {
        return Ok(());
    }
    Err(OpenError::PathTooLong { name: name.to_owned(), path: path.to_owned(), bytes, max: UNIX_PATH_BYTES_MAX })
}

/// Checks that no process listens at a path. Removes the file of a socket without a listener. Any other file is left
/// alone.
fn ensure_unused(name: &str, path: &Path) -> Result<(), OpenError> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(name, path, error)),
    };
    if !file.file_type().is_socket() {
        return Err(OpenError::NotASocket { name: name.to_owned(), path: path.to_owned() });
    }
    match socket::has_listener(path) {
        Ok(true) => Err(failed(name, path, io::ErrorKind::AddrInUse.into())),
        Ok(false) => fs::remove_file(path).map_err(|error| failed(name, path, error)),
        Err(error) => Err(failed(name, path, error)),
    }
}
