//! Reads the lines of a page: Prometheus text 0.0.4 and OpenMetrics 1.0.
//!
//! No crate fits. `openmetrics-parser` refuses a whole page for one wrong line, and its licence (LGPL) does not fit a
//! static program. `prometheus-parse` splits labels at each comma and equals sign, and ends them at the first `}`, so
//! that it loses a route such as `/users/{id}`. Neither has a bound. A line is all that is read here: what a series
//! means is decided by its name (`names`), not by the comments of the page.

use std::borrow::Cow;

use super::native::{self, Native};

/// The most bytes of a page that are read. A page of a usual service has some 20 KiB; this is enough for 40,000 series.
pub const PAGE_BYTES_MAX: usize = 4 << 20;
/// The longest line, in bytes; a longer one is not read.
const LINE_BYTES_MAX: usize = 16 << 10;
/// The most labels of a series; a series with more is not read.
const LABELS_MAX: usize = 32;

/// One line of a page.
#[derive(Debug, PartialEq)]
pub(super) struct Line<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub(super) value: Value,
}

/// The value of a line.
#[derive(Debug, PartialEq)]
pub(super) enum Value {
    /// A number; it can be NaN, infinite or negative.
    Number(f64),
    /// A whole histogram.
    Native(Native),
}

/// Gives each series of a page to `each`, and returns the number of lines that cannot be read. Labels are only read if
/// the name is `wanted`. A page that was cut ends in the middle of a line: that line is not read.
pub(super) fn read<'a>(
    page: &'a [u8],
    is_cut: bool,
    wanted: impl Fn(&str) -> bool,
    mut each: impl FnMut(Line<'a>),
) -> u64 {
    let page = &page[..page.len().min(PAGE_BYTES_MAX)];
    let whole = if is_cut { page.iter().rposition(|byte| *byte == b'\n').unwrap_or(0) } else { page.len() };
    let mut unread = 0;
    for line in page[..whole].split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        let text = if line.len() <= LINE_BYTES_MAX { std::str::from_utf8(line).ok() } else { None };
        match text.map(|text| (text, name(text))) {
            // A name in quotes is only known after the labels were read.
            Some((_, Some(name))) if !name.is_empty() && !wanted(name) => {}
            Some((text, Some(_))) => match parse(text) {
                Some(line) if wanted(&line.name) => each(line),
                Some(_) => {}
                None => unread += 1,
            },
            _ => unread += 1,
        }
    }
    unread
}

/// The name of a series; empty if it stands in quotes among the labels.
fn name(line: &str) -> Option<&str> {
    let end = line.find(['{', ' ', '\t'])?;
    let name = &line[..end];
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':').then_some(name)
}

fn parse(line: &str) -> Option<Line<'_>> {
    let name = name(line)?;
    let mut found = Line { name: Cow::Borrowed(name), labels: Vec::new(), value: Value::Number(0.0) };
    let mut rest = &line[name.len()..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = labels(inside, &mut found)?;
    }
    let rest = rest.trim_start();
    found.value = if let Some(inside) = rest.strip_prefix('{') {
        Value::Native(native::parse(inside.split_once('}')?.0)?)
    } else {
        Value::Number(rest.split_ascii_whitespace().next()?.parse().ok()?)
    };
    (!found.name.is_empty()).then_some(found)
}

/// Reads labels up to the brace after them, and returns what follows.
fn labels<'a>(mut rest: &'a str, line: &mut Line<'a>) -> Option<&'a str> {
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Some(after);
        }
        let key = if rest.starts_with('"') {
            let (text, after) = quoted(rest)?;
            rest = after.trim_start();
            text
        } else {
            let (key, _) = rest.split_once('=')?;
            rest = &rest[key.len()..];
            Cow::Borrowed(key.trim_end())
        };
        if let Some(value) = rest.strip_prefix('=') {
            let (value, after) = quoted(value.trim_start())?;
            if line.labels.len() == LABELS_MAX {
                return None;
            }
            line.labels.push((key, value));
            rest = after;
        } else {
            line.name = key;
        }
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').or_else(|| rest.starts_with('}').then_some(rest))?;
    }
}

