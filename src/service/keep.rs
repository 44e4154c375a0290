//! Where descriptors outlive the supervisor: found at the start, and watched.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::poll::PollFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::sync::lock;
use crate::poll::is_ready;
use crate::report::chain;
use crate::runtime::keeper::{FdStore, Keeper, StoreError, SystemdStore};
use crate::state::paths::Paths;

/// A store of descriptors that can be replaced by another.
pub type Store = Arc<Mutex<Box<dyn FdStore + Send>>>;

/// Descriptors from a store, by name.
pub type Kept = Vec<(String, OwnedFd)>;

/// Gives a descriptor to the store, so that it outlives the supervisor, and keeps a copy.
pub fn keep(store: &Store, name: String, fd: BorrowedFd<'_>, kept: &mut Kept) {
    if let Err(error) = lock(store).store(&name, fd) {
        tracing::warn!(error = %chain(&error), name, "it will not outlive the supervisor");
    }
    keep_copy(name, fd, kept);
}

/// Keeps a copy of what the store has.
pub fn keep_copy(name: String, fd: BorrowedFd<'_>, kept: &mut Kept) {
    match fd.try_clone_to_owned() {
        Ok(copy) => kept.push((name, copy)),
        Err(error) => tracing::warn!(%error, name, "no copy can be kept"),
    }
}

/// The store of this machine, and what it has kept.
///
/// # Errors
/// When there is none and none can be started.
pub fn open(paths: &Paths, exe: &Path) -> Result<(Store, Kept), StoreError> {
    // SAFETY: called once, before anything else looks at inherited descriptors.
    let systemd = unsafe { SystemdStore::from_env() };
    let mut store: Box<dyn FdStore + Send> = match systemd {
        Some(systemd) => Box::new(systemd),
        None => Box::new(Keeper::start_or_connect(&paths.keeper(), exe)?),
    };
    let kept = store.fetch_all()?;
    Ok((Arc::new(Mutex::new(store)), kept))
}

/// Tells when the store, or another process at the end of a connection, is gone.
pub struct Lifeline(Option<AsyncFd<OwnedFd>>);

impl Lifeline {
    /// Of a store; one that cannot go, or cannot be watched, never is.
    pub fn of(store: &Store) -> Self {
        Self::on(lock(store).disconnect_fd())
    }

    /// Of a connection.
    pub fn on(connection: Option<OwnedFd>) -> Self {
        let watch = |fd| {
            // SAFETY: the descriptor is open, owned by what is made here, and closed by nobody else.
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        };
        Self(connection.and_then(|fd| watch(fd).ok()))
    }

    /// Waits for its end. May be cancelled.
    pub async fn cut(&self) {
        let Some(fd) = &self.0 else { return std::future::pending().await };
        while let Ok(mut ready) = fd.readable().await {
            if hung_up(fd.get_ref()) {
                return;
            }
            // An answer of the store, read by who asked.
            ready.clear_ready();
        }
        std::future::pending().await
    }
}

fn hung_up(fd: &OwnedFd) -> bool {
    is_ready(fd.as_fd(), PollFlags::empty()) == Ok(true)
}
