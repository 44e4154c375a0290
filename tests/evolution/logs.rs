//! The output of a service without a supervisor: it is read, kept within its limit, and never blocks the service.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::common::process::{self, is_alive, send};
use crate::lab::{Lab, Setup};
use crate::load::ask;

/// A request for output of five times the size of a pipe. Twice that size is already a flood.
const MUCH: &str = "/say/5000000";
const SAID: &str = "said 5000000 bytes";
/// The size limit of the log.
const LOG_BYTES: u64 = 1 << 20;
const SETUP: Setup =
    Setup { runtime: "", health: "", promotion: "", more: "log = \"1MiB\"", unix: false, udp: false, first: "" };

/// The limit of the log plus the size of a note and of the lines after it.
const ROOM: Setup = Setup { more: "log = \"64MiB\"", ..SETUP };

fn size(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |log| log.len())
}

/// The service prints more than the size of a pipe, and continues to answer; the log has the newest lines, and is within its
/// limit.
fn prints_and_answers(lab: &mut Lab) {
    for _ in 0..2 {
        assert_eq!(ask(lab.address(), MUCH).expect("the service answers"), SAID);
    }
    assert!(ask(lab.address(), "/").unwrap().ends_with(" of ok 1"));
    let log = lab.path("state/logs/a.log");
    lab.wait_for("the newest line in the log", |_| {
        std::fs::read_to_string(&log).ok()?.ends_with(&format!("{SAID}\n")).then_some(())
    });
    // The log says how much is missing, and so does the status.
    let older = log.with_extension("log.1");
    assert!(size(&older) > 0 && size(&log) + size(&older) <= LOG_BYTES);
}

/// The process that reads the output of instances.
fn logger(lab: &Lab) -> Option<u32> {
    loggers(lab).first().copied()
}

/// The processes that read the output of instances.
fn loggers(lab: &Lab) -> Vec<u32> {
    process::loggers(&lab.path("state"))
}

#[test]
fn a_killed_logger_is_replaced_and_the_last_output_before_a_crash_is_known() {
    let Some(mut lab) = Lab::serving(Setup { first: "ok bug 1", ..SETUP }) else { return };
    lab.until_settled();
    let first = logger(&lab).expect("a logger");
    send(first, Signal::SIGKILL);
    lab.wait_for("another logger", |lab| logger(lab).filter(|pid| *pid != first));
    assert_eq!(ask(lab.address(), MUCH).expect("the service answers"), SAID);
    let dropped = lab.status().and_then(|status| status.active?.instances.first()?.log_dropped_bytes);
    assert!(dropped.is_some(), "the status shows the dropped bytes");
    // Both are killed; the next supervisor finds the instance and its output, and starts a logger for it.
    let second = logger(&lab).expect("a logger");
    lab.kill();
    send(second, Signal::SIGKILL);
    lab.start();
    lab.until_settled();
    assert_eq!(ask(lab.address(), MUCH).expect("the service answers"), SAID);
    // The service crashes, and its last output is in the incident.
    assert!(ask(lab.address(), "/crash").is_err(), "it crashes");
    lab.until_settled();
    assert!(ask(lab.address(), "/crash").is_err(), "it crashes again");
    let status = lab.until("the incident", |status| !status.open_incidents.is_empty());
    assert!(status.open_incidents[0].summary.contains("a real bug"), "{:#?}", status.open_incidents);
}

#[test]
fn a_service_prints_and_answers_while_its_supervisor_is_stopped() {
    let Some(mut lab) = Lab::serving(SETUP) else { return };
    lab.until_settled();
    lab.signal(Signal::SIGSTOP);
    prints_and_answers(&mut lab);
    lab.signal(Signal::SIGCONT);
    lab.until_settled();
}

