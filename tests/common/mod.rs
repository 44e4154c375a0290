//! What the tests of several parts share.
//!
//! A test that uses only some of it says `#[expect(dead_code, reason = "uses a part of it")] mod common;`.

pub mod addresses;
pub mod git;
pub mod nix;
pub mod process;
pub mod programs;
pub mod store;
