//! The logger is watched, and replaced if it is lost or hangs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fdstore::{DisconnectWatch, SharedStore};
use super::input::{Input, Inputs};
use super::instances::set::Instances;
use super::logger::{keep_logger, start};
use super::tools::Tools;
use crate::report::chain;
use crate::runtime::logs::{FallbackReader, LogError, Logger, PipeWatch, Unread, stop_loggers};

/// The pause before a logger is started again that could not be started, or that has lived no longer than this.
const RETRY: Duration = Duration::from_secs(5);

/// The pause between looks at pipes while one of them fills: the instance may be waiting already.
const CLOSE_LOOK: Duration = Duration::from_millis(50);
/// Close looks between which the logger reads nothing of a pipe that fills, until it is taken to hang: a second. A logger that
/// works reads within milliseconds, or tens of them on a busy machine.
const FILLS_LOOKS_MAX: u32 = 20;
/// The same for a pipe in which something waits and that does not fill, looked at once a second: nobody waits for it.
const WAITS_LOOKS_MAX: u32 = 10;

/// The logger of a service, as it is watched.
pub struct LogReader {
    /// Tells when it is gone.
    disconnect: DisconnectWatch,
    /// When it was found or started.
    since: Instant,
    /// Whether no logger reads: another one is being started.
    is_away: bool,
    /// When pipes are looked at again, if one fills; else it is done once a second.
    look_at: Option<Instant>,
    /// What earlier looks have found, by instance.
    watches: BTreeMap<String, PipeWatch>,
    /// The program that a logger runs.
    exe: PathBuf,
}

impl LogReader {
    /// Watches a logger that was found or started now.
    pub fn new(logger: &Logger, exe: PathBuf) -> Self {
        let disconnect = DisconnectWatch::on(logger.copy().ok());
        Self { disconnect, since: Instant::now(), is_away: false, look_at: None, watches: BTreeMap::new(), exe }
    }

    /// Waits until the logger is lost. May be cancelled.
    pub async fn lost(&self) {
        self.disconnect.disconnected().await;
    }

    /// When pipes are looked at again although no second is over.
    pub const fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// The logger is gone. What instances print waits in their pipes for the next one.
    pub fn renew(&mut self, tools: &Arc<Tools>, inputs: &Inputs) {
        let after = if self.since.elapsed() > RETRY { Duration::ZERO } else { RETRY };
        tracing::error!("the logger has ended; it is started again");
        self.start(after, false, tools, inputs);
    }

    /// Starts another logger. One that may still be there is ended before.
    fn start(&mut self, after: Duration, end_first: bool, tools: &Arc<Tools>, inputs: &Inputs) {
        self.disconnect = DisconnectWatch::on(None);
        self.is_away = true;
        self.look_at = Some(Instant::now() + CLOSE_LOOK);
        let (inputs, paths, exe) = (inputs.clone(), tools.paths.clone(), self.exe.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let begin = move || {
                if end_first {
                    stop_loggers(&paths.logs());
                }
                start(&paths, &exe)
            };
            let started = tokio::task::spawn_blocking(begin).await;
            // A panic was logged. The loop is gone only when everything ends.
            if let Ok(started) = started {
                let _ = inputs.send(Input::Logger(started)).await;
            }
        });
    }

    /// A new logger is there, or is not.
    pub fn replace(
        &mut self,
        started: Result<Logger, LogError>,
        instances: &Instances,
        store: &SharedStore,
        tools: &Arc<Tools>,
        inputs: &Inputs,
    ) {
        let begun = started.map_err(|error| chain(&error));
        let begun = begun.and_then(|new| instances.logger.switch_to(&new).map_err(|error| error.to_string()));
        if let Err(why) = begun {
            tracing::error!(why, "no logger: what instances print and their pipes do not hold is dropped and counted");
            self.start(RETRY, false, tools, inputs);
            return;
        }
        *self = Self::new(&instances.logger, std::mem::take(&mut self.exe));
        keep_logger(&instances.logger, store);
        for instance in instances.all() {
            if let Some(pipe) = instance.pipe() {
                instances.logger.read_again(&instance.log, pipe);
            }
        }
        tracing::info!("a new logger reads what instances print");
    }

    /// Looks whether what instances print is read. If it is not, the logger is replaced, and pipes that fill are emptied
    /// meanwhile, so that no instance waits.
    pub fn look(&mut self, instances: &Instances, tools: &Arc<Tools>, inputs: &Inputs) {
        let mut watches = std::mem::take(&mut self.watches);
        let (mut fills, mut hangs) = (false, false);
        for instance in instances.all() {
            let Some(pipe) = instance.pipe() else { continue };
            let mut watch = watches.remove(&instance.id).unwrap_or_default();
            let found = instance.log.check(pipe, &mut watch, FallbackReader::Supervisor);
            self.watches.insert(instance.id.clone(), watch);
            fills |= matches!(found, Unread::Fills(_));
            hangs |= match found {
                Unread::Nothing => false,
                Unread::Waits(looks) => looks >= WAITS_LOOKS_MAX,
                Unread::Fills(looks) => looks >= FILLS_LOOKS_MAX,
            };
            if matches!(found, Unread::Fills(looks) if looks >= FILLS_LOOKS_MAX)
                && let Err(error) = instance.log.drain_excess(pipe, FallbackReader::Supervisor)
            {
                tracing::warn!(%error, id = instance.id, "cannot empty the pipe of its log; it waits when that is full");
            }
        }
        if hangs && !self.is_away {
            tracing::error!(
                "the logger does not read what instances print and is replaced; what their pipes do not hold meanwhile is \
                 dropped and counted"
            );
            self.start(Duration::ZERO, true, tools, inputs);
        }
        self.look_at = (fills || self.is_away).then(|| Instant::now() + CLOSE_LOOK);
    }
}
