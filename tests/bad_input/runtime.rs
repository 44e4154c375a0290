//! A runtime that misbehaves while it serves: the supervisor reports it, stays small, and keeps it serving.

use rei::interface::types::RuntimeIncident;

use crate::lab::{Lab, Supervisor};

/// The supervisor's resident memory, in KiB.
fn resident_kib(supervisor: &Supervisor) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", supervisor.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The limit for a debug build of the supervisor with the output of Nix: far below the 100 MB and the flood that it must not keep.
const RESIDENT_KIB_MAX: u64 = 48 << 10;

const INTERFACE: &str = "[health]\nhttp = { listen = \"http\", path = \"/healthz\", interval = \"100ms\", timeout = \"2s\" }\n\
                         interface = { interval = \"200ms\" }\n";

#[test]
fn a_flood_in_the_log() {
    let Some(lab) = Lab::new() else { return };
    lab.commit("floods 1");
    lab.configure("log = \"1MiB\"");
    let mut supervisor = lab.serving();
    let load = lab.load();
    supervisor.until("a rotated log", |_| lab.path("state/logs/a.log.1").exists());
    let asked = load.count();
    supervisor.until("requests meanwhile", |_| load.count() > asked + 200);
    let size = |name: &str| std::fs::metadata(lab.path(name)).map_or(0, |it| it.len());
    assert!(size("state/logs/a.log") + size("state/logs/a.log.1") <= 1 << 20);
    assert!(resident_kib(&supervisor) < RESIDENT_KIB_MAX, "{} KiB", resident_kib(&supervisor));
    load.none_lost();
    println!("{}", supervisor.output());
    assert_eq!(supervisor.stop(), Some(0));
}

/// A runtime with this behaviour on the interface: an incident with these words opens, and the runtime serves.
fn on_the_interface(behaviour: &str, words: &[&str]) {
    let Some(lab) = Lab::new() else { return };
    lab.commit(&format!("{behaviour} 1"));
    lab.configure(INTERFACE);
    let mut supervisor = lab.serving();
    let load = lab.load();
    let mut incidents = Vec::new();
    supervisor.until("an incident", |it| {
        incidents = it.status().map(|status| status.open_incidents).unwrap_or_default();
        !incidents.is_empty()
    });
    println!("{incidents:#?}\n{}", supervisor.output());
    let text = format!("{} {}", incidents[0].cause, incidents[0].summary);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    let asked = load.count();
    supervisor.until("requests meanwhile", |_| load.count() > asked + 100);
    assert!(resident_kib(&supervisor) < RESIDENT_KIB_MAX, "{} KiB", resident_kib(&supervisor));
    load.none_lost();
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn garbage_on_the_interface() {
    on_the_interface("garbage", &["garbage"]);
}

#[test]
fn a_hundred_megabytes_on_the_interface() {
    on_the_interface("huge", &["1048576"]);
}

#[test]
fn silence_on_the_interface() {
    on_the_interface("silent", &["report"]);
}

/// A runtime that leaks: an incident with these words opens, and the runtime serves.
fn leaks(behaviour: &str, bound: &str, words: &[&str]) {
    let Some(lab) = Lab::new() else { return };
    lab.commit(&format!("{behaviour} 1"));
    lab.configure(&format!("[incidents]\n{bound}\n"));
    let mut supervisor = lab.serving();
    let load = lab.load();
    let mut incidents = Vec::new();
    supervisor.until("an incident", |it| {
        incidents = it.status().map(|status| status.open_incidents).unwrap_or_default();
        !incidents.is_empty()
    });
    println!("{incidents:#?}\n{}", supervisor.output());
    let text = format!("{} {}", incidents[0].cause, incidents[0].summary);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    load.none_lost();
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn memory_that_grows() {
    leaks("leaks_memory", "memory = { per_hour = \"64MiB\", for = \"5s\" }", &["memory"]);
}

#[test]
fn descriptors_that_grow() {
    leaks("leaks_fds", "fds = { per_hour = 1000, for = \"5s\" }", &["descriptors"]);
}

#[test]
fn a_runtime_that_ignores_sigterm_is_killed() {
    let Some(lab) = Lab::new() else { return };
    lab.commit("ignores_term 1");
    let mut supervisor = lab.serving();
    assert_eq!(supervisor.stop(), Some(0));
    println!("{}", supervisor.output());
    assert!(lab.ask("/").is_err());
}

#[test]
fn a_runtime_that_dies_again_and_again() {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    for _ in 0..3 {
        assert!(lab.ask("/die").is_err());
        // The connection waits in the queue until the next instance accepts it.
        assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    }
    let mut incidents = Vec::new();
    supervisor.until("an incident", |it| {
        incidents = it.status().map(|status| status.open_incidents).unwrap_or_default();
        !incidents.is_empty()
    });
    println!("{incidents:#?}\n{}\n{:?}", supervisor.output(), supervisor.status().map(|it| it.attention));
    assert!(incidents[0].summary.contains("SIGABRT"), "{incidents:#?}");
    assert_eq!(supervisor.stop(), Some(0));
}

/// Waits until that many incidents are open; returns them.
fn incidents(supervisor: &mut Supervisor, count: usize) -> Vec<RuntimeIncident> {
    let mut found = Vec::new();
    supervisor.until(&format!("{count} incidents"), |it| {
        found = it.status().map(|status| status.open_incidents).unwrap_or_default();
        found.len() >= count
    });
    found
}

#[test]
fn an_old_crash_is_not_attributed_to_another_instance() {
    let Some(lab) = Lab::new() else { return };
    let mut supervisor = lab.serving();
    let dies_of = |path: &str| {
        assert!(lab.ask(path).is_err());
        // The connection waits in the queue until the next instance accepts it.
        assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    };
    dies_of("/panic");
    let first = incidents(&mut supervisor, 1);
    assert!(first[0].summary.contains("nil map"), "{first:#?}");
    dies_of("/quit");
    let second = incidents(&mut supervisor, 2);
    println!("{second:#?}");
    let blamed = |found: &[RuntimeIncident]| found.iter().filter(|it| it.summary.contains("nil map")).count();
    assert_eq!(blamed(&second), 1, "{second:#?}");
    assert!(second.iter().any(|it| it.summary.contains("exit code 1")), "{second:#?}");
    // The logs of the slot stay for people, even if everything restarts.
    assert_eq!(supervisor.stop(), Some(0));
    let mut supervisor = lab.serving();
    dies_of("/silent");
    let third = incidents(&mut supervisor, 3);
    println!("{third:#?}");
    assert_eq!(blamed(&third), 1, "{third:#?}");
    assert!(third.iter().any(|it| it.summary.contains("exit code 7")), "{third:#?}");
    assert_eq!(supervisor.stop(), Some(0));
    let logs = crate::lab::texts_below(&lab.path("state/logs"));
    assert!(logs.contains("nil map") && logs.contains("bye"), "earlier logs are kept: {logs}");
}
