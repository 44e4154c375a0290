//! The actions of rei in a stage. Each action is a function from the state of the run to its result.
//!
//! The envelope follows OpenExec's action contract: the input is `{action, run_id, inputs, context}`, the output is
//! `{status, artifacts, summary}`. Both are in the timeline.
//!
//! | file | its one job |
//! |---|---|
//! | `action_context` | the state of a run as an action sees it, its result, and the function for each action |
//! | `agent`, `command` | a confined program |
//! | `check`, `patch`, `revise`, `context`, `report` | rei's own actions |

mod action_context;
pub(super) mod agent;
mod check;
mod command;
mod context;
mod patch;
mod report;
pub(super) mod revise;

pub(super) use action_context::{ACTION_TIMEOUT, ActionContext, Failure, Made};
