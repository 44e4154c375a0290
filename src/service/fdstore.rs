//! The descriptor store, in which descriptors outlive the supervisor. It is found at the start and watched. If it is
//! lost, another one is started.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::poll::PollFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::input::{Input, Inputs};
use super::sync::lock;
use crate::poll::is_ready;
use crate::report::chain;
use crate::runtime::keeper::{FdStore, Keeper, StoreError, SystemdStore};
use crate::state::paths::Paths;

/// A store of descriptors that can be replaced by another.
pub type SharedStore = Arc<Mutex<Box<dyn FdStore + Send>>>;

/// Descriptors from a store, by name.
pub type StoredFds = Vec<(String, OwnedFd)>;

/// Gives a descriptor to the store, so that it outlives the supervisor, and keeps a copy.
pub fn keep(store: &SharedStore, name: String, fd: BorrowedFd<'_>, stored: &mut StoredFds) {
    if let Err(error) = lock(store).store(&name, fd) {
        tracing::warn!(error = %chain(&error), name, "the store did not take a descriptor, which will not outlive the supervisor");
    }
    keep_copy(name, fd, stored);
}

/// Keeps a copy of a descriptor that the store has.
pub fn keep_copy(name: String, fd: BorrowedFd<'_>, stored: &mut StoredFds) {
    match fd.try_clone_to_owned() {
        Ok(copy) => stored.push((name, copy)),
        Err(error) => tracing::warn!(%error, name, "cannot duplicate a descriptor of the store"),
    }
}

/// The store of this machine, and the descriptors in it.
///
/// # Errors
/// When no store exists and none can be started.
pub fn open(paths: &Paths, exe: &Path) -> Result<(SharedStore, StoredFds), StoreError> {
    // SAFETY: called once, before anything else looks at inherited descriptors.
    let systemd = unsafe { SystemdStore::from_env() };
    let mut store: Box<dyn FdStore + Send> = match systemd {
        Some(systemd) => Box::new(systemd),
        None => Box::new(Keeper::start_or_connect(&paths.keeper(), exe)?),
    };
    let stored = store.fetch_all()?;
    Ok((Arc::new(Mutex::new(store)), stored))
}

/// The pause before the next try to start a keeper, after a try failed.
const RETRY: Duration = Duration::from_secs(5);

/// The descriptor store of a service, and the watch on the process that holds the descriptors.
pub struct StoreWatch {
    /// The store.
    pub shared: SharedStore,
    disconnect: DisconnectWatch,
    /// The program that a keeper runs.
    exe: PathBuf,
}

impl StoreWatch {
    /// Watches a store.
    pub fn new(shared: SharedStore, exe: &Path) -> Self {
        let disconnect = DisconnectWatch::of(&shared);
        Self { shared, disconnect, exe: exe.to_owned() }
    }

    /// Waits until the store is lost. May be cancelled.
    pub async fn lost(&self) {
        self.disconnect.disconnected().await;
    }

    /// The descriptors that this process must pass to its next program, because no other process has them.
    pub fn across_exec(&self) -> Vec<(String, OwnedFd)> {
        lock(&self.shared).across_exec()
    }

    /// Starts another keeper in place of one that has ended. The loop does not wait; the answer is an input.
    pub fn renew(&mut self, socket: PathBuf, inputs: &Inputs) {
        tracing::error!("the keeper has ended; another one is started");
        self.start_keeper(Duration::ZERO, socket, inputs);
    }

    fn start_keeper(&mut self, after: Duration, socket: PathBuf, inputs: &Inputs) {
        self.disconnect = DisconnectWatch::on(None);
        let (inputs, exe) = (inputs.clone(), self.exe.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let started = tokio::task::spawn_blocking(move || Keeper::start_or_connect(&socket, &exe)).await;
            // A panic is already logged. The send fails only when the supervisor stops.
            if let Ok(started) = started {
                let _ = inputs.send(Input::Keeper(started)).await;
            }
        });
    }

    /// Uses a new keeper and returns its pid. If none was started, the next try follows later. The caller must give the
    /// descriptors of the old keeper to the new one.
    pub fn replace(&mut self, started: Result<Keeper, StoreError>, socket: PathBuf, inputs: &Inputs) -> Option<u32> {
        let keeper = match started {
            Ok(keeper) => keeper,
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "cannot start a keeper: the listeners would not outlive the supervisor"
                );
                self.start_keeper(RETRY, socket, inputs);
                return None;
            }
        };
        let pid = u32::try_from(keeper.pid()).unwrap_or_default();
        *lock(&self.shared) = Box::new(keeper);
        self.disconnect = DisconnectWatch::of(&self.shared);
        Some(pid)
    }
}

/// Reports when the store, or another process at the other end of a connection, has ended.
pub struct DisconnectWatch(Option<AsyncFd<OwnedFd>>);

impl DisconnectWatch {
    /// Watches a store. If the store cannot be lost or cannot be watched, it is never reported.
    pub fn of(store: &SharedStore) -> Self {
        Self::on(lock(store).disconnect_fd())
    }

    /// Watches a connection.
    pub fn on(connection: Option<OwnedFd>) -> Self {
        let watch = |fd| {
            // SAFETY: the descriptor is open. The new value owns it, and no other code closes it.
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        };
        Self(connection.and_then(|fd| watch(fd).ok()))
    }

    /// Waits until the other end disconnects. May be cancelled.
    pub async fn disconnected(&self) {
        let Some(fd) = &self.0 else { return std::future::pending().await };
        while let Ok(mut ready) = fd.readable().await {
            if hung_up(fd.get_ref()) {
                return;
            }
            // An answer of the store. The code that sent the request reads it.
            ready.clear_ready();
        }
        std::future::pending().await
    }
}

fn hung_up(fd: &OwnedFd) -> bool {
    is_ready(fd.as_fd(), PollFlags::empty()) == Ok(true)
}
