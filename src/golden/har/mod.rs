//! Makes runs from an HTTP archive (HAR 1.2) of a browser or a proxy.
//!
//! | file | its one job |
//! |---|---|
//! | `archive` | the text of the file, and its JSON with the path of each value, for errors |
//! | `left_out` | the reasons for which an entry is left out |
//! | `body` | the bodies of requests and answers, from texts, base64 and the fields of forms |
//! | `entry` | one entry as an exchange, or the reason why it is none |
//! | `import` | all entries of one origin, and what was left out |
//!
//! Programs write archives in many ways, and a user cannot mend them. So one bad entry is left out with its reason, and
//! the rest is taken. Only an archive that gives no exchange at all is an error.

mod archive;
mod body;
mod entry;
mod import;
mod left_out;
#[cfg(test)]
mod tests;

pub use archive::ArchiveError;
pub use import::{Chosen, Imported, LeftOutEntry, TakenEntry, from_har, is_archive};
pub use left_out::LeftOut;
