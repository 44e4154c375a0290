//! Queries about the commits of the mirror.

use std::path::PathBuf;

use super::error::Error;
use super::git::{LOCAL_TIMEOUT, answer};
use super::mirror::Mirror;
use super::parse::{ObjectId, Subject, TreeFile, parse_paths, parse_subjects, parse_tree, reason_lines};

impl Mirror {
    /// True if the mirror has this commit.
    ///
    /// # Errors
    /// If the mirror cannot be read.
    pub async fn has_commit(&self, commit: &ObjectId) -> Result<bool, Error> {
        let args = ["cat-file", "-e", &format!("{commit}^{{commit}}")];
        Ok(self.git().try_run("look for a commit", LOCAL_TIMEOUT, args).await?.success())
    }

    /// The tree of a commit: equal trees are equal sources.
    ///
    /// # Errors
    /// If the mirror has no such commit.
    pub async fn tree(&self, commit: &ObjectId) -> Result<ObjectId, Error> {
        self.git().object("name the tree of a commit", ["rev-parse", "--verify", &format!("{commit}^{{tree}}")]).await
    }

    /// Every file of a commit.
    ///
    /// # Errors
    /// If the mirror has no such commit.
    pub async fn files(&self, commit: &ObjectId) -> Result<Vec<TreeFile>, Error> {
        let doing = "list the files of a commit";
        let stdout = self.git().run(doing, ["ls-tree", "-r", "-z", "--full-tree", commit.as_str()]).await?;
        parse_tree(&stdout).ok_or_else(|| answer(doing, &stdout))
    }

    /// Paths that differ between two commits.
    ///
    /// # Errors
    /// If the mirror lacks one of them.
    pub async fn changed(&self, old: &ObjectId, new: &ObjectId) -> Result<Vec<PathBuf>, Error> {
        let args = ["diff-tree", "-r", "-z", "--name-only", "--no-renames", old.as_str(), new.as_str()];
        Ok(parse_paths(&self.git().run("compare two commits", args).await?))
    }

    /// The difference of two commits as a patch for `git apply`, at most `bytes_max` bytes long.
    ///
    /// # Errors
    /// If the mirror lacks one of them.
    pub async fn patch(&self, old: &ObjectId, new: &ObjectId, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let doing = "write a patch";
        let flags = ["diff-tree", "-r", "-p", "--binary", "--full-index", "--no-ext-diff", "--no-textconv"];
        let args = flags.into_iter().chain(["--no-renames", old.as_str(), new.as_str()]);
        let command = self.git().command(LOCAL_TIMEOUT, args).output_bytes_max(bytes_max);
        let output = command.run().await.map_err(|source| Error::Run { doing, source })?;
        if !output.success() {
            return Err(Error::Git { doing, said: reason_lines(&output.stderr_text()) });
        }
        Ok(output.stdout)
    }

    /// The first message lines of the commits that `new` has and `old` does not have, newest first, at most `max`.
    ///
    /// # Errors
    /// If the mirror lacks one of them.
    pub async fn subjects(&self, old: &ObjectId, new: &ObjectId, max: usize) -> Result<Vec<Subject>, Error> {
        let doing = "list commits";
        let (count, range) = (format!("--max-count={max}"), format!("{old}..{new}"));
        let stdout = self.git().run(doing, ["log", "-z", "--format=%H%x09%s", &count, &range, "--"]).await?;
        parse_subjects(&stdout).ok_or_else(|| answer(doing, &stdout))
    }
}
