//! Reads rei.toml: at the start, and again while the runtime serves.

use std::path::Path;

use super::error::StartError;
use super::tools::Tools;
use crate::blueprint::library::Library;
use crate::config::{self, Config};
use crate::redact::Secrets;
use crate::report::chain;

/// Reads a rei.toml and checks the blueprints that it names.
///
/// # Errors
/// All mistakes in it.
pub fn load(path: &Path) -> Result<Config, StartError> {
    let config = Config::load(path)?;
    let unusable = Library::new(config.blueprints.directory.clone()).unusable(&config);
    if unusable.is_empty() { Ok(config) } else { Err(StartError::Blueprints(unusable)) }
}

/// Reads rei.toml again and returns the values that all parts share from now on. If rei.toml has a mistake, or a key
/// that cannot change while rei runs has changed, it is logged, and the previous configuration stays.
pub fn read_again(old: &Tools) -> Option<Tools> {
    let config = match load(&old.config_path) {
        Ok(config) => config,
        Err(error) => {
            let mistakes = if let StartError::Config(error) = &error { error.mistakes() } else { Vec::new() };
            let why: Vec<String> = std::iter::once(chain(&error)).chain(mistakes).collect();
            tracing::error!(
                why = why.join("; "),
                "reload failed: rei.toml is invalid; keeping the previous configuration"
            );
            return None;
        }
    };
    let changes = config::diff(&old.config, &config);
    if let Some(change) = changes.iter().find(|change| change.when == config::When::Restart) {
        tracing::error!(
            key = change.key,
            "reload failed: this key cannot change while rei runs; keeping the previous configuration"
        );
        return None;
    }
    tracing::info!(changes = changes.len(), "rei.toml was read again");
    Some(Tools {
        secrets: Secrets::new(config.all_secrets()),
        config,
        config_path: old.config_path.clone(),
        paths: old.paths.clone(),
        lazy_nix: old.lazy_nix.clone(),
        mirror: old.mirror.clone(),
        sources: old.sources.clone(),
        in_use: old.in_use.clone(),
        measured: old.measured.clone(),
        profile: old.profile.clone(),
        roots: old.roots.clone(),
    })
}
