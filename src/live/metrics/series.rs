//! The series of a page that can be about requests, one group for each set of labels.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::names::{self, Kind, Usual};
use super::page::{self, Line, PAGE_BYTES_MAX, Value};
use super::rules::{Failed, Rules};

/// The most series of a page that are kept; more are counted as unread.
pub(super) const SERIES_MAX: usize = 20_000;
/// The most unused names that are kept to be shown.
const OTHERS_MAX: usize = 3;
/// The labels that say which part of a histogram a series is.
const PARTS: &[&str] = &["le", "quantile", "vmrange"];

/// The labels of a group, in order.
pub(super) type Labels = Vec<(String, String)>;

/// All series of a metric with the same labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Group {
    /// The requests, if there is a series that counts them.
    pub(super) total: Option<f64>,
    /// The sum of their durations, if there is one.
    pub(super) sum: Option<f64>,
    /// The buckets by their upper edges, rising.
    pub(super) buckets: Vec<(f64, f64)>,
    /// Whether a bucket has only what is in it alone; else it also has what is in all buckets below it.
    pub(super) alone: bool,
}

/// One metric of a page.
#[derive(Clone, Debug)]
pub(super) struct Metric {
    pub(super) kind: Kind,
    /// The place in the table of usual names; 0 if the operator names it.
    pub(super) rank: usize,
    pub(super) groups: BTreeMap<Labels, Group>,
}

/// What a page has about requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    pub(super) metrics: BTreeMap<String, Metric>,
    /// When the process began, in seconds since 1970; `None` if the page does not say it, or speaks of several.
    pub(super) process_start: Option<f64>,
    /// The number of series that are kept.
    pub(super) series: usize,
    /// Lines that could not be read.
    pub(super) unread: u64,
    /// Whether there was more than is read.
    pub(super) is_cut: bool,
    /// Some names that are not used, but seem to be about requests.
    pub(super) others: Vec<String>,
}

impl Page {
    /// Reads a page. `is_cut` says that there was more.
    pub(super) fn read(bytes: &[u8], is_cut: bool, rules: &Rules) -> Self {
        let is_cut = is_cut || bytes.len() > PAGE_BYTES_MAX;
        let (mut page, mut starts, mut refused) = (Self { is_cut, ..Self::default() }, 0_u32, 0);
        let others = RefCell::new(Vec::new());
        let wanted = |name: &str| {
            let (metric, _) = names::split(name);
            let is_wanted = name == names::PROCESS_START || meaning(metric, rules).is_some();
            let mut others = others.borrow_mut();
            let is_new = others.len() < OTHERS_MAX && !others.iter().any(|other| other == metric);
            if !is_wanted && is_new && metric.contains("request") {
                others.push(metric.to_owned());
            }
            is_wanted
        };
        let unread = page::read(bytes, is_cut, wanted, |line| {
            if line.name == names::PROCESS_START {
                starts += 1;
                page.process_start = match line.value {
                    Value::Number(start) if start.is_finite() && starts == 1 => Some(start),
                    _ => None,
                };
            } else if page.series >= SERIES_MAX {
                (refused, page.is_cut) = (refused + 1, true);
            } else if page.add(line, rules) {
                page.series += 1;
            } else {
                refused += 1;
            }
        });
        page.unread = unread + refused;
        page.others = others.into_inner();
        for group in page.metrics.values_mut().flat_map(|metric| metric.groups.values_mut()) {
            group.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        page
    }

    /// Adds a series. Returns false if it makes no sense: it is negative or no number, or was there before.
    fn add(&mut self, line: Line<'_>, rules: &Rules) -> bool {
        let (metric, end) = names::split(&line.name);
        let Some(usual) = meaning(metric, rules) else { return true };
        let part = |name: &str| line.labels.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref());
        let edge = |text: &str| text.parse::<f64>().ok().filter(|edge| !edge.is_nan());
        let bucket = match (part("le"), part("vmrange")) {
            (Some(le), _) => edge(le).map(|edge| (edge, false)),
            (None, Some(range)) => range.rsplit_once("...").and_then(|(_, to)| edge(to)).map(|edge| (edge, true)),
            _ => None,
        };
        // The quantiles of several series cannot be added; a summary is used by its count and its sum.
        let is_durations = matches!(usual.kind, Kind::Durations(_));
        if end.is_empty() && is_durations && matches!(line.value, Value::Number(_)) {
            return true;
        }
        let own = line.labels.iter().filter(|(key, _)| !PARTS.contains(&key.as_ref()));
        let mut labels: Labels = own.map(|(key, value)| (key.to_string(), value.to_string())).collect();
        labels.sort();
        let new = || Metric { kind: usual.kind, rank: usual.rank, groups: BTreeMap::new() };
        let number = match line.value {
            Value::Number(number) if number.is_finite() && number >= 0.0 => number,
            Value::Number(_) => return false,
            Value::Native(native) => {
                let groups = &mut self.metrics.entry(metric.to_owned()).or_insert_with(new).groups;
                let (total, sum) = (Some(native.count), Some(native.sum));
                let group = Group { total, sum, buckets: native.buckets, alone: true };
                return groups.insert(labels, group).is_none();
            }
        };
        let groups = &mut self.metrics.entry(metric.to_owned()).or_insert_with(new).groups;
        let group = groups.entry(labels).or_default();
        match (end, bucket) {
            ("_bucket", Some((edge, alone))) => {
                // The edges of most libraries rise, so the last one is the one to compare with.
                let is_new = group.buckets.iter().rev().all(|(known, _)| *known != edge);
                if is_new {
                    group.alone = alone;
                    group.buckets.push((edge, number));
                }
                is_new
            }
            ("_bucket", None) => false,
            ("_sum", _) => group.sum.replace(number).is_none(),
            _ => {
                let is_new = group.total.is_none();
                group.total.get_or_insert(number);
                is_new
            }
        }
    }
}

/// What a metric is: one that the operator names, or a usual one.
fn meaning(metric: &str, rules: &Rules) -> Option<Usual> {
    let is = |name: &Option<String>| name.as_deref() == Some(metric);
    let usual = names::usual(metric);
    if is(&rules.latency) {
        let unit = match usual {
            Some(Usual { kind: Kind::Durations(unit), .. }) => unit,
            _ => names::unit_us(metric),
        };
        return Some(Usual { rank: 0, kind: Kind::Durations(unit) });
    }
    let counts_failed = matches!(&rules.failed, Some(Failed::Counter(name)) if name == metric);
    if is(&rules.requests) || counts_failed {
        let kind = usual.map_or(Kind::Counter, |usual| usual.kind);
        return Some(Usual { rank: 0, kind });
    }
    usual
}
