//! Reads a copy of both directions of a connection as HTTP/1, and reports each exchange: one request and its answer.
//! Pure: it gets bytes and times, and keeps a bounded part of heads. It keeps a body only in a [`Copying`] that an order asks for.
//!
//! If the bytes are not HTTP/1, or two readers could read them differently, the reader gives up on the connection
//! ("opaque"): it says nothing rather than something wrong. The relay does not depend on it.

use std::collections::VecDeque;
use std::rc::Rc;

use super::body::{Body, Unreadable};
use super::copying::{Admit, Copied, Copying};
use super::head::Collector;

/// Requests on one connection that wait for their answers. Clients that send more without waiting are not read.
const PIPELINE_MAX: usize = 64;

/// One request and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The method.
    pub method: String,
    /// The target of the request, at most 1 KiB of it.
    pub target: String,
    /// The status; `None` if the connection ended before the head of the answer.
    pub status: Option<u16>,
    /// From the first byte of the request to the last byte of the answer, in microseconds. For a stream: to the end of
    /// the answer's head. For an exchange that did not end: to the end of the connection.
    pub us: u64,
    /// How it ended.
    pub end: End,
    /// Bytes of the request, with its head.
    pub bytes_in: u64,
    /// Bytes of the answer, with its head.
    pub bytes_out: u64,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer is complete.
    Complete,
    /// The answer is a stream, or a switch to another protocol: only its head was waited for.
    Stream,
    /// The service closed or reset the connection before the answer was complete.
    ByService,
    /// The client left before the answer was complete.
    ByClient,
}

/// A side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The service.
    Service,
}

/// A request that has no complete answer yet.
#[derive(Debug)]
struct Open {
    method: String,
    target: String,
    begun_us: u64,
    bytes_in: u64,
    /// Set by the final head of its answer.
    status: Option<u16>,
    bytes_out: u64,
    copying: Option<Box<Copying>>,
}

/// Where a direction is: in a head, or in a body.
#[derive(Debug)]
enum Place {
    Head(Collector),
    Body(Body),
}

impl Place {
    fn head() -> Self {
        Self::Head(Collector::default())
    }
}

/// The reader of one connection.
#[derive(Debug)]
pub struct Http1 {
    state: Option<Box<State>>,
    is_tunnel: bool,
    copied: Vec<Copied>,
}

#[derive(Debug)]
struct State {
    request: Place,
    answer: Place,
    /// Requests in their order. The last one may still be arriving.
    open: VecDeque<Open>,
    /// Whether the request that is arriving is still in `open`, at its end.
    arriving: bool,
    /// The time of the first byte of the request whose head is arriving, and its bytes so far.
    begun_us: Option<u64>,
    head_bytes: u64,
    /// Whether the last answer announced the end of the connection.
    closes: bool,
    /// Whether the answer that is arriving was already reported as a stream.
    is_stream: bool,
    /// Decides which exchanges are copied.
    admit: Option<Rc<dyn Admit>>,
    /// The number of the next request.
    next: u64,
}

impl Default for Http1 {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Http1 {
    /// A reader that copies the exchanges which `admit` wants.
    pub fn copying(admit: Rc<dyn Admit>) -> Self {
        Self::new(Some(admit))
    }

    fn new(admit: Option<Rc<dyn Admit>>) -> Self {
        let state = State {
            request: Place::head(),
            answer: Place::head(),
            open: VecDeque::new(),
            arriving: false,
            begun_us: None,
            head_bytes: 0,
            closes: false,
            is_stream: false,
            admit,
            next: 0,
        };
        Self { state: Some(Box::new(state)), is_tunnel: false, copied: Vec::new() }
    }

    /// The copies that are complete.
    pub fn take_copied(&mut self) -> Vec<Copied> {
        std::mem::take(&mut self.copied)
    }

