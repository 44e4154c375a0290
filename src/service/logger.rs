//! The logger process, which reads the output of instances. It is found at the start, or started.

use std::os::fd::AsFd;
use std::path::Path;

use super::fdstore::{SharedStore, StoredFds};
use super::sync::lock;
use crate::report::chain;
use crate::runtime::keeper::LOGGER_PREFIX;
use crate::runtime::logs::{LogError, Logger};
use crate::state::paths::Paths;

/// The name of the connection to the logger in the descriptor store. The number in it is the version of the protocol on
/// the connection and of the layout of the shared memory. A supervisor with another version starts a logger of its own.
pub const NAME: &str = "logger/2";

/// The logger that an earlier supervisor has left, or a new one.
///
/// # Errors
/// When no logger runs and none can be started.
pub fn open(paths: &Paths, exe: &Path, stored: &mut StoredFds, store: &SharedStore) -> Result<Logger, LogError> {
    for (name, _) in stored.iter().filter(|(name, _)| name.starts_with(LOGGER_PREFIX) && name != NAME) {
        // The connection belongs to another version of rei. Its logger was asked to end when the listeners were taken
        // over.
        if let Err(error) = lock(store).remove(name) {
            tracing::warn!(error = %chain(&error), name, "the descriptor store did not remove the connection of an old logger");
        }
    }
    let at = stored.iter().position(|(name, _)| name == NAME);
    let left = at.map(|at| Logger::of(stored.swap_remove(at).1)).filter(|logger| !logger.is_gone());
    if let Some(logger) = left {
        return Ok(logger);
    }
    let logger = start(paths, exe)?;
    keep_logger(&logger, store);
    Ok(logger)
}

/// Starts a logger. If it ends, its connection shows it; the reaper of orphans waits for its process.
pub fn start(paths: &Paths, exe: &Path) -> Result<Logger, LogError> {
    let (logger, child) = Logger::start(exe, &paths.logs())?;
    tracing::debug!(pid = child.id(), "the logger is started");
    Ok(logger)
}

/// Gives the connection to the store, so that the next supervisor finds this logger.
pub fn keep_logger(logger: &Logger, store: &SharedStore) {
    let stored = logger.copy().map_err(Into::into).and_then(|copy| lock(store).store(NAME, copy.as_fd()));
    if let Err(error) = stored {
        tracing::warn!(error = %chain(&error), "the next supervisor will not find the logger");
    }
}
