//! Profile generations and roots.

use std::path::Path;
use std::sync::Arc;

use super::reason;
use crate::lifecycle::Event;
use crate::supervisor::tools::Tools;

/// Makes a generation for a store path, and the link that a rollback to `current` needs, while there is time.
pub async fn prepare_generation(tools: Arc<Tools>, store_path: String, current: Option<u64>) -> Option<Event> {
    let prepared = async {
        let generation = tools.profile.create_generation(tools.nix().await?, Path::new(&store_path)).await?;
        if let Some(current) = current {
            tools.profile.prepare_rollback(current)?;
        }
        Ok::<u64, crate::nix::Error>(generation)
    };
    Some(match prepared.await {
        Ok(generation) => Event::GenerationPrepared { store_path, generation },
        Err(error) => Event::GenerationFailed { store_path, reason: reason(&error, error.hint()) },
    })
}

/// Lets go of the roots of candidates other than `current`: what was promoted has a generation.
pub async fn drop_candidates(tools: &Tools, current: Option<&str>) {
    let roots = match tools.roots.list() {
        Ok(roots) => roots,
        Err(error) => {
            tracing::warn!(error = crate::report::chain(&error), "cannot list the roots");
            return;
        }
    };
    for name in roots.into_keys() {
        let candidate = name.starts_with("cand_") || name.starts_with("first");
        let needed = current.is_some_and(|current| name.starts_with(current));
        if candidate
            && !needed
            && let Err(error) = tools.roots.remove(&name)
        {
            tracing::warn!(error = crate::report::chain(&error), name, "cannot remove a root");
        }
    }
}
