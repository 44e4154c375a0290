//! One exchange of live traffic, as the tap saw it. Nothing of it is written to disk before it is redacted.

use std::time::Duration;

use super::format::{Exchange, Expected, Recorded};
use crate::http::{Request, Response};
use crate::live::{Class, Route};
use crate::time::{Timestamp, millis};

/// A whole exchange of a user's connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Captured {
    /// When the request began.
    pub at: Timestamp,
    /// The connection: a number that no other connection of the recording has.
    pub connection: u64,
    /// The position of the exchange in its connection, from 0.
    pub index: u64,
    /// The listener of `runtime.listen` that the connection came to.
    pub listener: String,
    /// The request, with its whole body.
    pub request: Request,
    /// The answer, with its whole body and without its transfer encoding.
    pub response: Response,
    /// If the answer is a stream of server-sent events: the number of events in `response`, after which the copy ended.
    pub events: Option<usize>,
    /// From the first byte of the request to the last byte of the answer.
    pub duration: Duration,
}

impl Captured {
    /// The stratum of a sample that the exchange belongs to.
    pub(super) fn stratum(&self) -> (Route, Option<Class>) {
        let route = Route::of_request(&self.request.method, &self.request.path);
        (route, Class::of_status(self.response.status))
    }

    /// The memory of the exchange, in bytes, without what the allocator adds.
    pub fn bytes(&self) -> usize {
        let headers =
            |all: &[(String, String)]| all.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let Self { request, response, .. } = self;
        let text = request.method.len() + request.path.len();
        let bodies = request.body.len() + response.body.len();
        size_of::<Self>() + text + bodies + headers(&request.headers) + headers(&response.headers)
    }

    /// The exchange of a golden run. It still has its secrets: only [`Redaction::run`](super::Redaction::run) makes it one
    /// that may be written.
    pub(super) fn exchange(self, begun: Timestamp) -> Exchange {
        let since = self.at.as_unix_ms().saturating_sub(begun.as_unix_ms());
        let recorded = Recorded { connection: self.connection, began_ms: since, took_ms: millis(self.duration) };
        Exchange {
            request: self.request,
            response: Some(Expected::from(self.response)),
            recorded: Some(recorded),
            events: self.events,
            ..Exchange::default()
        }
    }
}
