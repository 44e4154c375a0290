//! Learns from three answers to one request what may differ: the recorded one, and two of a fresh instance. Pure.
//!
//! Equal is the rule of every place. Only where the three answers differ, a weaker rule is learned, and always the
//! strongest one that fits all three. The share of a body that weaker rules cover is bounded: an answer of which little is
//! left to compare is dropped, so that noise cannot hide a regression. Status and content type never get a rule.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::facets::Facets;
use super::fact::{Fact, Path};
use super::learned::{LEARNED_MAX, Learned, Rule, may_differ, single};
use super::placeholder::value_matches;

/// The largest share of a body that learned rules may cover: at least as much stays equal as is loosened.
pub const LOOSE_SHARE_MAX: f64 = 0.5;

/// The largest difference of three numbers, as a share of the largest, that is a tolerance; beyond it only the type counts.
const SPREAD_MAX: f64 = 0.05;

/// The tolerance, as a multiple of the difference of the three numbers.
const TOLERANCE_FACTOR: f64 = 4.0;

/// The longest text that gets a pattern, in bytes.
const PATTERN_TEXT_BYTES_MAX: usize = 1 << 10;

/// Numbers between these are taken for seconds since 1970: the years 2001 to 2065. Also in units of 10^-3, 10^-6 and 10^-9.
const EPOCH_SECONDS: std::ops::Range<f64> = 1e9..3e9;

/// Why an exchange is not in the qualified run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// A fresh instance gave no answer.
    NoAnswer,
    /// A fresh instance answers with another status.
    Status,
    /// A fresh instance answers with another content type.
    ContentType,
    /// A fresh instance gives the same answer twice, but another one than was recorded: it lacks state.
    State,
    /// Too much of the answer differs from one time to the next.
    TooDifferent,
    /// It was not replayed: the time was over, or the instance did not survive an exchange before it.
    NotReplayed,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 6] =
        [Self::NoAnswer, Self::Status, Self::ContentType, Self::State, Self::TooDifferent, Self::NotReplayed];

    /// The name in files and figures.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::Status => "status",
            Self::ContentType => "content_type",
            Self::State => "state",
            Self::TooDifferent => "too_different",
            Self::NotReplayed => "not_replayed",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAnswer => "a fresh instance gave no answer",
            Self::Status => "a fresh instance answers with another status",
            Self::ContentType => "a fresh instance answers with another content type",
            Self::State => "a fresh instance lacks the state for the recorded answer",
            Self::TooDifferent => "too much of the answer differs each time",
            Self::NotReplayed => "it was not replayed",
        })
    }
}

/// The three answers to one request.
#[derive(Clone, Copy, Debug)]
pub struct Three<'a> {
    /// The recorded answer.
    pub recorded: &'a Facets,
    /// The first answer of a fresh instance.
    pub first: &'a Facets,
    /// The answer of another fresh instance.
    pub second: &'a Facets,
}

/// What may differ, place by place.
///
/// # Errors
/// Why the exchange must be dropped.
pub fn learn(three: Three<'_>) -> Result<Vec<Learned>, DropReason> {
    let Three { recorded, first, second } = three;
    let places: BTreeSet<&Path> =
        [recorded, first, second].iter().flat_map(|one| one.iter()).map(|(path, _)| path).collect();
    let has_body = recorded.get(&["body".to_owned()]).is_some();
    // The most telling reasons first: with another status, the rest is another answer.
    for place in [vec!["status".to_owned()], vec!["header".to_owned(), "content-type".to_owned()]] {
        if recorded.get(&place).is_some() {
            rule(three, &place)?;
        }
    }
    let mut learned: Vec<Learned> = Vec::new();
    let mut loose = 0.0;
    for path in places {
        let is_covered = learned.iter().any(|above| path.starts_with(&above.at));
        let is_body = path.first().is_some_and(|root| root == "body");
        let counts = recorded.get(path).is_some() || (is_body && has_body);
        if is_covered || !counts {
            continue;
        }
        let Some((rule, weight)) = rule(three, path)? else { continue };
        if is_body {
            loose += weight;
        }
        if learned.len() == LEARNED_MAX {
            return Err(DropReason::TooDifferent);
        }
        learned.push(Learned { at: path.clone(), rule });
    }
    let leaves = leaves(recorded, &["body".to_owned()]);
    if leaves > 0.0 && loose / leaves > LOOSE_SHARE_MAX {
        return Err(DropReason::TooDifferent);
    }
    Ok(learned)
}

