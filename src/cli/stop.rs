//! `rei stop`.

use super::args::Global;
use super::connect::{ask, paths};
use super::error::{CommandError, Kind};
use super::ui::Ui;
use crate::runtime::keeper::{Keeper, StoreError};

/// `rei stop`: stop the runtime, then the supervisor.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command. If no supervisor answers, it stops a keeper that is no longer needed.
///
/// # Errors
/// If no supervisor answers, or the supervisor refuses.
pub fn run(_: &Args, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    match ask(global, async |it| it.stop().await) {
        Err(error) if error.kind == Kind::NotRunning => stop_keeper(error, global, ui),
        asked => {
            asked?;
            Ok(ui.result("the runtime and its supervisor stop")?)
        }
    }
}

fn stop_keeper(not_running: CommandError, global: &Global, ui: &mut Ui) -> Result<(), CommandError> {
    let Ok(keeper) = Keeper::connect(&paths(global)?.keeper()) else { return Err(not_running) };
    match keeper.quit_if_unneeded() {
        Ok(()) => Ok(ui.result("no supervisor was running; the keeper that held its listening sockets stops")?),
        Err(StoreError::Refused { why, .. }) => {
            let message = format!("no supervisor answers, and its keeper cannot stop: {why}");
            Err(CommandError::new(Kind::NotRunning, message)
                .hint("`rei run` takes the instances over; then `rei stop`"))
        }
        Err(_) => Err(not_running),
    }
}
