//! Queries to the kernel's `sock_diag`, as `ss` makes them, for facts that no socket option shows.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::slot::Role;
use super::socket::Mark;

/// Size of one read of the answer, in bytes. The kernel fills at most this much at once.
const CHUNK_BYTES: usize = 32 << 10;
/// Maximum number of handshakes examined. More of them only delay the result "drained".
const HANDSHAKES_MAX: usize = 65_536;

const NLMSG_HEADER_BYTES: usize = 16;
const INET_REQUEST_BYTES: usize = 56;
const INET_ANSWER_BYTES: usize = 72;
const UNIX_REQUEST_BYTES: usize = 24;
const UNIX_ANSWER_BYTES: usize = 16;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `INET_DIAG_SOCKOPT`: flags of the socket.
const ATTRIBUTE_SOCKOPT: u16 = 22;
/// `UNIX_DIAG_RQLEN`: queue and backlog.
const ATTRIBUTE_QUEUE: u16 = 4;
/// `UNIX_DIAG_VFS`: inode and device of its file.
const ATTRIBUTE_FILE: u16 = 1;
/// `UDIAG_SHOW_RQLEN`.
const SHOW_QUEUE: u32 = 0x10;
/// `UDIAG_SHOW_VFS`.
const SHOW_FILE: u32 = 2;
/// `INET_DIAG_INFO`: the counters of a connection, and the bit that asks for them.
const ATTRIBUTE_INFO: u16 = 2;
const SHOW_INFO: u8 = 1 << (ATTRIBUTE_INFO - 1);
/// Offsets in `tcp_info`: milliseconds since the last byte came, bytes that wait to be sent, and segments with bytes that
/// came and were sent.
const INFO_LAST_RECEIVED: usize = 52;
const INFO_NOT_SENT: usize = 144;
const INFO_SEGMENTS_IN: usize = 152;
const INFO_SEGMENTS_OUT: usize = 156;
/// `TCPF_SYN_RECV`.
const STATE_HANDSHAKE: u32 = 1 << 3;
/// `TCPF_ESTABLISHED`, and `TCPF_CLOSE_WAIT`: the client has sent its last byte.
const STATES_OPEN: u32 = 1 << 1 | 1 << 8;
/// Maximum number of connections examined for an answer. More of them do not change what is known.
const UNANSWERED_MAX: usize = 4_096;

/// The member that received the connection from `client` to `server`, whether it is in a queue or was accepted. `None` if there is no such connection, or its socket has no mark.
pub(super) fn member_of(server: SocketAddr, client: SocketAddr) -> io::Result<Option<Role>> {
    let mut request = inet_request(server.is_ipv6(), u32::MAX);
    request[8..10].copy_from_slice(&server.port().to_be_bytes());
    request[10..12].copy_from_slice(&client.port().to_be_bytes());
    put_ip(&mut request[12..28], server.ip());
    put_ip(&mut request[28..44], client.ip());
    let mut member = None;
    ask(&request, 0, |answer| {
        // If there is no such connection, the kernel answers with the listener.
        if answer.len() >= INET_ANSWER_BYTES && answer[6..8] == client.port().to_be_bytes() {
            member = role(&answer[INET_ANSWER_BYTES..]);
        }
        true
    })?;
    Ok(member)
}

/// The member that a connection belongs to, by its attributes.
fn role(attributes: &[u8]) -> Option<Role> {
    let flags = attribute(attributes, ATTRIBUTE_SOCKOPT)?;
    // Bit fields of a C struct: on every little-endian machine the first field is the lowest bit.
    let (first, second) = (flags.first()?, flags.get(1)?);
    let (multicast_all, multicast_loop) = (first & 0x40 != 0, first & 0x10 != 0);
    Mark { multicast_all, multicast_loop, no_port: second & 1 != 0 }.role()
}

/// A connection whose client has sent something and has got no byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// The client's address.
    pub client: SocketAddr,
    /// Since the client's last byte, in milliseconds.
    pub for_ms: u64,
}

/// The connections of a member without an answer, in its queue or accepted, at most [`UNANSWERED_MAX`].
pub(super) fn unanswered(server: SocketAddr, member: Role) -> io::Result<Vec<Unanswered>> {
    let mut found = Vec::new();
    // A dual-stack listener has its IPv4 clients under its own family once the handshake is complete.
    let mut request = inet_request(server.is_ipv6(), STATES_OPEN);
    request[2] = SHOW_INFO;
    request[8..10].copy_from_slice(&server.port().to_be_bytes());
    ask(&request, libc::NLM_F_DUMP, |answer| {
        if answer.len() >= INET_ANSWER_BYTES && answer[4..6] == server.port().to_be_bytes() {
            let attributes = &answer[INET_ANSWER_BYTES..];
            let is_here = role(attributes) == Some(member);
            let info = attribute(attributes, ATTRIBUTE_INFO).filter(|_| is_here).unwrap_or_default();
            let counters = [INFO_SEGMENTS_IN, INFO_SEGMENTS_OUT, INFO_NOT_SENT, INFO_LAST_RECEIVED];
            if let [Some(1..), Some(0), Some(0), Some(for_ms)] = counters.map(|at| word(info, at)) {
                let remote = get_ip(&answer[24..40], answer[0] == libc::AF_INET6 as u8);
                let client = SocketAddr::new(remote, u16::from_be_bytes([answer[6], answer[7]]));
                found.push(Unanswered { client, for_ms: for_ms.into() });
            }
        }
        found.len() < UNANSWERED_MAX
    })?;
    Ok(found)
}

