//! All entries of one origin, and what was left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::archive::{ArchiveError, Node, parse, text_of};
use super::entry::{Asked, Times, asked, exchange, page_origin, times};
use super::left_out::LeftOut;
use crate::golden::format::{EXCHANGES_MAX, Exchange, GoldenRun, Header, Recorded};
use crate::golden::url::{Origin, Target};

/// How the origin is chosen.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// The origin that the caller asks for; without it, the archive shows which one is the service's.
    pub origin: Option<String>,
    /// The port of the service's listener: an entry of this machine with this port is surely the service's.
    pub port: Option<u16>,
}

/// An entry that is in the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenEntry {
    /// The number of the entry in the archive, counted from 1.
    pub entry: usize,
    /// Why the body of its answer is not in the run, if it is not.
    pub without_body: Option<String>,
}

/// An entry that is not in the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOutEntry {
    /// The number of the entry in the archive, counted from 1.
    pub entry: usize,
    /// Its method and its path without the query; empty if it has none.
    pub name: String,
    /// The reason.
    pub why: LeftOut,
}

/// What an archive gives.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The run. Its exchanges can be none.
    pub run: GoldenRun,
    /// Where its exchanges come from: one for each exchange, in the same order.
    pub taken: Vec<TakenEntry>,
    /// The other entries, in order.
    pub left_out: Vec<LeftOutEntry>,
    /// The origin of the run; `None` if no entry has one.
    pub origin: Option<String>,
    /// Other origins that the caller can choose, the most frequent first.
    pub other_origins: Vec<String>,
}

/// True if a file is JSON, as an archive, and no list of requests.
pub fn is_archive(bytes: &[u8]) -> bool {
    text_of(&bytes[..bytes.len().min(1024)]).trim_start().starts_with(['{', '['])
}

/// An entry, and what is known about it before an origin is chosen.
struct Candidate<'a> {
    node: Node<'a>,
    name: String,
    asked: Result<Asked, LeftOut>,
}

/// Reads an archive. An entry that cannot be an exchange is left out.
///
/// # Errors
/// If it is not an archive, has no entries, or has none of the chosen origin.
pub fn from_har(path: &Path, bytes: &[u8], header: Header, chosen: &Chosen) -> Result<Imported, ArchiveError> {
    let archive = parse(path, bytes)?;
    let wrong = |reason| ArchiveError::Entries { path: path.to_owned(), reason };
    let log = Node::root(&archive).get("log");
    let entries = log.get("entries").items().map_err(wrong)?;
    if entries.is_empty() {
        return Err(wrong("log.entries is empty".to_owned()));
    }
    let candidates: Vec<Candidate<'_>> = entries
        .into_iter()
        .map(|node| {
            let (name, asked) = asked(&node);
            Candidate { node, name, asked }
        })
        .collect();
    let origins = origins(&archive, &candidates, chosen.port);
    let origin = choose(path, &origins, chosen)?;
    let others = origins.into_iter().filter(|it| Some(&it.origin) != origin.as_ref()).map(|it| it.origin.to_string());
    let mut imported = Imported {
        run: GoldenRun { header, exchanges: Vec::new() },
        taken: Vec::new(),
        left_out: Vec::new(),
        other_origins: others.collect(),
        origin: origin.as_ref().map(ToString::to_string),
    };
    let mut all_times = Vec::new();
    for (index, Candidate { node, name, asked }) in candidates.into_iter().enumerate() {
        let entry = index + 1;
        match take(&node, asked, origin.as_ref(), imported.run.exchanges.len()) {
            Ok((exchange, without_body)) => {
                imported.run.exchanges.push(exchange);
                all_times.push(times(&node));
                imported.taken.push(TakenEntry { entry, without_body });
            }
            Err((why, whole)) => {
                let name = whole.unwrap_or(name);
                imported.left_out.push(LeftOutEntry { entry, name, why });
            }
        }
    }
    if let Some(all) = all_times.into_iter().collect::<Option<Vec<Times>>>() {
        place(&mut imported.run.exchanges, &all);
    }
    Ok(imported)
}

