//! Opens the log of an instance that is started or adopted.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::logfiles::{LogFiles, SlotLog};
use super::logpipe::LogPipe;
use super::set::Instances;
use super::types::SpawnContext;
use crate::lifecycle::Slot;
use crate::live::log::Rules;
use crate::report::chain;
use crate::runtime::logs::{Log, Memory};

impl Instances {
    /// The log of an instance that is started now.
    pub(super) fn begin_log(
        &mut self,
        context: &SpawnContext<'_>,
        id: &str,
        pipe: &LogPipe,
    ) -> Result<Arc<Log>, String> {
        let (files, bytes_max) = log_files(context);
        let path = files.begin(id, context.store_path).map_err(|error| no_file(&error))?;
        let memory =
            pipe.memory.share().map_err(|error| format!("cannot share the memory of the log pipe: {error}"))?;
        let log = match access_log(context) {
            Some(rules) => self.logger.counting(&rules).read(id, &pipe.read, memory, &path, bytes_max),
            None => self.logger.read(id, &pipe.read, memory, &path, bytes_max),
        };
        Ok(self.last_log_is(context.slot, log, path, files))
    }

    /// The log of an instance that an earlier supervisor started. If the pipe was lost with the
    /// descriptor store, an earlier logger still writes the file.
    pub(super) fn resume_log(
        &mut self,
        context: &SpawnContext<'_>,
        id: &str,
        pipe: Option<(OwnedFd, Memory)>,
    ) -> Result<Arc<Log>, String> {
        let (files, bytes_max) = log_files(context);
        let path = files.resume(id, context.store_path).map_err(|error| no_file(&error))?;
        let log = match pipe {
            Some((pipe, memory)) => match access_log(context) {
                Some(rules) => self.logger.counting(&rules).resume(id, &pipe, memory, &path, bytes_max),
                None => self.logger.resume(id, &pipe, memory, &path, bytes_max),
            },
            None => Log::of_another_logger(id, &path, bytes_max).map_err(|error| chain(&error))?,
        };
        Ok(self.last_log_is(context.slot, log, path, files))
    }

    fn last_log_is(&mut self, slot: Slot, log: Log, path: PathBuf, files: LogFiles) -> Arc<Log> {
        let log = Arc::new(log);
        self.logs[slot.index()] = Some(SlotLog::new(log.clone(), path, files));
        log
    }
}

fn log_files(context: &SpawnContext<'_>) -> (LogFiles, u64) {
    let bytes_max = context.tools.config.state.log_bytes;
    (LogFiles::new(&context.tools.paths.log(context.slot), bytes_max), bytes_max)
}

/// The rules of the access log, as JSON; `None` if rei.toml has none.
fn access_log(context: &SpawnContext<'_>) -> Option<String> {
    let rules = Rules::of(&context.tools.config.health)?;
    serde_json::to_string(&rules).ok()
}

fn no_file(error: &io::Error) -> String {
    format!("cannot create the log file of the instance: {error}")
}
