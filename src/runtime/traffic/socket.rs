//! Socket options and facts that the standard library does not reach.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libc::{c_int, c_void, socklen_t};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect, getpeername, getsockname, getsockopt,
    socket, sockopt,
};

use super::slot::Slot;

/// The longest path of a unix socket, in bytes: `sun_path` without its final NUL.
pub(super) const UNIX_PATH_BYTES_MAX: usize = 107;

/// `TCP_LISTEN`, as `tcpi_state` has it.
const TCP_LISTEN: u8 = 10;

/// Asks for the longest queue: the kernel cuts it to `net.core.somaxconn`.
const BACKLOG_MAX: c_int = c_int::MAX;

/// An internet socket, closed on exec.
pub(super) fn inet(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?)
}

/// A unix socket that is bound to nothing, closed on exec.
pub(super) fn unix() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// A unix socket that listens on `path`, closed on exec.
pub(super) fn unix_listener(path: &Path) -> io::Result<OwnedFd> {
    let fd = unix()?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd)?;
    Ok(fd)
}

/// Whether somebody listens at a unix path; a full queue is an answer too.
pub(super) fn answers(path: &Path) -> io::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &UnixAddr::new(path)?) {
        // EPROTOTYPE: a socket of another type lives there.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Binds to an internet address.
pub(super) fn bind_inet(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    Ok(bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?)
}

/// Listens with the longest queue the machine allows; on a listener, sets its queue back to that.
pub(super) fn listen(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes two integers; the descriptor is open for the whole call.
    let result = unsafe { libc::listen(fd.as_raw_fd(), BACKLOG_MAX) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The bound internet address.
pub(super) fn address(fd: &impl AsRawFd) -> Option<SocketAddr> {
    inet_address(&getsockname(fd.as_raw_fd()).ok()?)
}

/// The internet address of the other side.
pub(super) fn peer(fd: &impl AsRawFd) -> Option<SocketAddr> {
    inet_address(&getpeername(fd.as_raw_fd()).ok()?)
}

fn inet_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

/// The path that a unix socket was bound to; a rename since then does not show.
pub(super) fn path(fd: &OwnedFd) -> Option<PathBuf> {
    getsockname::<UnixAddr>(fd.as_raw_fd()).ok()?.path().map(Path::to_owned)
}

/// Whether it is a socket of this type.
pub(super) fn is(fd: &OwnedFd, kind: SockType) -> bool {
    getsockopt(fd, sockopt::SockType) == Ok(kind)
}

/// Whether it listens.
pub(super) fn listens(fd: &OwnedFd) -> bool {
    getsockopt(fd, sockopt::AcceptConn) == Ok(true)
}

/// The number that no other socket has until the machine starts again.
pub(super) fn cookie(fd: &impl AsRawFd) -> io::Result<u64> {
    get(fd, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// The queue of a TCP listener: connections that wait to be accepted. `None` when it does not listen any more.
pub(super) fn tcp_queue(fd: &OwnedFd) -> io::Result<Option<u64>> {
    let info: libc::tcp_info = get(fd, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok((info.tcpi_state == TCP_LISTEN).then_some(u64::from(info.tcpi_unacked)))
}

/// Sets an option whose value is an integer.
pub(super) fn set(fd: &impl AsRawFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives through the call.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast::<c_void>(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Plain data that the kernel fills in, possibly in part: every bit pattern, all zeroes among them, is a value.
trait Plain: Copy {}
impl Plain for u64 {}
impl Plain for libc::tcp_info {}

/// Reads an option; what an older kernel does not fill is zero.
fn get<T: Plain>(fd: &impl AsRawFd, level: c_int, option: c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, which has that many.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast::<c_void>(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed first, and `Plain` types are valid for all bytes.
    Ok(unsafe { value.assume_init() })
}

/// Sets an option to these bytes.
pub(super) fn set_bytes(fd: &impl AsRawFd, level: c_int, option: c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which lives through the call.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), value.len() as socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The bytes of an option, at most `max`; `None` where the socket has no such option.
pub(super) fn get_bytes(fd: &impl AsRawFd, level: c_int, option: c_int, max: usize) -> Option<Vec<u8>> {
    let mut value = vec![0_u8; max];
    let mut length = max as socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, which has that many.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast::<c_void>(), &raw mut length)
    };
    value.truncate(length as usize);
    (result == 0).then_some(value)
}

/// The protocol of an internet socket.
pub(super) fn protocol(fd: &impl AsRawFd) -> Option<c_int> {
    number(fd, libc::SO_PROTOCOL)
}

/// Whether it is of IP version 6.
pub(super) fn is_v6(fd: &impl AsRawFd) -> bool {
    number(fd, libc::SO_DOMAIN) == Some(libc::AF_INET6)
}

/// Whether it is a unix socket.
pub(super) fn is_unix(fd: &impl AsRawFd) -> bool {
    number(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX)
}

fn number(fd: &impl AsRawFd, option: c_int) -> Option<c_int> {
    let bytes = get_bytes(fd, libc::SOL_SOCKET, option, size_of::<c_int>())?;
    Some(c_int::from_ne_bytes(bytes.try_into().ok()?))
}

/// Makes the program steer the whole group: the switch.
pub(super) fn attach(fd: &OwnedFd, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    Ok(nix::sys::socket::setsockopt(fd, sockopt::AttachReusePortCbpf, &program)?)
}

/// Makes the kernel drop every packet for this socket, as if it had been lost on the way.
pub(super) fn deafen(fd: &OwnedFd) -> io::Result<()> {
    let mut nothing = [libc::sock_filter { code: libc::BPF_RET as u16, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: nothing.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as socklen_t;
    // SAFETY: the pointer and the length describe `program`, and that `nothing`; both live through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast::<c_void>(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Forbids everybody who holds this socket to steer the group through it. Cannot be undone.
pub(super) fn lock_filter(fd: &OwnedFd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
}

/// Sets whether calls on the open file description wait. All who hold it share this.
pub(super) fn set_nonblocking(fd: &impl AsFd, on: bool) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let wanted = if on { flags | OFlag::O_NONBLOCK } else { flags - OFlag::O_NONBLOCK };
    if wanted != flags {
        fcntl(fd, FcntlArg::F_SETFL(wanted))?;
    }
    Ok(())
}

/// Gives the open file description the flags of a new socket: calls wait, and no signal tells of anything.
pub(super) fn clear_flags(fd: &impl AsFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}

/// What a slot's member looks like from outside: two options without a meaning for TCP listeners and connections, which
/// accepted connections inherit and `sock_diag` shows. So a connection tells which member it came to, whoever accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// `IP_BIND_ADDRESS_NO_PORT`: off unless somebody sets it, so a socket that is not ours has no slot's mark.
    pub no_port: bool,
    /// `IP_MULTICAST_ALL`; its default depends on the IP version.
    pub multicast_all: bool,
}

impl Mark {
    /// The mark of a slot's member.
    pub const fn of(slot: Slot) -> Self {
        Self { no_port: true, multicast_all: matches!(slot, Slot::A) }
    }

    /// The slot that has this mark.
    pub fn slot(self) -> Option<Slot> {
        Slot::ALL.into_iter().find(|&slot| Self::of(slot) == self)
    }

    /// Marks a socket.
    pub fn put(self, fd: &OwnedFd) -> io::Result<()> {
        set(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, c_int::from(self.no_port))?;
        set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, c_int::from(self.multicast_all))
    }
}