/// Gives exchanges their places in time, so that a replay has the connections and the overlaps of the archive.
fn place(exchanges: &mut [Exchange], all: &[Times]) {
    let begun = all.iter().map(|times| times.began).min().unwrap_or_default();
    let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
    let mut last = 0;
    for (exchange, times) in exchanges.iter_mut().zip(all) {
        let mut next = || {
            last += 1;
            last
        };
        let connection = match &times.connection {
            Some(name) => *numbers.entry(name).or_insert_with(next),
            None => next(),
        };
        let began_ms = times.began.ms_since(begun);
        exchange.recorded = Some(Recorded { connection, began_ms, took_ms: times.took_ms });
    }
}

/// The exchange of an entry; or the reason why there is none, with the name of the entry if it needs a longer one.
fn take(
    node: &Node<'_>,
    asked: Result<Asked, LeftOut>,
    origin: Option<&Origin>,
    taken: usize,
) -> Result<(Exchange, Option<String>), (LeftOut, Option<String>)> {
    let asked = asked.map_err(|why| (why, None))?;
    if origin != Some(&asked.target.origin) {
        let Target { origin, path, .. } = &asked.target;
        let path = path.split('?').next().unwrap_or_default();
        return Err((LeftOut::OtherOrigin, Some(format!("{} {origin}{path}", asked.method))));
    }
    if taken == EXCHANGES_MAX {
        return Err((LeftOut::TooMany, None));
    }
    exchange(node, asked).map_err(|why| (why, None))
}

/// An origin of the archive, and what shows that it is the service's.
struct Found {
    origin: Origin,
    entries: usize,
    is_listener: bool,
    is_page: bool,
}

/// The origins of an archive, the most likely one first.
fn origins(archive: &Value, candidates: &[Candidate<'_>], port: Option<u16>) -> Vec<Found> {
    let listed = Node::root(archive).get("log").get("pages").items().unwrap_or_default();
    let titles = listed.iter().filter_map(|page| Target::parse(page.get("title").text().ok()?).ok());
    let pages: BTreeSet<Origin> =
        titles.map(|it| it.origin).chain(candidates.iter().filter_map(|it| page_origin(&it.node))).collect();
    let (mut found, mut places): (Vec<Found>, BTreeMap<&Origin, usize>) = (Vec::new(), BTreeMap::new());
    for Asked { target, .. } in candidates.iter().filter_map(|it| it.asked.as_ref().ok()) {
        let origin = &target.origin;
        let place = *places.entry(origin).or_insert_with(|| {
            let is_listener = origin.is_loopback() && Some(origin.port()) == port;
            found.push(Found { is_listener, is_page: pages.contains(origin), origin: origin.clone(), entries: 0 });
            found.len() - 1
        });
        found[place].entries += 1;
    }
    // A stable sort: among equals, the first one of the archive.
    let rank = |it: &Found| (it.is_listener, it.is_page, it.entries, it.origin.is_loopback());
    found.sort_by_key(|it| std::cmp::Reverse(rank(it)));
    found
}

fn choose(path: &Path, origins: &[Found], chosen: &Chosen) -> Result<Option<Origin>, ArchiveError> {
    let Some(text) = &chosen.origin else { return Ok(origins.first().map(|it| it.origin.clone())) };
    let wanted = Target::parse(text).map_err(|_| ArchiveError::NotAnOrigin { text: text.clone() })?.origin;
    if origins.iter().any(|it| it.origin == wanted) {
        return Ok(Some(wanted));
    }
    let others = origins.iter().map(|it| it.origin.to_string()).collect();
    Err(ArchiveError::Origin { path: path.to_owned(), origin: wanted.to_string(), others })
}
