//! The errors of a repository, each with the next step for the operator.

use std::path::PathBuf;

use super::parse::ObjectId;
use crate::command;

/// The oldest git that rei works with, major and minor: Debian 12 has it, and it has every feature that rei uses.
pub const GIT_VERSION_MIN: (u32, u32) = (2, 39);
/// Number of characters of a commit's name that distinguish it from other commits.
const SHORT_CHARS: usize = 12;

fn short(commit: &ObjectId) -> &str {
    &commit.as_str()[..SHORT_CHARS]
}

/// Why a query to a repository failed, or a workspace has no commit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// git could not be run or did not end in time.
    #[error("cannot {doing}")]
    Run {
        /// What git should do.
        doing: &'static str,
        /// Why it did not run or end.
        #[source]
        source: command::Error,
    },
    /// git failed.
    #[error("cannot {doing}: git says {said:?}")]
    Git {
        /// What git should do.
        doing: &'static str,
        /// The lines of its standard error that say why.
        said: String,
    },
    /// git printed an answer that this version of rei cannot parse.
    #[error("cannot {doing}: unexpected answer of git, {answer:?}")]
    Answer {
        /// What git should do.
        doing: &'static str,
        /// The start of its answer.
        answer: String,
    },
    /// The installed git is too old for rei.
    #[error("git {found} is older than {}.{}", GIT_VERSION_MIN.0, GIT_VERSION_MIN.1)]
    TooOld {
        /// The version that `git version` prints.
        found: String,
    },
    /// The name of the followed ref is invalid.
    #[error("{name:?} is not a branch or tag name")]
    RefName {
        /// The name.
        name: String,
    },
    /// There is no repository at a path or URL.
    #[error("{source_at} is not a git repository")]
    NotARepository {
        /// The path or URL.
        source_at: String,
    },
    /// A repository did not answer.
    #[error("cannot reach {source_at}: {said}")]
    Unreachable {
        /// The path or URL.
        source_at: String,
        /// The lines of git's standard error that say why.
        said: String,
    },
    /// A repository lacks the followed ref or the requested revision.
    #[error("{source_at} has no branch, tag or commit {name:?}")]
    NoSuchRef {
        /// The path or URL.
        source_at: String,
        /// The name.
        name: String,
        /// Some of its branches.
        known: Vec<String>,
    },
    /// A repository has SHA-256 object names, which Nix cannot fetch.
    #[error("{source_at} names its objects by SHA-256, which Nix cannot fetch")]
    ObjectFormat {
        /// The path or URL.
        source_at: String,
    },
    /// The files of a commit cannot be written unchanged and safely.
    #[error("commit {} cannot be built: {} {why}", short(commit), path.display())]
    UnfitTree {
        /// The commit.
        commit: ObjectId,
        /// The file, relative to the repository's root.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A commit is too large.
    #[error("commit {} cannot be built: it has more than {what}", short(commit))]
    LargeTree {
        /// The commit.
        commit: ObjectId,
        /// The bound.
        what: String,
    },
    /// A submodule has an address from which rei does not fetch.
    #[error("commit {} cannot be built: the submodule {} {why}", short(commit), path.display())]
    UnfitSubmodule {
        /// The commit.
        commit: ObjectId,
        /// The submodule, relative to the repository's root.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The commit of a submodule cannot be fetched.
    #[error("cannot fetch commit {} of the submodule {} from {url}: {said}", short(pin), path.display())]
    SubmoduleUnreachable {
        /// The submodule, relative to the repository's root.
        path: PathBuf,
        /// The path or URL of its repository.
        url: String,
        /// The commit of the submodule.
        pin: ObjectId,
        /// The lines of git's standard error that say why.
        said: String,
    },
    /// An agent put files into the directory of a submodule.
    #[error("{} is a submodule, and a commit cannot contain its files", path.display())]
    InSubmodule {
        /// Relative to the workspace.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What rei should do.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A workspace directory is not empty.
    #[error("the workspace {} is not empty", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A repository is inside the workspace: its files would be missing from the commit.
    #[error("{} is a git repository inside the workspace", path.display())]
    Nested {
        /// Relative to the workspace.
        path: PathBuf,
    },
    /// The workspace has a FIFO, socket or device.
    #[error("{} is not a file, directory or symbolic link", path.display())]
    Special {
        /// Relative to the workspace.
        path: PathBuf,
    },
    /// A new symbolic link leads out of the tree.
    #[error("the symbolic link {} leads out of the tree, to {}", path.display(), target.display())]
    LinkOut {
        /// Relative to the workspace.
        path: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// A changed file contains a secret of the configuration.
    #[error("{} has the value of {place}, a secret of rei.toml", path.display())]
    Secret {
        /// Relative to the workspace.
        path: PathBuf,
        /// Where the secret is configured.
        place: String,
    },
    /// The workspace has more files than a commit of a candidate may have.
    #[error("the workspace has more than {max} files")]
    TooMany {
        /// The bound.
        max: usize,
    },
    /// The workspace has more bytes than a commit of a candidate may have.
    #[error("{} makes the workspace larger than {max} bytes", path.display())]
    TooBig {
        /// The file that exceeds the bound.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
}

impl Error {
    /// True if the request or the files of a workspace cause the error, and not the machine or the network.
    pub fn is_of_what_was_given(&self) -> bool {
        matches!(
            self,
            Self::RefName { .. }
                | Self::NoSuchRef { .. }
                | Self::ObjectFormat { .. }
                | Self::Nested { .. }
                | Self::InSubmodule { .. }
                | Self::Special { .. }
                | Self::LinkOut { .. }
        )
    }

    /// The operator's next step, if there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Run { source: command::Error::Start { .. }, .. } => "install git and put it on PATH".into(),
            Self::Run { source: command::Error::Timeout { .. }, .. } => {
                "check that the repository answers: git ls-remote SOURCE".into()
            }
            Self::TooOld { .. } => {
                let (major, minor) = GIT_VERSION_MIN;
                format!("install git {major}.{minor} or newer")
            }
            Self::RefName { .. } => "set runtime.ref to a branch or tag, as in ref = \"main\"".into(),
            Self::NotARepository { source_at } => format!("git -C {source_at} init, or correct runtime.source"),
            Self::Unreachable { source_at, .. } => {
                format!(
                    "try this command yourself: git ls-remote {source_at} (it must work with keys and a URL without credentials)"
                )
            }
            Self::NoSuchRef { known, .. } if known.is_empty() => "the repository has no branch: commit first".into(),
            Self::NoSuchRef { known, .. } => format!("set runtime.ref to one of its branches: {}", known.join(", ")),
            Self::ObjectFormat { .. } => "create it again with: git init --object-format=sha1".into(),
            Self::UnfitTree { .. } => "rename or remove it, and commit".into(),
            Self::UnfitSubmodule { .. } => {
                "in .gitmodules, name a repository by https or ssh, or, if runtime.source is on \
                                            this machine, one beside it"
                    .into()
            }
            Self::SubmoduleUnreachable { url, .. } => format!(
                "push the submodule's commit to its repository, and try this command yourself: git ls-remote {url}"
            ),
            Self::InSubmodule { path } => {
                format!("change the repository of the submodule itself, and leave {} as it was", path.display())
            }
            Self::LargeTree { .. } => "remove files that are not source from the repository".into(),
            Self::NotEmpty { path } => format!("rm -r {}", path.display()),
            Self::Nested { path } => format!("ignore it in .gitignore, or remove {}/.git", path.display()),
            Self::Special { path } => format!("remove {} or ignore it in .gitignore", path.display()),
            Self::LinkOut { .. } => "use a relative target inside the tree".into(),
            Self::Secret { .. } => "everyone who reads the commit knows the key: let the program read it from its \
                                    environment; if it was published, replace the key"
                .into(),
            Self::TooMany { .. } | Self::TooBig { .. } => "ignore build results in .gitignore".into(),
            Self::Run { .. } | Self::Git { .. } | Self::Answer { .. } | Self::Io { .. } => return None,
        })
    }
}
