//! End-to-end tests with real Nix: a supervisor, a service, its commits, its clients, and the faults between them. `lab` has the
//! setup of a test.

mod another;
#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "uses a part of it")]
mod common;
mod crashes;
mod datagrams;
mod deadlines;
mod extend;
mod faults;
mod kills;
mod lab;
mod ledger;
mod load;
mod logs;
mod loss;
mod orphan;
mod recall;
mod record;
mod recorded;
mod reexec;
mod shadow;
mod stories;
mod tap;
