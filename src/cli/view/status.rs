//! `rei status`.

use super::Look;
use super::page::{Page, Part, text, word};
use super::words::{ago, bytes, duration_ms, duration_us, percent, store_path};
use crate::cli::ui::Role;
use crate::digest::short;
use crate::interface::operations::{
    EvolutionStatus, GoldenRecording, InstanceState, InstanceStatus, Phase, Status, TrafficStatus, VersionStatus,
};
use crate::interface::types::{HealthStatus, RuntimeHealthReport, RuntimeIncident, Severity};

/// The most listed open incidents; the page counts the others.
const INCIDENTS_MAX: usize = 8;

/// The most listed messages of error lines of a version.
const ERRORS_MAX: usize = 3;

/// The whole state on one page.
pub(in crate::cli) fn status(status: &Status, look: Look) -> String {
    let mut page = Page::new(look);
    head(&mut page, status, look);
    page.gap();
    version_rows(&mut page, "Active", status.active.as_ref(), look);
    version_rows(&mut page, "Candidate", status.candidate.as_ref(), look);
    version_rows(&mut page, "Previous", status.previous.as_ref(), look);
    page.gap();
    if let Some(health) = &status.health {
        health_rows(&mut page, health);
    }
    page.row("Phase", &phase_parts(status, look));
    if let Some(evolution) = &status.evolution {
        page.row("Evolution", &evolution_parts(evolution, look));
    }
    incident_rows(&mut page, &status.open_incidents, look);
    page.gap();
    let listen: Vec<Part> = status.listen.iter().map(|it| text(format!("{} {}", it.name, it.address))).collect();
    if !listen.is_empty() {
        page.row("Listening", &listen);
    }
    for recording in &status.recordings {
        page.row(if recording.standing { "Sample" } else { "Recording" }, &recording_parts(recording, look));
    }
    housekeeping_rows(&mut page, status, look);
    page.gap();
    if let Some(attention) = &status.attention {
        page.row("Attention", &[word(Role::Warning, attention.clone())]);
    }
    for (index, next) in next_steps(status).into_iter().enumerate() {
        page.row(if index == 0 { "Next" } else { "" }, &[word(Role::Hint, next)]);
    }
    page.finish()
}

fn head(page: &mut Page, status: &Status, look: Look) {
    let (role, state) = match (&status.active, &status.health) {
        (None, _) => (Role::Warning, "nothing serves yet"),
        (Some(_), None) => (Role::Faint, "no health report yet"),
        (Some(_), Some(health)) => health_word(health.status),
    };
    let since = format!("{} for {}", status.phase, duration_ms(look.now.ms_since(status.phase_since)));
    let mut parts = vec![word(role, format!("● {}", status.runtime)), word(role, state), text(since)];
    if status.paused {
        parts.push(word(Role::Warning, "paused"));
    }
    page.head(&parts);
}

fn health_word(status: HealthStatus) -> (Role, &'static str) {
    match status {
        HealthStatus::Ok => (Role::Good, "healthy"),
        HealthStatus::Degraded => (Role::Warning, "degraded"),
        HealthStatus::Failed => (Role::Bad, "failed"),
        HealthStatus::Unknown => (Role::Faint, "health unknown"),
    }
}

fn version_rows(page: &mut Page, label: &str, version: Option<&VersionStatus>, look: Look) {
    let Some(it) = version else {
        page.row(label, &[word(Role::Faint, "none")]);
        return;
    };
    let mut parts = vec![text(short(&it.version.rev)), text(store_path(&it.version.store_path))];
    if let Some(generation) = it.generation {
        parts.push(text(format!("generation {generation}")));
    }
    if let Some(slot) = &it.slot {
        parts.push(text(format!("slot {}", slot.to_uppercase())));
        parts.push(text(format!("{} of new connections", percent(it.share))));
    }
    parts.retain(|(_, part)| !part.is_empty());
    page.row(label, &parts);
    for instance in &it.instances {
        page.row("", &instance_parts(instance, look));
    }
    for traffic in &it.traffic {
        traffic_rows(page, traffic);
    }
}

