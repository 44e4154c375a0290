//! git, the repository, and what its followed commit has.

use std::path::PathBuf;

use crate::digest::short;
use crate::preflight::answer::Answer;
use crate::preflight::context::{Context, of_source};
use crate::preflight::means::Means;
use crate::source::{Mirror, ObjectId, git_version};

/// The most submodules that one line names.
const SUBMODULES_TOLD: usize = 3;

/// Is git installed and new enough?
pub async fn git() -> Vec<Answer> {
    vec![match git_version().await {
        Ok(version) => Answer::ok(version),
        Err(error) => of_source(&error),
    }]
}

/// Can rei read the repository? Does it have the followed ref, and does that commit have a flake?
pub async fn source<M: Means>(context: &Context<M>) -> Vec<Answer> {
    let Some((config, mirror)) = context.config().zip(context.means.mirror()) else { return Vec::new() };
    let found = match context.followed().await {
        Some(Ok(found)) => found,
        Some(Err(answer)) => return vec![answer.clone()],
        None => return Vec::new(),
    };
    let (source, followed, at) = (&config.runtime.source, &config.runtime.r#ref, short(found.commit.as_str()));
    let has = Answer::ok(format!("{source} has {} on {followed} at {at}", found.flake.display()));
    std::iter::once(has).chain(shallow(mirror, &found.commit)).chain(submodules_are_empty(&found.submodules)).collect()
}

/// A warning if the repository is a shallow clone.
fn shallow(mirror: &Mirror, commit: &ObjectId) -> Option<Answer> {
    let source = mirror.source();
    let line = format!(
        "{source} is a shallow clone: a flake gets a wrong number of commits (revCount), and commits before {} may be missing",
        short(commit.as_str())
    );
    let hint = match mirror.source_dir() {
        Some(dir) => format!("git -C {} fetch --unshallow", dir.display()),
        None => format!("in the repository that {source} names: git fetch --unshallow"),
    };
    mirror.is_shallow().then(|| Answer::warn(line, hint))
}

/// A warning if there are submodules: a commit does not have their files.
fn submodules_are_empty(submodules: &[PathBuf]) -> Option<Answer> {
    let told = submodules.iter().take(SUBMODULES_TOLD).map(|path| path.display().to_string());
    let told = told.collect::<Vec<_>>().join(", ");
    let more = submodules.len().saturating_sub(SUBMODULES_TOLD);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let line = format!("submodules are empty directories in a build: {told}{more}");
    (!submodules.is_empty())
        .then(|| Answer::warn(line, "make each an input of the flake, or put its files into the tree"))
}
