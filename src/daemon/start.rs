//! From rei.toml to a running daemon.

use std::path::Path;

use super::memory;
use super::process::Daemon;
use super::reexec;
use super::signals::Signals;
use super::standing::Standing;
use crate::runtime::tree::Trees;
use crate::service::End;
use crate::service::StartError;
use crate::service::fdstore;
use crate::service::open::Locked;
use crate::service::reload::load;
use crate::service::repair;
use crate::state::paths::Paths;

/// Supervises the service of a `rei.toml` until it is asked to end. `ready` is called once requests can be served.
///
/// # Errors
/// When there is nothing to begin with. What fails later is logged, and the service goes on.
pub async fn supervise(config_path: &Path, exe: &Path, ready: impl FnOnce()) -> Result<End, StartError> {
    // Before anything secret is read: nothing of the same user may look into this process.
    let hidden = nix::sys::prctl::set_dumpable(false);
    hidden.map_err(|errno| StartError::Process { act: "hide the memory of the supervisor", source: errno.into() })?;
    memory::share_one_heap();
    let config = load(config_path)?;
    let paths = Paths::of(&config);
    let standing = Standing::now();
    for detail in repair::files(&paths) {
        tracing::warn!(detail, "a process of rei's user had changed what rei needs");
    }
    paths.make().map_err(|source| StartError::File { act: "make", path: paths.state().to_owned(), source })?;
    // Locks first: a second supervisor must touch nothing.
    let locked = Locked::new(config, config_path, paths.clone())?;
    let trees = Trees::detect();
    let trees = trees.map_err(|source| StartError::Process { act: "become the reaper of orphans", source })?;
    let (store, kept) = fdstore::open(&paths, exe)?;
    let opened = locked.open(trees.clone(), store, kept, exe).await?;
    let no_signals = |source| StartError::Process { act: "take signals", source };
    let signals = Signals::listen().map_err(no_signals)?;
    reexec::release_signals().map_err(no_signals)?;
    let begun = opened.begin()?;
    let mut daemon = Daemon::new(begun.service, begun.tasks, signals, standing, trees, exe);
    daemon.notify_ready();
    ready();
    daemon.run().await
}
