//! How a request ended.

use serde::{Deserialize, Serialize};

/// How a request ended: the class of its status (RFC 9110, section 15), or no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// 1xx as the last status: a protocol switch.
    Informational,
    /// 2xx.
    Success,
    /// 3xx.
    Redirect,
    /// 4xx.
    ClientError,
    /// 5xx.
    ServerError,
    /// The connection was reset or closed before the answer was complete.
    Aborted,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 6] =
        [Self::Informational, Self::Success, Self::Redirect, Self::ClientError, Self::ServerError, Self::Aborted];

    /// The class of a status; `None` if it is no HTTP status.
    pub fn of_status(status: u16) -> Option<Self> {
        match status / 100 {
            1 => Some(Self::Informational),
            2 => Some(Self::Success),
            3 => Some(Self::Redirect),
            4 => Some(Self::ClientError),
            5 => Some(Self::ServerError),
            _ => None,
        }
    }

    /// Whether the service failed the request: it answered with 5xx, or did not answer.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::ServerError | Self::Aborted)
    }

    /// The name for a person: `5xx`, `no answer`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Aborted => "no answer",
        }
    }

    /// The position in [`Class::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }
}
