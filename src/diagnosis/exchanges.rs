//! The exchanges that led to an incident, as a runtime reports them in its log.
//!
//! A runtime that is about to die because of a request reports that request in a separate line:
//!
//! ```text
//! rei-exchange: {"request":{"method":"GET","path":"/greet?name=","headers":{"accept":"text/plain"}}}
//! ```
//!
//! The object is a line of a golden file (see [`crate::golden`]), without a response, as there was none. A runtime that
//! writes nonsense here only makes its own reproduction worse: the run is replayed in a sandbox, against Active first.

use crate::golden::Exchange;

/// The beginning of such a line. Log prefixes such as a time may precede it.
const MARK: &str = "rei-exchange: ";
/// Maximum number of exchanges: the last ones, because the last one is the most likely cause.
const EXCHANGES_MAX: usize = 16;
/// Maximum length of a line, in bytes.
const LINE_BYTES_MAX: usize = 16 << 10;

/// The exchanges that a log reports, oldest first, without repetitions. Other lines are skipped.
pub fn exchanges_of(log: &[u8]) -> Vec<Exchange> {
    let mut found: Vec<Exchange> = Vec::new();
    for line in log.split(|byte| *byte == b'\n').filter(|line| line.len() <= LINE_BYTES_MAX) {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let Some((_, object)) = line.split_once(MARK) else { continue };
        let Ok(exchange) = Exchange::parse(object.trim()) else { continue };
        found.retain(|known| *known != exchange);
        found.push(exchange);
    }
    found.split_off(found.len().saturating_sub(EXCHANGES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_requests_are_found_once_and_garbage_is_skipped() {
        let log = b"12:00 rei-exchange: {\"request\":{\"method\":\"GET\",\"path\":\"/a\"}}\nrei-exchange: {\"method\":\nnoise\n\
            rei-exchange: {\"request\":{\"method\":\"POST\",\"path\":\"/b\",\"body\":\"x\"}}\n12:01 rei-exchange: {\"request\":{\"method\":\"GET\",\"path\":\"/a\"}}\n";
        let found = exchanges_of(log);
        let named: Vec<_> = found.iter().map(|it| (it.request.method.as_str(), it.request.path.as_str())).collect();
        assert_eq!(named, [("POST", "/b"), ("GET", "/a")]);
        assert!(found.iter().all(|exchange| exchange.response.is_none()));
    }

    #[test]
    fn the_last_ones_are_kept() {
        let line = |n: usize| format!("rei-exchange: {{\"request\":{{\"method\":\"GET\",\"path\":\"/{n}\"}}}}\n");
        let log: String = (0..100).map(line).collect();
        let found = exchanges_of(log.as_bytes());
        assert_eq!((found.len(), found[15].request.path.as_str()), (EXCHANGES_MAX, "/99"));
    }
}
