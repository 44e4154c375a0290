//! Equal incidents have equal fingerprints.
//!
//! The digest is over the parts that are equal each time the same fault occurs: the kind, the signal or the panic
//! message, and the top frames. Parts that differ each time (numbers, addresses, digests, ids) are removed first. An
//! end without a panic is identified by its unchanged exit status and by its last output.

use sha2::{Digest, Sha256};

/// Frames that count: enough to tell two callers of one function apart, few enough to ignore how the program got there.
pub const FRAMES_MAX: usize = 5;

/// How much of a text counts, in bytes: a message may carry a whole request body behind its first line.
const TEXT_BYTES_MAX: usize = 512;

/// A run of hex digits at least this long that has a decimal digit in it is an id, not a word (`deadbeef` needs `0x`).
const HEX_ID_MIN: usize = 8;

/// The base-32 digest of a store path, `/nix/store/DIGEST-name`, in characters.
const STORE_DIGEST: usize = 32;

/// Characters that make a word with letters and several numbers an id: `8f3k2j9xq1`, and not `x86_64`.
const MIXED_ID_MIN: usize = 8;

/// Last words that count.
pub const LAST_OUTPUT_MAX: usize = 4;

/// `sha256:` and the digest over the kind, the normalised reason and the normalised top frames.
pub fn fingerprint(kind: &str, reason: &str, frames: &[String]) -> String {
    let frames = frames.iter().take(FRAMES_MAX).map(|frame| normalise(function_of(frame)));
    digest([kind.to_owned(), normalise(reason)].into_iter().chain(frames))
}

/// The same for an end without a panic. The status is not changed, because the exit code distinguishes the faults.
pub fn fingerprint_of_end(kind: &str, status: &str, last_output: &[String]) -> String {
    let words = last_output.iter().take(LAST_OUTPUT_MAX).map(|line| normalise_line(line));
    digest([kind.to_owned(), "end".to_owned(), status.to_owned()].into_iter().chain(words))
}

fn digest(parts: impl Iterator<Item = String>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        // The length comes first, so that two different lists of parts never give the same bytes.
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    format!("sha256:{}", crate::digest::hex(digest.finalize()))
}

/// A line of a log without what differs from one time to the next.
pub fn normalise_line(line: &str) -> String {
    without_ids(&normalise(&without_ids(line)))
}

/// A line in which ids of letters and numbers are `#`, and so is the name of a temporary file.
fn without_ids(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let end = if is_word(first) { rest.find(|c| !is_word(c)) } else { Some(first.len_utf8()) };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        let temporary = out.ends_with("/tmp/") && is_word(first);
        out.push_str(if temporary || is_mixed_id(word) { "#" } else { word });
        rest = after;
    }
    out
}

fn is_mixed_id(word: &str) -> bool {
    let numbers = word.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty()).count();
    let letters = word.chars().any(char::is_alphabetic);
    numbers >= 2 && letters && !word.contains('_') && word.len() >= MIXED_ID_MIN
}

/// A frame without its place: `handle (src/main.rs:12)` is `handle`, as lines move with every version.
fn function_of(frame: &str) -> &str {
    match frame.rfind(" (") {
        Some(at) if frame.ends_with(')') && at > 0 => &frame[..at],
        _ => frame,
    }
}

