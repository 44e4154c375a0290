//! The packet of a copied exchange, and the receipt of all packets of the tap.
//!
//! A packet of JSON begins with `{`. That of an exchange begins with another byte; then follow the length of its head as four
//! bytes, the head as JSON, and the two bodies. If this is larger than a packet, it is in a memory file beside the packet.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg, send as send_packet};
use serde::{Deserialize, Serialize};

use super::capture::{BODY_BYTES_MAX, Sent, Waiting};
use super::wire::{REPORT_BYTES_MAX, Report};
use crate::golden::Captured;
use crate::http::{Request, Response};
use crate::runtime::keeper::wire;
use crate::runtime::traffic::Slot;
use crate::time::Timestamp;

/// An exchange in the packet.
const INLINE: u8 = b'X';
/// An exchange in the memory file of the packet.
const IN_FILE: u8 = b'F';
/// The largest exchange in a packet, in bytes: some of them wait in the buffer of the connection.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// The largest exchange in a memory file, in bytes: two bodies, and both heads with the escapes of JSON.
const FILE_BYTES_MAX: usize = 2 * BODY_BYTES_MAX + (1 << 20);

/// An exchange without its bodies.
#[derive(Serialize, Deserialize)]
struct Head {
    slot: Slot,
    at: Timestamp,
    connection: u64,
    index: u64,
    listener: String,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body_bytes: usize,
    status: u16,
    answer_headers: Vec<(String, String)>,
    events: Option<usize>,
    us: u64,
}

/// Sends an exchange without waiting.
///
/// Only one memory file is on its way at a time: the kernel counts its pages for nobody.
pub(super) fn send(connection: &OwnedFd, waiting: &Waiting) -> Sent {
    let Some(mut bytes) = encode(waiting) else { return Sent::Never };
    if bytes.len() <= INLINE_BYTES_MAX {
        return match send_packet(connection.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Sent::Taken,
            Err(Errno::EMSGSIZE) => Sent::Never,
            Err(_) => Sent::Later,
        };
    }
    if !is_read(connection) {
        return Sent::Later;
    }
    bytes[0] = IN_FILE;
    let file = memfd_create(c"rei-exchange", MFdFlags::MFD_CLOEXEC).map(File::from);
    let Ok(mut file) = file else { return Sent::Never };
    if file.write_all(&bytes).is_err() {
        return Sent::Never;
    }
    match wire::send(connection, IN_FILE, "", &[file.as_fd()], MsgFlags::MSG_DONTWAIT) {
        Ok(()) => Sent::Taken,
        Err(_) => Sent::Later,
    }
}

/// Whether the other side has read everything.
fn is_read(connection: &OwnedFd) -> bool {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the kernel writes one integer to the place that is given.
    unsafe { libc::ioctl(connection.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) == 0 && bytes == 0 }
}

fn encode(waiting: &Waiting) -> Option<Vec<u8>> {
    let Waiting { slot, captured, .. } = waiting;
    let Captured { at, connection, index, listener, request, response, events, duration } = captured;
    let head = Head {
        slot: *slot,
        at: *at,
        connection: *connection,
        index: *index,
        listener: listener.clone(),
        method: request.method.clone(),
        path: request.path.clone(),
        headers: request.headers.clone(),
        body_bytes: request.body.len(),
        status: response.status,
        answer_headers: response.headers.clone(),
        events: *events,
        us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
    };
    let head = serde_json::to_vec(&head).ok()?;
    let length = u32::try_from(head.len()).ok()?;
    let bytes = [&[INLINE][..], &length.to_le_bytes(), &head, &request.body, &response.body].concat();
    (bytes.len() <= FILE_BYTES_MAX).then_some(bytes)
}

fn decode(bytes: &[u8]) -> Option<Report> {
    let (length, rest) = bytes.get(1..)?.split_first_chunk::<4>()?;
    let (head, bodies) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    let (asked, answered) = bodies.split_at_checked(head.body_bytes)?;
    let Head {
        slot, at, connection, index, listener, method, path, headers, status, answer_headers, events, us, ..
    } = head;
    let request = Request { method, path, headers, body: asked.to_vec() };
    let response = Response { status, headers: answer_headers, body: answered.to_vec() };
    let duration = Duration::from_micros(us);
    Some(Report::Captured {
        slot,
        captured: Captured { at, connection, index, listener, request, response, events, duration },
    })
}

/// What was received.
pub(super) enum Received {
    /// No packet waits.
    Nothing,
    /// A report.
    Report(Box<Report>),
    /// A packet that cannot be read, as another version of rei may send.
    Unknown,
}

/// Receives a packet of the tap, without waiting.
///
/// # Errors
/// If the tap is gone.
pub(super) fn receive(connection: &OwnedFd) -> io::Result<Received> {
    let flags = MsgFlags::MSG_DONTWAIT;
    // Most reports are small, so the size is asked for first.
    let size = attempt(|| recv(connection.as_raw_fd(), &mut [], flags | MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC))?;
    let mut buffer = match size {
        None => return Ok(Received::Nothing),
        Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Some(bytes) => vec![0; bytes.min(REPORT_BYTES_MAX)],
    };
    let mut control = cmsg_space!([RawFd; 1]);
    let mut file = None;
    let received = attempt(|| {
        let mut bytes = [io::IoSliceMut::new(&mut buffer)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(connection.as_raw_fd(), &mut bytes, Some(&mut control), flags)?;
        for rights in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = rights {
                // SAFETY: the kernel has just created these descriptors for us, and each is taken once.
                file = raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next_back();
            }
        }
        Ok(message.bytes)
    })?;
    let Some(bytes) = received else { return Ok(Received::Nothing) };
    let report = match (buffer.first(), file) {
        (Some(&INLINE), _) => decode(&buffer[..bytes]),
        (Some(&IN_FILE), Some(file)) => content(file.into()).and_then(|bytes| decode(&bytes)),
        _ => serde_json::from_slice(&buffer[..bytes]).ok(),
    };
    Ok(report.map_or(Received::Unknown, |report| Received::Report(Box::new(report))))
}

/// The content of a memory file. It is copied, so the tap cannot change it meanwhile.
fn content(mut file: File) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind().ok()?;
    file.take(FILE_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// `None` if the system call would block.
fn attempt<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<Option<T>> {
    loop {
        match call() {
            Ok(done) => return Ok(Some(done)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
