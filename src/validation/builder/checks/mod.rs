//! One file for each kind of check.
//!
//! | file | its one job |
//! |---|---|
//! | `control` | a sandboxed build works |
//! | `boot` | the candidate starts and stops |
//! | `golden` | the candidate answers as recorded |
//! | `reproduction` | what failed on Active passes on the candidate |

mod boot;
mod control;
mod golden;
mod reproduction;

pub(crate) use boot::boot;
pub(crate) use control::control;
pub(crate) use golden::golden;
pub(crate) use reproduction::reproduction;
