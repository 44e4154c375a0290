//! Turns what was added since the last page into a sample.

use super::choice::{Choice, class, route};
use super::names::{self, Kind};
use super::rules::{Failed, Rules};
use super::series::{Group, Labels, Metric, Page};
use crate::live::{Class, Counts, Latencies, Route, Sample};

/// The requests of rei itself since the last page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Requests for the page.
    pub scrapes: u64,
    /// Requests of the HTTP probe.
    pub probes: u64,
}

/// What was added since `before`, or since the process began if that is `None`. The caller has checked that the page
/// continues the one before.
pub(super) fn added(before: Option<&Page>, page: &Page, choice: &Choice, rules: &Rules, own: Own) -> Sample {
    let mut sample = Sample::default();
    (sample.coarse, sample.unread) = (true, page.unread);
    let old = |name: &str, labels: &Labels| before.and_then(|page| page.metrics.get(name)?.groups.get(labels));
    if let Some((name, metric)) = chosen(page, choice.requests.as_ref()) {
        for (name, metric) in same_kind(page, name, metric) {
            for (labels, group) in &metric.groups {
                let count = more(group.total, old(name, labels).and_then(|group| group.total));
                match class(name, metric, labels, rules) {
                    _ if count == 0 => {}
                    Some(class) => add(&mut sample, route(labels), rules, |counts| counts.add(class, count)),
                    None => sample.unread = sample.unread.saturating_add(count),
                }
            }
        }
        if let Some(Failed::Counter(name)) = &rules.failed {
            for (labels, group) in page.metrics.get(name).into_iter().flat_map(|metric| &metric.groups) {
                let failed = more(group.total, old(name, labels).and_then(|group| group.total));
                if failed > 0 {
                    add(&mut sample, route(labels), rules, |counts| {
                        counts.take(Class::Success, failed);
                        counts.add(Class::ServerError, failed);
                    });
                }
            }
        }
        without_own(&mut sample, rules, own);
    }
    if let Some((name, metric)) = chosen(page, choice.latency.as_ref()) {
        let unit_us = match metric.kind {
            Kind::Durations(unit) => f64::from(unit),
            _ => f64::from(names::unit_us(name)),
        };
        for (labels, group) in &metric.groups {
            let before = old(name, labels);
            let found = durations(group, before, unit_us);
            let route = route(labels);
            // rei's own requests cannot be taken out of a sum, and a service with few users has more of them on one side.
            let has_own = is_for_all(&route) || (is_root(&route) && rules.own_paths.iter().any(|path| path == "/"));
            let added = group.sum.map(|sum| sum - before.and_then(|before| before.sum).unwrap_or(0.0));
            if !found.is_empty() {
                add(&mut sample, route, rules, |counts| {
                    if let Some(added) = added.filter(|added| !has_own && added.is_finite()) {
                        counts.measured = counts.measured.saturating_add(found.total());
                        counts.sum_us = counts.sum_us.saturating_add(whole(added * unit_us));
                    }
                    counts.latencies.merge(&found);
                });
            }
        }
    }
    sample
}

fn chosen<'a>(page: &'a Page, name: Option<&'a String>) -> Option<(&'a String, &'a Metric)> {
    page.metrics.get_key_value(name?)
}

/// The metric; if there is one for each status, all of them.
fn same_kind<'a>(page: &'a Page, name: &'a String, metric: &'a Metric) -> Vec<(&'a String, &'a Metric)> {
    match metric.kind {
        Kind::PerStatus => page.metrics.iter().filter(|(_, metric)| metric.kind == Kind::PerStatus).collect(),
        _ => vec![(name, metric)],
    }
}

/// Adds to a route, unless only rei asks it.
fn add(sample: &mut Sample, route: Route, rules: &Rules, to: impl FnOnce(&mut Counts)) {
    if !rules.own_paths.iter().any(|path| is_route_of(path, &route)) {
        to(sample.route(route));
    }
}

/// Whether a route is the one of this path, which only rei asks. `/` is a path that users ask, too.
fn is_route_of(path: &str, route: &Route) -> bool {
    let name = route.name().rsplit(' ').next().unwrap_or_default().trim_end_matches('/');
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return false;
    }
    if name.starts_with('/') {
        return name == path;
    }
    // A library can name the function behind the path: `prometheus-django-metrics`, `healthz`.
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let (name, last) = (plain(name), plain(path.rsplit('/').next().unwrap_or_default()));
    name == last || (name.contains("prometheus") && name.ends_with(&last))
}

/// Takes out rei's own requests, if the page counts the requests of all routes together, or if the probe asks `/`.
fn without_own(sample: &mut Sample, rules: &Rules, own: Own) {
    let has_routes = sample.routes().any(|(route, _)| !is_for_all(route));
    let (count, is_own): (u64, fn(&Route) -> bool) = if has_routes {
        (if rules.own_paths.iter().any(|path| path == "/") { own.probes } else { 0 }, is_root)
    } else {
        (own.scrapes + own.probes, is_for_all)
    };
    let route = sample.routes().map(|(route, _)| route).find(|route| is_own(route)).cloned();
    if let Some(route) = route.filter(|_| count > 0) {
        sample.route(route).take(Class::Success, count);
    }
}

fn is_root(route: &Route) -> bool {
    matches!(route.name(), "/" | "GET /")
}

/// Whether a page that names no routes counts `GET` requests here.
fn is_for_all(route: &Route) -> bool {
    *route == Route::unnamed() || route.name() == "GET"
}

/// How many were added to a counter.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and the value is positive"
)]
fn more(now: Option<f64>, before: Option<f64>) -> u64 {
    (now.unwrap_or(0.0) - before.unwrap_or(0.0)).max(0.0).round() as u64
}

/// The durations that were added.
fn durations(group: &Group, old: Option<&Group>, unit_us: f64) -> Latencies {
    let mut found = Latencies::default();
    let total = more(group.total, old.and_then(|old| old.total));
    if group.buckets.is_empty() {
        // A summary: only the mean is known.
        let added = group.sum.map(|sum| sum - old.and_then(|old| old.sum).unwrap_or(0.0));
        if let Some(added) = added.filter(|_| total > 0) {
            found.add(whole(added / total as f64 * unit_us), total);
        }
        return found;
    }
    let before = |edge: f64| {
        let same = |old: &Group| old.buckets.iter().find(|(known, _)| *known == edge).map(|(_, count)| *count);
        old.and_then(same)
    };
    let (mut below, mut last, mut all) = (0, 0.0, 0_u64);
    for (edge, count) in &group.buckets {
        let added = more(Some(*count), before(*edge));
        let here = if group.alone { added } else { added.saturating_sub(below) };
        below = below.max(added);
        all = all.saturating_add(here);
        if edge.is_finite() {
            last = *edge;
        }
        add_bucket(&mut found, edge.is_finite(), last * unit_us, here);
    }
    // A page without a last bucket has its rest in the count only.
    add_bucket(&mut found, false, last * unit_us, total.saturating_sub(all));
    found
}

/// Counts at the upper edge of a bucket. The last bucket has none: it counts one step above the edge before it.
fn add_bucket(found: &mut Latencies, has_edge: bool, edge_us: f64, count: u64) {
    let bucket = Latencies::bucket(whole(edge_us));
    found.add_to(if has_edge { bucket } else { bucket.saturating_add(1) }, count);
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and the value is positive"
)]
fn whole(us: f64) -> u64 {
    us.max(0.0).round() as u64
}
