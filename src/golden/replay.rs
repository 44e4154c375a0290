//! Sends all requests of a run to an instance, in order.

use std::time::{Duration, Instant};

use super::fill::Values;
use super::format::Exchange;
use crate::http::{self, Address, Response};
use crate::report::chain;

/// Timeout of one exchange, from connecting to the end of the answer. Endless streams cannot be golden answers.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The answer, or the reason why there is none.
    pub response: Result<Response, String>,
    /// The time from the request to the end of the answer.
    pub took: Duration,
}

/// Sends the request of an exchange, after its pause, with values in the places of its placeholders. The values that the
/// answer gives are for the next exchanges of the same run.
pub async fn replay(address: &Address, exchange: &Exchange, values: &mut Values, timeout: Duration) -> Answer {
    tokio::time::sleep(Duration::from_millis(exchange.after_ms)).await;
    let request = values.fill(&exchange.request);
    let begun = Instant::now();
    let response = http::send(address, &request, timeout).await.map_err(|error| chain(&error));
    let took = begun.elapsed();
    if let (Some(recorded), Ok(response)) = (&exchange.response, &response) {
        values.learn(recorded, response);
    }
    Answer { response, took }
}
