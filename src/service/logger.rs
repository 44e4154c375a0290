//! The logger process, which reads what instances print: found at the start, or started.

use std::os::fd::AsFd;
use std::path::Path;

use super::fdstore::{SharedStore, StoredFds};
use super::sync::lock;
use crate::report::chain;
use crate::runtime::keeper::LOGGER_PREFIX;
use crate::runtime::logs::{LogError, Logger};
use crate::state::paths::Paths;

/// Names the connection to the logger in the descriptor store, and what is spoken on it, the layout of the memory with it: a
/// supervisor that speaks otherwise starts a logger of its own.
pub const NAME: &str = "logger/2";

/// The logger that an earlier supervisor has left, or a new one.
///
/// # Errors
/// When there is none and none can be started.
pub fn open(paths: &Paths, exe: &Path, kept: &mut StoredFds, store: &SharedStore) -> Result<Logger, LogError> {
    for (name, _) in kept.iter().filter(|(name, _)| name.starts_with(LOGGER_PREFIX) && name != NAME) {
        // Of a rei of another version. Its logger was asked to make way when the listeners were taken over.
        if let Err(error) = lock(store).remove(name) {
            tracing::warn!(error = %chain(&error), name, "the descriptor store did not let go");
        }
    }
    let at = kept.iter().position(|(name, _)| name == NAME);
    let left = at.map(|at| Logger::of(kept.swap_remove(at).1)).filter(|logger| !logger.is_gone());
    if let Some(logger) = left {
        return Ok(logger);
    }
    let logger = start(paths, exe)?;
    keep_logger(&logger, store);
    Ok(logger)
}

/// Starts one. Its end is seen by its connection; the reaper of orphans has its process.
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
