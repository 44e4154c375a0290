//! Creates a new repository with one commit, and commits its changed files in the mirror.
//!
//! A plain worktree or clone shares objects, refs and reflog with its origin, and agents were seen to read the fix
//! there. So a workspace has the files of one commit and a history of one commit: no remote, no alternate, no reflog,
//! no later commit. rei takes only the files back. It commits them with its own index and its own configuration, so the
//! workspace's `.git` has no effect.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::git::{Git, LOCAL_TIMEOUT};
use super::harvest;
use super::mirror::{Mirror, expect_success, write_raw_attributes};
use super::parse::{ObjectId, parse_paths, reason_lines};
use super::turns::InUse;
use crate::interface::types::CandidateId;
use crate::redact::Secrets;
use crate::time::Timestamp;

/// The branch of a workspace's only commit.
const BRANCH: &str = "work";
/// The author and committer of each commit: never the agent.
const AUTHOR: (&str, &str) = ("rei", "rei@localhost");

/// A directory with the files of one commit, for an agent to change.
#[derive(Clone, Debug)]
pub struct Workspace {
    dir: PathBuf,
    base: ObjectId,
}

/// The parts of a commit of rei, without its files.
#[derive(Clone, Debug)]
pub struct Author<'a> {
    /// The parent commit.
    pub parent: &'a ObjectId,
    /// Its message.
    pub message: &'a str,
    /// Its date: equal files, parent, message and date make the same commit.
    pub at: Timestamp,
    /// The secrets that no changed file may contain.
    pub secrets: &'a Secrets,
}

/// The result of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The files are those of the parent.
    Unchanged,
    /// A commit, which the mirror keeps for the candidate.
    Commit(ObjectId),
}

/// The result of a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The patch was applied.
    Now,
    /// The workspace had the change already.
    Before,
    /// The patch does not fit, and no file was changed. Contains git's message.
    Refused(String),
}

impl Workspace {
    /// Makes a repository in `dir`, which must be absent or empty, with the files of `base` and one commit.
    ///
    /// # Errors
    /// If `dir` is not empty, the mirror lacks `base`, or the disk fails.
    pub async fn create(mirror: &Mirror, base: &ObjectId, dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|source| io("make", dir, source))?;
        let mut entries = std::fs::read_dir(dir).map_err(|source| io("read", dir, source))?;
        if entries.next().is_some() {
            return Err(Error::NotEmpty { path: dir.to_owned() });
        }
        let dir = dir.canonicalize().map_err(|source| io("resolve", dir, source))?;
        let git_dir = dir.join(".git");
        let git = mirror.git_at(&git_dir);
        let branch = format!("--initial-branch={BRANCH}");
        let init = ["init", "--quiet", "--template=", "--object-format=sha1", &branch];
        git.run("make a workspace", init).await?;
        write_raw_attributes(&git_dir)?;