    /// Whether the connection cannot be read any more, so its exchanges are not known.
    pub fn is_opaque(&self) -> bool {
        self.state.is_none() && !self.is_tunnel
    }

    /// Whether the bytes of this connection need not be given to the reader any more.
    pub fn is_done(&self) -> bool {
        self.state.is_none()
    }

    /// Gives up on the connection.
    pub fn give_up(&mut self) {
        self.state = None;
    }

    /// About the bytes of memory that the reader holds.
    #[cfg(test)]
    pub fn kept_bytes(&self) -> usize {
        let Some(state) = &self.state else { return 0 };
        let place = |place: &Place| match place {
            Place::Head(head) => head.kept_bytes(),
            Place::Body(_) => 0,
        };
        let open = state.open.iter().map(|open| size_of::<Open>() + open.method.capacity() + open.target.capacity());
        place(&state.request) + place(&state.answer) + open.sum::<usize>()
    }

    /// Takes bytes that a side has sent at a time, in microseconds of any clock. Exchanges that are complete by then are
    /// added to `out`.
    pub fn bytes(&mut self, from: Side, at_us: u64, bytes: &[u8], out: &mut Vec<Exchange>) {
        let Some(state) = &mut self.state else { return };
        let done = match from {
            Side::Client => state.take_request(at_us, bytes).map(|()| false),
            Side::Service => state.take_answer(at_us, bytes, out, &mut self.copied),
        };
        match done {
            Ok(false) => {}
            Ok(true) => (self.state, self.is_tunnel) = (None, true),
            Err(Unreadable) => self.state = None,
        }
    }

