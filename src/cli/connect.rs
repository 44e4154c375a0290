//! How a command reaches the supervisor of `rei.toml`, and the memory of one that does not run.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::args::{Global, runtime};
use super::error::CommandError;
use super::ui::Ui;
use super::view::Look;
use crate::config::Config;
use crate::interface::client::{ClientError, Operation, OperationsClient};
use crate::journal::{self, Reader, Record};
use crate::supervisor::chronicle::Chronicle;
use crate::supervisor::paths::Paths;
use crate::supervisor::record::Entry;
use crate::time::Timestamp;

/// The largest stored object that is read, in bytes: what fits one message of the interface.
const OBJECT_BYTES_MAX: u64 = 1 << 20;

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

/// Walks a chronicle through the whole journal.
///
/// # Errors
/// When the journal is damaged.
pub(super) fn walk(paths: &Paths, mut chronicle: Chronicle) -> Result<Chronicle, CommandError> {
    Reader::open(&paths.journal())?.records(1, |record: Record<Entry>| {
        chronicle.take(&record);
        ControlFlow::Continue(())
    })?;
    Ok(chronicle)
}

/// The stored object of this id, where there is one.
pub(super) fn stored(paths: &Paths, id: &str) -> Option<Value> {
    // An id is a name, never a path.
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    read_bounded(&paths.object(id)).ok()
}

fn read_bounded(path: &Path) -> std::io::Result<Value> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(OBJECT_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > OBJECT_BYTES_MAX {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(serde_json::from_slice(&text)?)
}

/// How pages look now.
pub(super) fn look(ui: &Ui) -> Look {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = Timestamp::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX));
    Look { paint: ui.painter(), width: usize::from(ui.width()), now }
}
