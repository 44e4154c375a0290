//! `rei show`: a page for each kind of object.

use serde::de::DeserializeOwned;

use super::Look;
use super::history::{action, columns};
use super::page::{Page, text, word};
use super::words::{bytes, duration_ms, plain, time, time_of_day, version};
use crate::cli::ui::Role;
use crate::history::EvolutionView;
use crate::interface::operations::{HistoryEntry, ShowKind, ShowReply};
use crate::interface::types::{
    CandidateRuntime, Evidence, EvolutionContext, RuntimeIncident, RuntimeMaintenanceRecord, Severity, StackTrace,
    ValidationReport, Verdict, Version,
};

/// The most details of one check that are listed; `--json` has all.
const DETAILS_MAX: usize = 20;
/// The most listed frames of a stack trace.
const FRAMES_MAX: usize = 8;
/// The most listed changed paths.
const PATHS_MAX: usize = 12;

/// The object on one page. If this rei does not know the object, because the supervisor is newer, the page is its JSON.
pub(in crate::cli) fn show(shown: &ShowReply, look: Look) -> String {
    let mut page = Page::new(look);
    let known = match shown.kind {
        ShowKind::Evolution => read(shown).map(|it| evolution(&mut page, &it, look)),
        ShowKind::Incident => read(shown).map(|it| incident(&mut page, &it)),
        ShowKind::Context => read(shown).map(|it| context(&mut page, &it)),
        ShowKind::Candidate => read(shown).map(|it| candidate(&mut page, &it)),
        ShowKind::Report => read(shown).map(|it| report(&mut page, &it, look)),
        ShowKind::Record => read(shown).map(|it| record(&mut page, &it)),
    };
    if known.is_none() {
        let object = serde_json::to_string_pretty(&shown.object).unwrap_or_default();
        object.lines().for_each(|line| page.line(plain(line)));
    }
    evidence(&mut page, &shown.evidence);
    page.finish()
}

fn read<T: DeserializeOwned>(shown: &ShowReply) -> Option<T> {
    serde_json::from_value(shown.object.clone()).ok()
}

fn version_row(page: &mut Page, label: &str, of: Option<&Version>) {
    if let Some(of) = of {
        page.row(label, &[text(version(of))]);
    }
}

fn evolution(page: &mut Page, view: &EvolutionView, look: Look) {
    let entry = &view.entry;
    entry_head(page, entry, look);
    if !view.blueprint.is_empty() {
        page.row("Blueprint", &[text(view.blueprint.clone())]);
    }
    let by = entry.decided_by.as_ref().or(view.asked_by.as_ref());
    if let Some(by) = by {
        page.row(if entry.decided_by.is_some() { "Decided by" } else { "Asked by" }, &[text(by.clone())]);
    }
    let ids = [
        entry.incident_id.as_ref().map(|id| id.0.clone()),
        entry.candidate_id.as_ref().map(|id| id.0.clone()),
        entry.report_id.as_ref().map(|id| id.0.clone()),
    ];
    let ids: Vec<_> = ids.into_iter().flatten().map(text).collect();
    if !ids.is_empty() {
        page.row("See", &ids);
    }
    version_row(page, "From", entry.from.as_ref());
    version_row(page, "To", entry.to.as_ref());
    paths(page, &view.files_changed);
    page.gap();
    let rows: Vec<_> = view
        .steps
        .iter()
        .map(|step| {
            let took = step
                .duration_ms
                .map_or_else(|| format!("{} so far", duration_ms(look.now.ms_since(step.started_at))), duration_ms);
            vec![
                (Some(Role::Faint), format!("  {}", time_of_day(step.started_at))),
                (None, took),
                (Some(Role::Heading), plain(&step.name)),
                (None, step.detail.as_deref().map(plain).unwrap_or_default()),
            ]
        })
        .collect();
    if !rows.is_empty() {
        page.line(columns(&["  began", "took", "step", "result"], &rows, look));
    }
}

