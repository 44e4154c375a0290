//! The copy of one exchange: its whole request and its whole answer. Pure.
//!
//! A copy is made only if an order asks for it, and it is given up as soon as it exceeds a bound.

use std::fmt;
use std::rc::Rc;

use super::head::{AnswerHead, RequestHead};
use crate::http::{Request, Response};

/// Decides which exchanges are copied, and bounds the memory of all copies together.
pub trait Admit: fmt::Debug {
    /// Whether an exchange that begins with a request of this method is copied, and to which extent.
    fn admit(&self, method: &str) -> Option<Extent>;
    /// Whether this number of bytes more may be kept.
    fn reserve(&self, bytes: usize) -> bool;
    /// This number of bytes is not kept any more.
    fn release(&self, bytes: usize);
    /// A copy was given up.
    fn dropped(&self, why: Dropped);
}

/// How much of an exchange is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The largest body, in bytes. The copy of an exchange with a larger one is given up.
    pub body_bytes_max: usize,
    /// Of a stream of server-sent events, the copy ends after this number. With 0 no stream is copied.
    pub events_max: usize,
}

/// Why a copy was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A body exceeds the bound.
    TooLarge,
    /// All copies together need too much memory.
    Full,
    /// The connection ended before the answer was complete, or the answer came before the request was complete.
    Unfinished,
    /// The connection was handed to another protocol, or the answer is a stream that no order asks for.
    Streams,
}

/// Memory of a copy. It is given back when the value is dropped.
#[derive(Debug)]
pub struct Reserved {
    of: Rc<dyn Admit>,
    bytes: usize,
}

impl Reserved {
    fn add(&mut self, bytes: usize) -> bool {
        let has_place = self.of.reserve(bytes);
        if has_place {
            self.bytes += bytes;
        }
        has_place
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.of.release(self.bytes);
    }
}

/// A complete copy.
#[derive(Debug)]
pub struct Copied {
    /// The position of the exchange in its connection, from 0.
    pub index: u64,
    /// The time of the first byte of the request, in microseconds of the reader's clock.
    pub begun_us: u64,
    /// From then to the last byte that was copied, in microseconds.
    pub us: u64,
    /// The request, with its whole body and without its transfer encoding.
    pub request: Request,
    /// The answer, with its whole body and without its transfer encoding.
    pub response: Response,
    /// If the answer is a stream of server-sent events: the number of events in it.
    pub events: Option<usize>,
    /// The memory that it needs.
    pub reserved: Reserved,
}

/// A copy that is being made.
#[derive(Debug)]
pub(super) struct Copying {
    extent: Extent,
    reserved: Reserved,
    index: u64,
    request: Request,
    has_asked: bool,
    response: Option<Response>,
    events: Option<Events>,
    /// Why it is given up, if it is dropped now.
    why: Option<Dropped>,
}

impl Drop for Copying {
    fn drop(&mut self) {
        if let Some(why) = self.why {
            self.reserved.of.dropped(why);
        }
    }
}

impl Copying {
    /// Begins a copy, if one is wanted.
    pub fn begin(admit: &Rc<dyn Admit>, index: u64, head: &RequestHead) -> Option<Box<Self>> {
        let extent = admit.admit(&head.method)?;
        let (path, headers) = head.whole()?;
        let reserved = Reserved { of: Rc::clone(admit), bytes: 0 };
        let request = Request { method: head.method.clone(), path, headers, body: Vec::new() };
        let (response, events, why) = (None, None, Some(Dropped::Unfinished));
        let mut copying = Self { extent, reserved, index, request, has_asked: false, response, events, why };
        let bytes = copying.request.path.len() + bytes_of(&copying.request.headers);
        copying.may_grow(bytes).then(|| Box::new(copying))
    }

    /// Content of the request. Returns false if the copy is given up.
    pub fn asks(&mut self, content: &[u8]) -> bool {
        if self.request.body.len() + content.len() > self.extent.body_bytes_max {
            return self.give_up(Dropped::TooLarge);
        }
        self.request.body.extend_from_slice(content);
        self.may_grow(content.len())
    }

    /// The request is complete.
    pub const fn has_asked(&mut self) {
        self.has_asked = true;
    }

