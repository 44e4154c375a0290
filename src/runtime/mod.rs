//! Instances, slots, probes, logs, isolation.
