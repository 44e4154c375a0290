//! Socket options: all of them read, and set back to what they were on a socket that no instance ever had.
//!
//! Whoever inherits a socket shares it with all who have it before and after. A timeout, a least TTL, the size of a buffer that
//! one version sets is there for the next one too, and that one is not ready, for no fault of its own.

use std::os::fd::OwnedFd;

use libc::c_int;

use super::socket;

/// What an option's value takes at most, in bytes: the largest is the name of a device or of an algorithm. IP options have 40.
const VALUE_BYTES_MAX: usize = 256;
/// An option may switch another one off, so all are set in turn, and once more.
const ROUNDS: usize = 2;

/// The levels with the number of their last option in Linux 6.18, and the numbers that are not looked at.
///
/// Those are: facts that nobody sets (type, error, cookie, what arrived last); the marks of a slot, which have a place of their
/// own ([`socket::Mark`]); numbers of the packet filter; and questions that take an argument, or make a descriptor.
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

/// Zero means "no bound of its own". What is read is a default then, which would be a bound if it were set.
const ZERO_IS_NONE: (c_int, c_int) = (libc::IPPROTO_TCP, libc::TCP_MAXSEG);

/// Every option of a socket, as it was opened.
pub(super) struct Options(Vec<Setting>);

struct Setting {
    level: c_int,
    option: c_int,
    /// `None` where such a socket has no such option.
    value: Option<Vec<u8>>,
}

impl Setting {
    fn read(&self, fd: &OwnedFd) -> Option<Vec<u8>> {
        socket::get_bytes(fd, self.level, self.option, VALUE_BYTES_MAX)
    }

    fn is_on(&self, fd: &OwnedFd) -> bool {
        self.read(fd) == self.value
    }

    fn put(&self, fd: &OwnedFd) {
        let Some(value) = &self.value else { return };
        // Whether it worked is seen when it is read.
        let _ = match (self.level, self.option) {
            // The kernel doubles what it is asked for, and tells what it has.
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
    /// Those of a socket that nobody has changed.
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

    /// Sets all on a socket of the same kind; says whether it has them now.
    pub fn put_back(&self, fd: &OwnedFd) -> bool {
        for setting in self.0.iter().filter(|setting| (setting.level, setting.option) == ZERO_IS_NONE) {
            setting.put(fd);
        }
        let mut differs: Vec<&Setting> = self.0.iter().filter(|setting| !setting.is_on(fd)).collect();
        if differs.is_empty() {
            return true;
        }
        for _ in 0..ROUNDS {
            differs.iter().for_each(|setting| setting.put(fd));
            differs = self.0.iter().filter(|setting| !setting.is_on(fd)).collect();
        }
        differs.is_empty()
    }
}
