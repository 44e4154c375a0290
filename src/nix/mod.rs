//! Runs the Nix programs. Never reimplements the store.
//!
//! | file | its one job |
//! |---|---|
//! | `locate` | finds Nix on this machine, and prepares calls |
//! | `version` | checks whether it is new enough |
//! | `flake_ref` | the flake reference of a commit |
//! | `evaluate` | lists the derivations of a flake (`nix-instantiate --eval`) |
//! | `realise` | builds derivations (`nix-store --realise`) |
//! | `progress` | parses the progress of builds (`--log-format internal-json`), pure |
//! | `store` | queries and changes the store (`nix-store --query`, `--add`, `--verify-path`, `--read-log`) |
//! | `log` | the end of a build's log, as text for people, pure |
//! | `roots` | garbage collector roots |
//! | `profile` | the current and previous versions: a Nix profile, switched without Nix |
//! | `sandbox` | checks that builds are really sandboxed; `probe` is the builder that checks from inside |
//! | `error` | finds the problem in Nix's messages, and a hint for the operator, pure |
//!
//! Only `nix-store` and `nix-instantiate` are called, because their output is the same since Nix 2.8. Whether a build
//! succeeded is never read from an exit code or a message: the store is queried afterwards. Messages are only used as
//! explanations.
//!
//! Every evaluation is pure, of a locked reference. `builtins.getFlake` ignores a flake's `nixConfig`, uses no
//! registry, and refuses inputs that are not in `flake.lock`. So a commit determines everything that it is built from.
//! A reference names a tree in the store and never a repository: for a repository, Nix would write the files as the
//! tree's own git attributes say.

mod error;
mod evaluate;
mod flake_ref;
mod locate;
mod log;
mod probe;
mod profile;
mod progress;
mod realise;
mod roots;
#[cfg(test)]
mod samples;
mod sandbox;
mod store;
mod version;

pub use error::{Error, Problem, Result};
pub use evaluate::{Derivation, EVALUATION_TIMEOUT};
pub use flake_ref::FlakeRef;
pub use locate::Nix;
pub use log::{last_output, plain_log};
pub use probe::{PROBE_ARGUMENT, probe_builder_main};
pub use profile::{Generation, Profile};
pub use progress::{Parser, Progress};
pub use realise::{DerivationOutcome, Failure, FailureKind, RealiseOptions, Realised};
pub use roots::Roots;
pub use sandbox::{Builder, Proof, Refusal, prove};
pub use version::{LEAST_VERSION, Version};
