//! Limits the output of an instance: its rate, and the length of its lines. The caller passes the time.

use std::time::Instant;

/// Maximum rate, in bytes per second. More is a flood.
pub const RATE_BYTES_PER_S: u64 = 8 << 20;

/// Maximum burst after a quiet time, in bytes: a large stack dump is no flood.
pub const BURST_BYTES: u64 = 8 << 20;

/// Maximum length of a line, in bytes.
pub const LINE_BYTES_MAX: usize = 16 << 10;

/// Size of the end of a flood that is kept, in bytes. Its last lines explain the flood, and often the exit of the
/// instance.
pub(super) const FLOOD_END_BYTES: usize = LINE_BYTES_MAX;

/// The state for one instance.
pub(super) struct Lines {
    column: usize,
    budget: Budget,
    /// Number of bytes of a flood that are not stored yet, and the end of them.
    behind: u64,
    flood_end: Vec<u8>,
    dropped: u64,
}

impl Lines {
    pub(super) fn new() -> Self {
        let budget = Budget { bytes: BURST_BYTES, at: None };
        Self { column: 0, budget, behind: 0, flood_end: Vec::new(), dropped: 0 }
    }

    /// The part of these bytes, which were read now, that is to be stored.
    pub(super) fn take(&mut self, bytes: &[u8], now: Instant) -> Vec<u8> {
        let allowed = self.budget.take(bytes.len() as u64, now) as usize;
        let (within, flood) = bytes.split_at(allowed);
        let mut kept = if allowed > 0 { self.catch_up() } else { Vec::new() };
        self.split(within, &mut kept);
        self.behind += flood.len() as u64;
        self.flood_end.extend_from_slice(&flood[flood.len().saturating_sub(FLOOD_END_BYTES)..]);
        self.flood_end.drain(..self.flood_end.len().saturating_sub(FLOOD_END_BYTES));
        kept
    }

    /// True if bytes of a flood are not stored or noted yet.
    pub(super) fn is_behind(&self) -> bool {
        self.behind > 0
    }

    /// Number of dropped bytes so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped + self.behind
    }

    /// The note for missing bytes; empty if there are none.
    pub(super) fn note_missing(&mut self, bytes: u64, why: &str) -> Vec<u8> {
        if bytes == 0 {
            return Vec::new();
        }
        self.column = 0;
        note(bytes, why).into_bytes()
    }

    /// The text to store after a flood: how much was dropped, and its end.
    pub(super) fn catch_up(&mut self) -> Vec<u8> {
        if self.behind == 0 {
            return Vec::new();
        }
        let mut end = std::mem::take(&mut self.flood_end);
        let mut dropped = std::mem::take(&mut self.behind) - end.len() as u64;
        if dropped > 0 {
            // Begin with a whole line, if there is one.
            let whole = end.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let whole = if whole == end.len() { 0 } else { whole };
            end.drain(..whole);
            dropped += whole as u64;
        }
        self.dropped += dropped;
        let mut kept = Vec::new();
        if dropped > 0 {
            let why = format!("more than {} MiB/s", RATE_BYTES_PER_S >> 20);
            kept.extend_from_slice(note(dropped, &why).as_bytes());
            self.column = 0;
        }
        self.split(&end, &mut kept);
        kept
    }

    /// Splits lines that are too long.
    fn split(&mut self, bytes: &[u8], lines: &mut Vec<u8>) {
        lines.reserve(bytes.len() + bytes.len() / LINE_BYTES_MAX + 1);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut rest = piece;
            while self.column + rest.len() > LINE_BYTES_MAX && rest != b"\n" {
                let (line, after) = rest.split_at((LINE_BYTES_MAX - self.column).min(rest.len()));
                lines.extend_from_slice(line);
                if after == b"\n" {
                    rest = after;
                    break;
                }
                lines.push(b'\n');
                (self.column, rest) = (0, after);
            }
            lines.extend_from_slice(rest);
            self.column = if rest.ends_with(b"\n") { 0 } else { self.column + rest.len() };
        }
    }
}

/// The note in a log at the place where bytes are missing.
pub(super) fn note(bytes: u64, why: &str) -> String {
    format!("\n[rei: {bytes} bytes dropped here: {why}]\n")
}

/// A token bucket of bytes, filled at [`RATE_BYTES_PER_S`].
struct Budget {
    bytes: u64,
    at: Option<Instant>,
}

impl Budget {
    fn take(&mut self, wanted: u64, now: Instant) -> u64 {
        let us = self.at.map_or(0, |at| now.saturating_duration_since(at).as_micros());
        let earned = u64::try_from(us).unwrap_or(u64::MAX).saturating_mul(RATE_BYTES_PER_S) / 1_000_000;
        if earned > 0 || self.at.is_none() {
            self.at = Some(now);
        }
        self.bytes = self.bytes.saturating_add(earned).min(BURST_BYTES);
        let taken = wanted.min(self.bytes);
        self.bytes -= taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn long_lines_are_split_and_bytes_kept() {
        let (mut lines, mut kept) = (Lines::new(), Vec::new());
        // Pieces that do not match the limit, and bytes that are no text.
        for piece in [
            vec![0xff; LINE_BYTES_MAX - 1],
            vec![0xfe; 2],
            b"\nshort\n".to_vec(),
            vec![0; LINE_BYTES_MAX],
            b"\n".to_vec(),
        ] {
            kept.extend(lines.take(&piece, Instant::now()));
        }
        let expected = [
            vec![0xff; LINE_BYTES_MAX - 1],
            vec![0xfe, b'\n', 0xfe],
            b"\nshort\n".to_vec(),
            vec![0; LINE_BYTES_MAX],
            b"\n".to_vec(),
        ]
        .concat();
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_flood_is_dropped_and_noted_and_its_end_is_kept() {
        let mut lines = Lines::new();
        let (start, chunk) = (Instant::now(), b"a line of a flood\n".repeat(1 << 16));
        let sent = 20 * chunk.len() as u64;
        for _ in 0..20 {
            lines.take(&chunk, start);
        }
        assert!(lines.is_behind());
        assert_eq!(lines.dropped(), sent - BURST_BYTES);
        lines.take(b"why it was\n", start);
        let kept = String::from_utf8(lines.take(b"after\n", start + Duration::from_secs(1))).unwrap();
        let (note, rest) = kept.strip_prefix('\n').unwrap().split_once('\n').unwrap();
        assert_eq!(note, format!("[rei: {} bytes dropped here: more than 8 MiB/s]", lines.dropped()));
        assert!(rest.starts_with("a line of a flood\n") && rest.ends_with("a flood\nwhy it was\nafter\n"));
        assert_eq!(sent + 17, BURST_BYTES + lines.dropped() + rest.len() as u64, "all is kept or counted");
        assert!(!lines.is_behind());
    }

    #[test]
    fn the_end_of_a_flood_is_kept_when_nothing_follows() {
        let mut lines = Lines::new();
        let start = Instant::now();
        lines.take(&b"a line\n".repeat(BURST_BYTES as usize / 7), start);
        lines.take(&b"\n".repeat(BURST_BYTES as usize % 7), start);
        assert!(lines.take(b"the last line\n", start).is_empty());
        assert_eq!((lines.catch_up().as_slice(), lines.dropped()), (&b"the last line\n"[..], 0));
        assert!(lines.catch_up().is_empty());
    }
}
