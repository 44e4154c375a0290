//! What an instance may do, made once and kept: it takes a while, and a crashed instance's successor does not wait for it.

use std::path::{Path, PathBuf};

use super::types::SpawnContext;
use crate::report::chain;
use crate::runtime::isolation::{InstancePaths, Sandbox};
use crate::runtime::tree::{TreeMethod, Trees};

/// The rules of all instances, and the store that they open.
#[derive(Default)]
pub struct SandboxCache(Option<(PathBuf, Sandbox)>);

impl SandboxCache {
    /// The rules, made at the first call.
    ///
    /// # Errors
    /// When they cannot be made, in one line.
    pub fn get(
        &mut self,
        wanted: &SpawnContext<'_>,
        state: &Path,
        temporary: &Path,
        trees: &Trees,
    ) -> Result<&Sandbox, String> {
        let store = store_of(wanted.store_path);
        made_for(&mut self.0, store, || made(wanted, store, state, temporary, trees))
    }
}

/// The store that a version is in. No need to ask Nix: a version is a path in its store. Of an instance that no slot has,
/// the version is not known.
fn store_of(store_path: &str) -> &Path {
    Path::new(store_path).parent().unwrap_or(Path::new("/nix/store"))
}

/// What was made for this store, or is made now. What was made for another is of no use: its programs could not be run.
fn made_for<'a, T>(
    kept: &'a mut Option<(PathBuf, T)>,
    store: &Path,
    make: impl FnOnce() -> Result<T, String>,
) -> Result<&'a T, String> {
    let made = match kept.take().filter(|(of, _)| of == store) {
        Some(made) => made,
        None => (store.to_owned(), make()?),
    };
    Ok(&kept.insert(made).1)
}

fn made(
    wanted: &SpawnContext<'_>,
    store: &Path,
    state: &Path,
    temporary: &Path,
    trees: &Trees,
) -> Result<Sandbox, String> {
    let tools = wanted.tools;
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
    fn rules_that_an_unknown_version_made_are_not_those_of_a_store_elsewhere() {
        let mut kept = None;
        let mut get =
            |store_path: &str, number: u32| *made_for(&mut kept, store_of(store_path), || Ok(number)).unwrap();
        // A stray is ended first, then Active is started again, and again.
        assert_eq!(get("", 1), 1);
        assert_eq!(get("/srv/store/abc-served", 2), 2);
        assert_eq!(get("/srv/store/def-served", 3), 2, "made once for each store");
        assert_eq!(get("/nix/store/abc-served", 4), 4);
    }
}
