//! The story of `rei demo`, in five acts. Every figure is measured in the same run; every wait is for a fact.
//!
//! | file | its one job |
//! |---|---|
//! | `play` | sets the stage, plays the acts, clears the stage |
//! | `acts` | shared by the acts: the load, the waits, the figures |
//! | `bug`, `repair`, `slow`, `cheat`, `view` | one act each |

mod acts;
mod bug;
mod cheat;
mod play;
mod repair;
mod slow;
mod view;

pub use play::{Play, play};