        // A commit of the same tree without parents, so the fetch transfers no other commit.
        // The commits that this one pins are here before an agent can change where they are looked for.
        mirror.parts(base).await?;
        let tree = mirror.tree(base).await?;
        let root = commit_tree(&mirror.git(), &tree, None, "base", Timestamp::default()).await?;
        let lent = format!("refs/rei/lent/{root}");
        mirror.set_ref(&lent, &root).await?;
        let flags = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--update-head-ok"];
        let (from, spec) = (mirror.git_dir().into_os_string(), format!("{lent}:refs/heads/{BRANCH}"));
        let args = flags.map(std::ffi::OsString::from).into_iter().chain(["--".into(), from, spec.into()]);
        let fetched = git.run("fill a workspace", args).await;
        mirror.drop_ref(&lent).await?;
        fetched?;
        git.work_tree(&dir).run("check the base out", ["reset", "--quiet", "--hard", BRANCH]).await?;
        Ok(Self { dir, base: base.clone() })
    }

    /// The workspace that [`Workspace::create`] created in `dir` before the supervisor was restarted.
    pub fn reopen(base: &ObjectId, dir: &Path) -> Self {
        Self { dir: dir.to_owned(), base: base.clone() }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The commit of the mirror whose files it began with.
    pub fn base(&self) -> &ObjectId {
        &self.base
    }

    /// Changes the files to those of `commit`. Call this only right after [`Workspace::create`].
    ///
    /// # Errors
    /// If the mirror lacks `commit` or the disk fails.
    pub async fn advance(&self, mirror: &Mirror, commit: &ObjectId) -> Result<(), Error> {
        mirror.parts(commit).await?;
        let scratch = Scratch::make(mirror, &format!("advance-{commit}")).await?;
        let git = mirror.git().work_tree(&self.dir).index(scratch.index());
        let doing = "update a workspace to a newer commit";
        git.run(doing, ["read-tree", self.base.as_str()]).await?;
        git.run(doing, ["update-index", "-q", "--refresh"]).await?;
        git.run(doing, ["read-tree", "-m", "-u", self.base.as_str(), commit.as_str()]).await?;
        scratch.remove().await
    }

    /// Commits the workspace's present files in the mirror, and keeps the commit for the candidate.
    ///
    /// No process that writes the workspace should be alive: otherwise the commit has files of different moments, but
    /// this is still safe. Files that the workspace's `.gitignore` names are left out unless the parent has them.
    ///
    /// # Errors
    /// If the files cannot be a commit ([`Error::is_of_workspace`]) or the disk fails.
    pub async fn take(&self, mirror: &Mirror, id: &CandidateId, author: Author<'_>) -> Result<Taken, Error> {
        let scratch = Scratch::make(mirror, &format!("take-{id}")).await?;
        let taken = self.take_into(&scratch, mirror, id, author).await;
        scratch.remove().await?;
        taken
    }

    async fn take_into(
        &self,
        scratch: &Scratch,
        mirror: &Mirror,
        id: &CandidateId,
        author: Author<'_>,
    ) -> Result<Taken, Error> {
        let git = mirror.git().index(scratch.index());
        git.run("read the parent", ["read-tree", author.parent.as_str()]).await?;
        let links_out = self.copy_files(&git, scratch.files()).await?;
        let git = git.work_tree(scratch.files());
        self.refuse_secrets(&git, scratch.files(), author.secrets).await?;
        git.run("add the files", ["add", "--all", "--force", "--", "."]).await?;
        let tree = git.object("write the tree", ["write-tree"]).await?;
        if tree == mirror.tree(author.parent).await? {
            return Ok(Taken::Unchanged);
        }
        let commit = commit_tree(&mirror.git(), &tree, Some(author.parent), author.message, author.at).await?;
        if !links_out.is_empty() {
            let changed = mirror.changed(author.parent, &commit).await?;
            if let Some((path, target)) = links_out.into_iter().find(|(path, _)| changed.contains(path)) {
                return Err(Error::LinkOut { path, target });
            }
        }
        mirror.keep_candidate(id, &commit).await?;
        Ok(Taken::Commit(commit))
    }

    /// Refuses a file with a secret before the file becomes an object of the mirror, unless the parent has the same
    /// file.
    async fn refuse_secrets(&self, git: &Git, files: PathBuf, secrets: &Secrets) -> Result<(), Error> {
        if secrets.is_empty() {
            return Ok(());
        }
        let known = secrets.clone();
        let found = self.blocking(move || harvest::find_secrets(&files, &known)).await?;
        if found.is_empty() {
            return Ok(());
        }
        let doing = "list the changed files";
        let args = ["ls-files", "-z", "--modified", "--others", "--deduplicate"];
        let listed = git.try_run(doing, LOCAL_TIMEOUT, args).await?;
        expect_success(doing, &listed)?;
        let changed = parse_paths(&listed.stdout);
        match found.into_iter().find(|(path, _)| listed.truncated || changed.contains(path)) {
            Some((path, place)) => Err(Error::Secret { path, place }),
            None => Ok(()),
        }
    }

    /// Copies the files that git would commit, and returns the symbolic links that lead out of the tree.
    async fn copy_files(&self, git: &Git, into: PathBuf) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
        let doing = "list a workspace";
        let dir = self.dir.clone();
        self.blocking(move || harvest::check_readable(&dir)).await?;
        let args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"];
        let listed = git.clone().work_tree(&self.dir).try_run(doing, LOCAL_TIMEOUT, args).await?;
        expect_success(doing, &listed)?;
        if listed.truncated {
            return Err(Error::TooMany { max: harvest::FILES_MAX });
        }
        std::fs::create_dir(&into).map_err(|source| io("make", &into, source))?;
        let (from, paths) = (self.dir.clone(), parse_paths(&listed.stdout));
        self.blocking(move || harvest::copy(&from, &paths, &into)).await
    }

    /// Runs work that blocks on the disk in a thread beside the event loop.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|lost| io("read", &self.dir, std::io::Error::other(lost)))?
    }

    /// Applies the patch in `file` to the workspace, completely or not at all. It never changes files outside the
    /// workspace or in `.git`.
    ///
    /// # Errors
    /// If git cannot be run.
    pub async fn apply(&self, mirror: &Mirror, file: &Path) -> Result<Applied, Error> {
        let git = mirror.git().work_tree(&self.dir);
        let file = file.as_os_str();
        let run = |flags: &'static [&'static str]| {
            let args = ["apply"].iter().chain(flags).map(std::ffi::OsString::from).chain(["--".into(), file.into()]);
            let (git, args) = (git.clone(), args.collect::<Vec<_>>());
            async move { git.try_run("apply a patch", LOCAL_TIMEOUT, args).await }
        };
        if run(&["--check"]).await?.success() {
            let applied = run(&[]).await?;
            return Ok(if applied.success() {
                Applied::Now
            } else {
                Applied::Refused(reason_lines(&applied.stderr_text()))
            });
        }
        if run(&["--check", "--reverse"]).await?.success() {
            return Ok(Applied::Before);
        }
        Ok(Applied::Refused(reason_lines(&run(&["--check"]).await?.stderr_text())))
    }

    /// Removes the workspace.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn remove(self) -> Result<(), Error> {
        remove_dir(&self.dir).await
    }
}

