//! rei, the OpenExec supervisor: it keeps one long-running service alive, and it lets the service be repaired and
//! upgraded while nobody touches the live process. ARCHITECTURE.md has the problem, the flow and the decisions. This
//! is the map of the modules.
//!
//! | module | its one job |
//! |---|---|
//! | [`lifecycle`] | decides what to do next: a pure state machine; one event goes in, all effects come out |
//! | [`health`] | finds incidents: pure windows and detectors over the signals of an instance |
//! | [`interface`] | the public interface: four calls and six types over Varlink |
//! | [`journal`] | the chained, append-only record; the state is rebuilt from it |
//! | [`runtime`] | runs instances: slots, traffic, probes, logs, isolation |
//! | [`source`] | the runtime's git repository: mirror, followed ref, isolated workspaces |
//! | [`nix`] | runs the Nix programs: evaluation, builds, profiles, closures |
//! | [`blueprint`] | runs the blueprint, a program of stages that makes a commit from an `EvolutionContext` |
//! | [`validation`] | validates a Candidate: the plan, the sandboxed checks, the report |
//! | [`live`] | what users' requests get: counts of real traffic, and the judgement on them |
//! | [`tap`] | relays a share of the connections and counts what users' requests get |
//! | [`preflight`] | the prerequisites of rei: what it needs of the file, the machine and the repository |
//! | [`golden`] | golden runs: format, recording, replay, comparison |
//! | [`poll`] | waits until descriptors are ready |
//! | [`changes`] | reports that files may have changed |
//! | [`process`] | reads from `/proc` what the kernel knows of processes |
//! | [`executable`] | finds what the kernel executes to start a program: interpreters and loaders |
//! | [`sandbox`] | the Landlock rules: which files, sockets and ports a process can reach |
//! | [`seccomp`] | the filter that refuses the system calls that Landlock does not cover |
//! | [`http`] | a bounded HTTP/1.1 client for probes and replay |
//! | [`digest`] | SHA-256 in hex, of bytes and of files, and its short form |
//! | [`redact`] | removes secrets from everything that is stored, handed on or shown |
//! | [`diagnosis`] | collects the evidence of an incident |
//! | [`state`] | the state directory: the paths of its files, and the objects that are stored there |
//! | [`narrate`] | describes in sentences, for a person, what the lifecycle decides |
//! | [`history`] | the journal's records, and the history that is read from them |
//! | [`service`] | the supervisor of one service: the lifecycle decides, the journal records, the executor executes |
//! | [`daemon`] | the process: signals, the service manager, and the service that it supervises |
//! | [`cli`] | the commands, one file each |
//! | [`config`] | `rei.toml` |
//! | [`demo`] | a small runtime that interprets source code, and the story of `rei demo` |
//!
//! Imports run one way: `cli` uses `daemon`, `daemon` uses `service`, and `service` uses the rest. `lifecycle`,
//! `health` and the types of `interface` are at the bottom: of this crate they import only each other's types and
//! [`time`].

pub mod blueprint;
pub mod changes;
pub mod cli;
pub mod command;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod diagnosis;
pub mod digest;
pub mod executable;
pub mod golden;
pub mod health;
pub mod history;
pub mod http;
pub mod interface;
pub mod journal;
pub mod lifecycle;
pub mod live;
pub mod narrate;
pub mod nix;
pub mod poll;
pub mod preflight;
pub mod process;
pub mod redact;
pub mod report;
pub mod runtime;
pub mod sandbox;
pub mod seccomp;
pub mod service;
pub mod source;
pub mod state;
pub mod tap;
pub mod time;
pub mod validation;
