//! Reads the lines of nginx and Apache: the formats `common` and `combined`, and a duration after the user agent.

use std::borrow::Cow;

use super::duration;
use super::fields::{Fields, status};
use crate::config::DurationUnit;

/// Reads a line:
///
/// ```text
/// 127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] "GET /a HTTP/1.1" 200 2326 "referer" "agent" 0.012
/// ```
///
/// In `combined` a number after the agent is the duration, in seconds if no other unit is given; that is nginx'
/// `$request_time`.
pub(super) fn parse(line: &str, has_agent: bool, unit: Option<DurationUnit>) -> Option<Fields<'_>> {
    // A name of a user can have spaces, but no bracket and quote as after the time.
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = quoted(rest)?;
    let mut words = rest.trim_start().splitn(3, ' ');
    let mut found = Fields { status: Some(status(words.next()?)?), ..Fields::default() };
    found.bytes = match words.next()? {
        "-" => Some(0),
        bytes => Some(bytes.parse().ok()?),
    };
    found.set_request(request);
    let rest = words.next().unwrap_or_default().trim();
    if has_agent {
        let (_, rest) = quoted(rest.strip_prefix('"')?)?;
        let (agent, rest) = quoted(rest.trim_start().strip_prefix('"')?)?;
        found.agent = Some(Cow::Borrowed(agent));
        found.duration_us = rest
            .split_ascii_whitespace()
            .map(|word| word.trim_matches('"'))
            .map(|word| word.rsplit_once('=').map_or(word, |(_, value)| value))
            .find_map(|word| duration::read_us(word, Some(unit.unwrap_or(DurationUnit::S))));
    }
    Some(found)
}

/// The text up to the next quote that is not escaped, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    })?;
    Some((&text[..end], &text[end + 1..]))
}
