//! Who reads what instances print: found at the start, watched, and begun anew when it is lost.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::input::Input;
use super::keep::{Kept, Lifeline, Store};
use super::logfiles::{LogFiles, SlotLog};
use super::logpipe;
use super::paths::Paths;
use super::shell::Shell;
use super::slots::{Occupants, Wanted, lock};
use crate::lifecycle::Slot;
use crate::report::chain;
use crate::runtime::logs::{Log, LogError, Logger};

/// Names the connection to the logger in the descriptor store, and what is spoken on it: a supervisor that speaks
/// otherwise starts a logger of its own.
pub const NAME: &str = "logger/1";

/// The pause before a logger is started again that could not be started, or that has lived no longer than this.
const RETRY: Duration = Duration::from_secs(5);

/// The logger that an earlier supervisor has left, or a new one.
///
/// # Errors
/// When there is none and none can be started.
pub fn open(paths: &Paths, exe: &Path, kept: &mut Kept, store: &Store) -> Result<Logger, LogError> {
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
fn start(paths: &Paths, exe: &Path) -> Result<Logger, LogError> {
    let (logger, child) = Logger::start(exe, &paths.logs())?;
    tracing::debug!(pid = child.id(), "the logger is started");
    Ok(logger)
}

/// Gives the connection to the store, so that the next supervisor finds this logger.
pub fn keep_logger(logger: &Logger, store: &Store) {
    let stored = logger.copy().map_err(Into::into).and_then(|copy| lock(store).store(NAME, copy.as_fd()));
    if let Err(error) = stored {
        tracing::warn!(error = %chain(&error), "the next supervisor will not find the logger");
    }
}

/// Tells when the logger is gone.
pub fn lifeline(logger: &Logger) -> Lifeline {
    Lifeline::on(logger.copy().ok())
}

impl Occupants {
    /// The log of an instance that is started now.
    pub(super) fn begin_log(&mut self, wanted: &Wanted<'_>, id: &str, pipe: &OwnedFd) -> Result<Arc<Log>, String> {
        let (files, bytes_max) = log_files(wanted);
        let path = files.begin(id, wanted.store_path).map_err(|error| no_file(&error))?;
        let log = self.logger.read(id, pipe, &path, bytes_max).map_err(|error| chain(&error))?;
        Ok(self.last_log_is(wanted.slot, log, path, files))
    }

    /// The log of an instance that an earlier supervisor started. Without a pipe, which went with the store, an earlier
    /// logger goes on writing its file.
    pub(super) fn resume_log(
        &mut self,
        wanted: &Wanted<'_>,
        id: &str,
        pipe: Option<&OwnedFd>,
    ) -> Result<Arc<Log>, String> {
        let (files, bytes_max) = log_files(wanted);
        let path = files.resume(id, wanted.store_path).map_err(|error| no_file(&error))?;
        let log = match pipe {
            Some(pipe) => self.logger.resume(id, pipe, &path, bytes_max),
            None => Log::of_another_logger(id, &path, bytes_max),
        };
        Ok(self.last_log_is(wanted.slot, log.map_err(|error| chain(&error))?, path, files))
    }

    fn last_log_is(&mut self, slot: Slot, log: Log, path: PathBuf, files: LogFiles) -> Arc<Log> {
        let log = Arc::new(log);
        self.logs[slot.index()] = Some(SlotLog::new(log.clone(), path, files));
        log
    }
}

fn log_files(wanted: &Wanted<'_>) -> (LogFiles, u64) {
    let bytes_max = wanted.tools.config.state.log_bytes;
    (LogFiles::new(&wanted.tools.paths.log(wanted.slot), bytes_max), bytes_max)
}

fn no_file(error: &io::Error) -> String {
    format!("cannot make the file of its log: {error}")
}

impl Shell {
    /// The logger is gone. What instances print waits in their pipes for the next one.
    pub(super) fn renew_logger(&mut self) {
        self.logger_lifeline = Lifeline::on(None);
        let after = if self.logger_since.elapsed() > RETRY { Duration::ZERO } else { RETRY };
        tracing::error!("the logger has ended; it is started again");
        self.start_logger(after);
    }

    fn start_logger(&self, after: Duration) {
        let (inputs, paths, exe) = (self.inputs.clone(), self.tools.paths.clone(), self.exe.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let started = tokio::task::spawn_blocking(move || start(&paths, &exe)).await;
            // A panic would have been told; the loop is gone only when everything ends.
            if let Ok(started) = started {
                let _ = inputs.send(Input::Logger(started)).await;
            }
        });
    }

    /// A new logger is there, or is not.
    pub(super) fn on_logger(&mut self, started: Result<Logger, LogError>) {
        let begun = started.map_err(|error| chain(&error));
        let begun =
            begun.and_then(|new| self.occupants.logger.become_one_with(&new).map_err(|error| error.to_string()));
        if let Err(why) = begun {
            tracing::error!(why, "no logger: instances wait when their pipes are full");
            self.start_logger(RETRY);
            return;
        }
        self.logger_since = Instant::now();
        self.logger_lifeline = lifeline(&self.occupants.logger);
        keep_logger(&self.occupants.logger, &self.store);
        for occupant in self.occupants.all() {
            let name = logpipe::name(&occupant.id);
            if let Some((_, pipe)) = occupant.kept.iter().find(|(kept, _)| *kept == name) {
                self.occupants.logger.read_again(&occupant.log, pipe);
            }
        }
        tracing::info!("a new logger reads what instances print");
    }
}
