//! The first version: the followed commit, built without a blueprint.

use std::sync::Arc;

use super::version::build_version;
use crate::interface::types::EvolutionId;
use crate::lifecycle::{Event, Fault};
use crate::service::failure::Failed;
use crate::service::input::Inputs;
use crate::service::tools::Tools;

/// The name of the garbage collector root of the first version's build.
const ROOT: &str = "first";

/// Builds the commit of the followed ref.
pub async fn install(tools: Arc<Tools>, evolution: EvolutionId, inputs: Inputs) -> Option<Event> {
    let built = async {
        let commit = tools.mirror.fetch().await?;
        tools.mirror.keep_active(&commit).await?;
        build_version(&tools, &commit, ROOT, &inputs).await
    };
    Some(match built.await {
        Ok(version) => Event::Built { evolution, base_rev: version.rev.clone(), version, files_changed: Vec::new() },
        // Without a version that serves, rei cannot continue, whatever the cause is.
        Err(Failed { reason, .. }) => {
            let reason = reason.lines().next().unwrap_or_default().to_owned();
            Event::BuildFailed { evolution, reason, fault: Fault::Machine }
        }
    })
}