/// The clients whose handshake with a listener of this address is not complete. The kernel does not show which member
/// the handshake belongs to.
pub(super) fn handshakes(address: SocketAddr) -> io::Result<BTreeSet<SocketAddr>> {
    let mut clients = BTreeSet::new();
    // A dual-stack listener may list its IPv4 clients under either family.
    let families: &[bool] = if address.is_ipv6() { &[true, false] } else { &[false] };
    for &v6 in families {
        let mut request = inet_request(v6, STATE_HANDSHAKE);
        request[8..10].copy_from_slice(&address.port().to_be_bytes());
        ask(&request, libc::NLM_F_DUMP, |answer| {
            if answer.len() >= INET_ANSWER_BYTES && answer[4..6] == address.port().to_be_bytes() {
                let v6 = answer[0] == libc::AF_INET6 as u8;
                let (local, remote) = (get_ip(&answer[8..24], v6), get_ip(&answer[24..40], v6));
                if address.ip().is_unspecified() || address.ip().to_canonical() == local {
                    clients.insert(SocketAddr::new(remote, u16::from_be_bytes([answer[6], answer[7]])));
                }
            }
            clients.len() < HANDSHAKES_MAX
        })?;
    }
    Ok(clients)
}

/// Number of connections in the queue of a Unix listener.
pub(super) fn unix_queue(fd: &OwnedFd) -> io::Result<u64> {
    unix(fd, SHOW_QUEUE, ATTRIBUTE_QUEUE).map(u64::from)
}

/// The low 32 bits of the inode of the file that a Unix socket was bound to.
pub(super) fn unix_file(fd: &OwnedFd) -> io::Result<u32> {
    unix(fd, SHOW_FILE, ATTRIBUTE_FILE)
}

/// The first 32-bit word of an attribute of a Unix socket.
fn unix(fd: &OwnedFd, show: u32, kind: u16) -> io::Result<u32> {
    let inode = nix::sys::stat::fstat(fd)?.st_ino;
    let inode = u32::try_from(inode).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut request = [0_u8; UNIX_REQUEST_BYTES];
    request[0] = libc::AF_UNIX as u8;
    request[4..8].fill(0xff);
    request[8..12].copy_from_slice(&inode.to_ne_bytes());
    request[12..16].copy_from_slice(&show.to_ne_bytes());
    request[16..24].fill(0xff);
    let mut found = None;
    ask(&request, 0, |answer| {
        let attributes = answer.get(UNIX_ANSWER_BYTES..).unwrap_or_default();
        found = attribute(attributes, kind).and_then(|bytes| word(bytes, 0));
        true
    })?;
    found.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

fn inet_request(v6: bool, states: u32) -> [u8; INET_REQUEST_BYTES] {
    let mut request = [0_u8; INET_REQUEST_BYTES];
    request[0] = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
    request[1] = libc::IPPROTO_TCP as u8;
    request[4..8].copy_from_slice(&states.to_ne_bytes());
    // No cookie: match any socket with these addresses.
    request[48..56].fill(0xff);
    request
}

/// Sends one request and calls `each` with the body of every answer, until `each` returns false or the kernel has sent
/// all.
fn ask(body: &[u8], flags: i32, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    let mut request = vec![0_u8; NLMSG_HEADER_BYTES];
    request.extend_from_slice(body);
    let length = u32::try_from(request.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "netlink flags are 16 bits")]
    let flags = (libc::NLM_F_REQUEST | flags) as u16;
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    send(fd.as_raw_fd(), &request, MsgFlags::empty())?;
    let dump = flags & libc::NLM_F_DUMP as u16 != 0;
    let mut chunk = vec![0_u8; CHUNK_BYTES];
    loop {
        let n = recv(fd.as_raw_fd(), &mut chunk, MsgFlags::empty())?;
        let mut rest = &chunk[..n];
        while let Some((kind, body, after)) = message(rest) {
            rest = after;
            match kind {
                k if k == libc::NLMSG_DONE as u16 => return Ok(()),
                k if k == libc::NLMSG_ERROR as u16 => {
                    let code = word(body, 0).map_or(0, |code| code.cast_signed().wrapping_neg());
                    // "Not found" is a valid, empty answer.
                    return if code == libc::ENOENT { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) };
                }
                _ if !each(body) => return Ok(()),
                _ => {}
            }
        }
        if !dump || n == 0 {
            return Ok(());
        }
    }
}

