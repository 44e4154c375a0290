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

pub mod agent;
pub mod load;
pub mod program;
pub mod record;
pub mod script;
pub mod serve;
pub mod tally;
