//! Bad input for a real `rei run`: each case causes one clear error that names the problem and the next step, and changes nothing
//! else. Active continues to serve.
//!
//! | file | the bad input |
//! |---|---|
//! | `inputs` | trees that do not have all files, and interpreters that are not in the store |
//! | `start` | problems that make a start impossible |
//! | `preflight` | the same problems, as `rei check` reports them |
//! | `upgrade` | commits that cannot become a version |
//! | `cheats` | commits that try to pass without being right |
//! | `runtime` | a runtime that misbehaves while it serves |
//! | `agents` | wrong blueprints, and agents that misbehave |
//! | `disk` | a full disk |
//! | `growth` | many upgrades |
//! | `traffic` | what clients, pages of metrics and logs send that no reader should trust |
//! | `terminal` | text that would change a terminal |
//!
//! The tests need Nix and user namespaces; without them they are skipped and print the reason.

mod agents;
mod cheats;
#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "uses a part of it")]
mod common;
mod disk;
mod growth;
mod inputs;
mod lab;
mod preflight;
mod runtime;
mod start;
mod terminal;
mod traffic;
mod upgrade;
