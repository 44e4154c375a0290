//! git, the repository, and what its followed commit has.

use std::path::PathBuf;

use crate::digest::short;
use crate::preflight::answer::Answer;
use crate::preflight::context::{Context, of_source};
use crate::preflight::means::Means;
use crate::source::{Gap, Mirror, ObjectId, git_version, listed};

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
    std::iter::once(has).chain(shallow(mirror, &found.commit)).chain(submodules(mirror, &found.submodules)).collect()
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

/// What a build has of the submodules.
fn submodules(mirror: &Mirror, submodules: &[PathBuf]) -> Option<Answer> {
    if !mirror.has_submodules() {
        return Gap::of_submodules(submodules).map(|gap| Answer::warn(gap.line, gap.hint));
    }
    Some(Answer::ok(match submodules {
        [] => return None,
        [one] => format!("the submodule {} is fetched and built with it", one.display()),
        all => format!("{} submodules are fetched and built with it: {}", all.len(), listed(all)),
    }))
}
