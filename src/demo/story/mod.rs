//! The story of `rei demo`, in five acts. Every figure in it was measured in this run; every wait is for a fact.
//!
//! | file | its one job |
//! |---|---|
//! | `play` | the stage is set, the acts are played, the stage is cleared |
//! | `acts` | what the acts share: the load, the waits, the figures |
//! | `bug`, `repair`, `slow`, `cheat`, `view` | an act each |

mod acts;
mod bug;
mod cheat;
mod play;
mod repair;
mod slow;
mod view;

pub use play::{Play, play};