/// The requests of users, and the routes with failures.
fn traffic_rows(page: &mut Page, traffic: &TrafficStatus) {
    let source = word(Role::Faint, format!("by its {}", traffic.source));
    let source =
        if traffic.source == "tap" { word(Role::Faint, "by the tap, a share of the connections") } else { source };
    let span = duration_ms(traffic.window_ms);
    let found = word(Role::Faint, traffic.found.clone());
    if traffic.requests == 0 {
        page.row("", &[word(Role::Faint, "no requests in the last minute"), source]);
        if !traffic.found.is_empty() {
            page.row("", &[found]);
        }
        return;
    }
    let mut parts = vec![text(format!("{} requests in {span}", traffic.requests))];
    parts.push(errors_part(traffic.failed, traffic.requests));
    let shares = [("4xx", traffic.client_errors), ("3xx", traffic.redirects)];
    parts.extend(shares.iter().filter(|(_, count)| *count > 0).map(|(name, count)| text(format!("{count} {name}"))));
    if traffic.latency.count > 0 {
        let (p50, p99) = (duration_us(traffic.latency.p50_us), duration_us(traffic.latency.p99_us));
        parts.push(text(format!("p50 {p50}, p99 {p99}")));
    }
    if traffic.unread > 0 {
        parts.push(word(Role::Warning, format!("{} unreadable", traffic.unread)));
    }
    parts.push(source);
    page.row("", &parts);
    if !traffic.found.is_empty() {
        page.row("", &[found]);
    }
    if traffic.error_lines > 0 {
        let rate = traffic.error_lines as f64 / traffic.requests.max(1) as f64;
        let lines = format!("{} error lines in the log, {rate:.2} for each request", traffic.error_lines);
        page.row("", &[word(Role::Warning, lines)]);
    }
    for error in traffic.errors.iter().take(ERRORS_MAX) {
        let role = if error.is_new { Role::Bad } else { Role::Faint };
        let new = if error.is_new { "a new error" } else { "an error" };
        page.row("", &[word(role, format!("{new}: {}", error.message)), text(format!("{} lines", error.lines))]);
    }
    for route in traffic.routes.iter().filter(|route| route.failed > 0) {
        page.row("", &[word(Role::Warning, route.route.clone()), errors_part(route.failed, route.requests)]);
    }
}

fn instance_parts(instance: &InstanceStatus, look: Look) -> Vec<Part> {
    let state = match instance.state {
        InstanceState::Starting => word(Role::Warning, "starting"),
        InstanceState::Serving => word(Role::Good, "serving"),
        InstanceState::Standby => text("warm, without new connections"),
        InstanceState::Stopping => word(Role::Faint, "stopping"),
        InstanceState::Backoff => word(Role::Bad, "waits for its restart"),
    };
    let usage = &instance.usage;
    let uptime_ms = usage.uptime_ms.or_else(|| instance.started_at.map(|at| look.now.ms_since(at)));
    let mut parts = vec![state];
    parts.extend(uptime_ms.map(|ms| text(format!("up {}", duration_ms(ms)))));
    parts.extend(usage.rss_bytes.map(|rss| text(bytes(rss))));
    parts.extend(usage.processes.filter(|count| *count > 1).map(|count| text(format!("{count} processes"))));
    parts.extend(usage.fds.map(|fds| text(format!("{fds} descriptors"))));
    parts.extend(usage.restarts.filter(|count| *count > 0).map(|count| {
        word(Role::Warning, if count == 1 { "1 restart".to_owned() } else { format!("{count} restarts") })
    }));
    let dropped = instance.log_dropped_bytes.filter(|bytes| *bytes > 0);
    parts.extend(dropped.map(|dropped| word(Role::Warning, format!("{} of its log dropped", bytes(dropped)))));
    parts.extend(usage.pid.map(|pid| word(Role::Faint, format!("pid {pid}"))));
    parts
}

