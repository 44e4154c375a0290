//! Instances: their sockets, processes, isolation, logs and probes.
//!
//! | file | its one job |
//! |---|---|
//! | [`traffic`] | the listening sockets: two slots per address, routed by the kernel without a proxy |
//! | [`keeper`] | keeps descriptors open while no supervisor runs |
//! | [`spawn`] | makes a process: clone, confinement and exec without a helper program |
//! | [`isolation`] | the sandbox of a process: Landlock, seccomp, limits, user |
//! | [`table`] | the processes that rei has started, recorded even if the supervisor is killed |
//! | [`instance`] | one running instance: waits for its exit, stops it, adopts it |
//! | [`tree`] | finds and kills all processes of an instance |
//! | [`cgroup`] | cgroup v2 directories |
//! | [`pidfd`] | pidfds |
//! | [`exit`] | the exit status of a process, and its text |
//! | [`logs`] | reads and stores the output of instances |
//! | [`notify`] | `sd_notify`: receives from instances, sends to systemd |
//! | [`fetch`] | one HTTP request to an instance |
//! | [`probe`] | checks whether an instance answers |
//! | [`usage`] | measures the resources that an instance uses |

pub mod cgroup;
pub mod exit;
pub mod fetch;
pub mod instance;
pub mod isolation;
pub mod keeper;
pub mod logs;
pub mod notify;
pub mod pidfd;
pub mod probe;
pub mod spawn;
pub mod table;
pub mod traffic;
pub mod tree;
pub mod usage;
