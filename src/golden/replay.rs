//! Sends all requests of a run to an instance, in the order of its plan.
//!
//! Exchanges that were recorded on one connection are sent on one connection, so that a version that fails the second
//! request of a connection is found. A connection is closed after its last exchange, as its client did.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::bodies::{BODY_FILE_BYTES_MAX, BODY_INLINE_MAX, BodyFile, Digester, Digests};
use super::facets::Facets;
use super::fill::Values;
use super::format::{Exchange, Expected, Protocol};
use super::normalise::Normalisers;
use super::order::Progress;
use super::placeholder::Placeholder;
use super::talk;
use crate::http::{self, Address, Connection, Extent, Reading, Request, Response};
use crate::report::chain;

/// Timeout of one exchange, from connecting to the end of the answer. Of a stream without end, an exchange has the first
/// events.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest body of an answer that is kept, in bytes: eight times that of other requests. Of an answer whose recorded body
/// is in a file, only the digests are kept.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Connections that are open at once. If a run needs more, the one that waited longest is closed.
const CONNECTIONS_MAX: usize = 64;

/// The result of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The answer, or the reason why there is none. What a service sent in a conversation is a list in the body.
    pub response: Result<Response, String>,
    /// The digests of its body, if only they were read, because the recorded one is in a file. Then the answer has no body.
    pub digests: Option<Digests>,
    /// The time from the request to the end of the answer.
    pub took: Duration,
}

impl Answer {
    /// No answer, for this reason.
    pub fn none(reason: impl Into<String>, took: Duration) -> Self {
        Self { response: Err(reason.into()), digests: None, took }
    }

    /// Its facts, to be compared with those of the recorded answer; `None` if there is no answer.
    pub fn facets(&self, exchange: &Exchange, rules: &Normalisers) -> Option<Facets> {
        let response = self.response.as_ref().ok()?;
        Some(match &self.digests {
            Some(digests) if exchange.files.answer.is_some() => Facets::of_digested(response, digests, rules),
            // What is kept of the recorded one is the digest of the whole.
            Some(digests) => {
                let placeholder = Placeholder::of_digest(digests.bytes, &digests.sha256).to_string();
                let expected = Expected { body: Some(placeholder.into_bytes()), ..Expected::from(response.clone()) };
                Facets::of_expected(&expected, rules)
            }
            None => Facets::of_response(response, rules),
        })
    }
}

/// Whether only the digests of an answer's body are read: the recorded one is large.
fn is_digested(exchange: &Exchange) -> bool {
    let recorded = exchange.response.as_ref().and_then(|response| response.body.as_deref());
    let size = recorded.and_then(Placeholder::digest_of).and_then(|(bytes, _)| bytes.parse::<usize>().ok());
    exchange.files.answer.is_some() || size.is_some_and(|bytes| bytes > BODY_INLINE_MAX)
}

/// Replays a run against one instance.
#[derive(Debug)]
pub struct Replay {
    address: Address,
    /// The last exchange of each connection of the run.
    last: BTreeMap<u64, usize>,
    /// Open connections that wait for their next request, each with the number of its latest exchange.
    open: RefCell<BTreeMap<u64, (usize, Connection)>>,
    /// The values of placeholders: the operator's, and those that earlier answers gave.
    values: RefCell<Values>,
    protocol: Protocol,
}

impl Replay {
    /// A replay of these exchanges; no connection is open yet.
    pub fn new(address: Address, exchanges: &[Exchange]) -> Self {
        let connections = exchanges.iter().enumerate().filter_map(|(index, it)| Some((it.recorded?.connection, index)));
        let (open, values, protocol) = (RefCell::default(), RefCell::default(), Protocol::default());
        Self { address, last: connections.collect(), open, values, protocol }
    }

    /// Speaks this protocol.
    #[must_use]
    pub fn with_protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// Fills placeholders also with these values.
    #[must_use]
    pub fn with_values(self, values: Values) -> Self {
        Self { values: RefCell::new(values), ..self }
    }

    /// Sends the request of an exchange, after its pause, with values in the places of its placeholders. `index` is its
    /// number in the run, from 0. The values that the answer gives are for the next exchanges.
    ///
    /// Several requests may be under way at once, but only one of each connection.
    pub async fn ask(&self, index: usize, exchange: &Exchange, timeout: Duration) -> Answer {
        tokio::time::sleep(Duration::from_millis(exchange.after_ms)).await;
        let begun = Instant::now();
        let (response, digests) = match self.send(index, exchange, timeout).await {
            Ok((response, digests)) => (Ok(response), digests),
            Err(reason) => (Err(reason), None),
        };
        let took = begun.elapsed();
        if let (Some(recorded), Ok(response)) = (&exchange.response, &response) {
            self.values.borrow_mut().learn(recorded, response);
        }
        Answer { response, digests, took }
    }

    async fn send(
        &self,
        index: usize,
        exchange: &Exchange,
        timeout: Duration,
    ) -> Result<(Response, Option<Digests>), String> {
        let (values, messages) = (&self.values, &exchange.messages);
        if exchange.is_lines() {
            let end = self.protocol.line_end();
            return Ok((talk::lines(&self.address, messages, end, values, timeout).await?, None));
        }
        let request = values.borrow().fill(&exchange.request);
        if exchange.is_websocket() {
            return Ok((talk::websocket(&self.address, request, messages, values, timeout).await?, None));
        }
        let body = exchange.files.request.as_ref().map(BodyFile::content).transpose();
        let body = body.map_err(|error| format!("cannot read the body of the request: {error}"))?;
        self.send_http(index, exchange, &request, body, timeout).await.map_err(|error| chain(&error))
    }

