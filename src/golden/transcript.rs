//! Makes exchanges from a text that shows what both sides said on a connection of lines.
//!
//! ```text
//! # A line that begins with # is a remark. An empty line ends the connection.
//! < 220 mail.example.org ready
//! > HELO client
//! < 250 hello
//!
//! > PING
//! < +PONG
//! ```

use super::format::Exchange;
use super::message::{self, Data, Message, Side};

/// Why a text gives no exchanges.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the transcript: {reason}")]
pub struct TranscriptError {
    /// The number of the line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl TranscriptError {
    /// A hint for the operator.
    pub fn hint(&self) -> &'static str {
        "begin what the client sends with `> `, what the service answers with `< `, and remarks with `#`"
    }
}

fn is_remark(line: &str) -> bool {
    line.starts_with('#')
}

/// True if a file is a transcript: its first line that says something begins with `>` or `<`.
pub fn is_transcript(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
    let first = text.trim_start_matches('\u{feff}').lines().find(|line| !line.trim().is_empty() && !is_remark(line));
    // A page begins with `<` too, but not with a blank after it.
    first.is_some_and(|line| ["> ", "< "].iter().any(|mark| line.starts_with(mark)) || [">", "<"].contains(&line))
}

/// Reads a transcript: one exchange for each connection.
///
/// # Errors
/// The first line that is wrong, or a connection on which the service does not answer.
pub fn parse_transcript(text: &str) -> Result<Vec<Exchange>, TranscriptError> {
    let (mut exchanges, mut messages, mut number) = (Vec::new(), Vec::new(), 0);
    for line in text.trim_start_matches('\u{feff}').lines() {
        number += 1;
        if is_remark(line) {
            continue;
        }
        if line.trim().is_empty() {
            exchanges.extend(exchange(&mut messages, number)?);
            continue;
        }
        let (mark, rest) = line.split_at(line.chars().next().map_or(0, char::len_utf8));
        let from = match mark {
            ">" => Side::Client,
            "<" => Side::Service,
            _ => {
                let reason = format!("{line:?} begins neither with `> ` nor with `< `");
                return Err(TranscriptError { line: number, reason });
            }
        };
        let text = rest.strip_prefix(' ').unwrap_or(rest).to_owned();
        let message = Message { from, data: Data::Text(text) };
        message::check_line(&message)
            .map_err(|reason| TranscriptError { line: number, reason: format!("it {reason}") })?;
        messages.push(message);
    }
    exchanges.extend(exchange(&mut messages, number)?);
    Ok(exchanges)
}

/// The conversation of a connection that ends at this line; none if nothing was said.
fn exchange(messages: &mut Vec<Message>, line: usize) -> Result<Option<Exchange>, TranscriptError> {
    if messages.is_empty() {
        return Ok(None);
    }
    let messages = std::mem::take(messages);
    let wrong = |reason: String| TranscriptError { line, reason };
    if !messages.iter().any(|message| message.from == Side::Service) {
        return Err(wrong(
            "on the connection that ends here the service says nothing, so nothing can be compared".into(),
        ));
    }
    message::check(&messages).map_err(|reason| wrong(format!("the connection that ends here {reason}")))?;
    Ok(Some(Exchange::of_lines(messages)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_gives_a_conversation_for_each_connection() {
        let text = "# a mail server\n< 220 ready\n> HELO a\n< 250 ok\n\n\n> PING\n<\n";
        assert!(is_transcript(text.as_bytes()));
        let exchanges = parse_transcript(text).unwrap();
        let said: Vec<Vec<String>> = exchanges
            .iter()
            .map(|one| one.messages.iter().map(|message| format!("{:?} {}", message.from, message.data)).collect())
            .collect();
        assert_eq!(
            said,
            [
                vec!["Service \"220 ready\"", "Client \"HELO a\"", "Service \"250 ok\""],
                vec!["Client \"PING\"", "Service \"\""]
            ]
        );
        assert_eq!(exchanges[0].name(), "lines \"HELO a\"");
        assert_eq!(exchanges[0].response.as_ref().unwrap().body.as_deref(), Some(&br#"["220 ready","250 ok"]"#[..]));
    }

    #[test]
    fn a_bad_transcript_is_refused_by_line() {
        for (text, line, reason) in [
            ("> PING\nPONG\n", 2, "\"PONG\" begins neither"),
            ("> PING\n\n> A\n< B\n", 2, "says nothing"),
            ("< a\r b\n", 1, "the end of a line inside"),
        ] {
            let error = parse_transcript(text).unwrap_err();
            assert!(error.line == line && error.reason.contains(reason), "{error}");
        }
        assert!(parse_transcript("").unwrap().is_empty());
        for other in ["GET /\n", "{\"log\":1}", "<html>", "", "# x\nGET /\n"] {
            assert!(!is_transcript(other.as_bytes()), "{other}");
        }
    }
}
