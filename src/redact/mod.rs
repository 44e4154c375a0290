//! Removes secrets from everything that is stored, given to an agent, or shown.
//!
//! | file | its one job |
//! |---|---|
//! | `secrets` | secrets with a known value, in all their encodings |
//! | `redactor` | removes known secrets first, then text that looks like a secret |

mod redactor;
mod secrets;

pub use redactor::{Redactor, is_credential, strip_ansi};
pub use secrets::{REDACTED, Secret, Secrets, VALUE_BYTES_MIN};