#[test]
fn a_service_prints_and_answers_after_its_supervisor_was_killed_and_after_the_keeper_too() {
    let Some(mut lab) = Lab::serving(SETUP) else { return };
    let before = lab.until_settled();
    lab.kill();
    prints_and_answers(&mut lab);
    // The next supervisor finds the instance, and gets its last output.
    lab.start();
    assert_eq!(lab.until_settled(), before);
    prints_and_answers(&mut lab);
    // Without both, killed in either order.
    let keeper = lab.keeper().expect("a keeper");
    lab.kill();
    send(keeper, Signal::SIGKILL);
    prints_and_answers(&mut lab);
    // No descriptor leads to the old logger any more. It stops for a new one: two readers would tear the lines of one pipe.
    let lost = loggers(&lab);
    lab.start();
    assert_eq!(lab.until_settled(), before);
    prints_and_answers(&mut lab);
    let now = loggers(&lab);
    assert!(lost.len() == 1 && now.len() == 1 && lost != now, "{lost:?} {now:?}");
}

/// Output that no process has read is missing in the log; the log and the status say so. Returns the number of missing bytes.
fn more_is_missing(lab: &mut Lab, than: u64) -> u64 {
    let dropped = lab.wait_for("the dropped bytes in the status", |lab| {
        lab.status()?.active?.instances.first()?.log_dropped_bytes.filter(|dropped| *dropped > than)
    });
    let log = lab.path("state/logs/a.log");
    lab.wait_for("the note in the log", |_| {
        let text = std::fs::read_to_string(&log).ok()?;
        let note = |line: &str| {
            let (bytes, why) = line.strip_prefix("[rei: ")?.split_once(" bytes dropped here: ")?;
            Some((bytes.parse::<u64>().ok()?, why == "the logger did not read them]"))
        };
        let notes: Vec<_> = text.lines().filter_map(note).collect();
        let bytes_noted: u64 = notes.iter().map(|(bytes, _)| bytes).sum();
        (bytes_noted >= dropped && notes.iter().any(|(_, unread)| *unread)).then_some(())
    });
    dropped
}

#[test]
fn a_logger_that_reads_nothing_is_replaced_and_the_service_does_not_wait_for_it() {
    let Some(mut lab) = Lab::serving(ROOM) else { return };
    let before = lab.until_settled();
    let first = logger(&lab).expect("a logger");
    send(first, Signal::SIGSTOP);
    assert_eq!(ask(lab.address(), MUCH).expect("the service answers"), SAID);
    lab.wait_for("another logger", |lab| logger(lab).filter(|pid| *pid != first && !is_alive(first)));
    more_is_missing(&mut lab, 0);
    // A logger that hangs is also replaced if little output waits, and then nothing is missing.
    let (second, log) = (logger(&lab).expect("a logger"), lab.path("state/logs/a.log"));
    send(second, Signal::SIGSTOP);
    assert_eq!(ask(lab.address(), "/say/1000").expect("the service answers"), "said 1000 bytes");
    lab.wait_for("the line in the log", |_| {
        std::fs::read_to_string(&log).ok()?.ends_with("said 1000 bytes\n").then_some(())
    });
    lab.wait_for("the end of the hanging logger", |_| (!is_alive(second)).then_some(()));
    assert_eq!(lab.until_settled(), before);
}

#[test]
fn a_service_prints_and_answers_if_supervisor_and_logger_are_both_away() {
    let Some(mut lab) = Lab::serving(ROOM) else { return };
    let before = lab.until_settled();
    // One of them hangs, the other is gone.
    lab.signal(Signal::SIGSTOP);
    send(logger(&lab).expect("a logger"), Signal::SIGKILL);
    assert_eq!(ask(lab.address(), MUCH).expect("the service answers"), SAID);
    lab.signal(Signal::SIGCONT);
    let mut dropped = more_is_missing(&mut lab, 0);
    // First: one of them is gone, the other hangs. Then: both are gone.
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        // In this order, because the kernel continues a stopped process when its parent exits.
        lab.kill();
        send(logger(&lab).expect("a logger"), signal);
        for _ in 0..2 {
            assert_eq!(ask(lab.address(), MUCH).expect("the service answers"), SAID);
        }
        lab.start();
        assert_eq!(lab.until_settled(), before);
        dropped = more_is_missing(&mut lab, dropped);
    }
}
