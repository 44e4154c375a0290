//! The arguments of every page.

use crate::cli::ui::Paint;
use crate::time::Timestamp;

/// The colour, the width and the time of a page.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Look {
    /// Adds colour, or not.
    pub(in crate::cli) paint: Paint,
    /// The width, in columns.
    pub(in crate::cli) width: usize,
    /// The current time.
    pub(in crate::cli) now: Timestamp,
}
