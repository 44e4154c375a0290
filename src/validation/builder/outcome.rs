//! What a check found.

use std::collections::BTreeMap;

use crate::golden::GoldenRun;
use crate::interface::types::Verdict;

/// What a check found. It becomes the check's verdict file.
#[derive(Debug)]
pub(crate) struct CheckOutcome {
    pub verdict: Verdict,
    pub summary: String,
    pub details: Vec<String>,
    pub figures: BTreeMap<String, u64>,
    /// The qualified run, which becomes a file beside the verdict.
    pub run: Option<GoldenRun>,
}

impl CheckOutcome {
    pub fn new(verdict: Verdict, summary: impl Into<String>) -> Self {
        Self { verdict, summary: summary.into(), details: Vec::new(), figures: BTreeMap::new(), run: None }
    }

    pub fn details(mut self, details: Vec<String>) -> Self {
        self.details.extend(details);
        self
    }

    pub fn figure(mut self, name: &str, value: u64) -> Self {
        self.figures.insert(name.to_owned(), value);
        self
    }
}
