//! `rei stop`.

use super::args::Global;
use super::connect::{ask, paths};
use super::error::{CommandError, Kind};
use super::ui::Ui;
use crate::runtime::keeper::{Keeper, StoreError};

/// `rei stop`: end the runtime, then the supervisor.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command. Where no supervisor answers, a keeper that nobody needs any more is ended.
///
/// # Errors
/// When nobody answers or the supervisor refuses.
pub fn run(_: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    match ask(global, async |it| it.stop().await) {
        Err(error) if error.kind == Kind::NotRunning => end_keeper(error, global, ui),
        asked => {
            asked?;
            Ok(ui.result("the runtime and its supervisor end")?)
        }
    }
}

fn end_keeper(nobody: CommandError, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let Ok(keeper) = Keeper::connect(&paths(global)?.keeper()) else { return Err(nobody) };
    match keeper.quit_if_unneeded() {
        Ok(()) => Ok(ui.result("no supervisor ran; the keeper that held the listening sockets for it ends")?),
        Err(StoreError::Refused { why, .. }) => {
            let message = format!("no supervisor answers, and its keeper cannot end: {why}");
            Err(CommandError::new(Kind::NotRunning, message)
                .hint("`rei run` takes over what there is; then `rei stop`"))
        }
        Err(_) => Err(nobody),
    }
}
