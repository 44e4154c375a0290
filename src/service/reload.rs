//! rei.toml is read: at the start, and again while the runtime serves.

use std::path::Path;
use std::sync::Arc;

use super::error::StartError;
use super::policy::policy;
use super::shell::Shell;
use super::tools::Tools;
use crate::blueprint::library::Library;
use crate::config::{self, Config};
use crate::lifecycle::Event;
use crate::redact::Secrets;
use crate::report::chain;

/// A rei.toml that can be used, with its blueprints.
///
/// # Errors
/// All that is wrong with it.
pub fn load(path: &Path) -> Result<Config, StartError> {
    let config = Config::load(path)?;
    let unusable = Library::new(config.blueprints.directory.clone()).unusable(&config);
    if unusable.is_empty() { Ok(config) } else { Err(StartError::Blueprints(unusable)) }
}

impl Shell {
    /// Reads rei.toml again. What cannot be changed while it runs is named.
    pub(super) fn reload(&mut self) {
        let config = match load(&self.tools.config_path) {
            Ok(config) => config,
            Err(error) => {
                let mistakes = if let StartError::Config(error) = &error { error.mistakes() } else { Vec::new() };
                let why: Vec<String> = std::iter::once(chain(&error)).chain(mistakes).collect();
                tracing::error!(why = why.join("; "), "rei.toml is not taken; the old one holds");
                return;
            }
        };
        let changes = config::diff(&self.tools.config, &config);
        if let Some(change) = changes.iter().find(|change| change.when == config::When::Restart) {
            tracing::error!(key = change.key, "this cannot change while rei runs; the old rei.toml holds");
            return;
        }
        let old = &self.tools;
        self.tools = Arc::new(Tools {
            secrets: Secrets::new(config.all_secrets()),
            config,
            config_path: old.config_path.clone(),
            paths: old.paths.clone(),
            workshop: old.workshop.clone(),
            mirror: old.mirror.clone(),
            sources: old.sources.clone(),
            needed: old.needed.clone(),
            measured: old.measured.clone(),
            profile: old.profile.clone(),
            roots: old.roots.clone(),
        });
        self.reach.look(&self.tools);
        self.occupants.configure();
        self.watch.configure(&self.tools.config);
        self.pending.push_back(Event::Configured { policy: policy(&self.tools.config) });
        tracing::info!(changes = changes.len(), "rei.toml was read again");
    }
}