    /// The connection has ended, and this side ended it first. `is_reset` means without an orderly end.
    pub fn end(&mut self, by: Side, is_reset: bool, at_us: u64, out: &mut Vec<Exchange>) {
        let Some(mut state) = self.state.take() else { return };
        self.is_tunnel = true;
        state.end(by, is_reset, at_us, out, &mut self.copied);
    }
}

impl State {
    fn take_request(&mut self, at_us: u64, mut bytes: &[u8]) -> Result<(), Unreadable> {
        while !bytes.is_empty() {
            let taken = match &mut self.request {
                Place::Head(head) => {
                    let (taken, is_complete) = head.take(bytes)?;
                    if !head.is_empty() {
                        self.begun_us.get_or_insert(at_us);
                    }
                    self.head_bytes += taken as u64;
                    if is_complete {
                        let request = head.request()?;
                        if self.open.len() == PIPELINE_MAX {
                            return Err(Unreadable);
                        }
                        let begun_us = self.begun_us.take().unwrap_or(at_us);
                        let bytes_in = std::mem::take(&mut self.head_bytes);
                        let copying = self.admit.as_ref().and_then(|admit| Copying::begin(admit, self.next, &request));
                        self.next += 1;
                        self.request = Place::Body(request.body);
                        let (method, target) = (request.method, request.target);
                        let (status, bytes_out) = (None, 0);
                        self.open.push_back(Open { method, target, begun_us, bytes_in, status, bytes_out, copying });
                        self.arriving = true;
                    }
                    taken
                }
                Place::Body(body) => {
                    let mut open = self.open.back_mut().filter(|_| self.arriving);
                    let taken = body.take(bytes, |content| {
                        if let Some(open) = &mut open {
                            keep(&mut open.copying, |copying| copying.asks(content));
                        }
                    })?;
                    if let Some(open) = open {
                        open.bytes_in += taken as u64;
                    }
                    taken
                }
            };
            if matches!(&self.request, Place::Body(body) if body.is_done()) {
                self.request = Place::head();
                if let Some(open) = self.open.back_mut().filter(|_| self.arriving) {
                    open.copying.as_mut().into_iter().for_each(|copying| copying.has_asked());
                }
                self.arriving = false;
            }
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Returns true when the connection belongs to another protocol from here on.
    fn take_answer(
        &mut self,
        at_us: u64,
        mut bytes: &[u8],
        out: &mut Vec<Exchange>,
        copied: &mut Vec<Copied>,
    ) -> Result<bool, Unreadable> {
        while !bytes.is_empty() {
            // An answer without a request: the service speaks another protocol, or answers a head that has not ended.
            let open = self.open.front_mut().ok_or(Unreadable)?;
            let taken = match &mut self.answer {
                Place::Head(head) => {
                    let (taken, is_complete) = head.take(bytes)?;
                    open.bytes_out += taken as u64;
                    if is_complete {
                        let answer = head.answer(&open.method)?;
                        if answer.is_tunnel {
                            open.status = Some(answer.status);
                            keep(&mut open.copying, Copying::streams);
                            self.finish(End::Stream, at_us, out, copied);
                            return Ok(true);
                        }
                        // An interim answer (100, 103): the final one follows.
                        if answer.status >= 200 {
                            open.status = Some(answer.status);
                            self.closes = answer.closes;
                            self.answer = Place::Body(answer.body);
                            keep(&mut open.copying, |copying| copying.answers(&answer));
                            if answer.is_stream {
                                self.is_stream = true;
                                report(open, End::Stream, at_us, out);
                            }
                        }
                    }
                    taken
                }
                Place::Body(body) => {
                    let (copying, begun_us) = (&mut open.copying, open.begun_us);
                    let taken = body.take(bytes, |content| {
                        keep(copying, |copying| copying.answers_with(content));
                        // The copy of a stream ends before the stream.
                        if let Some(whole) = copying.take_if(|copying| copying.has_all_events()) {
                            copied.extend(whole.finish(false, begun_us, at_us));
                        }
                    })?;
                    open.bytes_out += taken as u64;
                    taken
                }
            };
            if matches!(&self.answer, Place::Body(body) if body.is_done()) {
                self.finish(End::Complete, at_us, out, copied);
            }
            bytes = &bytes[taken..];
        }
        Ok(false)
    }

    /// The exchange at the front has ended.
    fn finish(&mut self, end: End, at_us: u64, out: &mut Vec<Exchange>, copied: &mut Vec<Copied>) {
        self.answer = Place::head();
        let was_reported = std::mem::take(&mut self.is_stream);
        let Some(mut open) = self.open.pop_front() else { return };
        copied
            .extend(open.copying.take().and_then(|copying| copying.finish(end == End::Complete, open.begun_us, at_us)));
        if self.open.is_empty() {
            self.arriving = false;
        }
        if !was_reported {
            report(&open, end, at_us, out);
        }
        if self.closes {
            // The service has announced that it does not answer them; a client repeats them on another connection.
            self.open.clear();
            self.arriving = false;
        }
    }

    fn end(&mut self, by: Side, is_reset: bool, at_us: u64, out: &mut Vec<Exchange>, copied: &mut Vec<Copied>) {
        let ends_by_close = matches!(&self.answer, Place::Body(Body::UntilClose));
        if ends_by_close && by == Side::Service && !is_reset {
            self.closes = true;
            self.finish(End::Complete, at_us, out, copied);
        }
        let end = if by == Side::Service { End::ByService } else { End::ByClient };
        while !self.open.is_empty() {
            self.finish(end, at_us, out, copied);
        }
    }
}

/// Adds to a copy, if there is one. One that may not grow is dropped.
fn keep(copying: &mut Option<Box<Copying>>, add: impl FnOnce(&mut Copying) -> bool) {
    if copying.as_mut().is_some_and(|copying| !add(copying)) {
        *copying = None;
    }
}

fn report(open: &Open, end: End, at_us: u64, out: &mut Vec<Exchange>) {
    out.push(Exchange {
        method: open.method.clone(),
        target: open.target.clone(),
        status: open.status,
        us: at_us.saturating_sub(open.begun_us),
        end,
        bytes_in: open.bytes_in,
        bytes_out: open.bytes_out,
    });
}
