//! What a candidate writes of errors, beside what the version before it wrote. It is a finding for a person and decides no
//! verdict: how much a version writes, and in which words, is the choice of its author.

use super::sample::Sample;

/// Messages that the finding shows.
const MESSAGES_SHOWN: usize = 3;
/// A rate of error lines counts as higher from this many times the reference's …
const RATE_MIN: f64 = 2.0;
/// … and from so many lines.
const LINES_MIN: u64 = 10;

/// The error lines of a candidate, beside those of its reference.
#[derive(Clone, Copy, Debug)]
pub struct ErrorLines<'a> {
    candidate: &'a Sample,
    reference: &'a Sample,
}

impl<'a> ErrorLines<'a> {
    /// Compares what a log had of both; `None` if nothing is known of the reference's log.
    pub fn of(candidate: &'a Sample, reference: &'a Sample) -> Option<Self> {
        let is_known = reference.error_lines > 0 || reference.total().total() > 0;
        is_known.then_some(Self { candidate, reference })
    }

    /// The messages that the reference never wrote, with their lines, the most frequent first.
    pub fn new_messages(&self) -> Vec<(&'a str, u64)> {
        self.candidate.errors.new_templates(&self.reference.errors)
    }

    /// The finding in one line; `None` if the candidate writes no other errors than the reference, and not more of them.
    pub fn finding(&self) -> Option<String> {
        let new = self.new_messages();
        let sides = [self.candidate, self.reference];
        let [own, other] = sides.map(|side| side.error_lines as f64 / side.total().total().max(1) as f64);
        let is_more = self.candidate.error_lines >= LINES_MIN && own >= RATE_MIN * other;
        if new.is_empty() && !is_more {
            return None;
        }
        let mut parts = Vec::new();
        if !new.is_empty() {
            let shown =
                new.iter().take(MESSAGES_SHOWN).map(|(message, lines)| format!("\"{message}\" ({})", times(*lines)));
            let more = new.len().saturating_sub(MESSAGES_SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            parts.push(format!("new errors in its log: {}{more}", shown.collect::<Vec<_>>().join(", ")));
        }
        parts.push(format!("{own:.2} error lines for each request, {other:.2} before"));
        Some(parts.join("; "))
    }
}

fn times(lines: u64) -> String {
    if lines == 1 { "once".to_owned() } else { format!("{lines} times") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::{Class, Route};

    fn sample(requests: u64, errors: &[&str]) -> Sample {
        let mut sample = Sample::default();
        sample.route(Route::unnamed()).add(Class::Success, requests);
        for error in errors {
            sample.error_lines += 1;
            sample.errors.add(error);
        }
        sample
    }

    #[test]
    fn new_messages_and_a_higher_rate_are_a_finding() {
        let before = sample(100, &["user 1 not found"; 10]);
        let same = sample(100, &["user 2 not found"; 12]);
        assert_eq!(ErrorLines::of(&same, &before).unwrap().finding(), None);
        let new = sample(10, &["pool 3 is empty", "user 2 not found"]);
        let finding = ErrorLines::of(&new, &before).unwrap().finding().unwrap();
        let expected =
            "new errors in its log: \"pool {} is empty\" (once); 0.20 error lines for each request, 0.10 before";
        assert_eq!(finding, expected);
        let more = sample(100, &["user 2 not found"; 30]);
        let finding = ErrorLines::of(&more, &before).unwrap().finding().unwrap();
        assert_eq!(finding, "0.30 error lines for each request, 0.10 before");
        assert!(ErrorLines::of(&more, &Sample::default()).is_none(), "nothing is known of the log before");
    }

    #[test]
    fn a_finding_is_short() {
        let errors: Vec<String> =
            (0..64_u8).map(|n| format!("{}{}", "x".repeat(n.into()), " word".repeat(100))).collect();
        let errors: Vec<&str> = errors.iter().map(String::as_str).collect();
        let (own, before) = (sample(1, &errors), sample(1, &[]));
        let finding = ErrorLines::of(&own, &before).unwrap().finding().unwrap();
        assert!(finding.len() < 700 && finding.contains(" and 31 more"), "{finding}");
    }
}
