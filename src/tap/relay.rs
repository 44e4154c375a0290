//! Relays the bytes of one connection unchanged in both directions, as if client and service were connected directly:
//! half-close, backpressure and resets are passed on, and there is no timeout.
//!
//! A direction that flows holds no memory: all relays read into one buffer, and only what the other side does not take
//! at once is kept, at most one read of it. So an idle connection costs its two descriptors and little else.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::http1::Side;

/// Bytes per read. The most that one direction of a connection keeps.
pub const CHUNK_BYTES: usize = 32 << 10;
/// Reads for one connection before others get their turn.
const READS_MAX: usize = 16;

/// Gets a copy of the bytes.
pub trait Copies {
    /// A side has sent these bytes.
    fn bytes(&mut self, from: Side, bytes: &[u8]);
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The side that ended it first.
    pub by: Side,
    /// Whether it was reset.
    pub is_reset: bool,
}

/// One direction.
#[derive(Default)]
struct Flow {
    /// Bytes that the receiver did not take yet, from `begin` on.
    waiting: Vec<u8>,
    begin: usize,
    /// The sender has sent its last byte.
    is_read: bool,
    /// The receiver knows that.
    is_done: bool,
}

/// A side has broken the connection.
struct Broken(Side);

/// One end of a connection, with the side that it belongs to.
struct Peer {
    stream: TcpStream,
    side: Side,
    /// Whether errors are waited for. Not after one that was none: it would be reported for ever.
    watches_errors: bool,
}

impl Peer {
    fn new(stream: TcpStream, side: Side) -> Self {
        // Bytes are passed on as they come, so waiting for more would only add delay. On failure there is that delay.
        let _ = stream.set_nodelay(true);
        Self { stream, side, watches_errors: true }
    }

    /// Waits until the peer can be read or written as wanted, or is broken.
    async fn ready(&mut self, reads: bool, writes: bool) -> Result<(), Broken> {
        let wanted =
            [(reads, Interest::READABLE), (writes, Interest::WRITABLE), (self.watches_errors, Interest::ERROR)];
        let interest = wanted.into_iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, interest)| interest);
        let Some(interest) = interest.reduce(|one, other| one | other) else { return std::future::pending().await };
        let ready = self.stream.ready(interest).await.map_err(|_| Broken(self.side))?;
        if ready.is_error() && self.watches_errors {
            match self.stream.take_error() {
                Ok(None) => self.watches_errors = false,
                Ok(Some(_)) | Err(_) => return Err(Broken(self.side)),
            }
        }
        Ok(())
    }
}

impl Flow {
    fn keeps(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Moves bytes until one side is not ready. Returns whether there may be more to move at once.
    fn run(&mut self, from: &Peer, to: &Peer, buffer: &mut [u8], copies: &mut impl Copies) -> Result<bool, Broken> {
        for _ in 0..READS_MAX {
            if self.is_done {
                return Ok(false);
            }
            if self.keeps() {
                let Some(taken) = attempt(to.stream.try_write(&self.waiting[self.begin..]), to.side)? else {
                    return Ok(false);
                };
                self.begin += taken;
                if self.begin == self.waiting.len() {
                    (self.waiting, self.begin) = (Vec::new(), 0);
                }
                continue;
            }
            if self.is_read {
                // If it fails, the receiver has broken the connection; the next read or error shows that.
                let _ = shutdown(to.stream.as_raw_fd(), Shutdown::Write);
                self.is_done = true;
                return Ok(false);
            }
            let Some(read) = attempt(from.stream.try_read(buffer), from.side)? else { return Ok(false) };
            if read == 0 {
                self.is_read = true;
                continue;
            }
            // The bytes go on first: what reads the copy must not delay them.
            let taken = attempt(to.stream.try_write(&buffer[..read]), to.side)?.unwrap_or(0);
            if taken < read {
                self.waiting.extend_from_slice(&buffer[taken..read]);
            }
            copies.bytes(from.side, &buffer[..read]);
        }
        Ok(true)
    }
}

/// `None` if the system call would block.
fn attempt(result: io::Result<usize>, side: Side) -> Result<Option<usize>, Broken> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(0)),
        Err(_) => Err(Broken(side)),
    }
}

/// Relays until both directions have ended or one side breaks the connection. `buffer` is shared by all relays of a
/// thread.
pub async fn relay(
    client: TcpStream,
    service: TcpStream,
    buffer: &RefCell<Vec<u8>>,
    copies: &mut impl Copies,
) -> Outcome {
    let (mut client, mut service) = (Peer::new(client, Side::Client), Peer::new(service, Side::Service));
    let (mut up, mut down) = (Flow::default(), Flow::default());
    let mut first = None;
    let broken = loop {
        let more = {
            let buffer = &mut *buffer.borrow_mut();
            let answered = down.run(&service, &client, buffer, copies);
            let asked = answered.and_then(|more| Ok(more | up.run(&client, &service, buffer, copies)?));
            match asked {
                Ok(more) => more,
                Err(broken) => break broken,
            }
        };
        first = first.or(down.is_read.then_some(Side::Service)).or(up.is_read.then_some(Side::Client));
        if up.is_done && down.is_done {
            return Outcome { by: first.unwrap_or(Side::Service), is_reset: false };
        }
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        let (from_client, to_client) = (!up.is_read && !up.keeps(), down.keeps());
        let (from_service, to_service) = (!down.is_read && !down.keeps(), up.keeps());
        let ready = tokio::select! {
            ready = client.ready(from_client, to_client) => ready,
            ready = service.ready(from_service, to_service) => ready,
        };
        if let Err(broken) = ready {
            break broken;
        }
    };
    // Both sockets are closed now: the other side gets what it would have got without a relay.
    for peer in [&client, &service] {
        reset_at_close(&peer.stream);
    }
    Outcome { by: broken.0, is_reset: true }
}

/// Makes the close of a connection a reset.
pub fn reset_at_close(stream: &impl std::os::fd::AsFd) {
    // On failure the close is an orderly one.
    let _ = setsockopt(&stream.as_fd(), sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}
