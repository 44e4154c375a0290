//! The demo: a runtime whose behaviour is source code in a git tree, and a story played on it.
//!
//! | file | its one job |
//! |---|---|
//! | [`script`] | the interpreter: from a request to an answer or a fault with its stack |
//! | [`record`] | what the runtime knows of itself |
//! | [`serve`] | the runtime's server on inherited sockets |
//! | [`agent`] | the stand-in for an AI coding agent |
//! | [`load`], [`tally`] | a steady load from outside, and what became of each request |
//! | [`program`] | the command line of `rei-demo-runtime` |
//! | [`repository`] | the git repositories, and the changes that developers make |
//! | [`stage`] | the directory, rei.toml and the supervisor; nothing is left of it |
//! | [`watch`] | waits for facts on the control socket |
//! | [`story`] | the five acts |
//! | [`tell`] | how they are told |

pub mod agent;
mod error;
pub mod load;
pub mod program;
pub mod record;
pub mod repository;
pub mod script;
pub mod serve;
pub mod stage;
pub mod story;
pub mod tally;
pub mod tell;
pub mod watch;

pub use error::Error;
