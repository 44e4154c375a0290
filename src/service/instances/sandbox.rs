//! The sandbox of instances, prepared once and kept: preparing it takes time, and the successor of a crashed instance
//! must not wait for that.

use std::path::{Path, PathBuf};

use super::types::SpawnContext;
use crate::report::chain;
use crate::runtime::isolation::{InstancePaths, Sandbox};
use crate::runtime::tree::{TreeMethod, Trees};

/// The sandbox of all instances, and the Nix store that it opens to them.
#[derive(Default)]
pub struct SandboxCache(Option<(PathBuf, Sandbox)>);

impl SandboxCache {
    /// The sandbox; the first call prepares it.
    ///
    /// # Errors
    /// If it cannot be prepared; the error is one line.
    pub fn get(
        &mut self,
        context: &SpawnContext<'_>,
        state: &Path,
        temporary: &Path,
        trees: &Trees,
    ) -> Result<&Sandbox, String> {
        let store = store_of(context.store_path);
        prepared_for(&mut self.0, store, || prepare(context, store, state, temporary, trees))
    }
}

/// The Nix store that contains a version. Nix need not be asked: a version is a path in its store. The version of an
/// instance that no slot has is not known; then this is `/nix/store`.
fn store_of(store_path: &str) -> &Path {
    Path::new(store_path).parent().unwrap_or(Path::new("/nix/store"))
}

/// The value that was prepared for this store, or else prepares it now. A sandbox for another store is useless: the
/// instance could not execute its programs.
fn prepared_for<'a, T>(
    kept: &'a mut Option<(PathBuf, T)>,
    store: &Path,
    prepare: impl FnOnce() -> Result<T, String>,
) -> Result<&'a T, String> {
    let prepared = match kept.take().filter(|(of, _)| of == store) {
        Some(prepared) => prepared,
        None => (store.to_owned(), prepare()?),
    };
    Ok(&kept.insert(prepared).1)
}

fn prepare(
    context: &SpawnContext<'_>,
    store: &Path,
    state: &Path,
    temporary: &Path,
    trees: &Trees,
) -> Result<Sandbox, String> {
    let tools = context.tools;
    let (memory_by_cgroup, processes_by_cgroup) = match trees.method() {
        TreeMethod::Cgroup(base) => (base.memory, base.pids),
        TreeMethod::Scan { .. } => (false, false),
    };
    let paths = InstancePaths {
        user: &tools.config.runtime.name,
        closure: &[store],
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandbox_of_an_unknown_version_is_not_used_for_another_store() {
        let mut kept = None;
        let mut get =
            |store_path: &str, number: u32| *prepared_for(&mut kept, store_of(store_path), || Ok(number)).unwrap();
        // First an instance of no slot is ended, then Active is started twice.
        assert_eq!(get("", 1), 1);
        assert_eq!(get("/srv/store/abc-served", 2), 2);
        assert_eq!(get("/srv/store/def-served", 3), 2, "prepared once for each store");
        assert_eq!(get("/nix/store/abc-served", 4), 4);
    }
}