fn health_rows(page: &mut Page, health: &RuntimeHealthReport) {
    let (role, state) = health_word(health.status);
    let mut parts = vec![word(role, state)];
    if health.ready == Some(false) {
        parts.push(word(Role::Warning, "not ready"));
    }
    if health.window_ms > 0 {
        parts.push(word(Role::Faint, format!("over the last {}", duration_ms(health.window_ms))));
    }
    page.row("Health", &parts);
    for (name, latency) in &health.latency {
        let errors = health.errors.get(name);
        let mut parts = vec![
            text(name.clone()),
            text(format!("p50 {}", duration_us(latency.p50_us))),
            text(format!("p99 {}", duration_us(latency.p99_us))),
            text(format!("max {}", duration_us(latency.max_us))),
        ];
        parts.extend(errors.map(|it| errors_part(it.failed, it.total)));
        page.row("", &parts);
    }
    for (name, errors) in health.errors.iter().filter(|(name, _)| !health.latency.contains_key(*name)) {
        page.row("", &[text(name.clone()), errors_part(errors.failed, errors.total)]);
    }
    for check in health.checks.iter().filter(|check| check.status != HealthStatus::Ok) {
        let (role, state) = health_word(check.status);
        page.row("", &[text(check.name.clone()), word(role, state), text(check.message.clone().unwrap_or_default())]);
    }
    for anomaly in health.policy_anomalies.iter().flatten() {
        page.row("", &[word(Role::Bad, anomaly.kind.replace('_', " ")), text(anomaly.detail.clone())]);
    }
    if !health.unavailable.is_empty() {
        page.row("", &[word(Role::Faint, format!("no source for {}", health.unavailable.join(", ")))]);
    }
}

fn errors_part(failed: u64, total: u64) -> Part {
    match (failed, total) {
        (_, 0) => word(Role::Faint, "no requests"),
        (0, _) => text(format!("no errors in {total}")),
        (failed, total) => {
            // The counts of one window are far below 2^53, up to which a float is exact.
            let ratio = failed as f64 / total as f64;
            word(Role::Warning, format!("{} errors ({failed} of {total})", percent(ratio)))
        }
    }
}

fn phase_parts(status: &Status, look: Look) -> Vec<Part> {
    let role = match status.phase {
        Phase::Steady => Role::Good,
        Phase::RollingBack | Phase::AwaitingApproval | Phase::Held => Role::Warning,
        _ => Role::Heading,
    };
    let mut words = String::new();
    if let Some(waits_for) = &status.waits_for {
        words.push_str(waits_for);
    }
    if let Some(deadline) = status.deadline {
        let left = deadline.ms_since(look.now);
        let left = if left == 0 { "now".to_owned() } else { format!("in {}", duration_ms(left)) };
        words = if words.is_empty() { left } else { format!("{words} {left}") };
    }
    match words.is_empty() {
        true => vec![word(role, status.phase.to_string())],
        false => vec![word(role, status.phase.to_string()), text(words)],
    }
}

fn evolution_parts(evolution: &EvolutionStatus, look: Look) -> Vec<Part> {
    let mut parts = vec![text(evolution.id.0.clone())];
    parts.push(match &evolution.incident_id {
        Some(incident) => text(format!("repairs {incident}")),
        None => text("upgrade"),
    });
    if !evolution.blueprint.is_empty() {
        parts.push(text(format!("by {}", evolution.blueprint)));
    }
    parts.extend(evolution.step.as_ref().map(|step| word(Role::Heading, step.clone())));
    if evolution.attempt > 1 {
        parts.push(word(Role::Warning, format!("attempt {}", evolution.attempt)));
    }
    parts.extend(evolution.candidate_id.as_ref().map(|id| text(id.0.clone())));
    parts.extend(evolution.report_id.as_ref().map(|id| text(id.0.clone())));
    parts.extend(evolution.shadow.as_ref().map(|shadow| text(shadow.clone())));
    parts.push(word(Role::Faint, format!("began {}", ago(evolution.started_at, look.now))));
    parts
}

fn incident_rows(page: &mut Page, incidents: &[RuntimeIncident], look: Look) {
    for (index, incident) in incidents.iter().take(INCIDENTS_MAX).enumerate() {
        let role = match incident.severity {
            Severity::Info => Role::Faint,
            Severity::Warning => Role::Warning,
            Severity::Critical => Role::Bad,
        };
        let times = if incident.occurrences == 1 { String::new() } else { format!("{} times, ", incident.occurrences) };
        let parts = [
            text(incident.id.0.clone()),
            word(role, incident.cause.replace('_', " ")),
            text(incident.summary.clone()),
            word(Role::Faint, format!("{times}last {}", ago(incident.last_seen, look.now))),
        ];
        page.row(if index == 0 { "Incidents" } else { "" }, &parts);
    }
    if let Some(more) = incidents.len().checked_sub(INCIDENTS_MAX).filter(|more| *more > 0) {
        page.row("", &[word(Role::Faint, format!("and {more} more"))]);
    }
}

