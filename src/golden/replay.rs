//! Sends all requests of a run to an instance, in order.
//!
//! Exchanges that were recorded on one connection are sent on one connection, so that a version that fails the second
//! request of a connection is found. A connection is closed after its last exchange, as its client did.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::fill::Values;
use super::format::Exchange;
use crate::http::{self, Address, Connection, Extent, Response};
use crate::report::chain;

/// Timeout of one exchange, from connecting to the end of the answer. Of a stream without end, an exchange has the first
/// events.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest body of an answer, in bytes: eight times that of other requests. The file of a run, which has all bodies, is
/// bounded too.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Connections that are open at once. If a run needs more, the one that waited longest is closed.
const CONNECTIONS_MAX: usize = 64;

/// The result of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The answer, or the reason why there is none.
    pub response: Result<Response, String>,
    /// The time from the request to the end of the answer.
    pub took: Duration,
}

/// Replays a run against one instance.
#[derive(Debug)]
pub struct Replay {
    address: Address,
    /// The last exchange of each connection of the run.
    last: BTreeMap<u64, usize>,
    /// Open connections, each with the number of its latest exchange.
    open: BTreeMap<u64, (usize, Connection)>,
    /// The values of placeholders: the operator's, and those that earlier answers gave.
    values: Values,
}

impl Replay {
    /// A replay of these exchanges; no connection is open yet.
    pub fn new(address: Address, exchanges: &[Exchange]) -> Self {
        let connections = exchanges.iter().enumerate().filter_map(|(index, it)| Some((it.recorded?.connection, index)));
        Self { address, last: connections.collect(), open: BTreeMap::new(), values: Values::default() }
    }

    /// Fills placeholders also with these values.
    #[must_use]
    pub fn with_values(self, values: Values) -> Self {
        Self { values, ..self }
    }

    /// Sends the request of an exchange, after its pause, with values in the places of its placeholders. `index` is its
    /// number in the run, from 0. The values that the answer gives are for the next exchanges.
    pub async fn ask(&mut self, index: usize, exchange: &Exchange, timeout: Duration) -> Answer {
        tokio::time::sleep(Duration::from_millis(exchange.after_ms)).await;
        let begun = Instant::now();
        let response = self.send(index, exchange, timeout).await.map_err(|error| chain(&error));
        let took = begun.elapsed();
        if let (Some(recorded), Ok(response)) = (&exchange.response, &response) {
            self.values.learn(recorded, response);
        }
        Answer { response, took }
    }

    async fn send(&mut self, index: usize, exchange: &Exchange, timeout: Duration) -> Result<Response, http::Error> {
        let request = self.values.fill(&exchange.request);
        let begun = Instant::now();
        let extent = Extent { bytes_max: ANSWER_BYTES_MAX, events: exchange.events };
        let Some(recorded) = exchange.recorded else {
            if exchange.events.is_some() {
                let mut connection = Connection::open(&self.address, timeout).await?;
                return connection.send(&request, timeout.saturating_sub(begun.elapsed()), extent).await;
            }
            return http::send_bounded(&self.address, &request, timeout, ANSWER_BYTES_MAX).await;
        };
        let mut connection = match self.open.remove(&recorded.connection).filter(|(_, open)| open.is_kept()) {
            Some((_, connection)) => connection,
            None => Connection::open(&self.address, timeout).await?,
        };
        let left = timeout.saturating_sub(begun.elapsed());
        let response = connection.send(&request, left, extent).await;
        if self.last.get(&recorded.connection).is_some_and(|&last| last > index) {
            self.open.insert(recorded.connection, (index, connection));
        }
        if self.open.len() > CONNECTIONS_MAX {
            let oldest = self.open.iter().min_by_key(|(_, (used, _))| *used).map(|(&id, _)| id);
            oldest.map(|id| self.open.remove(&id));
        }
        response
    }
}