fn entry_head(page: &mut Page, entry: &HistoryEntry, look: Look) {
    let (role, done) = action(entry.action);
    let took = match entry.finished_at {
        Some(at) => duration_ms(at.ms_since(entry.started_at)),
        None => format!("{} so far", duration_ms(look.now.ms_since(entry.started_at))),
    };
    let began = format!("{} UTC, {took}", time(entry.started_at));
    page.head(&[word(Role::Heading, entry.id.clone()), word(role, done), word(Role::Faint, began)]);
    page.head(&[text(entry.summary.clone())]);
    page.gap();
}

fn paths(page: &mut Page, changed: &[String]) {
    for (index, path) in changed.iter().take(PATHS_MAX).enumerate() {
        page.row(if index == 0 { "Changes" } else { "" }, &[text(path.clone())]);
    }
    if let Some(more) = changed.len().checked_sub(PATHS_MAX).filter(|more| *more > 0) {
        page.row("", &[word(Role::Faint, format!("and {more} more"))]);
    }
}

fn incident(page: &mut Page, it: &RuntimeIncident) {
    let role = match it.severity {
        Severity::Info => Role::Faint,
        Severity::Warning => Role::Warning,
        Severity::Critical => Role::Bad,
    };
    page.head(&[word(Role::Heading, it.id.0.clone()), word(role, it.cause.replace('_', " "))]);
    page.head(&[text(it.summary.clone())]);
    page.gap();
    let times = if it.occurrences == 1 { "once".to_owned() } else { format!("{} times", it.occurrences) };
    page.row("Seen", &[text(times)]);
    page.row("First", &[text(format!("{} UTC", time(it.first_seen)))]);
    page.row("Last", &[text(format!("{} UTC", time(it.last_seen)))]);
    if let Some(path) = &it.runtime.store_path {
        page.row("Version", &[text(path.clone())]);
    }
    page.row("Fingerprint", &[word(Role::Faint, it.fingerprint.clone())]);
}

fn context(page: &mut Page, it: &EvolutionContext) {
    let whole = match it.complete {
        true => word(Role::Good, "complete"),
        false if it.missing.is_empty() => word(Role::Warning, "incomplete"),
        false => word(Role::Warning, format!("without {}", it.missing.join(", "))),
    };
    page.head(&[word(Role::Heading, it.id.0.clone()), whole]);
    page.gap();
    if let Some(id) = &it.incident_id {
        let summary = it.incident.as_ref().map(|incident| incident.summary.clone()).unwrap_or_default();
        page.row("Incident", &[text(id.0.clone()), text(summary)]);
    }
    if let Some(exit) = &it.exit_status {
        page.row("Exit", &[text(exit.clone())]);
    }
    version_row(page, "Version", it.source.as_ref());
    for run in &it.reproduction_runs {
        let (role, said) = match run.reproduces {
            Some(true) => (Role::Bad, "fails every time"),
            Some(false) => (Role::Warning, "does not fail every time"),
            None => (Role::Faint, "could not be run"),
        };
        let tries = text(format!("{} of {} failed", run.failures, run.tries));
        page.row("Reproduction", &[word(role, said), tries, text(run.detail.clone())]);
    }
    it.stack_traces.iter().for_each(|trace| stack_trace(page, trace));
    if it.redactions > 0 {
        page.row("Redacted", &[text(format!("{} secrets", it.redactions))]);
    }
    page.row("Digest", &[word(Role::Faint, it.digest.clone())]);
}

fn stack_trace(page: &mut Page, trace: &StackTrace) {
    page.row("Trace", &[text(trace.language.clone()), word(Role::Bad, trace.reason.clone())]);
    for frame in trace.frames.iter().take(FRAMES_MAX) {
        page.row("", &[word(Role::Faint, frame.clone())]);
    }
}

fn candidate(page: &mut Page, it: &CandidateRuntime) {
    let made = format!("built {} UTC", time(it.created_at));
    page.head(&[word(Role::Heading, it.id.0.clone()), word(Role::Faint, made)]);
    page.gap();
    page.row("Evolution", &[text(it.evolution_id.0.clone())]);
    if let Some(incident) = &it.incident_id {
        page.row("Repairs", &[text(incident.0.clone())]);
    }
    if !it.blueprint.is_empty() {
        page.row("Blueprint", &[text(it.blueprint.clone())]);
    }
    page.row("Commit", &[text(it.version.rev.clone())]);
    page.row("Base", &[text(it.base_rev.clone())]);
    page.row("Store path", &[text(it.version.store_path.clone())]);
    if !it.version.drv.is_empty() {
        page.row("Derivation", &[word(Role::Faint, it.version.drv.clone())]);
    }
    page.row("Active then", &[text(it.parent.clone())]);
    paths(page, &it.files_changed);
}

