//! Normalisers: rules of a run's author for differences that do not count.

use regex::bytes::Regex;
use serde::{Deserialize, Serialize};

use super::fact::Fact;
use super::learned::{Learned, LearnedRules};

/// Headers that never count: they depend on the time and the connection, not on the answer.
const HEADERS_IGNORED: &[&str] = &["connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"];

/// One rule of a run's header line.
///
/// A pointer is a JSON pointer (RFC 6901), in which the segment `*` matches every key and every position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Normaliser {
    /// The value at a pointer, with everything below it, does not count. But it must be present.
    Ignore {
        /// The place in a JSON body.
        pointer: String,
    },
    /// A number at a pointer may differ by this much.
    Tolerance {
        /// The place in a JSON body.
        pointer: String,
        /// The largest difference that does not count; 0 or more.
        by: f64,
    },
    /// The order of the elements in the list at a pointer does not count.
    Unordered {
        /// The place in a JSON body.
        pointer: String,
    },
    /// Text in the body that matches a regular expression is replaced before the comparison.
    Replace {
        /// The regular expression.
        regex: String,
        /// The replacement; `$1` refers to a group.
        with: String,
    },
    /// A header does not count.
    IgnoreHeader {
        /// The name of the header, in any case.
        name: String,
    },
}

/// The compiled rules of a run.
#[derive(Clone, Debug)]
pub struct Normalisers {
    ignored: Vec<Pattern>,
    tolerances: Vec<(Pattern, f64)>,
    unordered: Vec<Pattern>,
    replaced: Vec<(Regex, Vec<u8>)>,
    headers: Vec<String>,
    learned: LearnedRules,
}

/// A pointer with wildcards, split at its slashes.
#[derive(Clone, Debug)]
struct Pattern(Vec<String>);

impl Pattern {
    fn parse(pointer: &str) -> Result<Self, String> {
        if pointer.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let Some(rest) = pointer.strip_prefix('/') else {
            return Err(format!("the pointer {pointer:?} does not begin with /"));
        };
        Ok(Self(rest.split('/').map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect()))
    }

    fn matches(&self, path: &[String]) -> bool {
        self.0.len() == path.len() && self.0.iter().zip(path).all(|(want, is)| want == "*" || want == is)
    }
}

impl Normalisers {
    /// Checks and compiles the rules.
    ///
    /// # Errors
    /// Which rule is invalid, and why.
    pub fn compile(rules: &[Normaliser]) -> Result<Self, String> {
        let headers = HEADERS_IGNORED.iter().map(|&name| name.to_owned()).collect();
        let (ignored, tolerances, unordered, replaced) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut all = Self { ignored, tolerances, unordered, replaced, headers, learned: LearnedRules::default() };
        for rule in rules {
            match rule {
                Normaliser::Ignore { pointer } => all.ignored.push(Pattern::parse(pointer)?),
                Normaliser::Unordered { pointer } => all.unordered.push(Pattern::parse(pointer)?),
                Normaliser::Tolerance { pointer, by } if *by >= 0.0 => {
                    all.tolerances.push((Pattern::parse(pointer)?, *by));
                }
                Normaliser::Tolerance { pointer, by } => {
                    return Err(format!("the tolerance {by} at {pointer:?} is below 0"));
                }
                Normaliser::Replace { regex, with } => {
                    let compiled = Regex::new(regex).map_err(|_| format!("{regex:?} is not a regular expression"))?;
                    all.replaced.push((compiled, with.clone().into_bytes()));
                }
                Normaliser::IgnoreHeader { name } => all.headers.push(name.to_ascii_lowercase()),
            }
        }
        Ok(all)
    }

    /// These rules with those that were learned for one exchange.
    ///
    /// # Errors
    /// Which rule is invalid, and why.
    pub fn with(&self, learned: &[Learned]) -> Result<Self, String> {
        Ok(Self { learned: LearnedRules::compile(learned)?, ..self.clone() })
    }

    /// True if a place may have any value or none.
    pub(crate) fn is_free(&self, path: &[String]) -> bool {
        self.learned.is_free(path)
    }

    /// Whether two facts are alike by a learned rule; `None` if there is no rule for them.
    pub(crate) fn alike(&self, path: &[String], a: &Fact, b: &Fact) -> Option<bool> {
        self.learned.alike(path, a, b)
    }

    /// True if a learned rule says all about a place, so that noise does not count there.
    pub(crate) fn decides(&self, path: &[String]) -> bool {
        self.learned.decides(path)
    }

    /// True if a header counts; its name is in lower case.
    pub(crate) fn counts_header(&self, name: &str) -> bool {
        !self.headers.iter().any(|ignored| ignored == name)
    }

    /// The body after all replacements.
    pub(crate) fn replace(&self, body: &[u8]) -> Vec<u8> {
        let mut body = body.to_vec();
        for (regex, with) in &self.replaced {
            body = regex.replace_all(&body, with.as_slice()).into_owned();
        }
        body
    }

    /// True if the value at this path is ignored.
    pub(crate) fn ignores(&self, path: &[String]) -> bool {
        self.ignored.iter().any(|pattern| pattern.matches(path)) || self.learned.is_present_only(path)
    }

    /// The tolerance for a number at this path.
    pub(crate) fn tolerance(&self, path: &[String]) -> f64 {
        let matching = self.tolerances.iter().filter(|(pattern, _)| pattern.matches(path));
        matching.map(|(_, by)| *by).fold(0.0, f64::max)
    }

    /// True if the order of the list at this path is ignored.
    pub(crate) fn unordered(&self, path: &[String]) -> bool {
        self.unordered.iter().any(|pattern| pattern.matches(path)) || self.learned.is_set(path)
    }
}
