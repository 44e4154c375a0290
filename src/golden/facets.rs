//! An answer as a tree of facts, each with a path. Facts are compared, and reports name their paths.
//!
//! The paths begin with `status`, `header` or `body`. Below `body` a JSON answer has its keys and positions, and a text
//! has its lines. The normalisers have been applied already.

use std::collections::BTreeMap;

use serde_json::Value;

use super::bodies::{BLOCK_BYTES, Digests};
use super::fact::{Fact, Path};
use super::format::{Exchange, Expected};
use super::message::digest_text;
use super::normalise::Normalisers;
use super::placeholder::Placeholder;
use crate::digest;
use crate::http::Response;

/// Maximum number of lines of a text that are separate facts; the rest is one fact. This limits the judge's memory.
const LINES_MAX: usize = 10_000;

/// The facts of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facets {
    facts: BTreeMap<Path, Fact>,
}

impl Facets {
    /// The facts of a recorded answer.
    pub fn of_expected(expected: &Expected, normalisers: &Normalisers) -> Self {
        let digest = expected.body.as_deref().and_then(Placeholder::digest_of);
        let body = expected.body.as_deref().filter(|_| digest.is_none());
        let mut all = Self::of(expected.status, &expected.headers, body, normalisers);
        if let Some((bytes, sha256)) = digest {
            let summary = digest_text(bytes.parse().unwrap_or(0), sha256);
            all.facts.insert(vec!["body".to_owned()], Fact::Scalar(summary.into()));
        }
        all
    }

    /// The facts of the recorded answer of an exchange, if there is one.
    pub fn of_recorded(exchange: &Exchange, normalisers: &Normalisers) -> Option<Self> {
        let mut all = Self::of_expected(exchange.response.as_ref()?, normalisers);
        if let Some(file) = &exchange.files.answer {
            all.add_digests(&file.digests);
        }
        Some(all)
    }

    /// The facts of a received answer whose body was read as these digests.
    pub fn of_digested(response: &Response, digests: &Digests, normalisers: &Normalisers) -> Self {
        let mut all = Self::of(response.status, &response.headers, None, normalisers);
        all.add_digests(digests);
        all
    }

    /// The facts of a large body: its size, and the digest of each block.
    fn add_digests(&mut self, digests: &Digests) {
        let root = vec!["body".to_owned()];
        let at = |name: String| vec![root[0].clone(), name];
        self.facts.insert(at("bytes".to_owned()), Fact::Scalar(digests.bytes.into()));
        for (index, block) in digests.blocks.iter().enumerate() {
            let from = (index * BLOCK_BYTES) as u64;
            let bytes = digests.bytes.saturating_sub(from).min(BLOCK_BYTES as u64);
            // The number is padded, so that the order of the paths is the order of the blocks.
            let name = format!("block {:>4} (from byte {from})", index + 1);
            self.facts.insert(at(name), Fact::Scalar(digest_text(bytes, &digest::hex(block)).into()));
        }
        self.facts.insert(root, Fact::List);
    }

    /// The facts of a received answer.
    pub fn of_response(response: &Response, normalisers: &Normalisers) -> Self {
        Self::of(response.status, &response.headers, Some(&response.body), normalisers)
    }

    pub(super) fn of(
        status: u16,
        headers: &[(String, String)],
        body: Option<&[u8]>,
        normalisers: &Normalisers,
    ) -> Self {
        let mut all = Self::default();
        // A conversation of lines has none.
        if status != 0 {
            all.facts.insert(vec!["status".into()], Fact::Scalar(status.into()));
        }
        for (name, value) in headers {
            if normalisers.counts_header(name) {
                // A repeated header is one fact with all its values, in order.
                let fact = all.facts.entry(vec!["header".into(), name.clone()]);
                let fact = fact.or_insert_with(|| Fact::Scalar(Value::Array(Vec::new())));
                if let Fact::Scalar(Value::Array(values)) = fact {
                    values.push(Value::String(value.clone()));
                }
            }
        }
        if let Some(body) = body {
            all.add_body(&normalisers.replace(body), normalisers);
        }
        all
    }

    fn add_body(&mut self, body: &[u8], normalisers: &Normalisers) {
        let root = vec!["body".to_owned()];
        if let Ok(value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_slice(body) {
            return self.add_tree(root, Tree::of(value, &mut Vec::new(), normalisers));
        }
        let Ok(text) = std::str::from_utf8(body) else {
            let summary = digest_text(body.len() as u64, &digest::sha256(body));
            self.facts.insert(root, Fact::Scalar(summary.into()));
            return;
        };
        self.facts.insert(root.clone(), Fact::Text);
        for (index, line) in text.splitn(LINES_MAX, '\n').enumerate() {
            let mut path = root.clone();
            // The number is padded, so that the order of the paths is the order of the lines.
            path.push(format!("line {:>5}", index + 1));
            self.facts.insert(path, Fact::Scalar(Value::String(line.to_owned())));
        }
    }

    fn add_tree(&mut self, path: Path, tree: Tree) {
        let below = |segment: String| path.iter().cloned().chain([segment]).collect();
        let fact = match tree {
            Tree::Ignored => Fact::Ignored,
            Tree::Scalar(value) => Fact::Scalar(value),
            Tree::List(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    self.add_tree(below(index.to_string()), item);
                }
                Fact::List
            }
            Tree::Object(members) => {
                for (key, member) in members {
                    self.add_tree(below(key), member);
                }
                Fact::Object
            }
        };
        self.facts.insert(path, fact);
    }

    pub(crate) fn get(&self, path: &[String]) -> Option<&Fact> {
        self.facts.get(path)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, &Fact)> {
        self.facts.iter()
    }

    /// The names directly below a path.
    pub(crate) fn children(&self, path: &[String]) -> Vec<&str> {
        let under = self.facts.range(path.to_vec()..).take_while(|(is, _)| is.starts_with(path));
        under.filter(|(is, _)| is.len() == path.len() + 1).filter_map(|(is, _)| is.last().map(String::as_str)).collect()
    }
}

/// A JSON value after the rules `ignore` and `unordered`.
enum Tree {
    Ignored,
    Scalar(Value),
    List(Vec<Tree>),
    Object(BTreeMap<String, Tree>),
}

impl Tree {
    fn of(value: Value, path: &mut Path, normalisers: &Normalisers) -> Self {
        if normalisers.ignores(path) {
            return Self::Ignored;
        }
        let mut child = |segment: String, value: Value| {
            path.push(segment);
            let tree = Self::of(value, path, normalisers);
            path.pop();
            tree
        };
        match value {
            Value::Array(list) => {
                let mut items: Vec<Self> =
                    list.into_iter().enumerate().map(|(index, item)| child(index.to_string(), item)).collect();
                if normalisers.unordered(path) {
                    items.sort_by_cached_key(Self::canonical);
                }
                Self::List(items)
            }
            Value::Object(map) => Self::Object(
                map.into_iter()
                    .map(|(key, value)| {
                        let tree = child(key.clone(), value);
                        (key, tree)
                    })
                    .collect(),
            ),
            scalar => Self::Scalar(scalar),
        }
    }

    /// A text that is equal for equal trees, as a sort key.
    fn canonical(&self) -> String {
        match self {
            Self::Ignored => "~".into(),
            Self::Scalar(value) => value.to_string(),
            Self::List(items) => format!("[{}]", items.iter().map(Self::canonical).collect::<Vec<_>>().join(",")),
            Self::Object(members) => {
                let members: Vec<_> =
                    members.iter().map(|(key, tree)| format!("{key:?}:{}", tree.canonical())).collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }
}