/// A verdict as a word with its role.
fn verdict(verdict: Verdict) -> (Role, &'static str) {
    match verdict {
        Verdict::Pass => (Role::Good, "pass"),
        Verdict::Fail => (Role::Bad, "fail"),
        Verdict::Inconclusive => (Role::Warning, "inconclusive"),
    }
}

fn report(page: &mut Page, it: &ValidationReport, look: Look) {
    let (role, said) = verdict(it.verdict);
    let took = duration_ms(it.finished_at.ms_since(it.started_at));
    let when = format!("{} UTC, {took}", time(it.started_at));
    page.head(&[word(Role::Heading, it.id.0.clone()), word(role, said), word(Role::Faint, when)]);
    page.gap();
    page.row("Candidate", &[text(it.candidate_id.0.clone()), text(it.store_path.clone())]);
    page.row("Against", &[text(it.active_store_path.clone())]);
    page.row("Judged by", &[text(it.validator.clone())]);
    page.gap();
    let rows: Vec<_> = it
        .checks
        .iter()
        .map(|check| {
            let (role, said) = verdict(check.verdict);
            let took = check.duration_ms.map(duration_ms).unwrap_or_default();
            vec![
                (Some(role), format!("  {said}")),
                (None, plain(&check.name)),
                (Some(Role::Faint), took),
                (None, plain(&check.summary)),
            ]
        })
        .collect();
    page.line(columns(&["  verdict", "check", "took", "summary"], &rows, look));
    for check in it.checks.iter().filter(|check| check.verdict != Verdict::Pass && !check.details.is_empty()) {
        page.gap();
        let (role, _) = verdict(check.verdict);
        page.line(look.paint.paint(role, &format!("  {}", plain(&check.name))));
        check.details.iter().take(DETAILS_MAX).for_each(|detail| page.line(format!("    {}", plain(detail))));
        if let Some(more) = check.details.len().checked_sub(DETAILS_MAX).filter(|more| *more > 0) {
            page.line(look.paint.paint(Role::Faint, &format!("    and {more} more: --json has them all")));
        }
        if let Some(drv) = &check.drv {
            page.line(look.paint.paint(Role::Hint, &format!("    nix-store --read-log {drv}")));
        }
    }
}

fn record(page: &mut Page, it: &RuntimeMaintenanceRecord) {
    let (role, done) = action(Some(it.action));
    let when = format!("{} UTC", time(it.at));
    page.head(&[word(Role::Heading, it.id.0.clone()), word(role, done), word(Role::Faint, when)]);
    page.head(&[text(it.reason.clone())]);
    page.gap();
    page.row("Decided by", &[text(it.decided_by.clone())]);
    let ids = [
        it.evolution_id.as_ref().map(|id| id.0.clone()),
        it.incident_id.as_ref().map(|id| id.0.clone()),
        it.candidate_id.as_ref().map(|id| id.0.clone()),
        it.validation_id.as_ref().map(|id| id.0.clone()),
    ];
    let ids: Vec<_> = ids.into_iter().flatten().map(text).collect();
    if !ids.is_empty() {
        page.row("See", &ids);
    }
    version_row(page, "From", it.from.as_ref());
    version_row(page, "To", it.to.as_ref());
    page.row("Journal", &[word(Role::Faint, format!("record {}", it.journal_seq))]);
}

fn evidence(page: &mut Page, files: &[Evidence]) {
    page.gap();
    for (index, file) in files.iter().enumerate() {
        let label = if index == 0 { "Evidence" } else { "" };
        page.row(label, &[text(file.path.clone()), word(Role::Faint, bytes(file.bytes))]);
    }
}
