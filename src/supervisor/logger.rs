//! Who reads what instances print: found at the start, watched, and begun anew when it is lost or hangs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::input::Input;
use super::keep::{Kept, Lifeline, Store};
use super::logfiles::{LogFiles, SlotLog};
use super::logpipe::LogPipe;
use super::paths::Paths;
use super::shell::Shell;
use super::slots::{Occupants, Wanted, lock};
use crate::lifecycle::Slot;
use crate::report::chain;
use crate::runtime::keeper::LOGGER_PREFIX;
use crate::runtime::logs::{Log, LogError, Logger, Memory, StandIn, Unread, Watch, end_loggers};

/// Names the connection to the logger in the descriptor store, and what is spoken on it, the layout of the memory with it: a
/// supervisor that speaks otherwise starts a logger of its own.
pub const NAME: &str = "logger/2";

/// The pause before a logger is started again that could not be started, or that has lived no longer than this.
const RETRY: Duration = Duration::from_secs(5);

/// The pause between looks at pipes while one of them fills: the instance may be waiting already.
const CLOSE_LOOK: Duration = Duration::from_millis(50);
/// Close looks between which the logger reads nothing of a pipe that fills, until it is taken to hang: a second. A logger that
/// works reads within milliseconds, or tens of them on a busy machine.
const FILLS_LOOKS_MAX: u32 = 20;
/// The same for a pipe in which something waits and that does not fill, looked at once a second: nobody waits for it.
const WAITS_LOOKS_MAX: u32 = 10;

/// How the logger does.
pub struct Reading {
    /// Tells when it is gone.
    pub lifeline: Lifeline,
    /// When it was found or started.
    since: Instant,
    /// Whether there is none that reads: another one is being started.
    is_away: bool,
    /// When pipes are looked at again, if one fills; else it is done once a second.
    pub look_at: Option<Instant>,
    /// What earlier looks have found, by instance.
    watches: BTreeMap<String, Watch>,
}

impl Reading {
    /// By a logger that was found or started now.
    pub fn by(logger: &Logger) -> Self {
        let lifeline = Lifeline::on(logger.copy().ok());
        Self { lifeline, since: Instant::now(), is_away: false, look_at: None, watches: BTreeMap::new() }
    }
}

/// The logger that an earlier supervisor has left, or a new one.
///
/// # Errors
/// When there is none and none can be started.
pub fn open(paths: &Paths, exe: &Path, kept: &mut Kept, store: &Store) -> Result<Logger, LogError> {
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

impl Occupants {
    /// The log of an instance that is started now.
    pub(super) fn begin_log(&mut self, wanted: &Wanted<'_>, id: &str, pipe: &LogPipe) -> Result<Arc<Log>, String> {
        let (files, bytes_max) = log_files(wanted);
        let path = files.begin(id, wanted.store_path).map_err(|error| no_file(&error))?;
        let memory = pipe.memory.share().map_err(|error| format!("cannot share the memory of its log: {error}"))?;
        let log = self.logger.read(id, &pipe.read, memory, &path, bytes_max);
        Ok(self.last_log_is(wanted.slot, log, path, files))
    }

    /// The log of an instance that an earlier supervisor started. Without a pipe, which went with the store, an earlier
    /// logger goes on writing its file.
    pub(super) fn resume_log(
        &mut self,
        wanted: &Wanted<'_>,
        id: &str,
        pipe: Option<(OwnedFd, Memory)>,
    ) -> Result<Arc<Log>, String> {
        let (files, bytes_max) = log_files(wanted);
        let path = files.resume(id, wanted.store_path).map_err(|error| no_file(&error))?;
        let log = match pipe {
            Some((pipe, memory)) => self.logger.resume(id, &pipe, memory, &path, bytes_max),
            None => Log::of_another_logger(id, &path, bytes_max).map_err(|error| chain(&error))?,
        };
        Ok(self.last_log_is(wanted.slot, log, path, files))
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
        self.reading.lifeline = Lifeline::on(None);
        let after = if self.reading.since.elapsed() > RETRY { Duration::ZERO } else { RETRY };
        tracing::error!("the logger has ended; it is started again");
        self.start_logger(after, false);
    }

    /// Starts another logger. One that may still be there is ended before.
    fn start_logger(&mut self, after: Duration, end_first: bool) {
        self.reading.is_away = true;
        self.reading.look_at = Some(Instant::now() + CLOSE_LOOK);
        let (inputs, paths, exe) = (self.inputs.clone(), self.tools.paths.clone(), self.exe.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let begin = move || {
                if end_first {
                    end_loggers(&paths.logs());
                }
                start(&paths, &exe)
            };
            let started = tokio::task::spawn_blocking(begin).await;
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
            tracing::error!(why, "no logger: what instances print and their pipes do not hold is dropped and counted");
            self.start_logger(RETRY, false);
            return;
        }
        self.reading = Reading::by(&self.occupants.logger);
        keep_logger(&self.occupants.logger, &self.store);
        for occupant in self.occupants.all() {
            if let Some(pipe) = occupant.pipe() {
                self.occupants.logger.read_again(&occupant.log, pipe);
            }
        }
        tracing::info!("a new logger reads what instances print");
    }

    /// Looks whether what instances print is read. Where it is not, the logger is replaced, and pipes that fill are emptied
    /// meanwhile, so that no instance waits.
    pub(super) fn look_at_logs(&mut self) {
        let mut watches = std::mem::take(&mut self.reading.watches);
        let (mut fills, mut hangs) = (false, false);
        for occupant in self.occupants.all() {
            let Some(pipe) = occupant.pipe() else { continue };
            let mut watch = watches.remove(&occupant.id).unwrap_or_default();
            let found = occupant.log.look(pipe, &mut watch, StandIn::Supervisor);
            self.reading.watches.insert(occupant.id.clone(), watch);
            fills |= matches!(found, Unread::Fills(_));
            hangs |= match found {
                Unread::Nothing => false,
                Unread::Waits(looks) => looks >= WAITS_LOOKS_MAX,
                Unread::Fills(looks) => looks >= FILLS_LOOKS_MAX,
            };
            if matches!(found, Unread::Fills(looks) if looks >= FILLS_LOOKS_MAX)
                && let Err(error) = occupant.log.relieve(pipe, StandIn::Supervisor)
            {
                tracing::warn!(%error, id = occupant.id, "cannot empty the pipe of its log; it waits when that is full");
            }
        }
        if hangs && !self.reading.is_away {
            tracing::error!(
                "the logger does not read what instances print and is replaced; what their pipes do not hold meanwhile is \
                 dropped and counted"
            );
            self.reading.lifeline = Lifeline::on(None);
            self.start_logger(Duration::ZERO, true);
        }
        self.reading.look_at = (fills || self.reading.is_away).then(|| Instant::now() + CLOSE_LOOK);
    }
}
