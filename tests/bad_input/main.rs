//! Bad input, on a real `rei run`: each case gives one clear error that names the thing and the next step, changes
//! nothing else, and Active keeps serving.
//!
//! | file | what is bad |
//! |---|---|
//! | `start` | what makes a start impossible |
//! | `upgrade` | a commit that cannot become a version |
//!
//! Needs Nix and user namespaces; says so and skips where they are missing.

mod lab;
mod start;
mod upgrade;