/// Splits off the first netlink message. Returns its type, its body and the bytes after it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = word(bytes, 0)? as usize;
    let body = bytes.get(NLMSG_HEADER_BYTES..length)?;
    let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The value of the first attribute of this type.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let value = bytes.get(4..length)?;
        if u16::from_ne_bytes([bytes[2], bytes[3]]) == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn put_ip(field: &mut [u8], ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => field[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => field.copy_from_slice(&ip.octets()),
    }
}

fn get_ip(field: &[u8], v6: bool) -> IpAddr {
    let mut octets = [0_u8; 16];
    octets.copy_from_slice(field);
    if v6 {
        IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
    } else {
        IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::runtime::traffic::slot::Slot;

    #[test]
    fn an_accepted_connection_tells_its_member() {
        for host in ["127.0.0.1", "::1"] {
            let Ok(listener) = TcpListener::bind((host, 0)) else {
                eprintln!("skipped: this machine has no {host}");
                continue;
            };
            let server = listener.local_addr().unwrap();
            let fd = OwnedFd::from(listener.try_clone().unwrap());
            let [a, b] = Slot::ALL;
            for role in [None, Some(Role::Slot(a)), Some(Role::Tap(b)), Some(Role::Slot(b)), Some(Role::Tap(a))] {
                if let Some(role) = role {
                    Mark::of(role).unwrap().put(&fd).unwrap();
                    assert_eq!(Mark::read(&fd).and_then(Mark::role), Some(role));
                }
                let client = TcpStream::connect(server).unwrap();
                assert_eq!(member_of(server, client.local_addr().unwrap()).unwrap(), role, "{host}, queued");
                let _accepted = listener.accept().unwrap();
                assert_eq!(member_of(server, client.local_addr().unwrap()).unwrap(), role, "{host}, accepted");
            }
            let nobody = SocketAddr::new(server.ip(), 1);
            assert_eq!(member_of(server, nobody).unwrap(), None);
        }
    }

    #[test]
    fn a_connection_without_an_answer_is_seen_until_it_has_one() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let server = listener.local_addr().unwrap();
        let fd = OwnedFd::from(listener.try_clone().unwrap());
        let (role, other) = (Role::Slot(Slot::A), Role::Slot(Slot::B));
        Mark::of(role).unwrap().put(&fd).unwrap();
        let connect = || TcpStream::connect(server).unwrap();
        let (silent, mut asks, mut leaves) = (connect(), connect(), connect());
        assert_eq!(unanswered(server, role).unwrap(), [], "no client has sent anything");
        asks.write_all(b"GET").unwrap();
        leaves.write_all(b"GET").unwrap();
        leaves.shutdown(std::net::Shutdown::Write).unwrap();
        silent.shutdown(std::net::Shutdown::Write).unwrap();
        let clients = || {
            let mut found: Vec<_> = unanswered(server, role).unwrap().into_iter().map(|it| it.client).collect();
            found.sort();
            found
        };
        let mut expected = [&asks, &leaves].map(|client| client.local_addr().unwrap());
        expected.sort();
        assert_eq!(clients(), expected, "in the queue");
        assert_eq!(unanswered(server, other).unwrap(), []);
        let mut accepted: Vec<TcpStream> = (0..3).map(|_| listener.accept().unwrap().0).collect();
        assert_eq!(clients(), expected, "accepted");
        let is_asks = |it: &&mut TcpStream| it.peer_addr().unwrap() == asks.local_addr().unwrap();
        accepted.iter_mut().find(is_asks).unwrap().write_all(b"a").unwrap();
        assert_eq!(clients(), [leaves.local_addr().unwrap()]);
    }

    #[test]
    fn a_unix_queue_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let _clients: Vec<_> = (0..3).map(|_| UnixStream::connect(dir.path().join("s")).unwrap()).collect();
        assert_eq!(unix_queue(&OwnedFd::from(listener)).unwrap(), 3);
    }

    #[test]
    fn broken_messages_end_the_reading() {
        for bytes in [&[][..], &[1, 0, 0, 0], &[200, 0, 0, 0, 1, 0], &[0; 20]] {
            assert!(message(bytes).is_none_or(|(_, body, _)| body.is_empty()));
        }
        assert_eq!(attribute(&[0, 0, 0, 0], 0), None);
        assert_eq!(attribute(&[9, 0, 1, 0, 1], 1), None);
    }
}
