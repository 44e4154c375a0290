//! One file for each kind of check.
//!
//! | file | its one job |
//! |---|---|
//! | `control` | a sandboxed build works |
//! | `boot` | the candidate starts and stops |
//! | `golden` | the candidate answers as recorded |
//! | `qualify` | which exchanges of a recording Active repeats |
//! | `reproduction` | what failed on Active passes on the candidate |

mod boot;
mod control;
mod golden;
mod qualify;
mod reproduction;

pub(crate) use boot::boot;
pub(crate) use control::control;
pub(crate) use golden::golden;
pub(crate) use qualify::qualify;
pub(crate) use reproduction::reproduction;
