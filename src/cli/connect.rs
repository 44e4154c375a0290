//! How a command reaches the supervisor of `rei.toml`, and the memory of one that does not run.

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

/// Where the supervisor of `rei.toml` has its things.
///
/// # Errors
/// When the file is wrong.
pub(super) fn paths(global: &Global) -> Result<Paths, CommandError> {
    Ok(Paths::of(&Config::load(&global.config)?))
}

/// Asks the supervisor.
///
/// # Errors
/// When the file is wrong, nobody answers, or the supervisor refuses.
pub(super) fn ask<T>(
    global: &Global,
    question: impl AsyncFnOnce(&OperationsClient) -> Operation<T>,
) -> Result<T, CommandError> {
    let paths = paths(global)?;
    let asked = runtime()?.block_on(async { question(&OperationsClient::connect(paths.control()).await?).await });
    Ok(asked?)
}

/// Asks the supervisor, or, where none runs, its journal.
///
/// # Errors
/// When neither answers.
pub(super) fn ask_or_remember<T>(
    global: &Global,
    ui: &mut Ui,
    question: impl AsyncFnOnce(&OperationsClient) -> Operation<T>,
    memory: impl FnOnce(&Paths) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let paths = paths(global)?;
    let asked = runtime()?.block_on(async { question(&OperationsClient::connect(paths.control()).await?).await });
    match asked {
        Err(error @ ClientError::NotRunning { .. }) => {
            if matches!(Reader::open(&paths.journal()), Err(journal::Error::Absent { .. })) {
                return Err(error.into());
            }
            ui.status("no supervisor runs; this is read from its journal");
            memory(&paths)
        }
        asked => Ok(asked?),
    }
}

/// Takes a history through the whole journal.
///
/// # Errors
/// When the journal is damaged.
pub(super) fn walk(paths: &Paths, mut history: History) -> Result<History, CommandError> {
    Reader::open(&paths.journal())?.records(1, |record: Record<Entry>| {
        history.take(&record);
        ControlFlow::Continue(())
    })?;
    Ok(history)
}

/// How pages look now.
pub(super) fn look(ui: &Ui) -> Look {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = Timestamp::from_unix_ms(millis(since_epoch));
    Look { paint: ui.painter(), width: usize::from(ui.width()), now }
}
