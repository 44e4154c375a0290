//! Packets between a supervisor and the keeper: one byte for the kind, a text, and descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recv, recvmsg, sendmsg};

/// Maximum number of descriptors in a keeper: enough for dozens of listeners with five sockets each, and the
/// instances' pipes.
pub const FDS_MAX: usize = 448;
/// Maximum number of descriptors in one packet; the kernel's limit is 253.
pub(super) const PACKET_FDS_MAX: usize = 64;
/// Maximum length of a packet, in bytes: the longest names of [`PACKET_FDS_MAX`] descriptors.
pub(super) const PACKET_BYTES_MAX: usize = 1 + PACKET_FDS_MAX * 256;

/// The first packet of a client. Its text is the key. No other packet is answered before it.
pub(super) const HELLO: u8 = b'H';
/// Store the descriptor under the name in the text.
pub(super) const STORE: u8 = b'S';
/// Remove the name in the text.
pub(super) const REMOVE: u8 = b'R';
/// Send all descriptors.
pub(super) const FETCH: u8 = b'F';
/// Check that the keeper answers. The text of the answer is its pid.
pub(super) const PING: u8 = b'P';
/// Close all descriptors and exit.
pub(super) const QUIT: u8 = b'Q';
/// Close all descriptors and exit, unless another client is connected or an instance is alive.
pub(super) const QUIT_IF_UNNEEDED: u8 = b'L';
/// Success.
pub(super) const OK: u8 = b'k';
/// Failure; the text is the reason.
pub(super) const NO: u8 = b'e';
/// Names, one per line, and a descriptor for each. More packets follow, and at the end `OK`.
pub(super) const PART: u8 = b'f';

/// A received packet.
pub(crate) struct Packet {
    pub kind: u8,
    pub text: String,
    pub fds: Vec<OwnedFd>,
}

/// Sends one packet, completely or not at all.
pub(crate) fn send(to: &impl AsRawFd, kind: u8, text: &str, fds: &[BorrowedFd<'_>], flags: MsgFlags) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights };
    let bytes = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(text.as_bytes())];
    uninterrupted(|| sendmsg::<()>(to.as_raw_fd(), &bytes, rights, flags | MsgFlags::MSG_NOSIGNAL, None))?;
    Ok(())
}

/// Repeats a call that a signal interrupted. The kernel does not restart a call with a timeout, and SIGCHLD can arrive
/// at any time.
fn uninterrupted<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// Receives one packet; `None` if the peer has closed. Its descriptors have close-on-exec. A truncated packet is an
/// error.
pub(crate) fn receive(from: &impl AsRawFd, flags: MsgFlags) -> io::Result<Option<Packet>> {
    let mut buffer = vec![0_u8; PACKET_BYTES_MAX];
    let mut control = cmsg_space!([RawFd; PACKET_FDS_MAX]);
    let mut bytes = [IoSliceMut::new(&mut buffer)];
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    // Wait for a packet first; the next call then receives it at once.
    uninterrupted(|| recv(from.as_raw_fd(), &mut [], flags | MsgFlags::MSG_PEEK))?;
    let message = recvmsg::<()>(from.as_raw_fd(), &mut bytes, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for rights in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = rights {
            // SAFETY: the kernel has just created these descriptors for us, and each is taken once.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let (n, cut) = (message.bytes, message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC));
    if cut {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let Some((&kind, text)) = buffer[..n].split_first() else { return Ok(None) };
    let text = std::str::from_utf8(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?.to_owned();
    Ok(Some(Packet { kind, text, fds }))
}

/// The file beside the socket that is the keeper's lock and contains its key. A confined instance of the same user may
/// be able to connect to the socket, but it cannot read this file.
pub(super) fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}
