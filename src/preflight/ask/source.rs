//! git, the repository, and what its followed commit has.

use std::path::PathBuf;

use crate::digest::short;
use crate::preflight::answer::Answer;
use crate::preflight::context::{Context, of_source};
use crate::preflight::means::Means;
use crate::source::{Mirror, ObjectId, git_version};

/// Maximum number of submodules that one line names.
const SUBMODULES_NAMED_MAX: usize = 3;

/// Is git here, and new enough?
pub async fn git() -> Vec<Answer> {
    vec![match git_version().await {
        Ok(version) => Answer::ok(version),
        Err(error) => of_source(&error),
    }]
}

/// Can the repository be read, does it have the followed ref, and does that commit have a flake?
pub async fn source<M: Means>(context: &Context<M>) -> Vec<Answer> {
    let Some((config, mirror)) = context.config().zip(context.means.mirror()) else { return Vec::new() };
    let found = match context.followed().await {
        Some(Ok(found)) => found,
        Some(Err(answer)) => return vec![answer.clone()],
        None => return Vec::new(),
    };
    let (source, followed, at) = (&config.runtime.source, &config.runtime.r#ref, short(found.commit.as_str()));
    let has = Answer::ok(format!("{source} has {} on {followed} at {at}", found.flake.display()));
    std::iter::once(has).chain(shallow(mirror, &found.commit)).chain(without(&found.submodules)).collect()
}

/// A repository without its whole history (a shallow clone).
fn shallow(mirror: &Mirror, commit: &ObjectId) -> Option<Answer> {
    let source = mirror.source();
    let line = format!(
        "{source} is a shallow clone: flakes get a commit count that is too small (revCount), and commits \
         before {} may be missing",
        short(commit.as_str())
    );
    let hint = match mirror.source_dir() {
        Some(dir) => format!("git -C {} fetch --unshallow", dir.display()),
        None => format!("in the repository that {source} names: git fetch --unshallow"),
    };
    mirror.is_shallow().then(|| Answer::warn(line, hint))
}

/// Submodules: a commit does not contain their files.
fn without(submodules: &[PathBuf]) -> Option<Answer> {
    let named = submodules.iter().take(SUBMODULES_NAMED_MAX).map(|path| path.display().to_string());
    let named = named.collect::<Vec<_>>().join(", ");
    let more = submodules.len().saturating_sub(SUBMODULES_NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let line = format!("submodules are empty directories in a build: {named}{more}");
    (!submodules.is_empty())
        .then(|| Answer::warn(line, "make each an input of the flake, or put its files into the tree"))
}