/// The rule of one place with the leaves that it loosens; `None` if the place is equal.
fn rule(three: Three<'_>, path: &Path) -> Result<Option<(Rule, f64)>, DropReason> {
    let Three { recorded, first, second } = three;
    let all = (recorded.get(path), first.get(path), second.get(path));
    let repeats = all.1 == all.2;
    if !may_differ(path) {
        return match all.0 == all.1 && repeats {
            true => Ok(None),
            false if path[0] == "status" => Err(DropReason::Status),
            false => Err(DropReason::ContentType),
        };
    }
    let is_header = path[0] == "header";
    let below = || leaves(recorded, path).max(1.0);
    match all {
        (Some(Fact::List), Some(Fact::List), Some(Fact::List)) => list(three, path),
        (Some(Fact::Scalar(a)), Some(Fact::Scalar(b)), Some(Fact::Scalar(c))) => {
            if value_matches(a, b) && value_matches(a, c) {
                return Ok(None);
            }
            scalar([single(a), single(b), single(c)], repeats && !is_header).map(Some)
        }
        (Some(a), Some(b), Some(c)) if a == b && b == c => Ok(None),
        // A list turns into an object, or a text into JSON: the form is another one.
        (Some(_), Some(_), Some(_)) if repeats => Err(DropReason::State),
        (Some(_), Some(_), Some(_)) => Ok(Some((Rule::Presence, below()))),
        _ if is_header => Ok(Some((Rule::Optional, 0.0))),
        _ if all.1.is_some() == all.2.is_some() => Err(DropReason::State),
        _ => Ok(Some((Rule::Optional, below()))),
    }
}

/// The rule of a list: its elements are compared one by one if there are as many each time.
fn list(three: Three<'_>, path: &Path) -> Result<Option<(Rule, f64)>, DropReason> {
    let elements = [three.recorded, three.first, three.second].map(|one| elements(one, path));
    let [a, b, c] = &elements;
    if a == b && b == c {
        return Ok(None);
    }
    if a.len() == b.len() && b.len() == c.len() {
        let sorted = elements.map(|mut one| {
            one.sort();
            one
        });
        // The elements are all there: only their order is another one.
        return Ok((sorted[0] == sorted[1] && sorted[1] == sorted[2]).then_some((Rule::Set, 0.0)));
    }
    if b.len() == c.len() {
        return Err(DropReason::State);
    }
    Ok(Some((Rule::Presence, leaves(three.recorded, path).max(1.0))))
}

/// Each element of a list as one text.
fn elements(facets: &Facets, path: &Path) -> Vec<String> {
    let names: Vec<String> = facets.children(path).into_iter().map(str::to_owned).collect();
    let element = |name: String| {
        let mut at = path.clone();
        at.push(name);
        let under = facets.iter().filter(|(is, _)| is.starts_with(&at));
        under.map(|(is, fact)| format!("{:?}={fact};", &is[at.len()..])).collect()
    };
    names.into_iter().map(element).collect()
}

/// The number of single values at and below a place.
fn leaves(facets: &Facets, path: &[String]) -> f64 {
    let under = facets.iter().filter(|(is, fact)| is.starts_with(path) && matches!(fact, Fact::Scalar(_)));
    under.count() as f64
}

/// The strongest rule for three values, of which at least one differs, and the share of the value that it loosens.
fn scalar(values: [&Value; 3], repeats: bool) -> Result<(Rule, f64), DropReason> {
    if let [Some(a), Some(b), Some(c)] = values.map(Value::as_f64) {
        return Ok(number([a, b, c]));
    }
    if let [Some(a), Some(b), Some(c)] = values.map(Value::as_str) {
        // Digests have a form, but it says nothing of the bytes: other bytes, and the same ones each time, are data.
        if repeats && is_digest(a) && is_digest(b) {
            return Err(DropReason::State);
        }
        return match pattern([a, b, c]) {
            Some(found) => Ok(found),
            // Other words, and the same ones each time: this is data, not noise.
            None if repeats => Err(DropReason::State),
            None => Ok((Rule::Type, 1.0)),
        };
    }
    if repeats {
        return Err(DropReason::State);
    }
    let is_alike = |other| std::mem::discriminant(values[0]) == std::mem::discriminant(other);
    Ok((if values.into_iter().all(is_alike) { Rule::Type } else { Rule::Presence }, 1.0))
}

/// True for the words for bytes that are compared by their digest.
fn is_digest(text: &str) -> bool {
    text.split_once(" bytes, sha256 ").is_some_and(|(bytes, hash)| bytes.parse::<u64>().is_ok() && hash.len() == 64)
}

fn number(values: [f64; 3]) -> (Rule, f64) {
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), &one| (low.min(one), high.max(one)));
    let scale = values.iter().fold(0.0_f64, |scale, one| scale.max(one.abs()));
    let is_time = |one: f64| [1.0, 1e3, 1e6, 1e9].iter().any(|unit| EPOCH_SECONDS.contains(&(one / unit)));
    let spread = high - low;
    if spread > SPREAD_MAX * scale || values.into_iter().all(is_time) {
        return (Rule::Type, 1.0);
    }
    (Rule::Tolerance(spread * TOLERANCE_FACTOR), (spread * TOLERANCE_FACTOR / scale).min(1.0))
}

