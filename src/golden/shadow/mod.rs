//! The shadow: what users asked Active is asked once more of Active and of a candidate. Pure.
//!
//! | file | its one job |
//! |---|---|
//! | `round` | the answers to one request: what came, and where the candidate's differ from all of Active's |
//! | `difference` | a difference as a person may see it: redacted and short |
//! | `trial` | the evidence of all requests together |
//! | `tests` | answers of honest and of bad candidates |

mod difference;
mod round;
#[cfg(test)]
mod tests;
mod trial;

pub use difference::Difference;
pub use round::{Asked, Reply, Round};
pub use trial::{EXCHANGES_FEW, ROUNDS_ENOUGH, ShadowTrial};
