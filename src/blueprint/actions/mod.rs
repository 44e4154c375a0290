//! What rei itself can do in a stage. Each action is a function from the state of the run to what it made.
//!
//! The envelope is that of OpenExec's action contract: in goes `{action, run_id, inputs, context}`, out comes
//! `{status, artifacts, summary}`; both are in the timeline.
//!
//! | file | its one job |
//! |---|---|
//! | `stand` | the state of a run as an action sees it, what it made, and which function an action is |
//! | `agent`, `command` | a program in a fence |
//! | `check`, `patch`, `revise`, `context`, `report` | rei's own actions |

pub(super) mod agent;
mod check;
mod command;
mod context;
mod patch;
mod report;
pub(super) mod revise;
mod stand;

pub(super) use stand::{ACTION_TIMEOUT, Failure, Made, Stand};
