//! Connects a command to the supervisor of `rei.toml`, or to its journal if the supervisor does not run.

use std::ops::ControlFlow;
use std::time::Duration;

use super::args::{Global, runtime};
use super::error::CommandError;
use super::ui::Ui;
use super::view::Look;
use crate::config::Config;
use crate::history::History;
use crate::history::entry::Entry;
use crate::interface::client::{ClientError, Operation, OperationsClient};
use crate::journal::{self, Reader, Record};
use crate::state::paths::Paths;
use crate::time::{Timestamp, millis};

/// The paths of the supervisor of `rei.toml`.
///
/// # Errors
/// If rei.toml cannot be read or has mistakes.
pub(super) fn paths(global: &Global) -> Result<Paths, CommandError> {
    Ok(Paths::of(&Config::load(&global.config)?))
}

/// Sends a request to the supervisor.
///
/// # Errors
/// If rei.toml cannot be read or has mistakes, no supervisor answers, or the supervisor refuses.
pub(super) fn ask<T>(
    global: &Global,
    request: impl AsyncFnOnce(&OperationsClient) -> Operation<T>,
) -> Result<T, CommandError> {
    let paths = paths(global)?;
    let answer = runtime()?.block_on(async { request(&OperationsClient::connect(paths.control()).await?).await });
    Ok(answer?)
}

/// Sends a request to the supervisor. If no supervisor runs, this function reads the journal instead.
///
/// # Errors
/// If rei.toml is wrong, the supervisor refuses, or no supervisor runs and the journal cannot be read.
pub(super) fn ask_or_read_journal<T>(
    global: &Global,
    ui: &mut Ui,
    request: impl AsyncFnOnce(&OperationsClient) -> Operation<T>,
    from_journal: impl FnOnce(&Paths) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let paths = paths(global)?;
    let answer = runtime()?.block_on(async { request(&OperationsClient::connect(paths.control()).await?).await });
    match answer {
        Err(error @ ClientError::NotRunning { .. }) => {
            // Without a journal no supervisor has ever run here.
            if matches!(Reader::open(&paths.journal()), Err(journal::Error::Absent { .. })) {
                return Err(error.into());
            }
            ui.status("no supervisor runs; this comes from its journal");
            from_journal(&paths)
        }
        answer => Ok(answer?),
    }
}

/// Passes every record of the journal, from the first on, to a history.
///
/// # Errors
/// If the journal is damaged.
pub(super) fn walk(paths: &Paths, mut history: History) -> Result<History, CommandError> {
    Reader::open(&paths.journal())?.records(1, |record: Record<Entry>| {
        history.take(&record);
        ControlFlow::Continue(())
    })?;
    Ok(history)
}

/// The colour, the width and the time for pages.
pub(super) fn look(ui: &Ui) -> Look {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = Timestamp::from_unix_ms(millis(since_epoch));
    Look { paint: ui.painter(), width: usize::from(ui.width()), now }
}
