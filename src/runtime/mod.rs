//! Instances, slots, probes, logs, isolation.

pub mod keeper;
pub mod traffic;
