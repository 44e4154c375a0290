//! What can go wrong with a repository, and the next step.

use std::path::PathBuf;

use super::parse::ObjectId;
use crate::command;

/// The least git that rei works with, major and minor: Debian 12 has it, and all that is used here is older.
pub const GIT_VERSION_MIN: (u32, u32) = (2, 39);
/// Characters of a commit that tell it from others.
const SHORT_CHARS: usize = 12;

fn short(commit: &ObjectId) -> &str {
    &commit.as_str()[..SHORT_CHARS]
}

/// Why a question to a repository has no answer, or a workspace no commit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// git could not be run or did not end in time.
    #[error("cannot {doing}")]
    Run {
        /// What git was to do.
        doing: &'static str,
        /// Why it was not run.
        #[source]
        source: command::Error,
    },
    /// git said no.
    #[error("cannot {doing}: git says {said:?}")]
    Git {
        /// What git was to do.
        doing: &'static str,
        /// The telling lines of its standard error.
        said: String,
    },
    /// git said something that this version of rei does not understand.
    #[error("cannot {doing}: unexpected answer of git, {answer:?}")]
    Answer {
        /// What git was to do.
        doing: &'static str,
        /// The start of its answer.
        answer: String,
    },
    /// An installed git that lacks what rei needs.
    #[error("git {found} is older than {}.{}", GIT_VERSION_MIN.0, GIT_VERSION_MIN.1)]
    TooOld {
        /// What `git version` says.
        found: String,
    },
    /// A followed ref that cannot be one.
    #[error("{name:?} is not a branch or tag name")]
    RefName {
        /// The name.
        name: String,
    },
    /// A path or URL at which there is no repository.
    #[error("{source_at} is not a git repository")]
    NotARepository {
        /// The path or URL.
        source_at: String,
    },
    /// A repository that did not answer.
    #[error("cannot reach {source_at}: {said}")]
    Unreachable {
        /// The path or URL.
        source_at: String,
        /// The telling lines of git's standard error.
        said: String,
    },
    /// A repository without the followed ref, or without the revision that was asked for.
    #[error("{source_at} has no branch, tag or commit {name:?}")]
    NoSuchRef {
        /// The path or URL.
        source_at: String,
        /// The name.
        name: String,
        /// Branches that it has, some of them.
        known: Vec<String>,
    },
    /// A repository with SHA-256 object names, which Nix cannot fetch.
    #[error("{source_at} names its objects by SHA-256, which Nix cannot fetch")]
    ObjectFormat {
        /// The path or URL.
        source_at: String,
    },
    /// A commit whose files cannot be written as they are, or not safely.
    #[error("commit {} cannot be built: {} {why}", short(commit), path.display())]
    UnfitTree {
        /// The commit.
        commit: ObjectId,
        /// The file, relative to the repository's root.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A commit that is larger than one may be.
    #[error("commit {} cannot be built: it has more than {what}", short(commit))]
    LargeTree {
        /// The commit.
        commit: ObjectId,
        /// The bound.
        what: String,
    },
    /// A file operation failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A workspace directory that is not empty.
    #[error("the workspace {} is not empty", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A repository inside the workspace: its files would be missing from the commit.
    #[error("{} is a git repository inside the workspace", path.display())]
    Nested {
        /// Relative to the workspace.
        path: PathBuf,
    },
    /// A FIFO, socket or device.
    #[error("{} is neither file, directory nor symbolic link", path.display())]
    Special {
        /// Relative to the workspace.
        path: PathBuf,
    },
    /// A new symbolic link that leads out of the tree.
    #[error("the symbolic link {} leads out of the tree, to {}", path.display(), target.display())]
    LinkOut {
        /// Relative to the workspace.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A file that was changed has a secret of the configuration.
    #[error("{} has the value of {place}, a secret of rei.toml", path.display())]
    Secret {
        /// Relative to the workspace.
        path: PathBuf,
        /// Where the secret is configured.
        place: String,
    },
    /// More files than a commit of a candidate may have.
    #[error("the workspace has more than {max} files")]
    TooMany {
        /// The bound.
        max: usize,
    },
    /// More bytes than a commit of a candidate may have.
    #[error("{} makes the workspace larger than {max} bytes", path.display())]
    TooBig {
        /// The file at which the bound was passed.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
}

impl Error {
    /// Whether it is about what was asked for or put into a workspace, and not about what the machine or network does.
    pub fn is_of_what_was_given(&self) -> bool {
        matches!(
            self,
            Self::RefName { .. }
                | Self::NoSuchRef { .. }
                | Self::ObjectFormat { .. }
                | Self::Nested { .. }
                | Self::Special { .. }
                | Self::LinkOut { .. }
        )
    }

    /// The operator's next step, if there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Run { source: command::Error::Start { .. }, .. } => "install git and put it on PATH".into(),
            Self::Run { source: command::Error::Timeout { .. }, .. } => {
                "look whether the repository answers: git ls-remote SOURCE".into()
            }
            Self::TooOld { .. } => {
                let (major, minor) = GIT_VERSION_MIN;
                format!("install git {major}.{minor} or newer")
            }
            Self::RefName { .. } => "set runtime.ref to a branch or tag, as in ref = \"main\"".into(),
            Self::NotARepository { source_at } => format!("git -C {source_at} init, or correct runtime.source"),
            Self::Unreachable { source_at, .. } => {
                format!("try it by hand: git ls-remote {source_at} (keys and a credential-free URL must suffice)")
            }
            Self::NoSuchRef { known, .. } if known.is_empty() => "the repository has no branch: commit first".into(),
            Self::NoSuchRef { known, .. } => format!("set runtime.ref to one of its branches: {}", known.join(", ")),
            Self::ObjectFormat { .. } => "make it anew with: git init --object-format=sha1".into(),
            Self::UnfitTree { .. } => "rename or remove it, and commit".into(),
            Self::LargeTree { .. } => "keep what is no source out of the repository".into(),
            Self::NotEmpty { path } => format!("rm -r {}", path.display()),
            Self::Nested { path } => format!("ignore it in .gitignore, or remove {}/.git", path.display()),
            Self::Special { path } => format!("remove {} or ignore it in .gitignore", path.display()),
            Self::LinkOut { .. } => "link inside the tree, by a relative target".into(),
            Self::Secret { .. } => "a key in a commit is known to all who read it: let the program read it from its \
                                    environment; if it was published, replace the key"
                .into(),
            Self::TooMany { .. } | Self::TooBig { .. } => "ignore build results in .gitignore".into(),
            Self::Run { .. } | Self::Git { .. } | Self::Answer { .. } | Self::Io { .. } => return None,
        })
    }
}