    async fn send_http(
        &self,
        index: usize,
        exchange: &Exchange,
        request: &Request,
        body: Option<File>,
        timeout: Duration,
    ) -> Result<(Response, Option<Digests>), http::Error> {
        let begun = Instant::now();
        let connection = exchange.recorded.map(|recorded| recorded.connection);
        if connection.is_none() && body.is_none() && !is_digested(exchange) && exchange.events.is_none() {
            return Ok((http::send_bounded(&self.address, request, timeout, ANSWER_BYTES_MAX).await?, None));
        }
        let waiting = connection.and_then(|id| self.open.borrow_mut().remove(&id));
        let mut open = match waiting.filter(|(_, open)| open.is_kept()) {
            Some((_, open)) => open,
            None => Connection::open(&self.address, timeout).await?,
        };
        let left = timeout.saturating_sub(begun.elapsed());
        let found = if is_digested(exchange) {
            let mut digester = Digester::default();
            let mut each = |piece: &[u8]| digester.push(piece);
            let bytes_max = usize::try_from(BODY_FILE_BYTES_MAX).unwrap_or(usize::MAX);
            let reading = Reading::Streamed { bytes_max, each: &mut each };
            let response = open.send_streamed(request, body, left, reading).await;
            response.map(|response| (response, Some(digester.finish())))
        } else {
            let extent = Extent { bytes_max: ANSWER_BYTES_MAX, events: exchange.events };
            let response = open.send_streamed(request, body, left, Reading::Kept(extent)).await;
            response.map(|response| (response, None))
        };
        if let Some(id) = connection {
            self.keep(id, index, open);
        }
        found
    }

    /// Keeps a connection for its next exchange, if it has one.
    fn keep(&self, id: u64, index: usize, connection: Connection) {
        let mut open = self.open.borrow_mut();
        if self.last.get(&id).is_some_and(|&last| last > index) {
            open.insert(id, (index, connection));
        }
        if open.len() > CONNECTIONS_MAX {
            let oldest = open.iter().min_by_key(|(_, (used, _))| *used).map(|(&id, _)| id);
            oldest.map(|id| open.remove(&id));
        }
    }
}

/// An exchange that is under way.
struct UnderWay<'a> {
    exchange: usize,
    answer: Pin<Box<dyn Future<Output = Answer> + 'a>>,
}

/// The requests of a replay that are under way, and those that follow.
///
/// It does something only while [`Flight::next`] is awaited.
pub struct Flight<'a> {
    replay: &'a Replay,
    exchanges: &'a [Exchange],
    timeout: Duration,
    progress: &'a mut Progress,
    under_way: Vec<UnderWay<'a>>,
    last_start: Option<Instant>,
}

impl fmt::Debug for Flight<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").field("replay", self.replay).field("under_way", &self.under_way()).finish()
    }
}

impl<'a> Flight<'a> {
    /// The exchanges that have not started yet.
    pub fn new(replay: &'a Replay, exchanges: &'a [Exchange], timeout: Duration, progress: &'a mut Progress) -> Self {
        Self { replay, exchanges, timeout, progress, under_way: Vec::new(), last_start: None }
    }

    /// The exchanges under way, by their numbers.
    pub fn under_way(&self) -> Vec<usize> {
        self.under_way.iter().map(|it| it.exchange).collect()
    }

    /// Starts what may start, and waits for the next answer. `None` at the end of the run. If the caller stops waiting, nothing
    /// is lost: the requests go on when it waits again.
    pub async fn next(&mut self) -> Option<(usize, Answer)> {
        loop {
            let pause = self.start();
            if self.under_way.is_empty() {
                return None;
            }
            let pause = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                found = Self::answer(&mut self.under_way) => {
                    self.progress.end(found.0);
                    return Some(found);
                }
                () = pause => {}
            }
        }
    }

    /// The next answer of what is under way, and starts nothing more. `None` if nothing is under way.
    pub async fn rest(&mut self) -> Option<(usize, Answer)> {
        if self.under_way.is_empty() {
            return None;
        }
        let found = Self::answer(&mut self.under_way).await;
        self.progress.end(found.0);
        Some(found)
    }

    /// Gives up what is under way: their numbers.
    pub fn give_up(&mut self) -> Vec<usize> {
        let given_up: Vec<usize> = self.under_way.drain(..).map(|it| it.exchange).collect();
        given_up.iter().for_each(|&exchange| self.progress.end(exchange));
        given_up
    }

    /// Starts all that may start now; how long the next one has to wait for its pause, if that is why it did not start.
    fn start(&mut self) -> Option<Duration> {
        while let Some(next) = self.progress.next() {
            let since = self.last_start.filter(|_| !self.under_way.is_empty()).map(|last| last.elapsed());
            if let Some(left) = since.and_then(|since| next.pause.checked_sub(since)).filter(|left| !left.is_zero()) {
                return Some(left);
            }
            self.progress.start();
            self.last_start = Some(Instant::now());
            let exchange = next.exchange;
            let answer = Box::pin(self.replay.ask(exchange, &self.exchanges[exchange], self.timeout));
            self.under_way.push(UnderWay { exchange, answer });
        }
        None
    }

    async fn answer(under_way: &mut Vec<UnderWay<'a>>) -> (usize, Answer) {
        std::future::poll_fn(|context| {
            for position in 0..under_way.len() {
                if let Poll::Ready(answer) = under_way[position].answer.as_mut().poll(context) {
                    return Poll::Ready((under_way.remove(position).exchange, answer));
                }
            }
            Poll::Pending
        })
        .await
    }
}
