//! What a store of descriptors can do.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Names that start with this belong to pidfds of instances: as long as one of them lives, the keeper stays.
pub const INSTANCE_PREFIX: &str = "instance/";

/// Names that start with this belong to connections to the logger: one that hangs up has lost it.
pub const LOGGER_PREFIX: &str = "logger/";

/// The longest name, in bytes; systemd's bound.
const NAME_BYTES_MAX: usize = 255;

/// Keeps copies of descriptors by name, beyond the end of the process that stores them.
///
/// Calls block, for tens of microseconds with a live store and at most for a second or two with a broken one.
pub trait FdStore {
    /// Keeps a copy; an older one of the same name is replaced.
    ///
    /// # Errors
    /// When the store is full, refuses the name, or is gone.
    fn store(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), StoreError>;

    /// Forgets a name; one that is not there is no error.
    ///
    /// # Errors
    /// When the store is gone.
    fn remove(&mut self, name: &str) -> Result<(), StoreError>;

    /// Copies of everything, in the order in which it was stored.
    ///
    /// # Errors
    /// When the store is gone.
    fn fetch_all(&mut self) -> Result<Vec<(String, OwnedFd)>, StoreError>;

    /// Waits until the store has closed what it was told to forget. Only where it does so later need this do anything.
    ///
    /// # Errors
    /// When the store is gone.
    fn settle(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// What hangs up when the store is gone, where it can go while this process lives.
    fn lifeline(&self) -> Option<OwnedFd> {
        None
    }

    /// What the next program in this same process must be given across `execve`, because the store gives nothing back to
    /// a process that has not ended.
    fn across_exec(&self) -> Vec<(String, OwnedFd)> {
        Vec::new()
    }

    /// Lets go of everything: the service is over.
    ///
    /// # Errors
    /// When the store is gone.
    fn finish(&mut self) -> Result<(), StoreError> {
        for (name, _) in self.fetch_all()? {
            self.remove(&name)?;
        }
        Ok(())
    }
}

/// Keeps nothing: for a supervisor whose end may be the end of the service.
#[derive(Debug)]
pub struct NoStore;

impl FdStore for NoStore {
    fn store(&mut self, name: &str, _: BorrowedFd<'_>) -> Result<(), StoreError> {
        check_name(name)
    }

    fn remove(&mut self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn fetch_all(&mut self) -> Result<Vec<(String, OwnedFd)>, StoreError> {
        Ok(Vec::new())
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The connection failed or was too slow.
    #[error("the descriptor store does not answer")]
    Lost(#[from] io::Error),
    /// The store said no.
    #[error("the descriptor store refused {name:?}: {why}")]
    Refused {
        /// What was to be stored.
        name: String,
        /// Its answer.
        why: String,
    },
    /// The answer is not of a store's form.
    #[error("the descriptor store answered something else")]
    Confused,
    /// The name is empty, too long or has a character that a store does not take.
    #[error("{name:?} cannot name a descriptor")]
    BadName {
        /// The name.
        name: String,
    },
    /// The keeper could not be started.
    #[error("the keeper {program} did not start: {why}")]
    NotStarted {
        /// The program.
        program: String,
        /// What it said, or what became of it.
        why: String,
    },
}

impl StoreError {
    /// The operator's next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lost(error) if error.kind() == io::ErrorKind::InvalidInput => Some(
                "the state directory's path is too long for a socket: take a shorter one in `state.directory`".into(),
            ),
            Self::Lost(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Some("another user's keeper has the state directory: run rei as that user".into())
            }
            _ => None,
        }
    }
}

/// Refuses names that not every store takes.
pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let legal = |c: char| c.is_ascii_graphic() && c != ':';
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(legal) {
        return Ok(());
    }
    Err(StoreError::BadName { name: name.to_owned() })
}
