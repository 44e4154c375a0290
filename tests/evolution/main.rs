//! End to end, on real Nix: a supervisor, a service, its commits, its clients, and everything that can go wrong between
//! them. See `lab` for what a test has.

mod datagrams;
mod faults;
mod kills;
mod lab;
mod ledger;
mod load;
mod recall;
mod reexec;
mod stories;
