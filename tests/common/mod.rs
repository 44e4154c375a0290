//! Code that several tests share.
//!
//! A test that uses only a part of it writes `#[expect(dead_code, reason = "uses a part of it")] mod common;`.

pub mod addresses;
pub mod git;
pub mod nix;
pub mod process;
pub mod programs;
pub mod store;
