//! The demo: a runtime whose behaviour is source code in a git tree, and a story with it.
//!
//! | file | its one job |
//! |---|---|
//! | [`script`] | the interpreter: turns a request into an answer, or a fault with its stack |
//! | [`record`] | the runtime's own counts of requests |
//! | [`serve`] | the runtime's server on inherited sockets |
//! | [`agent`] | the stand-in for an AI coding agent |
//! | [`load`], [`tally`] | a steady load from outside, and the outcome of each request |
//! | [`program`] | the command line of `rei-demo-runtime` |
//! | [`repository`] | the git repositories, and the changes that developers make |
//! | [`stage`] | the directory, rei.toml and the supervisor; it is removed afterwards |
//! | [`observer`] | waits for facts on the control socket |
//! | [`story`] | the five acts |
//! | [`narrator`] | prints the story |

pub mod agent;
mod error;
pub mod load;
pub mod narrator;
pub mod observer;
pub mod program;
pub mod record;
pub mod repository;
pub mod script;
pub mod serve;
pub mod stage;
pub mod story;
pub mod tally;

pub use error::Error;
