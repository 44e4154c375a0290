//! A version that exits while it is observed: that is decided once, for one reason, and what waits for it is served.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use rei::interface::operations::Phase;
use rei::interface::types::MaintenanceAction;
use rei::lifecycle::{Effect, Event};

use crate::common::process::send;
use crate::lab::{Address, Lab, Setup};
use crate::load::{Load, ask};

/// The bound of one answer: a rollback and the start of an instance, on a busy machine.
const ANSWER: Duration = Duration::from_secs(60);

#[test]
fn each_crash_in_a_window_ends_it_for_the_same_reason_and_opens_no_incident() {
    // Nothing but the crash ends the window.
    let Some(mut lab) = Lab::serving(Setup { promotion: "canary = []\nobserve = \"60s\"", ..Setup::default() }) else {
        return;
    };
    let load = Load::on(lab.address());
    let mut reasons = BTreeSet::new();
    for number in 2..6 {
        let rev = lab.commit(&format!("ok bug {number}"));
        lab.until("Observing", |status| status.phase == Phase::Observing);
        load.wait_for_more(20);
        assert!(ask(lab.address(), "/crash").is_err(), "it crashes");
        let verdict = lab.verdict_on(&rev);
        assert_eq!(verdict.action, Some(MaintenanceAction::RolledBack), "{verdict:#?}");
        let (_, reason) = verdict.summary.split_once(": ").expect("a purpose and a reason");
        reasons.insert(reason.to_owned());
        let status = lab.until("Steady", |status| status.phase == Phase::Steady);
        assert!(status.open_incidents.is_empty(), "{:#?}", status.open_incidents);
        lab.until_settled();
    }
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons.iter().all(|reason| reason.contains("signal 6")), "{reasons:?}");
    let found = lab.ledger().records.into_iter().filter(|it| matches!(it.body.event, Event::Found { .. })).count();
    assert_eq!(found, 0, "what does not count is not recorded");
}

#[test]
fn what_waits_for_a_version_that_was_killed_is_served_by_active() {
    let Some(mut lab) = Lab::serving(Setup { promotion: "canary = []\nobserve = \"60s\"", ..Setup::default() }) else {
        return;
    };
    let rev = lab.commit("ok 2");
    let status = lab.until("Observing", |status| status.phase == Phase::Observing);
    let pid = status.active.and_then(|active| active.instances.first()?.usage.pid).expect("an instance");
    // It accepts nothing any more, so a connection waits in the queue of its slot.
    send(pid, Signal::SIGSTOP);
    lab.wait_for("the instance to be stopped", |_| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.contains(") T ").then_some(())
    });
    let Address::Tcp(address) = lab.address().clone() else { unreachable!("the lab listens on TCP") };
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(ANSWER)).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\r\n").unwrap();
    send(pid, Signal::SIGKILL);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(" of ok 1"), "{answer}");
    assert_eq!(lab.verdict_on(&rev).action, Some(MaintenanceAction::RolledBack));
    lab.until_settled();
    let drains = |effect: &Effect| matches!(effect, Effect::Drain { .. });
    assert!(lab.ledger().records.iter().any(|record| record.body.effects.iter().any(drains)));
}
