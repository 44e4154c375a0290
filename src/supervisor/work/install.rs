//! The first version: the followed commit, built without a blueprint.

use std::sync::Arc;

use super::version::build_version;
use super::words::reason;
use crate::interface::types::EvolutionId;
use crate::lifecycle::Event;
use crate::supervisor::input::Inputs;
use crate::supervisor::tools::Tools;

/// The root of the first version's build.
const ROOT: &str = "first";

/// Builds the commit of the followed ref.
pub async fn install(tools: Arc<Tools>, evolution: EvolutionId, inputs: Inputs) -> Option<Event> {
    let built = async {
        let source = |error: crate::source::Error| reason(&error, error.hint());
        let commit = tools.mirror.fetch().await.map_err(source)?;
        tools.mirror.keep_active(&commit).await.map_err(source)?;
        build_version(&tools, &commit, ROOT, &inputs).await
    };
    Some(match built.await {
        Ok(version) => Event::Built { evolution, base_rev: version.rev.clone(), version, files_changed: Vec::new() },
        Err(reason) => {
            let reason = reason.lines().next().unwrap_or_default().to_owned();
            Event::BuildFailed { evolution, reason }
        }
    })
}
