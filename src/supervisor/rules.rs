//! What an instance may do, made once and kept: it takes a while, and a crashed instance's successor does not wait for it.

use std::path::Path;

use super::slots::Wanted;
use crate::report::chain;
use crate::runtime::isolation::{InstancePaths, Sandbox};
use crate::runtime::tree::{TreeMethod, Trees};

/// The rules of all instances.
#[derive(Default)]
pub struct Rules(Option<Sandbox>);

impl Rules {
    /// The rules, made at the first call.
    ///
    /// # Errors
    /// When they cannot be made, in one line.
    pub fn get(
        &mut self,
        wanted: &Wanted<'_>,
        state: &Path,
        temporary: &Path,
        trees: &Trees,
    ) -> Result<&Sandbox, String> {
        let rules = match self.0.take() {
            Some(rules) => rules,
            None => made(wanted, state, temporary, trees)?,
        };
        Ok(self.0.insert(rules))
    }
}

fn made(wanted: &Wanted<'_>, state: &Path, temporary: &Path, trees: &Trees) -> Result<Sandbox, String> {
    let tools = wanted.tools;
    // No need to ask Nix: a version is a path in its store.
    let store_dir = Path::new(wanted.store_path).parent().unwrap_or(Path::new("/nix/store"));
    let (memory_by_cgroup, processes_by_cgroup) = match trees.method() {
        TreeMethod::Cgroup(base) => (base.memory, base.pids),
        TreeMethod::Scan { .. } => (false, false),
    };
    let paths = InstancePaths {
        user: &tools.config.runtime.name,
        closure: &[store_dir],
        state,
        temporary,
        memory_by_cgroup,
        processes_by_cgroup,
    };
    let sandbox = Sandbox::instance(&tools.config.isolation, &paths).map_err(|error| chain(&error))?;
    for missing in sandbox.missing() {
        tracing::warn!(missing, "this machine cannot isolate instances fully");
    }
    Ok(sandbox)
}
