//! The exit status of a process, and its text for incidents and messages.

use std::fmt;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// The exit status of an instance's main process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, if the process called exit.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// True if it wrote a core file.
    pub core: bool,
}

impl Exit {
    /// The status of a process that another process reaped: only that it has exited is known.
    pub const UNKNOWN: Self = Self { code: None, signal: None, core: false };

    /// Decodes the status word of wait(2).
    pub fn from_wait_status(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self { code: Some(libc::WEXITSTATUS(status)), ..Self::UNKNOWN }
        } else if libc::WIFSIGNALED(status) {
            Self { signal: Some(libc::WTERMSIG(status)), core: libc::WCOREDUMP(status), ..Self::UNKNOWN }
        } else {
            Self::UNKNOWN
        }
    }

    /// True if it exited with code 0.
    pub fn success(self) -> bool {
        self.code == Some(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => {
                write!(f, "signal {signal}")?;
                if let Ok(name) = Signal::try_from(signal) {
                    write!(f, " ({})", name.as_str())?;
                }
                if self.core { f.write_str(", core dumped") } else { Ok(()) }
            }
            (None, None) => f.write_str("unknown exit (another process reaped it)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_as_code_or_signal() {
        let text = |status| Exit::from_wait_status(status).to_string();
        assert_eq!(text(2 << 8), "exit code 2");
        assert_eq!(text(11), "signal 11 (SIGSEGV)");
        assert_eq!(text(6 | 0x80), "signal 6 (SIGABRT), core dumped");
        assert_eq!(text(40), "signal 40");
        assert_eq!(Exit::UNKNOWN.to_string(), "unknown exit (another process reaped it)");
    }

    #[test]
    fn only_zero_is_success() {
        assert!(Exit::from_wait_status(0).success());
        assert!(!Exit::from_wait_status(1 << 8).success() && !Exit::UNKNOWN.success());
    }
}
