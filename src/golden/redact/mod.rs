//! Replaces secrets and personal data in exchanges by placeholders, while they are recorded or imported.
//!
//! | file | its one job |
//! |---|---|
//! | `names` | the placeholder of each value: equal values have equal ones |
//! | `parts` | the texts of a message: headers, paths, queries, forms, pages |
//! | `body` | bodies by their type: JSON, forms, multipart, text; and those that cannot be examined |
//! | `redaction` | a whole exchange, and a whole run |
//!
//! A golden file is committed and copied, and a browser or a proxy records everything. So every recorded exchange passes
//! through [`Redaction::exchange`] before it is written. What cannot be examined is not kept.

mod body;
mod names;
mod parts;
mod redaction;
#[cfg(test)]
mod tests;

pub use redaction::{NotKept, RedactedExchange, RedactedRun, Redaction, Replaced, has_mark};
