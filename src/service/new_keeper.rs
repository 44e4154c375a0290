//! The store of descriptors is begun anew when it is lost.

use std::path::PathBuf;
use std::time::Duration;

use super::input::Input;
use super::keep::Lifeline;
use super::shell::Shell;
use super::sync::lock;
use crate::report::chain;
use crate::runtime::keeper::{Keeper, StoreError};

/// The pause before a keeper is started again that could not be started.
const RETRY: Duration = Duration::from_secs(5);

impl Shell {
    /// The keeper is gone. What it held is held here as well: a new one gets it, off the loop.
    pub(super) fn renew_keeper(&mut self, after: Duration) {
        if after.is_zero() {
            tracing::error!("the keeper has ended; it is started again");
        }
        self.lifeline = Lifeline::on(None);
        let (inputs, paths, exe): (_, _, PathBuf) = (self.inputs.clone(), self.tools.paths.clone(), self.exe.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let started = tokio::task::spawn_blocking(move || Keeper::start_or_connect(&paths.keeper(), &exe)).await;
            // A panic would have been told; the loop is gone only when everything ends.
            if let Ok(started) = started {
                let _ = inputs.send(Input::Keeper(started)).await;
            }
        });
    }

    /// A new keeper is there, or is not.
    pub(super) fn on_keeper(&mut self, started: Result<Keeper, StoreError>) {
        let keeper = match started {
            Ok(keeper) => keeper,
            Err(error) => {
                tracing::error!(error = chain(&error), "no keeper: the listeners would not outlive the supervisor");
                self.renew_keeper(RETRY);
                return;
            }
        };
        if let Ok(pid) = u32::try_from(keeper.pid()) {
            self.occupants.trees().exclude(pid);
        }
        *lock(&self.store) = Box::new(keeper);
        self.lifeline = Lifeline::of(&self.store);
        if let Err(error) = lock(&self.traffic).store_all(&mut **lock(&self.store)) {
            tracing::error!(error = chain(&error), "the keeper does not have all listeners");
        }
        self.occupants.store_all(&self.store);
        tracing::info!("a new keeper has the listeners");
    }
}
