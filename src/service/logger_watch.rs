//! Watches the logger, and replaces it if it is lost or hangs.

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

/// The pause before the next logger is started, if the last one could not be started or ended within this time.
const RETRY: Duration = Duration::from_secs(5);

/// The pause between looks at pipes while one of them fills up: the instance may already wait for space.
const CLOSE_LOOK: Duration = Duration::from_millis(50);
/// If the logger reads nothing of a filling pipe for this number of looks (one second), rei takes the logger as hung. A
/// healthy logger reads within milliseconds, or tens of milliseconds on a busy machine.
const FILLS_LOOKS_MAX: u32 = 20;
/// The same bound for a pipe that holds data and does not fill up. It is checked once a second, because no instance
/// waits for it.
const WAITS_LOOKS_MAX: u32 = 10;

/// The watch on the logger of a service.
pub struct LoggerWatch {
    /// Reports when the logger has ended.
    disconnect: DisconnectWatch,
    /// When the logger was found or started.
    since: Instant,
    /// True while a new logger is being started and no logger reads.
    is_away: bool,
    /// The next look at the pipes, if one fills up. Otherwise the pipes are checked once a second.
    look_at: Option<Instant>,
    /// The results of earlier looks, by instance.
    watches: BTreeMap<String, PipeWatch>,
    /// The program that a logger runs.
    exe: PathBuf,
}

impl LoggerWatch {
    /// Watches a logger that was just found or just started.
    pub fn new(logger: &Logger, exe: PathBuf) -> Self {
        let disconnect = DisconnectWatch::on(logger.copy().ok());
        Self { disconnect, since: Instant::now(), is_away: false, look_at: None, watches: BTreeMap::new(), exe }
    }

    /// Waits until the logger is lost. While a new logger is being started, this never returns. Dropping the future is safe.
    pub async fn lost(&self) {
        self.disconnect.disconnected().await;
    }

    /// The time of the next look at the pipes, if it comes before the regular one (once a second).
    pub const fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// The logger has ended: starts a new one. The output of instances waits in their pipes until the new logger reads.
    pub fn renew(&mut self, tools: &Arc<Tools>, inputs: &Inputs) {
        let after = if self.since.elapsed() > RETRY { Duration::ZERO } else { RETRY };
        tracing::error!("the logger has ended; another one is started");
        self.start(after, false, tools, inputs);
    }

    /// Starts another logger. If `end_first` is set, it first ends the old logger, which may still run.
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
            // A panic is already logged. The send fails only when the supervisor stops.
            if let Ok(started) = started {
                let _ = inputs.send(Input::Logger(started)).await;
            }
        });
    }

    /// A new logger was started, or could not be started.
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
            tracing::error!(
                why,
                "cannot start a logger: output of instances that does not fit in their pipes is dropped and counted"
            );
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
        tracing::info!("a new logger reads the output of instances");
    }

    /// Checks that the logger reads the output of instances. If it does not, the logger is replaced. Until then the
    /// supervisor empties pipes that fill up, so that no instance waits.
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
                tracing::warn!(%error, id = instance.id, "cannot empty the log pipe of an instance; the instance will wait when the pipe is full");
            }
        }
        if hangs && !self.is_away {
            tracing::error!(
                "the logger does not read the output of instances and is replaced; until then, output that does not fit in \
                 their pipes is dropped and counted"
            );
            self.start(Duration::ZERO, true, tools, inputs);
        }
        self.look_at = (fills || self.is_away).then(|| Instant::now() + CLOSE_LOOK);
    }
}