/// A pattern of three texts with the same separators, and the share of the text that it leaves open; `None` if they do not
/// have the same form.
fn pattern(texts: [&str; 3]) -> Option<(Rule, f64)> {
    if texts.iter().any(|text| text.len() > PATTERN_TEXT_BYTES_MAX) {
        return None;
    }
    let [a, b, c] = texts.map(words);
    if a.len() != b.len() || b.len() != c.len() {
        return None;
    }
    let (mut text, mut open, mut all) = (String::new(), 0, 0);
    for ((a, b), c) in a.iter().zip(&b).zip(&c) {
        let is_word = a.starts_with(|first: char| first.is_ascii_alphanumeric());
        all += a.len();
        let every = |is: fn(&u8) -> bool| [a, b, c].iter().all(|one| one.bytes().all(|byte| is(&byte)));
        let is_equal = a == b && b == c;
        if is_equal && !(is_word && (every(u8::is_ascii_digit) || is_calendar_word(a))) {
            text.push_str(&regex::escape(a));
        } else if !is_word {
            return None;
        } else {
            open += a.len();
            text.push_str(match () {
                () if every(u8::is_ascii_digit) => "[0-9]+",
                () if every(u8::is_ascii_hexdigit) => "[0-9A-Fa-f]+",
                () if has_digit(a) || has_digit(b) || has_digit(c) || is_calendar_word(a) => "[0-9A-Za-z]+",
                // Plain words that differ have no form.
                () => return None,
            });
        }
    }
    Some((Rule::Pattern(text), open as f64 / all.max(1) as f64))
}

/// The runs of letters and digits of a text, and what is between them.
fn words(text: &str) -> Vec<&str> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = first.is_ascii_alphanumeric();
        let end = rest.find(|next: char| next.is_ascii_alphanumeric() != is_word).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        all.push(word);
        rest = after;
    }
    all
}

fn has_digit(word: &str) -> bool {
    word.bytes().any(|byte| byte.is_ascii_digit())
}

