//! rei, the OpenExec supervisor: keeps one long-running service alive and lets it be repaired and upgraded without
//! anyone touching the live process. ARCHITECTURE.md has the problem, the flow and the decisions; this is the map.
//!
//! | room | its one job |
//! |---|---|
//! | [`lifecycle`] | decides: a pure state machine, one event in, all effects out |
//! | [`health`] | sees: pure windows and detectors that turn signals into incidents |
//! | [`interface`] | speaks: the four calls and six types over Varlink |
//! | [`journal`] | remembers: the chained, append-only record from which state is rebuilt |
//! | [`runtime`] | runs: instances, slots, probes, logs, isolation |
//! | [`source`] | the runtime's git repository: mirror, followed ref, isolated workspaces |
//! | [`nix`] | drives the Nix programs: evaluation, builds, profiles, closures |
//! | [`blueprint`] | makes: the staged recipe from a context to a commit |
//! | [`validation`] | judges: the plan, the sandboxed checks, the report |
//! | [`preflight`] | asks before a start: what rei needs of the file, the machine and the repository |
//! | [`golden`] | golden runs: the format, recording, replay, comparison |
//! | [`poll`] | asks: whether descriptors are ready |
//! | [`changes`] | says that files may have changed |
//! | [`process`] | asks: what `/proc` says about processes |
//! | [`seccomp`] | refuses: the system calls that Landlock leaves open |
//! | [`http`] | asks: a bounded HTTP/1.1 client for probes and replay |
//! | [`digest`] | names: SHA-256 in hex, of bytes and of files, and its short form |
//! | [`redact`] | hides: takes secrets out of what is stored, handed on or shown |
//! | [`diagnosis`] | collects the evidence of an incident |
//! | [`supervisor`] | the shell: the event loop that carries out what the lifecycle decides |
//! | [`cli`] | one file a command |
//! | [`config`] | `rei.toml` |
//! | [`demo`] | shows: a small runtime that interprets source code, and the story of `rei demo` |
//!
//! Imports run one way: `cli` over `supervisor` over the rest; `lifecycle`, `health` and the types of `interface` at the
//! bottom import nothing of the house but each other's types and [`time`].

pub mod blueprint;
pub mod changes;
pub mod cli;
pub mod command;
pub mod config;
pub mod demo;
pub mod diagnosis;
pub mod digest;
pub mod golden;
pub mod health;
pub mod http;
pub mod interface;
pub mod journal;
pub mod lifecycle;
pub mod nix;
pub mod poll;
pub mod preflight;
pub mod process;
pub mod redact;
pub mod report;
pub mod runtime;
pub mod seccomp;
pub mod source;
pub mod supervisor;
pub mod time;
pub mod validation;
