//! Checks whether instances can read the secret by which operators prove themselves.

use std::sync::{Arc, OnceLock};

use super::tools::Tools;
use crate::blueprint::confine::agent_user;
use crate::interface::access::Proof;
use crate::interface::secret::Secret;
use crate::runtime::isolation::{group_named, why_readable};

/// Why an instance can read the operators' secret, or could read it at some time since this supervisor was started. An
/// instance that has read the secret once knows it from then on.
#[derive(Clone, Default)]
pub struct Reach(Arc<OnceLock<String>>);

impl Reach {
    /// Checks the permissions that instances have from now on.
    pub fn look(&self, tools: &Tools) {
        let config = &tools.config;
        let group = config.state.operators.as_ref().and_then(|name| group_named(name).ok());
        let agents = config.agents.values().filter(|_| agent_user().is_none()).flat_map(|agent| &agent.read);
        if let Some(why) = why_readable(&config.isolation, agents, &tools.paths.secret(), group)
            && self.0.set(why.clone()).is_ok()
        {
            tracing::warn!(
                why,
                "callers that have no_new_privs are refused: rei cannot distinguish them from instances"
            );
        }
    }

    pub fn proof(&self, secret: &Arc<Secret>) -> Proof {
        self.0.get().map_or_else(|| Proof::Secret(Arc::clone(secret)), |why| Proof::Impossible(why.clone()))
    }
}