/// True for the names of days and months in HTTP dates (RFC 9110, section 5.6.7): the next answer may have another one.
fn is_calendar_word(word: &str) -> bool {
    const WORDS: &[&str] = &[
        "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep",
        "Oct", "Nov", "Dec",
    ];
    WORDS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{Noise, Normaliser, Normalisers, compare};
    use crate::http::Response;

    fn rules() -> Normalisers {
        Normalisers::compile(&[Normaliser::Ignore { pointer: "/token".into() }]).unwrap()
    }

    fn answer(status: u16, kind: &str, id: &str, body: &str) -> Response {
        let headers = [("content-type", kind), ("x-id", id)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        Response { status, headers: headers.to_vec(), body: body.as_bytes().to_vec() }
    }

    fn facts(answer: &Response, rules: &Normalisers) -> Facets {
        Facets::of_response(answer, rules)
    }

    fn learn_of(answers: [&Response; 3]) -> Result<Vec<String>, DropReason> {
        let [recorded, first, second] = answers.map(|one| facts(one, &rules()));
        let learned = learn(Three { recorded: &recorded, first: &first, second: &second })?;
        Ok(learned.iter().map(ToString::to_string).collect())
    }

    fn bodies(all: [&str; 3]) -> Result<Vec<String>, DropReason> {
        let [a, b, c] = all.map(|body| answer(200, "application/json", "1", body));
        learn_of([&a, &b, &c])
    }

    #[test]
    fn a_placeholder_needs_no_rule_if_both_values_are_of_its_kind() {
        let mail = |mail: &str| format!(r#"{{"mail":"{mail}","n":1}}"#);
        let all = ["{{rei:email}}", "ada@example.org", "ada@example.org"].map(mail);
        assert_eq!(bodies([&all[0], &all[1], &all[2]]), Ok(Vec::new()));
        let all = ["{{rei:email}}", "none", "none"].map(mail);
        assert_eq!(bodies([&all[0], &all[1], &all[2]]), Err(DropReason::State));
    }

    #[test]
    fn each_difference_gets_the_strongest_rule_that_fits() {
        let json = |id: &str, load: f64, at: u64, tags: &str, more: &str| {
            format!(
                "{{\"hello\":\"world\",\"ok\":true,\"list\":[1,2,3],\"deep\":{{\"a\":1,\"b\":2,\"c\":3,\"d\":4}},\
                 \"token\":\"x{id}\",\"id\":\"{id}\",\"load\":{load},\"at\":{at},\"tags\":{tags}{more}}}"
            )
        };
        let learned = bodies([
            &json("req-0a1b", 10.0, 1_700_000_000, "[\"x\",\"y\"]", ""),
            &json("req-77c9", 10.1, 1_700_000_050, "[\"y\",\"x\"]", ",\"more\":1"),
            &json("req-3f00", 10.2, 1_700_000_060, "[\"x\",\"y\"]", ""),
        ]);
        assert_eq!(
            learned.unwrap(),
            [
                "body/at: type",
                "body/id: pattern req\\-[0-9A-Fa-f]+",
                "body/load: tolerance 0.7999999999999972",
                "body/more: optional",
                "body/tags: set",
            ]
        );
        assert_eq!(bodies(["{\"a\":1}"; 3]), Ok(Vec::new()));
        let ids = ["a-1", "a-2", "a-3"].map(|id| answer(200, "text/plain", id, "x"));
        assert_eq!(learn_of([&ids[0], &ids[1], &ids[2]]), Ok(vec!["header/x-id: pattern a\\-[0-9]+".into()]));
    }

    #[test]
    fn what_a_fresh_instance_cannot_repeat_is_dropped_with_its_reason() {
        let good = answer(200, "application/json", "1", "{\"a\":1}");
        let absent = answer(404, "application/json", "1", "{\"a\":1}");
        let page = answer(200, "text/html", "1", "{\"a\":1}");
        assert_eq!(learn_of([&good, &absent, &absent]), Err(DropReason::Status));
        assert_eq!(learn_of([&good, &good, &absent]), Err(DropReason::Status));
        assert_eq!(learn_of([&good, &page, &page]), Err(DropReason::ContentType));
        let cases = [
            (["[{\"n\":1},{\"n\":2}]", "[]", "[]"], DropReason::State),
            (["{\"a\":1,\"b\":2}", "{\"a\":1}", "{\"a\":1}"], DropReason::State),
            (
                ["{\"name\":\"Ada\",\"b\":1}", "{\"name\":\"nobody\",\"b\":1}", "{\"name\":\"nobody\",\"b\":1}"],
                DropReason::State,
            ),
            (["{\"a\":{\"b\":1}}", "{\"a\":[]}", "{\"a\":[]}"], DropReason::State),
            // Two of three values differ each time, and little is left.
            (
                ["{\"a\":1,\"b\":90,\"c\":0}", "{\"a\":50,\"b\":2,\"c\":0}", "{\"a\":9,\"b\":7,\"c\":0}"],
                DropReason::TooDifferent,
            ),
            (["0123", "4567", "890a"], DropReason::TooDifferent),
        ];
        for (answers, reason) in cases {
            assert_eq!(bodies(answers), Err(reason), "{answers:?}");
        }
    }

    #[test]
    fn a_regression_is_found_through_the_learned_rules_and_through_noise() {
        let json = |id: &str, n: u64| format!("{{\"hello\":\"world\",\"ok\":true,\"id\":\"{id}\",\"n\":{n}}}");
        let three = [("u1-a7", 3), ("u2-b8", 900), ("u3-c9", 41)]
            .map(|(id, n)| answer(200, "application/json", "1", &json(id, n)));
        let base = rules();
        let [a, b, c] = three.each_ref().map(|one| facts(one, &base));
        let learned = learn(Three { recorded: &a, first: &b, second: &c }).unwrap();
        let rules = base.with(&learned).unwrap();
        let [a, b, c] = three.each_ref().map(|one| facts(one, &rules));
        let noise = Noise::between(b, c);
        let differs = |candidate: &str| -> Vec<String> {
            let candidate = facts(&answer(200, "application/json", "1", candidate), &rules);
            compare(&a, &candidate, &noise, &rules).into_iter().map(|found| found.at).collect()
        };
        assert_eq!(differs(&json("u9-f0", 77)), Vec::<String>::new());
        // Without the rules the noise would hide the first two.
        assert_eq!(differs("{\"hello\":\"world\",\"ok\":true,\"id\":\"\",\"n\":1}"), ["body/id"]);
        assert_eq!(differs("{\"hello\":\"world\",\"ok\":true,\"id\":\"u9-f0\",\"n\":null}"), ["body/n"]);
        assert_eq!(differs("{\"hello\":\"wurld\",\"ok\":true,\"id\":\"u9-f0\",\"n\":1}"), ["body/hello"]);
        assert_eq!(differs("{\"hello\":\"world\",\"ok\":true,\"n\":1}"), ["body/id"]);
    }

    #[test]
    fn no_file_can_loosen_a_status_or_a_content_type() {
        for at in [vec!["status"], vec!["header", "content-type"], vec!["header"], vec![]] {
            let at: Path = at.into_iter().map(str::to_owned).collect();
            assert!(rules().with(&[Learned { at, rule: Rule::Optional }]).is_err());
        }
        let pattern = Learned { at: vec!["body".into(), "a".into()], rule: Rule::Pattern("(".into()) };
        assert!(rules().with(&[pattern]).is_err());
    }
}
