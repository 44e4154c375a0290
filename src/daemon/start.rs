//! Starts the daemon of a rei.toml.

use std::path::Path;

use super::memory;
use super::process::Daemon;
use super::reexec;
use super::scheduling::Scheduling;
use super::signals::Signals;
use crate::runtime::tree::Trees;
use crate::service::End;
use crate::service::StartError;
use crate::service::fdstore;
use crate::service::open::Locked;
use crate::service::reload::load;
use crate::service::repair;
use crate::state::paths::Paths;

/// Supervises the service of a `rei.toml` until an operator or a signal ends it. `ready` is called when requests can be
/// served.
///
/// # Errors
/// When the service cannot be started. A later failure is logged, and the service continues.
pub async fn supervise(config_path: &Path, exe: &Path, ready: impl FnOnce()) -> Result<End, StartError> {
    // This must come before any secret is read: no process of the same user may read the memory of this process.
    let hidden = nix::sys::prctl::set_dumpable(false);
    hidden.map_err(|errno| StartError::Process { act: "hide the memory of the supervisor", source: errno.into() })?;
    memory::share_one_heap();
    let config = load(config_path)?;
    let paths = Paths::of(&config);
    let scheduling = Scheduling::now();
    for detail in repair::files(&paths) {
        tracing::warn!(detail, "a process of rei's user had changed files that rei needs");
    }
    paths.make().map_err(|source| StartError::File { act: "make", path: paths.state().to_owned(), source })?;
    // The locks come first, because a second supervisor must change nothing.
    let locked = Locked::new(config, config_path, paths.clone())?;
    let trees = Trees::detect();
    let trees = trees.map_err(|source| StartError::Process { act: "become the reaper of orphans", source })?;
    let (store, kept) = fdstore::open(&paths, exe)?;
    let opened = locked.open(trees.clone(), store, kept, exe).await?;
    let no_signals = |source| StartError::Process { act: "receive signals", source };
    let signals = Signals::listen().map_err(no_signals)?;
    reexec::release_signals().map_err(no_signals)?;
    let begun = opened.begin()?;
    let mut daemon = Daemon::new(begun.service, begun.tasks, signals, scheduling, trees, exe);
    daemon.notify_ready();
    ready();
    daemon.run().await
}
