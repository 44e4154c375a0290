//! Removes secrets from everything that is stored, given to an agent, or shown.
//!
//! | file | its one job |
//! |---|---|
//! | `secrets` | secrets with a known value, in all their encodings |
//! | `shapes` | values that are recognised by their form: tokens, keys, e-mail addresses, numbers of cards |
//! | `redactor` | removes known secrets first, then text that looks like a secret |

mod redactor;
mod secrets;
mod shapes;
#[cfg(test)]
mod tests;

pub use redactor::{Redactor, is_credential, strip_ansi};
pub use secrets::{REDACTED, Secret, Secrets, VALUE_BYTES_MIN};
pub use shapes::{Found, FoundKind, Mask};
