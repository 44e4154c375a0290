//! The end of a build's log, as text for people.

use super::error::strip_colours;

/// The last lines of output that a sentence shows, and the bound of their characters: they hold the error itself.
const OUTPUT_LINES: usize = 2;
const OUTPUT_CHARS: usize = 300;

/// The text of a log, without colours. A control character becomes a space: if a builder cannot be executed, Nix 2.8
/// writes its own error into the log in a binary form.
pub fn plain_log(log: &[u8]) -> String {
    let text = strip_colours(&String::from_utf8_lossy(log));
    text.chars().map(|c| if c.is_control() && !c.is_whitespace() { ' ' } else { c }).collect()
}

/// The end of the output of a build or check, on one line. It is appended to the sentence that reports the failure.
pub fn last_output(log: &[u8]) -> String {
    let text = plain_log(log);
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(OUTPUT_LINES)..].join(" / ");
    let last: String = last.chars().take(OUTPUT_CHARS).collect();
    if last.is_empty() { last } else { format!("; it said: {last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_text() {
        assert_eq!(last_output(b"one\n\ntwo\r\n\x1b[31mthree\x1b[0m\n"), "; it said: two / three");
        assert_eq!(last_output(b" \n\n"), "");
        // The log of a builder that does not exist, under Nix 2.8.
        let log = b"\x01\n\x05\0\0\0\0\0\0\0Error\0\0\0\x05\0\0\0\0\0\0\0Error\0\0\0D\0\0\0\0\0\0\0executing \
            '\x1b[35;1m/bin/sh\x1b[0m': \x1b[35;1mNo such file or directory\x1b[0m\0\0\0\0";
        assert_eq!(last_output(log), "; it said: Error Error D executing '/bin/sh': No such file or directory");
        assert!(last_output(&b"long ".repeat(1000)).len() < 400);
    }
}
