//! Takes secrets out of what is stored, handed to an agent or shown.
//!
//! | file | its one job |
//! |---|---|
//! | `secrets` | secrets that are known by their value, in all the forms in which a text can hold them |
//! | `redactor` | both: the known ones first, then what looks like a secret |

mod redactor;
mod secrets;

pub use redactor::{Redactor, is_credential, strip_ansi};
pub use secrets::{REDACTED, Secret, Secrets, VALUE_BYTES_MIN};