/// Removes a directory that an agent may have filled, in a thread beside the event loop. Does nothing if there is none.
///
/// No process of the agent may be alive.
///
/// # Errors
/// If the disk fails.
pub async fn remove_dir(dir: &Path) -> Result<(), Error> {
    let path = dir.to_owned();
    let remove = move || match std::fs::remove_dir_all(&path) {
        // An agent that runs as rei's user may have removed the permissions of a directory.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            unlock(&path);
            std::fs::remove_dir_all(&path)
        }
        removed => removed,
    };
    let removed = tokio::task::spawn_blocking(remove).await;
    match removed.unwrap_or_else(|lost| Err(std::io::Error::other(lost))) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(io("remove", dir, source)),
        _ => Ok(()),
    }
}

/// Gives the owner access to every directory of a tree, as far as possible.
fn unlock(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        // If this fails, the removal fails and reports the error.
        let _ = std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o700));
        let entries = std::fs::read_dir(&next).into_iter().flatten().flatten();
        // A symbolic link is not a directory here, so no link is followed.
        open.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
}

async fn commit_tree(
    git: &Git,
    tree: &ObjectId,
    parent: Option<&ObjectId>,
    message: &str,
    at: Timestamp,
) -> Result<ObjectId, Error> {
    let date = format!("@{} +0000", at.as_unix_ms() / 1000);
    let git = git.clone().env("GIT_AUTHOR_NAME", AUTHOR.0).env("GIT_AUTHOR_EMAIL", AUTHOR.1);
    let git = git.env("GIT_COMMITTER_NAME", AUTHOR.0).env("GIT_COMMITTER_EMAIL", AUTHOR.1);
    let git = git.env("GIT_AUTHOR_DATE", &date).env("GIT_COMMITTER_DATE", &date);
    let mut args = vec!["commit-tree", tree.as_str(), "-m", message];
    if let Some(parent) = parent {
        args.extend(["-p", parent.as_str()]);
    }
    git.object("write the commit", args).await
}

fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { doing, path: path.to_owned(), source }
}

/// A private directory beside the mirror. The next use of the name, or [`Mirror::sweep`], removes files that a crash or
/// a cancelled call left in it.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: PathBuf,
    _in_use: InUse,
}

impl Scratch {
    pub(super) async fn make(mirror: &Mirror, name: &str) -> Result<Self, Error> {
        let in_use = mirror.use_scratch(name);
        let dir = mirror.scratch(name);
        remove_dir(&dir).await?;
        std::fs::create_dir_all(&dir).map_err(|source| io("make", &dir, source))?;
        Ok(Self { dir, _in_use: in_use })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) async fn remove(self) -> Result<(), Error> {
        remove_dir(&self.dir).await
    }

    fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    fn files(&self) -> PathBuf {
        self.dir.join("files")
    }
}
