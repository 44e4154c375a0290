//! The interface of a descriptor store.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Prefix of the names of instances' pidfds. The keeper keeps running while one of these instances is alive.
pub const INSTANCE_PREFIX: &str = "instance/";

/// Prefix of the names of connections to the logger. If such a connection hangs up, the logger is gone.
pub const LOGGER_PREFIX: &str = "logger/";

/// Maximum length of a name, in bytes. This is systemd's limit.
const NAME_BYTES_MAX: usize = 255;

/// Keeps copies of descriptors by name. The copies outlive the process that stored them.
///
/// Calls block: for tens of microseconds normally, and for at most a few seconds if the store hangs.
pub trait FdStore {
    /// Stores a copy. An older descriptor with the same name is replaced.
    ///
    /// # Errors
    /// If the store is full, refuses the name, or is gone.
    fn store(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), StoreError>;

    /// Removes a name. A name that is not stored is no error.
    ///
    /// # Errors
    /// If the store is gone.
    fn remove(&mut self, name: &str) -> Result<(), StoreError>;

    /// Returns copies of all descriptors, in the order in which they were stored.
    ///
    /// # Errors
    /// If the store is gone.
    fn fetch_all(&mut self) -> Result<Vec<(String, OwnedFd)>, StoreError>;

    /// Waits until the store has closed all removed descriptors. Only a store that closes them asynchronously needs to
    /// implement this.
    ///
    /// # Errors
    /// If the store is gone.
    fn wait_for_closes(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// A descriptor that hangs up when the store dies, if the store can die while this process lives.
    fn disconnect_fd(&self) -> Option<OwnedFd> {
        None
    }

    /// The descriptors that must be passed across `execve`, because the store returns nothing to a process that has not
    /// exited.
    fn across_exec(&self) -> Vec<(String, OwnedFd)> {
        Vec::new()
    }

    /// Removes everything, when the service is stopped.
    ///
    /// # Errors
    /// If the store is gone.
    fn finish(&mut self) -> Result<(), StoreError> {
        for (name, _) in self.fetch_all()? {
            self.remove(&name)?;
        }
        Ok(())
    }
}

/// Stores nothing: for a supervisor whose sockets need not survive it.
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

/// Why a request to the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The connection failed, or the store was too slow.
    #[error("the descriptor store does not answer")]
    Lost(#[from] io::Error),
    /// The store refused the request.
    #[error("the descriptor store refused {name:?}: {why}")]
    Refused {
        /// The name that was to be stored.
        name: String,
        /// The reason that the store gave.
        why: String,
    },
    /// The answer does not follow the protocol.
    #[error("the descriptor store sent an invalid answer")]
    InvalidAnswer,
    /// The name is empty, too long, or has a character that not every store accepts.
    #[error("{name:?} is not a valid name for a descriptor")]
    BadName {
        /// The name.
        name: String,
    },
    /// The keeper could not be started.
    #[error("the keeper {program} did not start: {why}")]
    NotStarted {
        /// The program.
        program: String,
        /// Its error message, or its exit status.
        why: String,
    },
}

impl StoreError {
    /// A hint for the operator.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lost(error) if error.kind() == io::ErrorKind::InvalidInput => Some(
                "the state directory's path is too long for a socket: set a shorter path in `state.directory`".into(),
            ),
            Self::Lost(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Some("a keeper of another user uses the state directory: run rei as that user".into())
            }
            _ => None,
        }
    }
}

/// Refuses names that not every store accepts.
pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let legal = |c: char| c.is_ascii_graphic() && c != ':';
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(legal) {
        return Ok(());
    }
    Err(StoreError::BadName { name: name.to_owned() })
}
