//! What pages are made for.

use crate::cli::ui::Paint;
use crate::time::Timestamp;

/// What a page is made for.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Look {
    /// Whether there is colour.
    pub(in crate::cli) paint: Paint,
    /// Columns.
    pub(in crate::cli) width: usize,
    /// Now.
    pub(in crate::cli) now: Timestamp,
}
