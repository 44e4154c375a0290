//! A service that needs more time than rei.toml allows, and requests it by `EXTEND_TIMEOUT_USEC`.

use rei::interface::operations::Phase;
use rei::interface::types::MaintenanceAction;

use crate::lab::{Lab, Setup};

#[test]
fn a_service_that_requests_more_time_gets_it_at_its_start_in_the_judge_and_at_its_stop() {
    let setup = Setup { health: "notify = {}", first: "ok 1 slow-start=6000 slow-end=6000", ..Setup::default() };
    let Some(mut lab) = Lab::new(setup) else { return };
    let text = std::fs::read_to_string(lab.path("rei.toml")).unwrap();
    let (start, stop) = ("start_timeout = \"30s\"", "stop_timeout = \"10s\"");
    assert!(text.contains(start) && text.contains(stop), "{text}");
    let text = text.replace(start, "start_timeout = \"2s\"").replace(stop, "stop_timeout = \"2s\"");
    std::fs::write(lab.path("rei.toml"), text).unwrap();
    lab.start();
    lab.until("the first version to serve", |status| status.phase == Phase::Steady && status.active.is_some());
    let candidate = lab.commit("ok 2 slow-start=6000 slow-end=6000");
    assert_eq!(lab.verdict_on(&candidate).action, Some(MaintenanceAction::Promoted));
    let left = lab.path("state/logs/a.log");
    let finished = |log: &std::path::Path, text: &str| std::fs::read_to_string(log).ok()?.contains(text).then_some(());
    lab.wait_for("the exit of the former instance", |_| finished(&left, "finished ok 1"));
    lab.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(lab.wait(), Some(0));
    assert!(finished(&lab.path("state/logs/b.log"), "finished ok 2").is_some(), "it was killed");
    let said = lab.output();
    assert!(said.contains("asks for") && !said.contains("did not exit in time"), "{said}");
}
