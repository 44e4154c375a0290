//! Pages for people, made from the interface's objects. Pure: the time, the width and the colour are arguments.
//!
//! | file | its one job |
//! |---|---|
//! | `page` | rows of a label and painted words, wrapped to a width |
//! | `words` | durations, sizes, times, versions in readable form |
//! | `look` | the colour, the width and the time of a page |
//! | `status` | `rei status` |
//! | `event` | one line for one event |
//! | `history` | rows of `rei history` and of the quarantine |
//! | `show` | `rei show`: a page for each kind of object |

mod event;
mod history;
mod look;
mod page;
mod show;
mod status;
#[cfg(test)]
mod tests;
mod words;

pub(super) use event::line as event_line;
pub(super) use history::{history, quarantine};
pub(super) use look::Look;
pub(super) use show::show;
pub(super) use status::status;
