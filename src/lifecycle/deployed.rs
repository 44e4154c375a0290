//! A version that the profile has.

use serde::{Deserialize, Serialize};

use crate::interface::types::Version;

/// A version with its profile generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Deployed {
    /// The version.
    pub version: Version,
    /// Its generation.
    pub generation: u64,
}
