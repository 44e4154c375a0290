//! Bad input, on a real `rei run`: each case gives one clear error that names the thing and the next step, changes
//! nothing else, and Active keeps serving.
//!
//! | file | what is bad |
//! |---|---|
//! | `start` | what makes a start impossible |
//! | `preflight` | the same, as `rei check` tells it |
//! | `upgrade` | a commit that cannot become a version |
//! | `cheats` | a commit that wants to pass without being right |
//! | `runtime` | a runtime that misbehaves while it serves |
//! | `agents` | blueprints and agents |
//! | `disk` | a disk that is full |
//! | `growth` | years of upgrades |
//!
//! Needs Nix and user namespaces; says so and skips where they are missing.

mod agents;
mod cheats;
#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "uses a part of it")]
mod common;
mod disk;
mod growth;
mod lab;
mod preflight;
mod runtime;
mod start;
mod terminal;
mod upgrade;
