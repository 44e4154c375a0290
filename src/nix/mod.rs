//! Drives the Nix programs; never reimplements the store.
//!
//! | file | its question |
//! |---|---|
//! | `locate` | which Nix is here, and how is it called |
//! | `version` | is it new enough |
//! | `flake_ref` | how is a commit named to Nix |
//! | `evaluate` | which derivations does a flake have (`nix-instantiate --eval`) |
//! | `realise` | build them (`nix-store --realise`) |
//! | `progress` | what is being built (`--log-format internal-json`), pure |
//! | `store` | what is in the store (`nix-store --query`, `--add`, `--verify-path`, `--read-log`) |
//! | `roots` | what the garbage collector must keep |
//! | `profile` | which version is Active, and which was before: Nix's own format, switched without Nix |
//! | `sandbox` | whether a sandbox really holds here; `probe` is the builder that looks from inside |
//! | `error` | what Nix's words mean and what to do next, pure |
//!
//! Only `nix-store` and `nix-instantiate` are called: what they print is alike from Nix 2.8 on. Whether a build worked
//! is never read from an exit code or a message, but asked of the store afterwards; messages only explain.
//!
//! Every evaluation is pure and of a locked reference. `builtins.getFlake` ignores a flake's `nixConfig`, asks no
//! registry, and refuses inputs that are not in `flake.lock`, so a commit names all that it is built from. A reference names
//! a tree of the store and never a repository: Nix would write the repository's files as the tree's own attributes say.

mod error;
mod evaluate;
mod flake_ref;
mod locate;
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
pub use probe::{PROBE_ARGUMENT, probe_builder_main};
pub use profile::{Generation, Profile};
pub use progress::{Parser, Progress};
pub use realise::{Failure, FailureKind, Outcome, RealiseOptions, Realised};
pub use roots::Roots;
pub use sandbox::{Builder, Proof, Refusal, prove};
pub use version::{LEAST_VERSION, Version};