    /// The final head of the answer. Returns false if the copy is given up.
    pub fn answers(&mut self, head: &AnswerHead) -> bool {
        if head.is_stream && !head.body.is_done() {
            if self.extent.events_max == 0 {
                return self.give_up(Dropped::Streams);
            }
            self.events = Some(Events::new(self.extent.events_max));
        }
        let response = Response { status: head.status, headers: head.headers(), body: Vec::new() };
        let bytes = bytes_of(&response.headers);
        self.response = Some(response);
        self.may_grow(bytes)
    }

    /// Content of the answer. Returns false if the copy is given up.
    pub fn answers_with(&mut self, content: &[u8]) -> bool {
        let Some(response) = &mut self.response else { return true };
        let content = match &mut self.events {
            Some(events) => events.take(response.body.len(), content),
            None => content,
        };
        if response.body.len() + content.len() > self.extent.body_bytes_max {
            return match &mut self.events {
                // The events until here are a copy too.
                Some(events) if events.ended > 0 => {
                    events.left = 0;
                    true
                }
                _ => self.give_up(Dropped::TooLarge),
            };
        }
        response.body.extend_from_slice(content);
        self.may_grow(content.len())
    }

    /// Whether all events that are wanted have come.
    pub fn has_all_events(&self) -> bool {
        self.events.as_ref().is_some_and(|events| events.left == 0)
    }

    /// The connection belongs to another protocol from here on, so this is no exchange that can be repeated.
    pub const fn streams(&mut self) -> bool {
        self.give_up(Dropped::Streams)
    }

    /// The exchange has ended, or its wanted events have come. The copy, if it is whole. `is_complete` is true if the answer
    /// ended as HTTP says.
    pub fn finish(mut self: Box<Self>, is_complete: bool, begun_us: u64, at_us: u64) -> Option<Copied> {
        let events = self.events.as_ref().filter(|events| events.ended > 0);
        let is_whole = self.has_asked && (is_complete || events.is_some());
        let (kept, events) = (events.map(|events| events.end), events.map(|events| events.ended));
        let mut response = self.response.take().filter(|_| is_whole)?;
        kept.into_iter().for_each(|kept| response.body.truncate(kept));
        self.why = None;
        let nothing = Reserved { of: Rc::clone(&self.reserved.of), bytes: 0 };
        let reserved = std::mem::replace(&mut self.reserved, nothing);
        let (index, request, us) = (self.index, std::mem::take(&mut self.request), at_us.saturating_sub(begun_us));
        Some(Copied { index, begun_us, us, request, response, events, reserved })
    }

    fn may_grow(&mut self, bytes: usize) -> bool {
        self.reserved.add(bytes) || self.give_up(Dropped::Full)
    }

    const fn give_up(&mut self, why: Dropped) -> bool {
        self.why = Some(why);
        false
    }
}

fn bytes_of(headers: &[(String, String)]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// Counts events as they come. An event ends with an empty line; a line ends with CR, LF or both (HTML, section 9.2.5).
#[derive(Debug)]
struct Events {
    /// Events that are still wanted, and those that have ended.
    left: usize,
    ended: usize,
    /// The end of the last one, in bytes of the body.
    end: usize,
    at_line_start: bool,
    after_cr: bool,
}

impl Events {
    const fn new(wanted: usize) -> Self {
        Self { left: wanted, ended: 0, end: 0, at_line_start: true, after_cr: false }
    }

    /// Takes content that begins at `at` of the body. Returns the part of it until the last wanted event.
    fn take<'c>(&mut self, at: usize, content: &'c [u8]) -> &'c [u8] {
        for (index, &byte) in content.iter().enumerate() {
            let end = at + index + 1;
            // A line feed after a carriage return belongs to the same line end.
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                if self.ended > 0 && self.end + 1 == end {
                    self.end = end;
                }
                if self.left == 0 {
                    return &content[..=index];
                }
                continue;
            }
            if self.left == 0 {
                return &content[..index];
            }
            let is_end = byte == b'\n' || byte == b'\r';
            if is_end && self.at_line_start {
                (self.left, self.ended, self.end) = (self.left - 1, self.ended + 1, end);
            }
            (self.at_line_start, self.after_cr) = (is_end, byte == b'\r');
        }
        content
    }
}