/// The first [`TEXT_BYTES_MAX`] bytes of a text with everything that differs from one time to the next replaced by `#`:
/// numbers, addresses, hex ids, UUIDs, digests of store paths; runs of blanks are one blank.
pub fn normalise(text: &str) -> String {
    let mut out = String::new();
    let mut rest = truncate(text, TEXT_BYTES_MAX);
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = rest.trim_start();
            if !out.is_empty() && !rest.is_empty() {
                out.push(' ');
            }
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            push_word(&mut out, &rest[..end]);
            rest = &rest[end..];
        } else {
            // `#-#`, `#.#` and `#:#` are one id, one version or one address.
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    for joint in ["#-#", "#.#", "#:#"] {
        while out.contains(joint) {
            out = out.replace(joint, "#");
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn push_word(out: &mut String, word: &str) {
    let hex = |word: &str| word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digit = |word: &str| word.bytes().any(|byte| byte.is_ascii_digit());
    // Rust ends symbols with `h` and 16 hex digits.
    let mangled = word.len() == 17 && word.starts_with('h') && hex(&word[1..]);
    let address = word.strip_prefix("0x").is_some_and(|word| !word.is_empty() && hex(word));
    let store = word.len() == STORE_DIGEST
        && digit(word)
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    // The identity of an object in Java, `Order@1b2c3d4`: hex, of any length.
    let identity = out.ends_with('@') && digit(word) && hex(word);
    // The four-digit groups inside a UUID: hex with a digit, behind a `-` that follows an id.
    let group = word.len() == 4 && hex(word) && out.ends_with("#-");
    if mangled || address || store || identity || group || (word.len() >= HEX_ID_MIN && digit(word) && hex(word)) {
        out.push('#');
        return;
    }
    // Elsewhere each run of digits is a number, so that `worker-12` and `12ms` keep their words.
    let mut in_number = false;
    for c in word.chars() {
        if c.is_numeric() {
            if !in_number {
                out.push('#');
            }
            in_number = true;
        } else {
            out.push(c);
            in_number = false;
        }
    }
}

/// The longest start of `text` that is at most `max` bytes and whole characters.
pub(super) fn truncate(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_each_time_is_put_out_of_the_way() {
        for (text, expected) in [
            (
                "index out of bounds: the len is 3 but the index is 7",
                "index out of bounds: the len is # but the index is #",
            ),
            ("at 0x7ffe12ab in worker-12", "at # in worker-#"),
            ("no price for Order@1b2c3d4 by a@example.org", "no price for Order@# by a@example.org"),
            ("order 6fa459ea-ee8a-3ca4-894e-db77e160355e lost", "order # lost"),
            ("/nix/store/0c0zv5n6k5gdnkgc8v0nz6gk2xvyl2l1-greeter-1.2/bin/x", "/nix/store/#-greeter-#/bin/x"),
            ("svc::store::lookup::h0123456789abcdef", "svc::store::lookup::#"),
            ("peer 10.0.0.1:4711  went\n away", "peer # went away"),
            ("a decade of added faces", "a decade of added faces"),
            ("", ""),
        ] {
            assert_eq!(normalise(text), expected, "{text}");
        }
    }

    #[test]
    fn another_line_is_the_same_fault_and_another_function_is_not() {
        let of = |frame: &str| fingerprint("crash", "boom 1", &[frame.into()]);
        assert_eq!(of("handle (src/main.rs:12)"), of("handle (src/main.rs:99)"));
        assert_ne!(of("handle (src/main.rs:12)"), of("parse (src/main.rs:12)"));
        assert_eq!(of("main.(*Server).handle (main.go:3)"), of("main.(*Server).handle (main.go:4)"));
        assert_ne!(fingerprint("crash", "ab", &["c".into()]), fingerprint("crash", "a", &["bc".into()]));
        assert!(of("x").starts_with("sha256:") && of("x").len() == 71);
    }

    #[test]
    fn frames_beyond_the_top_and_long_tails_do_not_matter() {
        let frames =
            |n: usize| (0..n).map(|i| format!("f{}", ["a", "b", "c", "d", "e", "f", "g"][i])).collect::<Vec<_>>();
        assert_eq!(fingerprint("crash", "x", &frames(5)), fingerprint("crash", "x", &frames(7)));
        assert_ne!(fingerprint("crash", "x", &frames(4)), fingerprint("crash", "x", &frames(5)));
        let long = |tail: &str| format!("{}{tail}", "é".repeat(400));
        assert_eq!(normalise(&long("a")), normalise(&long("b")));
    }
}
