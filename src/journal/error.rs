//! Errors of reading and writing a journal.

use std::path::PathBuf;

/// A position in a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment file.
    pub path: PathBuf,
    /// The line in the segment, counted from 1.
    pub line: u64,
    /// The offset of the line's first byte in the file.
    pub offset: u64,
    /// The expected sequence number of the line; `None` for a header.
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

/// What rei does with a restored journal that lacks the last records.
const AFTER_A_BACKUP: &str = "if records are missing, `rei run` keeps the running instances, decides nothing and asks the operator \
                              (`rei status`, `rei journal accept`)";

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {act} {path}")]
    Io {
        /// The operation that failed.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// Another supervisor writes this journal.
    #[error("another rei (pid {}) supervises with the state in {directory}", pid.map_or("unknown".to_owned(), |pid| pid.to_string()))]
    Locked {
        /// The pid of the other process, if it could be read.
        pid: Option<u32>,
        /// The journal's directory.
        directory: PathBuf,
    },
    /// There is no journal.
    #[error("there is no journal in {directory}")]
    Absent {
        /// The directory.
        directory: PathBuf,
    },
    /// A line has changed since it was written.
    #[error("the journal is damaged at {place}: {what}")]
    Damaged {
        /// Where it is.
        place: Place,
        /// What is wrong.
        what: String,
    },
    /// An undamaged record does not have the expected form.
    #[error("the record at {place} does not have the expected form")]
    Body {
        /// Where it is.
        place: Place,
        /// The error of the parser.
        #[source]
        source: serde_json::Error,
    },
    /// A later rei has written a record in a form that this one does not know.
    #[error("the record at {place} is of the journal format {found}, and this rei understands {ours}")]
    Later {
        /// Where it is.
        place: Place,
        /// The format of its segment.
        found: String,
        /// The format of this rei.
        ours: String,
        /// The error of the parser.
        #[source]
        source: serde_json::Error,
    },
    /// Files of the journal are missing.
    #[error("the journal in {directory} is incomplete: {what}")]
    Incomplete {
        /// The journal's directory.
        directory: PathBuf,
        /// What is missing.
        what: String,
    },
    /// The last records are missing.
    #[error("the journal in {directory} is shorter than its sealed head: record {records} of {sealed}")]
    Short {
        /// The journal's directory.
        directory: PathBuf,
        /// The number of the journal's last record; 0 if there is none.
        records: u64,
        /// The number of the last record according to the sealed head.
        sealed: u64,
    },
    /// A record differs from the one that the sealed head names.
    #[error("record {seq} of the journal in {directory} is not the record that its sealed head names")]
    Other {
        /// The journal's directory.
        directory: PathBuf,
        /// The number of the record.
        seq: u64,
    },
    /// The journal was written by a newer rei with another major format.
    #[error("{path} has the journal format {found}, and this rei writes {ours}")]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its format.
        found: String,
        /// The format of this rei.
        ours: String,
    },
    /// The journal belongs to another runtime.
    #[error("the journal in {directory} is that of the runtime `{found}`, not of `{wanted}`")]
    Foreign {
        /// The journal's directory.
        directory: PathBuf,
        /// The runtime to which it belongs.
        found: String,
        /// The expected runtime.
        wanted: String,
    },
    /// A record exceeds the maximum size.
    #[error("a record of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Its size, in bytes.
        bytes: usize,
        /// The maximum, in bytes.
        max: usize,
    },
    /// A value cannot be written as JSON.
    #[error("a record cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// It is unknown whether a write reached the disk, so nothing more is written.
    #[error("the journal in {directory} stopped after a failed write")]
    Poisoned {
        /// The journal's directory.
        directory: PathBuf,
    },
}

impl Error {
    /// A hint for the operator.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => Some("free space on that file system; no record is lost".to_owned()),
                std::io::ErrorKind::PermissionDenied => {
                    Some("run as the user that owns the state directory".to_owned())
                }
                _ => match source.raw_os_error() {
                    Some(libc::EIO | libc::EROFS) => Some(
                        "check the disk (dmesg, mount), then start rei again; instances keep running meanwhile"
                            .to_owned(),
                    ),
                    _ => None,
                },
            },
            Self::Locked { pid: Some(pid), .. } => {
                Some(format!("use that supervisor: `rei status`; or stop it first: kill -TERM {pid}"))
            }
            Self::Locked { pid: None, .. } => Some("use that supervisor: `rei status`; or stop it first".to_owned()),
            Self::Absent { .. } => Some("`rei run` creates one; check --config or the directory".to_owned()),
            Self::Damaged { place, .. } | Self::Body { place, .. } => Some(format!(
                "keep a copy of {}; restore the journal's directory from a backup (`rei journal verify`), or if there is none, \
                 move it away; rei does not guess: {AFTER_A_BACKUP}",
                place.path.display()
            )),
            Self::Incomplete { directory, .. } => {
                let path = directory.display();
                Some(format!(
                    "restore {path} from a backup (`rei journal verify`), or if there is none, move it away; {AFTER_A_BACKUP}"
                ))
            }
            Self::Short { .. } | Self::Other { .. } => {
                Some(format!("restore a newer backup of the journal's directory if there is one; {AFTER_A_BACKUP}"))
            }
            Self::Newer { .. } | Self::Later { .. } => {
                Some("run the newer rei, or use another state directory".to_owned())
            }
            Self::Foreign { .. } => Some("give each runtime a `state.directory` of its own".to_owned()),
            Self::Poisoned { .. } => {
                Some("check the disk, then start rei again: it reads what is really on it".to_owned())
            }
            Self::TooLarge { .. } | Self::Encode(_) => None,
        }
    }

    /// True if the stored journal differs from what was written.
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
