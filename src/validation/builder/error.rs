//! Why a check could not be run.

/// Why a check could not be run at all. The build then fails, and Nix keeps nothing of it: it can be asked again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Infrastructure {
    /// It is not process 1, so it is in no sandbox.
    #[error("this is no Nix sandbox: the builder is process {pid}, not 1")]
    NoSandbox {
        /// Its process id.
        pid: i32,
    },
    /// The sandbox has a network.
    #[error("this is no Nix sandbox: it reaches a network")]
    Network,
    /// An attribute of the derivation is missing or wrong.
    #[error("the derivation's {name}: {reason}")]
    Attribute {
        /// The attribute.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The golden run cannot be read.
    #[error("the golden run")]
    Golden(#[source] crate::golden::Error),
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The kernel cannot confine the judged.
    #[error("the judged cannot be confined: {reason}")]
    Confine {
        /// Why.
        reason: String,
    },
    /// Active, not the candidate, took all the time.
    #[error("Active did not finish the run in time")]
    ActiveTooSlow,
}

impl Infrastructure {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
