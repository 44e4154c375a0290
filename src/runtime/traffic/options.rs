//! Socket options: reads all of them, and restores the values of an untouched socket.
//!
//! An inherited socket is shared with all instances that had it before and will have it later. A timeout, a minimum TTL
//! or a buffer size that one version sets also applies to the next version, which then may fail to become ready through
//! no fault of its own.

use std::os::fd::OwnedFd;

use libc::c_int;

use super::socket;

/// Maximum size of an option's value, in bytes. The largest values are names of devices and algorithms; IP options take
/// 40.
const VALUE_BYTES_MAX: usize = 256;
/// Number of passes. One option may switch another one off, so all are set in sequence, and then once more.
const ROUNDS: usize = 2;

/// For each level: the number of the last option in Linux 6.18, and the option numbers that are skipped.
///
/// Skipped are: read-only facts (type, error, cookie, the last packet received); the mark of a slot, which
/// [`socket::Mark`] handles; options of packet filters; and options that need an argument or create a descriptor.
const LEVELS: &[(c_int, c_int, &[c_int])] = &[
    (
        libc::SOL_SOCKET,
        83,
        &[3, 4, 17, 26, 28, 30, 31, 38, 39, 44, 49, 51, 52, 55, 56, 57, 58, 59, 68, 71, 77, 78, 79, 80],
    ),
    (libc::IPPROTO_IP, 52, &[9, 14, 16, 17, 24, 35, 36, 41, 48, 49]),
    (libc::IPPROTO_IPV6, 78, &[6, 24, 32, 34, 35, 48, 61, 64, 65, 68, 69]),
    (libc::IPPROTO_TCP, 46, &[11, 21, 22, 24, 26, 28, 29, 32, 35, 38, 39, 40, 41, 42]),
    (libc::IPPROTO_UDP, 104, &[]),
];

/// For this option 0 means "no limit". A read then returns a default, which would become a limit if it were set.
const ZERO_IS_NONE: (c_int, c_int) = (libc::IPPROTO_TCP, libc::TCP_MAXSEG);

/// All options of a socket, as they were when it was opened.
pub(super) struct Options(Vec<Setting>);

struct Setting {
    level: c_int,
    option: c_int,
    /// `None` if this kind of socket does not have the option.
    value: Option<Vec<u8>>,
}

impl Setting {
    fn read(&self, fd: &OwnedFd) -> Option<Vec<u8>> {
        socket::get_bytes(fd, self.level, self.option, VALUE_BYTES_MAX)
    }

    fn is_set(&self, fd: &OwnedFd) -> bool {
        self.read(fd) == self.value
    }

    fn apply(&self, fd: &OwnedFd) {
        let Some(value) = &self.value else { return };
        // The caller reads the option again, so an error here can be ignored.
        let _ = match (self.level, self.option) {
            // The kernel stores and reports twice the requested size.
            (libc::SOL_SOCKET, libc::SO_RCVBUF | libc::SO_SNDBUF) => {
                let bytes = <[u8; 4]>::try_from(&value[..]).map_or(0, c_int::from_ne_bytes);
                socket::set(fd, self.level, self.option, bytes / 2)
            }
            which if which == ZERO_IS_NONE => socket::set(fd, self.level, self.option, 0),
            _ => socket::set_bytes(fd, self.level, self.option, value),
        };
    }
}

impl Options {
    /// Reads the options of an untouched socket.
    pub fn of(fd: &OwnedFd) -> Self {
        let is_of = |level| match level {
            libc::SOL_SOCKET => true,
            libc::IPPROTO_IP => !socket::is_unix(fd),
            libc::IPPROTO_IPV6 => socket::is_v6(fd),
            protocol => socket::protocol(fd) == Some(protocol),
        };
        let mut settings = Vec::new();
        for (level, last, others) in LEVELS.iter().filter(|(level, ..)| is_of(*level)) {
            for option in (1..=*last).filter(|option| !others.contains(option)) {
                let value = socket::get_bytes(fd, *level, option, VALUE_BYTES_MAX);
                settings.push(Setting { level: *level, option, value });
            }
        }
        Self(settings)
    }

    /// Restores all options on a socket of the same kind. Returns true if all have their values now.
    pub fn restore(&self, fd: &OwnedFd) -> bool {
        for setting in self.0.iter().filter(|setting| (setting.level, setting.option) == ZERO_IS_NONE) {
            setting.apply(fd);
        }
        let mut differs: Vec<&Setting> = self.0.iter().filter(|setting| !setting.is_set(fd)).collect();
        if differs.is_empty() {
            return true;
        }
        for _ in 0..ROUNDS {
            differs.iter().for_each(|setting| setting.apply(fd));
            differs = self.0.iter().filter(|setting| !setting.is_set(fd)).collect();
        }
        differs.is_empty()
    }
}
