//! Why a journal cannot be read or written.

use std::path::PathBuf;

/// Where in a journal something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment file.
    pub path: PathBuf,
    /// The line in it, from 1.
    pub line: u64,
    /// Its first byte in the file.
    pub offset: u64,
    /// The sequence number that the line should have; `None` for a header.
    pub seq: Option<u64>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} line {} (byte {}", self.path.display(), self.line, self.offset)?;
        match self.seq {
            Some(seq) => write!(f, ", record {seq})"),
            None => write!(f, ", header)"),
        }
    }
}

/// What happens with a backup that lacks the last records.
const AFTER_A_BACKUP: &str = "where records are missing, `rei run` lets what runs serve on, decides nothing and asks you \
                              (`rei status`, `rei journal accept`)";

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot {act} {path}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another supervisor writes this journal.
    #[error("another rei (pid {}) supervises with the state in {directory}", pid.map_or("unknown".to_owned(), |pid| pid.to_string()))]
    Locked {
        /// The other's process, where it could be read.
        pid: Option<u32>,
        /// The journal's directory.
        directory: PathBuf,
    },
    /// There is no journal.
    #[error("{directory} holds no journal")]
    Absent {
        /// Where one was looked for.
        directory: PathBuf,
    },
    /// A line is not what was written.
    #[error("the journal is damaged at {place}: {what}")]
    Damaged {
        /// Where.
        place: Place,
        /// How it shows.
        what: String,
    },
    /// A sound record is not of the expected shape.
    #[error("the record at {place} cannot be understood")]
    Body {
        /// Where.
        place: Place,
        /// What is unexpected.
        #[source]
        source: serde_json::Error,
    },
    /// A later rei has written a record, and this one does not understand it.
    #[error("the record at {place} is of the journal format {found}, and this rei understands {ours}")]
    Later {
        /// Where.
        place: Place,
        /// The format of its segment.
        found: String,
        /// Ours.
        ours: String,
        /// What is not understood.
        #[source]
        source: serde_json::Error,
    },
    /// Files of the journal are missing.
    #[error("the journal in {directory} is incomplete: {what}")]
    Incomplete {
        /// The journal's directory.
        directory: PathBuf,
        /// What is not there.
        what: String,
    },
    /// The last records are gone.
    #[error("the journal in {directory} is shorter than its sealed head: record {records} of {sealed}")]
    Short {
        /// The journal's directory.
        directory: PathBuf,
        /// The journal's last record; 0 for none.
        records: u64,
        /// The last record that was written.
        sealed: u64,
    },
    /// The journal has another record than the one that was written.
    #[error("record {seq} of the journal in {directory} is not the one that its sealed head has seen")]
    Other {
        /// The journal's directory.
        directory: PathBuf,
        /// The record.
        seq: u64,
    },
    /// The journal was written by a newer rei.
    #[error("{path} has the journal format {found}, and this rei writes {ours}")]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its format.
        found: String,
        /// Ours.
        ours: String,
    },
    /// The journal is that of another runtime.
    #[error("the journal in {directory} is that of the runtime `{found}`, not of `{wanted}`")]
    Foreign {
        /// The journal's directory.
        directory: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// A record is too large to be one.
    #[error("a record of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// What is to be written cannot be.
    #[error("a record cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// A write may or may not have reached the disk; nothing more is written.
    #[error("the journal in {directory} stopped after a failed write")]
    Poisoned {
        /// The journal's directory.
        directory: PathBuf,
    },
}

impl Error {
    /// The next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => Some("free space on that file system; nothing was lost".to_owned()),
                std::io::ErrorKind::PermissionDenied => {
                    Some("run as the user that owns the state directory".to_owned())
                }
                _ => match source.raw_os_error() {
                    Some(libc::EIO | libc::EROFS) => Some(
                        "look at the disk (dmesg, mount), then start rei again: instances run on meanwhile".to_owned(),
                    ),
                    _ => None,
                },
            },
            Self::Locked { pid: Some(pid), .. } => {
                Some(format!("ask that one: `rei status`; or stop it first: kill -TERM {pid}"))
            }
            Self::Locked { pid: None, .. } => Some("ask that one: `rei status`; or stop it first".to_owned()),
            Self::Absent { .. } => Some("`rei run` begins one; is --config or the directory right?".to_owned()),
            Self::Damaged { place, .. } | Self::Body { place, .. } => Some(format!(
                "keep a copy of {}; restore the journal's directory from a backup (`rei journal verify`), or without one \
                 move it away; rei does not guess: {AFTER_A_BACKUP}",
                place.path.display()
            )),
            Self::Incomplete { directory, .. } => {
                let path = directory.display();
                Some(format!(
                    "restore {path} from a backup (`rei journal verify`), or without one move it away; {AFTER_A_BACKUP}"
                ))
            }
            Self::Short { .. } | Self::Other { .. } => {
                Some(format!("restore a newer backup of the journal's directory if there is one; {AFTER_A_BACKUP}"))
            }
            Self::Newer { .. } | Self::Later { .. } => {
                Some("run the newer rei, or begin with another state directory".to_owned())
            }
            Self::Foreign { .. } => Some("give each runtime a `state.directory` of its own".to_owned()),
            Self::Poisoned { .. } => {
                Some("look at the disk, then start rei again: it reads what is really there".to_owned())
            }
            Self::TooLarge { .. } | Self::Encode(_) => None,
        }
    }

    /// Whether what is stored is not what was written.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::Body { .. }
                | Self::Incomplete { .. }
                | Self::Short { .. }
                | Self::Other { .. }
        )
    }

    pub(super) fn io(act: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { act, path, source }
    }
}
