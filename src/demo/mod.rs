//! The demo: a runtime whose behaviour is source code in a git tree, and a story played on it.
//!
//! | file | its one job |
//! |---|---|
//! | [`script`] | the interpreter: from a request to an answer or a fault with its stack |
//! | [`record`] | what the runtime knows of itself |
//! | [`serve`] | the runtime's server on inherited sockets |
//! | [`program`] | the command line of `rei-demo-runtime` |

pub mod program;
pub mod record;
pub mod script;
pub mod serve;
