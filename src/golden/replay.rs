//! Asks an instance everything that a run asks, in order.

use std::time::{Duration, Instant};

use super::format::Exchange;
use crate::http::{self, Address, Response};
use crate::report::chain;

/// The bound of one exchange, from connecting to the end of the answer. Streams that do not end are no golden answers.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What came of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The answer, or why there was none.
    pub response: Result<Response, String>,
    /// From the request to the end of the answer.
    pub took: Duration,
}

/// Asks one exchange, after its pause.
pub async fn replay(address: &Address, exchange: &Exchange, timeout: Duration) -> Answer {
    tokio::time::sleep(Duration::from_millis(exchange.after_ms)).await;
    let begun = Instant::now();
    let response = http::send(address, &exchange.request, timeout).await.map_err(|error| chain(&error));
    Answer { response, took: begun.elapsed() }
}