fn recording_parts(recording: &GoldenRecording, look: Look) -> Vec<Part> {
    let it = recording;
    let mut parts = vec![text(it.name.clone()), text(format!("{} of {} exchanges", it.kept, it.limit))];
    parts.push(text(format!("{} seen", it.seen)));
    if it.paused && it.ended.is_none() {
        parts.push(word(Role::Warning, "paused while a version is under trial"));
    }
    if it.paused_requests > 0 {
        parts.push(text(format!("{} requests not taken in pauses", it.paused_requests)));
    }
    if it.not_redactable > 0 {
        parts.push(text(format!("{} not redactable", it.not_redactable)));
    }
    let until = it.until.filter(|_| it.ended.is_none());
    parts.extend(until.map(|until| text(format!("ends in {}", duration_ms(until.ms_since(look.now))))));
    parts.extend(it.written_at.map(|at| text(format!("written {}", ago(at, look.now)))));
    parts.extend(it.ended.as_ref().map(|why| word(Role::Faint, format!("ended: {why}"))));
    parts
}

fn housekeeping_rows(page: &mut Page, status: &Status, look: Look) {
    let budget = &status.budget;
    let mut parts = vec![match budget.left {
        0 => word(Role::Warning, format!("none of {} evolutions left this hour", budget.per_hour)),
        left => text(format!("{left} of {} evolutions left this hour", budget.per_hour)),
    }];
    parts.extend(budget.next_at.map(|at| text(format!("next in {}", duration_ms(at.ms_since(look.now))))));
    match budget.spent_fingerprints.len() {
        0 => {}
        1 => parts.push(word(Role::Warning, "spent for 1 incident")),
        count => parts.push(word(Role::Warning, format!("spent for {count} incidents"))),
    }
    if budget.per_hour > 0 {
        page.row("Budget", &parts);
    }
    if status.quarantined > 0 {
        let what = if status.quarantined == 1 { "1 content" } else { &format!("{} contents", status.quarantined) };
        page.row("Quarantine", &[text(what)]);
    }
    if let Some(state) = &status.state {
        let kept = format!("evidence {} of {}", bytes(state.evidence_bytes), bytes(state.evidence_bytes_max));
        let runs = format!("{} of {} runs", state.runs, state.runs_max);
        page.row("State", &[text(bytes(state.bytes)), text(kept), text(runs), word(Role::Faint, &state.directory)]);
    }
    let supervisor = &status.supervisor;
    let mut parts = vec![text(format!("rei {}", supervisor.version))];
    parts.push(text(format!("up {}", duration_ms(supervisor.uptime_ms))));
    parts.extend(supervisor.rss_bytes.map(|rss| text(bytes(rss))));
    parts.push(word(Role::Faint, format!("pid {}", supervisor.pid)));
    page.row("Supervisor", &parts);
}

/// The commands that an operator can use now.
fn next_steps(status: &Status) -> Vec<String> {
    let mut steps = Vec::new();
    let evolution = status.evolution.as_ref().map(|evolution| evolution.id.0.as_str());
    match (status.phase, evolution) {
        (Phase::AwaitingApproval, Some(id)) => {
            if let Some(report) = status.evolution.as_ref().and_then(|evolution| evolution.report_id.as_ref()) {
                steps.push(format!("rei show {report}"));
            }
            steps.push(format!("rei approve {id}"));
            steps.push(format!("rei reject {id}"));
        }
        (Phase::Held, _) => {
            steps.extend(["rei journal accept reality", "rei journal accept journal"].map(String::from));
        }
        (Phase::Observing, _) => steps.push("rei rollback".to_owned()),
        _ => {}
    }
    if status.paused {
        steps.push("rei resume".to_owned());
    } else if status.attention.is_some() && status.phase == Phase::Steady {
        if let Some(incident) = status.open_incidents.first() {
            steps.push(format!("rei show {}", incident.id));
        }
        steps.push("rei resume".to_owned());
    }
    if status.phase == Phase::Empty {
        steps.push("rei check".to_owned());
    }
    steps
}
