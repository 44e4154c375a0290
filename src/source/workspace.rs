//! A fresh repository with one commit, and the way back into the mirror.
//!
//! A plain worktree or clone shares objects, refs and reflog with its origin, and agents have been caught reading the
//! fix out of them. So a workspace has the files of one commit and a history of one: no remote, no alternate, no reflog,
//! nothing of the future. What comes back are the files alone: rei commits them with its own index and its own
//! configuration, so that nothing in the workspace's `.git` counts.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::git::{Git, LOCAL_TIMEOUT};
use super::harvest;
use super::mirror::{Mirror, expect_success, write_raw_attributes};
use super::parse::{ObjectId, parse_paths, telling_lines};
use super::turns::InUse;
use crate::interface::types::CandidateId;
use crate::redact::Secrets;
use crate::time::Timestamp;

/// The branch of a workspace's only commit.
const BRANCH: &str = "work";
/// Who commits: never the agent.
const AUTHOR: (&str, &str) = ("rei", "rei@localhost");

/// A directory with the files of one commit, for an agent to change.
#[derive(Clone, Debug)]
pub struct Workspace {
    dir: PathBuf,
    base: ObjectId,
}

/// What a commit of rei says, besides its files.
#[derive(Clone, Debug)]
pub struct Author<'a> {
    /// The commit that it is a child of.
    pub parent: &'a ObjectId,
    /// Its message.
    pub message: &'a str,
    /// Its date: equal files, parent, message and date give the equal commit.
    pub at: Timestamp,
    /// What no file that was changed may hold.
    pub secrets: &'a Secrets,
}

/// What came back from a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The files are those of the parent.
    Unchanged,
    /// A commit, kept in the mirror as the candidate's.
    Commit(ObjectId),
}

/// What became of a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The workspace has it now.
    Now,
    /// The workspace had it already.
    Before,
    /// It does not fit, and nothing was changed: why, in git's words.
    Refused(String),
}

impl Workspace {
    /// Makes a repository in `dir`, which must be absent or empty, with the files of `base` and one commit.
    ///
    /// # Errors
    /// When `dir` is not empty, the mirror lacks `base`, or the disk fails.
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

        // A commit of the same tree without parents: fetching it can bring nothing else.
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

    /// The workspace that [`Workspace::create`] made in `dir` before the supervisor was started again.
    pub fn reopen(base: &ObjectId, dir: &Path) -> Self {
        Self { dir: dir.to_owned(), base: base.clone() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The commit of the mirror whose files it began with.
    pub fn base(&self) -> &ObjectId {
        &self.base
    }

    /// Brings the files to those of `commit`; only right after [`Workspace::create`].
    ///
    /// # Errors
    /// When the mirror lacks `commit` or the disk fails.
    pub async fn advance(&self, mirror: &Mirror, commit: &ObjectId) -> Result<(), Error> {
        let scratch = Scratch::make(mirror, &format!("advance-{commit}")).await?;
        let git = mirror.git().work_tree(&self.dir).index(scratch.index());
        let doing = "bring a workspace forward";
        git.run(doing, ["read-tree", self.base.as_str()]).await?;
        git.run(doing, ["update-index", "-q", "--refresh"]).await?;
        git.run(doing, ["read-tree", "-m", "-u", self.base.as_str(), commit.as_str()]).await?;
        scratch.remove().await
    }

    /// Commits the workspace's files, as they are, in the mirror, and keeps the commit as the candidate's.
    ///
    /// No process that writes the workspace may be alive, or the commit has files of different moments; it is safe then,
    /// too. Files that the workspace's `.gitignore` names are left out unless the parent has them.
    ///
    /// # Errors
    /// When the files cannot be a commit ([`Error::is_of_workspace`]) or the disk fails.
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

    /// Refuses a file with a secret before it is an object of the mirror, unless the parent has it like this.
    async fn refuse_secrets(&self, git: &Git, files: PathBuf, secrets: &Secrets) -> Result<(), Error> {
        if secrets.is_empty() {
            return Ok(());
        }
        let known = secrets.clone();
        let found = self.blocking(move || harvest::find_secrets(&files, &known)).await?;
        if found.is_empty() {
            return Ok(());
        }
        let doing = "list what was changed";
        let args = ["ls-files", "-z", "--modified", "--others", "--deduplicate"];
        let listed = git.try_run(doing, LOCAL_TIMEOUT, args).await?;
        expect_success(doing, &listed)?;
        let changed = parse_paths(&listed.stdout);
        match found.into_iter().find(|(path, _)| listed.truncated || changed.contains(path)) {
            Some((path, place)) => Err(Error::Secret { path, place }),
            None => Ok(()),
        }
    }

    /// Copies what git would commit, and gives the symbolic links that lead out of the tree.
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

    /// Work on the disk, off the event loop.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|lost| io("read", &self.dir, std::io::Error::other(lost)))?
    }

    /// Applies the patch in `file` to the workspace, all of it or nothing, never outside and never to `.git`.
    ///
    /// # Errors
    /// When git cannot be run.
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
                Applied::Refused(telling_lines(&applied.stderr_text()))
            });
        }
        if run(&["--check", "--reverse"]).await?.success() {
            return Ok(Applied::Before);
        }
        Ok(Applied::Refused(telling_lines(&run(&["--check"]).await?.stderr_text())))
    }

    /// Removes the workspace.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove(self) -> Result<(), Error> {
        remove_dir(&self.dir).await
    }
}

/// Removes a directory that an agent may have filled, off the event loop. Nothing is done when there is none.
///
/// No process of the agent may be alive.
///
/// # Errors
/// When the disk fails.
pub async fn remove_dir(dir: &Path) -> Result<(), Error> {
    let path = dir.to_owned();
    let remove = move || match std::fs::remove_dir_all(&path) {
        // An agent of rei's own user may have closed a directory to it.
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

/// Opens every directory of a tree for its owner, as well as can be.
fn unlock(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        // What fails is said by who removes it.
        let _ = std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o700));
        let entries = std::fs::read_dir(&next).into_iter().flatten().flatten();
        // No link is followed: that is a kind of its own.
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

/// A private directory beside the mirror. What a crash or a cancelled call left there goes with the next use of the name,
/// or with [`Mirror::sweep`].
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
