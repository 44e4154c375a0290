//! The logger is begun anew when it is lost or hangs.

use std::time::{Duration, Instant};

use super::input::Input;
use super::keep::Lifeline;
use super::logger::{Reading, keep_logger, start};
use super::shell::Shell;
use crate::report::chain;
use crate::runtime::logs::{FallbackReader, LogError, Logger, Unread, stop_loggers};

/// The pause before a logger is started again that could not be started, or that has lived no longer than this.
const RETRY: Duration = Duration::from_secs(5);

/// The pause between looks at pipes while one of them fills: the instance may be waiting already.
const CLOSE_LOOK: Duration = Duration::from_millis(50);
/// Close looks between which the logger reads nothing of a pipe that fills, until it is taken to hang: a second. A logger that
/// works reads within milliseconds, or tens of them on a busy machine.
const FILLS_LOOKS_MAX: u32 = 20;
/// The same for a pipe in which something waits and that does not fill, looked at once a second: nobody waits for it.
const WAITS_LOOKS_MAX: u32 = 10;

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
                    stop_loggers(&paths.logs());
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
        let begun = begun.and_then(|new| self.occupants.logger.switch_to(&new).map_err(|error| error.to_string()));
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
            let found = occupant.log.check(pipe, &mut watch, FallbackReader::Supervisor);
            self.reading.watches.insert(occupant.id.clone(), watch);
            fills |= matches!(found, Unread::Fills(_));
            hangs |= match found {
                Unread::Nothing => false,
                Unread::Waits(looks) => looks >= WAITS_LOOKS_MAX,
                Unread::Fills(looks) => looks >= FILLS_LOOKS_MAX,
            };
            if matches!(found, Unread::Fills(looks) if looks >= FILLS_LOOKS_MAX)
                && let Err(error) = occupant.log.drain_excess(pipe, FallbackReader::Supervisor)
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
