//! Creates and deletes generations of the profile.

use std::path::Path;
use std::sync::Arc;

use crate::lifecycle::Event;
use crate::service::failure::reason;
use crate::service::tools::Tools;

/// Creates a generation for a store path. Also creates the link that a rollback to `current` needs, so that the
/// rollback itself is fast.
pub async fn prepare_generation(tools: Arc<Tools>, store_path: String, current: Option<u64>) -> Option<Event> {
    let prepared = async {
        let generation = tools.profile.create_generation(tools.nix().await?, Path::new(&store_path)).await?;
        if let Some(current) = current {
            let profile = tools.profile.clone();
            // This can wait for the lock of another program.
            let prepared = tokio::task::spawn_blocking(move || profile.prepare_rollback(current));
            prepared.await.map_err(|_| crate::nix::Error::ProfileBusy { profile: tools.profile.path() })??;
        }
        Ok::<u64, crate::nix::Error>(generation)
    };
    Some(match prepared.await {
        Ok(generation) => Event::GenerationPrepared { store_path, generation },
        Err(error) => Event::GenerationFailed { store_path, reason: reason(&error, error.hint()) },
    })
}

/// Deletes old generations.
pub async fn prune(tools: &Tools, keep: usize, in_use: Vec<u64>) {
    let profile = tools.profile.clone();
    // This can wait for the lock of another program.
    match tokio::task::spawn_blocking(move || profile.prune(keep, &in_use)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!("old generations could not be deleted: {}", crate::report::chain(&error)),
        Err(error) => tracing::warn!("old generations could not be deleted: {error}"),
    }
}
