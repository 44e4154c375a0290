//! Reads the cases.

use std::path::Path;

use rei::live::Source;
use serde::Deserialize;

/// What the clients do while the case is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// The usual mix at a steady rate.
    #[default]
    Steady,
    /// The rate doubles.
    Rising,
    /// Other routes are asked.
    OtherMix,
    /// A few connections stay open, and all requests come on these.
    FewConnections,
    /// The clients pause for a second, and then send twice as much.
    Bursts,
    /// Some clients leave before they have their answer.
    Impatient,
    /// Other programs take the processors.
    BusyMachine,
}

/// One case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    #[serde(skip)]
    pub name: String,
    #[serde(skip)]
    pub is_bad: bool,
    /// What is wrong, or different, in one sentence.
    pub what: String,
    /// The words of the version's behaviour; see `examples/shop.rs`.
    #[serde(default)]
    pub behaviour: String,
    /// The words of the version before it.
    #[serde(default)]
    pub before: String,
    #[serde(default)]
    pub load: Load,
    /// The sources that can show it.
    #[serde(default = "all")]
    pub sources: Vec<Source>,
    /// Why others cannot.
    #[serde(default)]
    pub why: String,
    /// The reason has one of these: a bad version is found, and not only held for lack of evidence.
    #[serde(default)]
    pub says: Vec<String>,
}

fn all() -> Vec<Source> {
    Source::ALL.to_vec()
}

impl Case {
    /// All cases, in the order of their names.
    pub fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/cases");
        let mut cases = Vec::new();
        for (kind, is_bad) in [("bad", true), ("honest", false)] {
            for entry in std::fs::read_dir(root.join(kind)).expect("the cases") {
                let dir = entry.expect("an entry").path();
                let file = dir.join("case.toml");
                let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                let case: Self = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
                cases.push(Self { name, is_bad, ..case });
            }
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        cases
    }
}
