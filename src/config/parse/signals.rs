//! `[health]` and `[incidents]`.

use super::super::section::Section;
use super::super::value::Bytes;
use super::super::{
    CommandProbe, CrashBound, ErrorBound, GrowthBound, Health, HttpProbe, Incidents, InterfaceProbe, LatencyBound,
    Listen, NotifyProbe, Place, TcpProbe,
};
use super::asked::{asked, interval, path};
use super::{paths, requests};

pub(super) fn health(mut section: Section<'_>, listeners: Option<&[Listen]>, place: &Place) -> Option<Health> {
    let http = section.optional_section("http").map(|probe| http(probe, listeners));
    let tcp = section.optional_section("tcp").map(|probe| tcp(probe, listeners));
    let command = section.optional_section("command").map(|probe| command(probe, place));
    let notify = section.optional_section("notify").map(|mut probe| {
        let watchdog = probe.optional("watchdog").map(|at| at.value);
        probe.close();
        NotifyProbe { watchdog }
    });
    let interface = section.optional_section("interface").map(|mut probe| {
        let interval = interval(&mut probe);
        probe.close();
        Some(InterfaceProbe { interval: interval? })
    });
    let metrics = section.optional_section("metrics").map(|source| requests::metrics(source, listeners));
    let log = section.optional_section("log").map(requests::log);
    section.close();
    Some(Health {
        http: whole(http)?,
        tcp: whole(tcp)?,
        command: whole(command)?,
        notify,
        interface: whole(interface)?,
        metrics: whole(metrics)?,
        log: whole(log)?,
    })
}

/// A part that is not there is fine; one that is there must be whole.
fn whole<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        None => Some(None),
        Some(part) => part.map(Some),
    }
}

fn http(mut section: Section<'_>, listeners: Option<&[Listen]>) -> Option<HttpProbe> {
    let listen = asked(&mut section, listeners);
    let path = path(&mut section, "as in \"/healthz\"");
    let (interval, timeout) = (interval(&mut section), section.value("timeout"));
    section.close();
    Some(HttpProbe { listen: listen?, path: path?, interval: interval?, timeout: timeout?.value })
}

fn tcp(mut section: Section<'_>, listeners: Option<&[Listen]>) -> Option<TcpProbe> {
    let listen = asked(&mut section, listeners);
    let (interval, timeout) = (interval(&mut section), section.value("timeout"));
    section.close();
    Some(TcpProbe { listen: listen?, interval: interval?, timeout: timeout?.value })
}

fn command(mut section: Section<'_>, place: &Place) -> Option<CommandProbe> {
    let command = section.required::<Vec<String>>("command", "[\"/usr/local/bin/probe\"]");
    paths::command_is_there(&section, command.as_ref());
    let (interval, timeout) = (interval(&mut section), section.value("timeout"));
    section.close();
    Some(CommandProbe { command: paths::program(command?.value, place), interval: interval?, timeout: timeout?.value })
}

pub(super) fn incidents(mut section: Section<'_>, health: Option<&Health>) -> Option<Incidents> {
    let mut crash = section.section("crash");
    let (restarts, within) = (at_least_one(&mut crash, "restarts"), crash.value("within"));
    crash.close();
    let repeats = at_least_one(&mut section, "repeats");
    let measured = health.is_none_or(|h| {
        h.http.is_some()
            || h.tcp.is_some()
            || h.command.is_some()
            || h.interface.is_some()
            || h.metrics.is_some()
            || h.log.is_some()
    });
    for key in ["latency", "errors"] {
        if let Some(span) = section.key_span(key).filter(|_| !measured) {
            let message = format!("nothing measures `incidents.{key}`: no probe and no source of requests is set");
            section.impossible(
                key,
                &span,
                message,
                "set `health.metrics`, `health.log`, `health.http`, `health.tcp`, `health.command` or `health.interface`",
            );
        }
    }
    let latency = section.optional_section("latency").map(|mut bound| {
        let (p99, r#for) = (bound.required("p99", "\"250ms\""), bound.value("for"));
        bound.close();
        Some(LatencyBound { p99: p99?.value, r#for: r#for?.value })
    });
    let errors = section.optional_section("errors").map(errors);
    let memory = section.optional_section("memory").map(|mut bound| {
        let (bytes, r#for) = (bound.value::<Bytes>("per_hour"), bound.value("for"));
        bound.close();
        Some(GrowthBound { per_hour: bytes?.value.0, r#for: r#for?.value })
    });
    let fds = section.optional_section("fds").map(|mut bound| {
        let (per_hour, r#for) = (at_least_one(&mut bound, "per_hour"), bound.value("for"));
        bound.close();
        Some(GrowthBound { per_hour: per_hour?, r#for: r#for?.value })
    });
    section.close();
    Some(Incidents {
        crash: CrashBound { restarts: restarts?, within: within?.value },
        latency: whole(latency)?,
        errors: whole(errors)?,
        memory: whole(memory)?,
        fds: whole(fds)?,
        repeats: repeats?,
    })
}

fn errors(mut section: Section<'_>) -> Option<ErrorBound> {
    let (ratio, r#for) = (section.value::<f64>("ratio"), section.value("for"));
    if let Some(at) = ratio.as_ref().filter(|at| !(at.value > 0.0 && at.value < 1.0)) {
        section.impossible(
            "ratio",
            &at.span,
            format!("a ratio of {} is never or always exceeded", at.value),
            "above 0 and below 1",
        );
    }
    section.close();
    Some(ErrorBound { ratio: ratio?.value, r#for: r#for?.value })
}

/// A count that means nothing at 0.
pub(super) fn at_least_one(section: &mut Section<'_>, key: &'static str) -> Option<u64> {
    let at = section.value::<u64>(key)?;
    if at.value == 0 {
        section.impossible(key, &at.span, format!("`{}` must be at least 1", section.path_of(key)), "write 1 or more");
    }
    Some(at.value)
}
