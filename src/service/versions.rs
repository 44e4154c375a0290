//! Stores the origin of each store path in a file. The journal has it too, but may have lost it.

use std::path::{Path, PathBuf};

use crate::interface::types::{CandidateRuntime, Version};
use crate::state::objects;
use crate::state::paths::Paths;

/// The bound of objects that are searched for a version without a file, which an older rei left. Each evolution has
/// three or four objects.
const OBJECTS_MAX: usize = 10_000;

fn file(paths: &Paths, store_path: &Path) -> Option<PathBuf> {
    let name = store_path.file_name()?.to_str()?;
    Some(paths.versions().join(format!("{name}.json")))
}

/// Stores a version that was built.
pub async fn keep(paths: &Paths, version: &Version) {
    if let Some(path) = file(paths, Path::new(&version.store_path)) {
        objects::keep_at(path, version).await;
    }
}

/// The version of a store path, found without the journal.
pub fn find(paths: &Paths, store_path: &str) -> Option<Version> {
    let stored = file(paths, Path::new(store_path)).and_then(|path| objects::read_bounded(&path).ok());
    let stored: Option<Version> = stored.and_then(|text| serde_json::from_slice(&text).ok());
    stored.filter(|version| version.store_path == store_path).or_else(|| of_a_candidate(paths, store_path))
}

fn of_a_candidate(paths: &Paths, store_path: &str) -> Option<Version> {
    let entries = std::fs::read_dir(paths.object("x").parent()?).ok()?.flatten().take(OBJECTS_MAX);
    let ids = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".json").filter(|id| id.starts_with("cand_")).map(str::to_owned)
    });
    ids.filter_map(|id| objects::read::<CandidateRuntime>(paths, &id))
        .map(|candidate| candidate.version)
        .find(|version| version.store_path == store_path)
}

/// Removes the files of versions that no generation of the profile has.
pub fn prune(paths: &Paths, in_profile: &[PathBuf]) {
    let in_profile: Vec<PathBuf> = in_profile.iter().filter_map(|path| file(paths, path)).collect();
    for entry in std::fs::read_dir(paths.versions()).into_iter().flatten().flatten() {
        if !in_profile.contains(&entry.path()) {
            // A file that stays does no harm, and the next prune tries again.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
