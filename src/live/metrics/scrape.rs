//! The state between two pages.

use std::collections::BTreeMap;

use super::choice::Choice;
use super::count::{self, Own};
use super::rules::Rules;
use super::series::{Group, Page, SERIES_MAX};
use crate::live::Sample;
use crate::time::Timestamp;

/// Pages in a row that must continue the one before, after one that did not, until pages count again.
const CALM_PAGES: u32 = 3;
/// Processes whose last page is kept: behind one port several can answer in turn.
const PROCESSES_MAX: usize = 16;

/// The metrics of one instance.
///
/// Counters only rise. A page whose counters fell, or in which a series is missing, comes from another process, or from
/// one that began again. rei counts nothing of such a page, nor of the next ones, until several in a row have continued
/// each other: behind one port two processes can answer in turn, and the difference of their counters is no traffic. If
/// the pages say when their process began, each process is counted by itself.
#[derive(Debug)]
pub struct Scrape {
    rules: Rules,
    /// The last page of each process, by when it began.
    last: BTreeMap<u64, (Page, Timestamp)>,
    /// When the last page came.
    at: Option<Timestamp>,
    /// Pages that must still continue until they count.
    restless: u32,
    found: String,
}

impl Scrape {
    /// Nothing was read yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, last: BTreeMap::new(), at: None, restless: 0, found: "not read yet".to_owned() }
    }

    /// What was found and what was not, in one line for a person.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// Says that the page could not be read; `why` is one line.
    pub fn failed(&mut self, why: &str) {
        self.found = format!("cannot be read: {why}");
    }

    /// Takes a page. The sample has what came since the last page of the same process; `None` if that is not known.
    /// `is_cut` says that the page was longer than what is here.
    pub fn take(&mut self, page: &[u8], is_cut: bool, at: Timestamp, own: Own) -> Option<Sample> {
        let page = Page::read(page, is_cut, &self.rules);
        let choice = Choice::of(&page, &self.rules);
        self.found = choice.words(&page, &self.rules);
        let process = page.process_start.map_or(0, f64::to_bits);
        let since = self.at.replace(at);
        let sample = match self.last.get(&process) {
            Some((before, _)) if continues(before, &page) => {
                self.restless = self.restless.saturating_sub(1);
                (self.restless == 0).then(|| count::added(Some(before), &page, &choice, &self.rules, own))
            }
            Some(_) => {
                self.restless = CALM_PAGES + 1;
                None
            }
            // A process that began after the last page has only what came since then.
            None if began_after(&page, since) => {
                (self.restless == 0).then(|| count::added(None, &page, &choice, &self.rules, own))
            }
            None => None,
        };
        if self.restless > 0 {
            self.found.push_str("; not counted now: counters fell, as if several processes answered in turn");
        }
        self.last.insert(process, (page, at));
        self.forget();
        sample
    }

    /// Drops the pages of the processes that did not answer for longest.
    fn forget(&mut self) {
        let series =
            |last: &BTreeMap<u64, (Page, Timestamp)>| last.values().map(|(page, _)| page.series).sum::<usize>();
        while self.last.len() > PROCESSES_MAX || (self.last.len() > 1 && series(&self.last) > 2 * SERIES_MAX) {
            let oldest = self.last.iter().min_by_key(|(_, (_, at))| *at).map(|(process, _)| *process);
            let Some(oldest) = oldest else { return };
            self.last.remove(&oldest);
        }
    }
}

/// Whether the process of a page began after this time.
fn began_after(page: &Page, since: Option<Timestamp>) -> bool {
    let (Some(start), Some(since)) = (page.process_start, since) else { return false };
    start * 1_000.0 >= since.as_unix_ms() as f64
}

/// Whether all series of a page are there again, and none fell.
fn continues(before: &Page, page: &Page) -> bool {
    // Of a page that was cut, another part can be missing each time.
    let may_miss = before.is_cut || page.is_cut;
    before.metrics.iter().all(|(name, metric)| {
        let now = page.metrics.get(name);
        metric.groups.iter().all(|(labels, old)| match now.and_then(|now| now.groups.get(labels)) {
            Some(new) => rises(old, new),
            None => may_miss,
        })
    })
}

fn rises(old: &Group, new: &Group) -> bool {
    let bucket = |edge: f64| new.buckets.iter().find(|(known, _)| *known == edge).map(|(_, count)| *count);
    // The buckets of an exponential histogram can be made wider at any time; its count tells more.
    let buckets = || old.buckets.iter().all(|(edge, count)| bucket(*edge).is_some_and(|now| now >= *count));
    new.total >= old.total && (new.alone || buckets())
}