/// Reads a text in quotes, and returns it with what follows.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let inside = text.strip_prefix('"')?;
    let (mut end, mut escaped, mut plain) = (None, false, true);
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => (escaped, plain) = (true, false),
            b'"' => {
                end = Some(at);
                break;
            }
            _ => {}
        }
    }
    let end = end?;
    let (value, after) = (&inside[..end], &inside[end + 1..]);
    if plain {
        return Some((Cow::Borrowed(value), after));
    }
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some(c) => c,
                None => '\\',
            },
            c => c,
        });
    }
    Some((Cow::Owned(text), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(page: &str) -> (Vec<(String, String, f64)>, u64) {
        let mut found = Vec::new();
        let unread = read(
            page.as_bytes(),
            false,
            |_| true,
            |line| {
                let labels: Vec<String> = line.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let Value::Number(value) = line.value else { panic!("{line:?}") };
                found.push((line.name.into_owned(), labels.join("|"), value));
            },
        );
        (found, unread)
    }

    #[test]
    fn names_labels_and_values_are_read() {
        let cases = [
            ("a 1", "a", "", 1.0),
            ("a{} 1e3 1700000000000", "a", "", 1000.0),
            ("a{b=\"c\"} 2", "a", "b=c", 2.0),
            ("a { b = \"c\" , d = \"e\" , } 2", "a", "", f64::NAN),
            ("a{ b = \"c\" , d = \"e\" , } 2", "a", "b=c|d=e", 2.0),
            ("a{route=\"/users/{id}\",q=\"x=1,y=2}\"} 3", "a", "route=/users/{id}|q=x=1,y=2}", 3.0),
            (r#"a{b="a \"word\" \\ \n."} 4"#, "a", "b=a \"word\" \\ \n.", 4.0),
            ("a_bucket{le=\"+Inf\"} 5 # {trace_id=\"abc\"} 0.67 1.5", "a_bucket", "le=+Inf", 5.0),
            ("{\"http.server.duration_count\",b=\"c\"} 6", "http.server.duration_count", "b=c", 6.0),
            ("a{b=\"\u{fc}\"}\t7", "a", "b=\u{fc}", 7.0),
        ];
        for (line, name, labels, value) in cases {
            let (found, unread) = all(line);
            if value.is_nan() {
                // A space between the name and the labels is a fault of the page.
                assert_eq!((found.len(), unread), (0, 1), "{line}");
                continue;
            }
            assert_eq!((found, unread), (vec![(name.to_owned(), labels.to_owned(), value)], 0), "{line}");
        }
        assert!(all("a NaN\n").0[0].2.is_nan());
        assert_eq!(all("a +Inf\n").0[0].2, f64::INFINITY);
    }

    #[test]
    fn lines_that_cannot_be_read_are_counted_and_the_others_are_read() {
        let long = format!("a{{b=\"{}\"}} 1", "x".repeat(LINE_BYTES_MAX));
        let many: String = (0..=LABELS_MAX).map(|n| format!("l{n}=\"x\",")).collect();
        let many = format!("a{{{many}}} 1");
        let bad = ["<html>", "a", "a{b=\"c} 1", "a{b=c} 1", "a{b=\"c\"", "a{b=\"c\"}", "a one", "a{\"\\", &long, &many];
        for line in bad {
            let (found, unread) = all(&format!("# HELP a b\n{line}\nb 2\n# EOF\n"));
            assert_eq!((found.len(), unread), (1, 1), "{}", &line[..line.len().min(80)]);
        }
        let (mut found, page) = (0, b"a 1\nb\xff{} 1\nc 3".as_slice());
        assert_eq!((read(page, true, |_| true, |_| found += 1), found), (1, 1), "the end of a page that was cut");
    }
}
