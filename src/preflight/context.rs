//! What several questions need, found once.

use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;

use super::answer::Answer;
use super::means::Means;
use super::package::evaluation_hint;
use crate::config::Config;
use crate::digest::short;
use crate::nix::{self, Derivation, FlakeRef, Nix};
use crate::report::chain;
use crate::source::{Error, Gap, Mirror, ObjectId, TreeFile, with_gaps};

/// The means of the caller, and the findings of earlier questions.
pub struct Context<M> {
    /// What questions are answered with.
    pub means: M,
    followed: OnceCell<Result<Followed, Answer>>,
    derivation: OnceCell<Option<Derivation>>,
    gaps: OnceCell<Vec<Gap>>,
}

/// The commit that the followed ref names.
pub(super) struct Followed {
    /// The commit, which the mirror has.
    pub commit: ObjectId,
    /// Its flake, relative to the repository's root.
    pub flake: PathBuf,
    /// Its submodules.
    pub submodules: Vec<PathBuf>,
}

impl<M: Means> Context<M> {
    /// Makes a context with no findings yet.
    pub fn new(means: M) -> Self {
        Self { means, followed: OnceCell::new(), derivation: OnceCell::new(), gaps: OnceCell::new() }
    }

    /// The configuration.
    pub(super) fn config(&self) -> Option<&Config> {
        self.means.config()
    }

    /// The commit that the followed ref names, brought into the mirror, if it has a flake; or why there is none. `None`
    /// without a configuration.
    pub(super) async fn followed(&self) -> Option<Result<&Followed, &Answer>> {
        let (config, mirror) = (self.config()?, self.means.mirror()?);
        let found = self.followed.get_or_init(async || fetch(config, mirror).await).await;
        Some(found.as_ref())
    }

    /// The package of that commit, evaluated, or the reason why it cannot be. `None` if an earlier question gave the reason.
    pub(super) async fn package(&self) -> Option<Result<Derivation, Answer>> {
        let (config, mirror) = (self.config()?, self.means.mirror()?);
        let commit = &self.followed().await?.ok()?.commit;
        let nix = self.means.nix().await.ok()?;
        let (flake, gaps) = match flake(config, mirror, nix, commit).await {
            Ok(found) => found,
            Err(answer) => return Some(Err(answer)),
        };
        let gaps = self.gaps.get_or_init(async || gaps).await;
        let evaluated = nix.evaluate_package(&flake, &config.runtime.package, None).await;
        let evaluated = evaluated.map_err(|error| {
            let hint = evaluation_hint(config, commit, &error);
            let gaps = if error.is_of_the_flake() { gaps } else { &[][..] };
            let (line, hint) = with_gaps(&chain(&error).replace('\n', "; "), &hint, gaps);
            Answer::fail(line, hint)
        });
        // After a failure there is no derivation, and the later question has no answer.
        let _ = self.derivation.set(evaluated.as_ref().ok().cloned());
        Some(evaluated)
    }

    /// The content that the commit of [`Context::package`] only names.
    pub(super) fn gaps(&self) -> &[Gap] {
        self.gaps.get().map_or(&[], Vec::as_slice)
    }

    /// The derivation that [`Context::package`] has found.
    pub(super) fn derivation(&self) -> Option<&Derivation> {
        self.derivation.get()?.as_ref()
    }
}

async fn fetch(config: &Config, mirror: &Mirror) -> Result<Followed, Answer> {
    let files = async {
        mirror.prepare().await?;
        let commit = mirror.fetch().await?;
        mirror.built_files(&commit).await.map(|files| (commit, files))
    };
    let (commit, files) = files.await.map_err(|error| of_source(&error))?;
    let flake = Path::new(&config.runtime.dir).join("flake.nix");
    if !files.iter().any(|file| file.path == flake) {
        let (source, followed, at) = (&config.runtime.source, &config.runtime.r#ref, short(commit.as_str()));
        let line = format!("{followed} of {source} has no {} at {at}", flake.display());
        return Err(Answer::fail(line, "commit it (git add), or set `runtime.dir` to its directory"));
    }
    let submodules = files.into_iter().filter(TreeFile::is_submodule).map(|file| file.path);
    Ok(Followed { commit, flake, submodules: submodules.collect() })
}

/// The flake of a commit, whose files are put in the store, and the content that the commit only names.
async fn flake(config: &Config, mirror: &Mirror, nix: &Nix, commit: &ObjectId) -> Result<(FlakeRef, Vec<Gap>), Answer> {
    let of_nix = |error: nix::Error| Answer::of(&error, error.hint());
    let described = mirror.describe(commit).await.map_err(|error| of_source(&error))?;
    let exported = mirror.export(commit).await.map_err(|error| of_source(&error))?;
    let (gaps, added) = (exported.gaps(), nix.add(&exported.dir()).await);
    exported.remove().await.map_err(|error| of_source(&error))?;
    let path = added.map_err(of_nix)?;
    let hash = nix.nar_hash(&path).await.map_err(of_nix)?;
    let flake = FlakeRef::tree(&path, &hash)
        .and_then(|flake| flake.of_commit(commit.as_str(), described.count, described.committed_at));
    Ok((flake.map_err(of_nix)?.in_dir(&config.runtime.dir), gaps))
}

/// An error of the repository, with its own next step.
pub(super) fn of_source(error: &Error) -> Answer {
    Answer::of(error, error.hint())
}
