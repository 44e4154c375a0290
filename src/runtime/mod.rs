//! Instances, slots, probes, logs, isolation.
//!
//! | file | its one job |
//! |---|---|
//! | [`traffic`] | the listening sockets: two slots an address, steered without a proxy |
//! | [`keeper`] | holds descriptors beyond the supervisor's life |
//! | [`spawn`] | makes a process: clone, confinement and exec without a helper program |
//! | [`isolation`] | what a process may do: Landlock, seccomp, limits, user |
//! | [`table`] | which processes are ours, known even after a SIGKILL of the supervisor |
//! | [`instance`] | one running process tree: its end, its stop, its adoption |
//! | [`tree`] | all processes of an instance, found and killed |
//! | [`cgroup`] | directories of cgroup v2 |
//! | [`pidfd`] | process descriptors |
//! | [`exit`] | how a process ended, in words |
//! | [`logs`] | what an instance prints, bounded |
//! | [`notify`] | `sd_notify`, both ends |
//! | [`probe`] | whether an instance answers |
//! | [`usage`] | what its processes use |

pub mod cgroup;
pub mod exit;
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
