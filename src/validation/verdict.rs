//! `verdict.json`, the output of every sandboxed check.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::interface::types::Verdict;

/// The version that is written, `major.minor` after the name. A reader takes every minor of its major.
pub const SCHEMA: &str = "rei-verdict/1.0";

/// The file's name in the check's output.
pub const FILE: &str = "verdict.json";

/// The name of a qualified run, beside the verdict of the check that qualified it.
pub(crate) const QUALIFIED: &str = "qualified.golden.jsonl";

/// The largest verdict that is read, in bytes: the judge bounds what it writes well below.
pub const VERDICT_BYTES_MAX: usize = 1 << 20;

/// The verdict of one sandboxed check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerdictFile {
    /// [`SCHEMA`].
    pub schema: String,
    /// The check: `boot`, `golden/NAME`, …
    pub check: String,
    /// Pass, fail or inconclusive.
    pub verdict: Verdict,
    /// One line for a person.
    pub summary: String,
    /// Findings, most telling first.
    pub details: Vec<String>,
    /// From the builder's start to its verdict, in milliseconds.
    pub duration_ms: u64,
    /// Numbers by name, with the unit in the name: `exchanges`, `ready_ms`, `tries`, `failures`.
    pub figures: BTreeMap<String, u64>,
}

impl VerdictFile {
    /// Reads the verdict of a check.
    ///
    /// # Errors
    /// A fragment for a person: why these bytes are no verdict of this check.
    pub fn parse(bytes: &[u8], check: &str) -> Result<Self, String> {
        if bytes.len() > VERDICT_BYTES_MAX {
            return Err(format!("the verdict is larger than {VERDICT_BYTES_MAX} bytes"));
        }
        let file: Self = serde_json::from_slice(bytes).map_err(|error| format!("the verdict is garbled: {error}"))?;
        let major = |schema: &str| schema.split_once('.').map(|(major, _)| major.to_owned());
        if major(&file.schema) != major(SCHEMA) {
            return Err(format!("the verdict is of version {:?}, not {SCHEMA}", file.schema));
        }
        if file.check != check {
            return Err(format!("the verdict speaks of {:?}", file.check));
        }
        Ok(file)
    }
}
