//! Whether instances can read what operators prove themselves by.

use std::sync::{Arc, OnceLock};

use super::tools::Tools;
use crate::blueprint::confine::agent_user;
use crate::interface::access::Proof;
use crate::interface::secret::Secret;
use crate::runtime::isolation::{group_named, why_readable};

/// Whether an instance can read the operators' secret, or could since this supervisor was started: who read it knows it.
#[derive(Clone, Default)]
pub struct Reach(Arc<OnceLock<String>>);

impl Reach {
    /// Looks at what instances are allowed from now on.
    pub fn look(&self, tools: &Tools) {
        let config = &tools.config;
        let group = config.state.operators.as_ref().and_then(|name| group_named(name).ok());
        let agents = config.agents.values().filter(|_| agent_user().is_none()).flat_map(|agent| &agent.read);
        if let Some(why) = why_readable(&config.isolation, agents, &tools.paths.secret(), group)
            && self.0.set(why.clone()).is_ok()
        {
            tracing::warn!(why, "callers that have no_new_privs are refused: they cannot be told from instances");
        }
    }

    pub fn proof(&self, secret: &Arc<Secret>) -> Proof {
        self.0.get().map_or_else(|| Proof::Secret(Arc::clone(secret)), |why| Proof::Impossible(why.clone()))
    }
}
