//! Rules that qualification learned for one exchange: what may differ at one place of its answer. Pure.

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fact::{Fact, Path};

/// The most learned rules of one exchange. An answer that needs more is too different from one time to the next.
pub const LEARNED_MAX: usize = 200;

/// The longest pattern of a learned rule, in bytes.
const PATTERN_BYTES_MAX: usize = 8 << 10;

/// What may differ at a place. A place without a rule must be equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Any value of the same JSON type.
    Type,
    /// A text that matches this regular expression.
    Pattern(String),
    /// A number that differs by at most this much.
    Tolerance(f64),
    /// The same elements of a list, in any order.
    Set,
    /// Any value, but there must be one.
    Presence,
    /// Any value, or none.
    Optional,
}

impl Rule {
    /// The name of its kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Pattern(_) => "pattern",
            Self::Tolerance(_) => "tolerance",
            Self::Set => "set",
            Self::Presence => "presence",
            Self::Optional => "optional",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(regex) => write!(f, "pattern {regex}"),
            Self::Tolerance(by) => write!(f, "tolerance {by}"),
            Self::Type | Self::Set | Self::Presence | Self::Optional => f.write_str(self.name()),
        }
    }
}

/// A rule with its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learned {
    /// The path of the fact: `["body", "items", "0", "id"]`.
    pub at: Path,
    /// What may differ there.
    pub rule: Rule,
}

impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at.join("/"), self.rule)
    }
}

/// The compiled rules of one exchange.
#[derive(Clone, Debug, Default)]
pub(super) struct LearnedRules(BTreeMap<Path, Compiled>);

#[derive(Clone, Debug)]
enum Compiled {
    Type,
    Pattern(Regex),
    Tolerance(f64),
    Set,
    Presence,
    Optional,
}

impl LearnedRules {
    /// Checks and compiles the rules.
    ///
    /// # Errors
    /// Which rule is invalid, and why.
    pub(super) fn compile(rules: &[Learned]) -> Result<Self, String> {
        if rules.len() > LEARNED_MAX {
            return Err(format!("it has {} learned rules, more than the maximum of {LEARNED_MAX}", rules.len()));
        }
        let mut all = BTreeMap::new();
        for Learned { at, rule } in rules {
            let place = at.join("/");
            if !may_differ(at) {
                return Err(format!("a learned rule for {place:?}: status and content type must always be equal"));
            }
            let compiled = match rule {
                Rule::Type => Compiled::Type,
                Rule::Set => Compiled::Set,
                Rule::Presence => Compiled::Presence,
                Rule::Optional => Compiled::Optional,
                Rule::Tolerance(by) if *by >= 0.0 => Compiled::Tolerance(*by),
                Rule::Tolerance(by) => return Err(format!("the tolerance {by} at {place:?} is below 0")),
                Rule::Pattern(text) if text.len() > PATTERN_BYTES_MAX => {
                    return Err(format!("the pattern at {place:?} is longer than {PATTERN_BYTES_MAX} bytes"));
                }
                Rule::Pattern(text) => Compiled::Pattern(
                    Regex::new(&format!("^(?s:{text})$"))
                        .map_err(|_| format!("{text:?} at {place:?} is not a regular expression"))?,
                ),
            };
            all.insert(at.clone(), compiled);
        }
        Ok(Self(all))
    }

    /// True if this place, or one above it, may have any value or none.
    pub(super) fn is_free(&self, path: &[String]) -> bool {
        let is_optional = |end| matches!(self.0.get(&path[..end]), Some(Compiled::Optional));
        !self.0.is_empty() && (1..=path.len()).any(is_optional)
    }

    /// True if any value may be here, below `body`.
    pub(super) fn is_present_only(&self, below_body: &[String]) -> bool {
        matches!(self.of_body(below_body), Some(Compiled::Presence))
    }

    /// True if the order of a list does not count, below `body`.
    pub(super) fn is_set(&self, below_body: &[String]) -> bool {
        matches!(self.of_body(below_body), Some(Compiled::Set))
    }

    fn of_body(&self, below_body: &[String]) -> Option<&Compiled> {
        if self.0.is_empty() {
            return None;
        }
        let path: Path = ["body".to_owned()].into_iter().chain(below_body.iter().cloned()).collect();
        self.0.get(&path)
    }

    /// Whether two different facts are alike by the rule of their place; `None` if the place has no rule for single facts.
    pub(super) fn alike(&self, path: &[String], a: &Fact, b: &Fact) -> Option<bool> {
        let rule = self.0.get(path)?;
        let (a, b) = match (a, b) {
            (Fact::Scalar(a), Fact::Scalar(b)) => (single(a), single(b)),
            _ => return matches!(rule, Compiled::Presence).then_some(true),
        };
        match rule {
            Compiled::Type => Some(std::mem::discriminant(a) == std::mem::discriminant(b)),
            Compiled::Pattern(regex) => {
                Some([a, b].iter().all(|one| one.as_str().is_some_and(|text| regex.is_match(text))))
            }
            Compiled::Tolerance(by) => {
                Some(a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| a == b || (a - b).abs() <= *by))
            }
            Compiled::Presence => Some(true),
            Compiled::Set | Compiled::Optional => None,
        }
    }

    /// Whether the rule of a place says all about it, so that a difference there is never noise. A tolerance does not: three
    /// numbers do not show how far the next one may be.
    pub(super) fn decides(&self, path: &[String]) -> bool {
        matches!(self.0.get(path), Some(Compiled::Type | Compiled::Pattern(_)))
    }
}

/// The value of a header that is not repeated, or the value itself.
pub(super) fn single(value: &Value) -> &Value {
    match value.as_array().map(Vec::as_slice) {
        Some([one]) => one,
        _ => value,
    }
}

/// False for what no learned rule may loosen: the status and the content type.
pub(super) fn may_differ(path: &[String]) -> bool {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    !matches!(words.as_slice(), [] | ["status", ..] | ["header"] | ["header", "content-type", ..])
}
