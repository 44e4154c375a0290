//! Names of listener sockets in the descriptor store. A name holds everything that the next supervisor must know about
//! the socket.

use std::fmt;

use super::slot::{Role, Slot};

/// The prefix of every socket name of [`super::Traffic`].
const PREFIX: &str = "traffic/";

/// Describes one socket. The text form, `traffic/NAME/ROLE/PLACE/COOKIE`, is a valid name in a descriptor store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// The listener's name.
    pub name: String,
    /// Which member of the group it is.
    pub role: Role,
    /// The index in the group; for a Unix socket the inode of its path.
    pub place: u64,
    /// The `SO_COOKIE`, unique until the machine reboots.
    pub cookie: u64,
}

impl Label {
    /// True if the stored name is a name of [`super::Traffic`], in any version of the format.
    pub fn is_ours(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    /// Parses a stored name.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(PREFIX)?.rsplitn(4, '/');
        let cookie = u64::from_str_radix(parts.next()?, 16).ok()?;
        let place = parts.next()?.parse().ok()?;
        let role = match parts.next()? {
            "a" => Role::Slot(Slot::A),
            "b" => Role::Slot(Slot::B),
            "ta" => Role::Tap(Slot::A),
            "tb" => Role::Tap(Slot::B),
            "k" => Role::Guard,
            _ => return None,
        };
        Some(Self { name: parts.next()?.to_owned(), role, place, cookie })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/{}/{}/{:x}", self.name, self.role, self.place, self.cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_and_read_back() {
        for role in Role::STREAM {
            let label = Label { name: "http-1".into(), role, place: 2, cookie: 0x4d2 };
            assert_eq!(Label::parse(&label.to_string()), Some(label));
        }
        for bad in ["log/out", "traffic/http/c/0/1", "traffic/http/a/x/1", "traffic/a/0/1", "traffic/"] {
            assert_eq!(Label::parse(bad), None, "{bad}");
        }
    }
}
