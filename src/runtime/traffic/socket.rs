//! Socket options and properties that the standard library does not offer.

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

use super::slot::{Role, Slot};

/// Maximum length of a Unix socket's path, in bytes: `sun_path` without the final NUL.
pub(super) const UNIX_PATH_BYTES_MAX: usize = 107;

/// The value `TCP_LISTEN` of `tcpi_state`.
const TCP_LISTEN: u8 = 10;

/// Linux's option number; the `libc` crate does not have it.
const IPV6_MINHOPCOUNT: c_int = 73;
/// The largest possible TTL of a packet.
const TTL_MAX: c_int = 255;

/// Requests the longest queue; the kernel limits it to `net.core.somaxconn`.
const BACKLOG_MAX: c_int = c_int::MAX;

/// Creates an internet socket with close-on-exec.
pub(super) fn inet(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Creates an unbound Unix socket with close-on-exec.
pub(super) fn unix() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Creates a Unix socket that listens on `path`, with close-on-exec.
pub(super) fn unix_listener(path: &Path) -> io::Result<OwnedFd> {
    let fd = unix()?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd)?;
    Ok(fd)
}

/// True if a process listens at a Unix path, even if its queue is full.
pub(super) fn has_listener(path: &Path) -> io::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &UnixAddr::new(path)?) {
        // EPROTOTYPE: the socket at this path has another type.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Binds to an internet address.
pub(super) fn bind_inet(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    Ok(bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?)
}

/// Listens with the longest queue that the machine allows. If the socket listens already, this resets its queue length.
pub(super) fn listen(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: `listen` takes two integers and no pointer, and the descriptor is open for the whole call.
    let result = unsafe { libc::listen(fd.as_raw_fd(), BACKLOG_MAX) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The internet address to which the socket is bound.
pub(super) fn address(fd: &impl AsRawFd) -> Option<SocketAddr> {
    inet_address(&getsockname(fd.as_raw_fd()).ok()?)
}

/// The internet address of the peer.
pub(super) fn peer(fd: &impl AsRawFd) -> Option<SocketAddr> {
    inet_address(&getpeername(fd.as_raw_fd()).ok()?)
}

fn inet_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

/// The path to which a Unix socket was bound. A later rename of the file does not change it.
pub(super) fn path(fd: &OwnedFd) -> Option<PathBuf> {
    getsockname::<UnixAddr>(fd.as_raw_fd()).ok()?.path().map(Path::to_owned)
}

/// True if the socket has this type.
pub(super) fn is(fd: &OwnedFd, kind: SockType) -> bool {
    getsockopt(fd, sockopt::SockType) == Ok(kind)
}

/// True if the socket listens.
pub(super) fn listens(fd: &OwnedFd) -> bool {
    getsockopt(fd, sockopt::AcceptConn) == Ok(true)
}

/// The socket cookie, unique until the machine reboots.
pub(super) fn cookie(fd: &impl AsRawFd) -> io::Result<u64> {
    get(fd, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// Number of connections in the accept queue of a TCP listener. `None` if it does not listen any more.
pub(super) fn tcp_queue(fd: &OwnedFd) -> io::Result<Option<u64>> {
    let info: libc::tcp_info = get(fd, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok((info.tcpi_state == TCP_LISTEN).then_some(u64::from(info.tcpi_unacked)))
}

/// Sets an option with an integer value.
pub(super) fn set(fd: &impl AsRawFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives through the call.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast::<c_void>(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Plain data that the kernel may fill in part: every bit pattern is a valid value, all zeros too.
trait Plain: Copy {}
impl Plain for u64 {}
impl Plain for libc::tcp_info {}

/// Reads an option. Fields that an older kernel does not fill are zero.
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
    // SAFETY: all bytes were initialised to zero, and every bit pattern is valid for a `Plain` type.
    Ok(unsafe { value.assume_init() })
}

/// Sets an option to a value of raw bytes.
pub(super) fn set_bytes(fd: &impl AsRawFd, level: c_int, option: c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which lives through the call.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), value.len() as socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The raw value of an option, at most `max` bytes; `None` if the socket does not have the option.
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

/// The protocol number of an internet socket.
pub(super) fn protocol(fd: &impl AsRawFd) -> Option<c_int> {
    number(fd, libc::SO_PROTOCOL)
}

/// True if it is an IPv6 socket.
pub(super) fn is_v6(fd: &impl AsRawFd) -> bool {
    number(fd, libc::SO_DOMAIN) == Some(libc::AF_INET6)
}

/// True if it is a Unix socket.
pub(super) fn is_unix(fd: &impl AsRawFd) -> bool {
    number(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX)
}

fn number(fd: &impl AsRawFd, option: c_int) -> Option<c_int> {
    let bytes = get_bytes(fd, libc::SOL_SOCKET, option, size_of::<c_int>())?;
    Some(c_int::from_ne_bytes(bytes.try_into().ok()?))
}

/// Attaches the program to the whole group. This is the switch.
pub(super) fn attach(fd: &OwnedFd, program: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    Ok(nix::sys::socket::setsockopt(fd, sockopt::AttachReusePortCbpf, &program)?)
}

/// Makes the kernel drop every packet for this socket, as if the network had lost it.
///
/// It attaches a socket filter. For a user without privileges Linux 6.18 refuses a filter on a TCP socket. Then the
/// minimum TTL is set to 255: only packets that arrive with TTL 255 are accepted, and no usual client sends those.
pub(super) fn drop_all_packets(fd: &OwnedFd) -> io::Result<()> {
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
    if result == 0 {
        return Ok(());
    }
    if is_v6(fd) {
        set(fd, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, TTL_MAX)?;
    }
    set(fd, libc::IPPROTO_IP, libc::IP_MINTTL, TTL_MAX)
}

/// Waits until every processor has finished the packet that it was handling; this takes some milliseconds. Returns
/// false if the system does not support it.
pub(super) fn all_packets_arrived() -> bool {
    const GLOBAL: c_int = 1;
    // SAFETY: `membarrier` takes three integers and accesses no memory of this process. The kernel waits for an RCU
    // grace period, which cannot end while a processor handles a packet.
    unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) == 0 }
}

/// Prevents all processes that have this socket from attaching a program to the group through it. Cannot be undone.
pub(super) fn lock_filter(fd: &OwnedFd) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)
}

/// Sets or clears O_NONBLOCK of the open file description. All processes that have it share this flag.
pub(super) fn set_nonblocking(fd: &impl AsFd, on: bool) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let wanted = if on { flags | OFlag::O_NONBLOCK } else { flags - OFlag::O_NONBLOCK };
    if wanted != flags {
        fcntl(fd, FcntlArg::F_SETFL(wanted))?;
    }
    Ok(())
}

/// Resets the flags of the open file description to those of a new socket: blocking calls, no SIGIO.
pub(super) fn clear_flags(fd: &impl AsFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}

/// Marks the member of a slot or a tap by options without effect on TCP listeners and connections. Accepted connections
/// inherit them and `sock_diag` shows them. So for each connection it can be seen which member received it, whichever
/// process accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// `IP_BIND_ADDRESS_NO_PORT`. It is off by default, so a socket of another program never has the mark of a slot.
    pub no_port: bool,
    /// `IP_MULTICAST_ALL`; its default depends on the IP version.
    pub multicast_all: bool,
    /// `IP_MULTICAST_LOOP`; it is on by default.
    pub multicast_loop: bool,
}

impl Mark {
    /// The mark of a member; the guard has none.
    pub const fn of(role: Role) -> Option<Self> {
        let (slot, multicast_loop) = match role {
            Role::Slot(slot) => (slot, true),
            Role::Tap(slot) => (slot, false),
            Role::Guard => return None,
        };
        Some(Self { no_port: true, multicast_all: matches!(slot, Slot::A), multicast_loop })
    }

    /// The member with this mark.
    pub fn role(self) -> Option<Role> {
        Role::STREAM.into_iter().find(|&role| Self::of(role) == Some(self))
    }

    /// The mark of a socket.
    pub fn read(fd: &impl AsRawFd) -> Option<Self> {
        let is_on = |option| {
            let bytes = get_bytes(fd, libc::IPPROTO_IP, option, size_of::<c_int>())?;
            // The kernel gives one byte if the value fits.
            Some(bytes.iter().any(|byte| *byte != 0))
        };
        Some(Self {
            no_port: is_on(libc::IP_BIND_ADDRESS_NO_PORT)?,
            multicast_all: is_on(libc::IP_MULTICAST_ALL)?,
            multicast_loop: is_on(libc::IP_MULTICAST_LOOP)?,
        })
    }

    /// Sets the mark on a socket.
    pub fn put(self, fd: &OwnedFd) -> io::Result<()> {
        set(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, c_int::from(self.no_port))?;
        set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, c_int::from(self.multicast_all))?;
        set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, c_int::from(self.multicast_loop))
    }
}
