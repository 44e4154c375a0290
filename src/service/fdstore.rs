//! Where descriptors outlive the supervisor: found at the start, watched, and begun anew if it is lost.

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
pub fn keep(store: &SharedStore, name: String, fd: BorrowedFd<'_>, kept: &mut StoredFds) {
    if let Err(error) = lock(store).store(&name, fd) {
        tracing::warn!(error = %chain(&error), name, "it will not outlive the supervisor");
    }
    keep_copy(name, fd, kept);
}

/// Keeps a copy of what the store has.
pub fn keep_copy(name: String, fd: BorrowedFd<'_>, kept: &mut StoredFds) {
    match fd.try_clone_to_owned() {
        Ok(copy) => kept.push((name, copy)),
        Err(error) => tracing::warn!(%error, name, "no copy can be kept"),
    }
}

/// The store of this machine, and what it has kept.
///
/// # Errors
/// When there is none and none can be started.
pub fn open(paths: &Paths, exe: &Path) -> Result<(SharedStore, StoredFds), StoreError> {
    // SAFETY: called once, before anything else looks at inherited descriptors.
    let systemd = unsafe { SystemdStore::from_env() };
    let mut store: Box<dyn FdStore + Send> = match systemd {
        Some(systemd) => Box::new(systemd),
        None => Box::new(Keeper::start_or_connect(&paths.keeper(), exe)?),
    };
    let kept = store.fetch_all()?;
    Ok((Arc::new(Mutex::new(store)), kept))
}

/// The pause before a keeper is started again that could not be started.
const RETRY: Duration = Duration::from_secs(5);

/// The descriptor store of a service, and the watch on the process that has it.
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

    /// What a new program in this process must be handed, because nothing else has it.
    pub fn across_exec(&self) -> Vec<(String, OwnedFd)> {
        lock(&self.shared).across_exec()
    }

    /// Starts another keeper, beside the loop, in place of one that has ended. The answer is an input.
    pub fn renew(&mut self, socket: PathBuf, inputs: &Inputs) {
        tracing::error!("the keeper has ended; it is started again");
        self.start_keeper(Duration::ZERO, socket, inputs);
    }

    fn start_keeper(&mut self, after: Duration, socket: PathBuf, inputs: &Inputs) {
        self.disconnect = DisconnectWatch::on(None);
        let (inputs, exe) = (inputs.clone(), self.exe.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let started = tokio::task::spawn_blocking(move || Keeper::start_or_connect(&socket, &exe)).await;
            // A panic was logged. The loop is gone only when everything ends.
            if let Ok(started) = started {
                let _ = inputs.send(Input::Keeper(started)).await;
            }
        });
    }

    /// Uses a new keeper and gives its pid. If there is none, the next try follows later. What the old one held is to be
    /// given to the new one.
    pub fn replace(&mut self, started: Result<Keeper, StoreError>, socket: PathBuf, inputs: &Inputs) -> Option<u32> {
        let keeper = match started {
            Ok(keeper) => keeper,
            Err(error) => {
                tracing::error!(error = chain(&error), "no keeper: the listeners would not outlive the supervisor");
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

/// Tells when the store, or another process at the end of a connection, is gone.
pub struct DisconnectWatch(Option<AsyncFd<OwnedFd>>);

impl DisconnectWatch {
    /// Of a store; one that cannot go, or cannot be watched, never is.
    pub fn of(store: &SharedStore) -> Self {
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
    pub async fn disconnected(&self) {
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
