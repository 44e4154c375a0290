//! The tap in front of a real service: its users' requests are seen, and they notice neither the tap nor its end.

use nix::sys::signal::Signal;

use crate::common::process::send;
use crate::lab::{Lab, Setup};
use crate::load::{Load, Tally, ask};

/// The clients of a load: a tap that dies loses at most one request of each.
const CLIENTS: usize = 5;

/// The tap that accepts connections.
fn tap(lab: &Lab) -> Option<u32> {
    rei::tap::find(&lab.path("state")).first().map(|tap| tap.pid)
}

/// The requests that the tap saw of Active in the last minute.
fn seen(lab: &Lab) -> u64 {
    let traffic = lab.status().and_then(|status| status.active).map(|active| active.traffic);
    traffic.into_iter().flatten().filter(|it| it.source == "tap").map(|it| it.requests).sum()
}

fn until_seen(lab: &mut Lab) {
    let before = seen(lab);
    lab.wait_for("requests that the tap sees", |lab| (seen(lab) > before).then_some(()));
}

/// No connection was refused, and at most this many requests that the tap carried were lost.
fn lost_at_most(tally: &Tally, most: usize) {
    let failures: Vec<&String> = tally.failures.iter().map(|(_, what)| what).collect();
    assert!(failures.len() <= most, "{failures:#?}");
    assert!(failures.iter().all(|what| what.starts_with("request ")), "{failures:#?}");
    println!("{} of {} requests were lost", failures.len(), failures.len() + tally.answers.len());
}

#[test]
fn users_requests_are_seen_and_a_killed_or_stopped_tap_is_replaced() {
    let Some(mut lab) = Lab::serving(Setup::default()) else { return };
    lab.until_settled();
    let load = Load::on(lab.address());
    until_seen(&mut lab);
    for signal in [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGKILL] {
        let first = tap(&lab).expect("a tap");
        send(first, signal);
        lab.wait_for("another tap", |lab| tap(lab).filter(|pid| *pid != first));
        until_seen(&mut lab);
        load.wait_for_more(100);
    }
    lost_at_most(&load.finish(), 3 * CLIENTS);
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait(), Some(0));
    lab.wait_for("the end of the tap", |lab| tap(lab).is_none().then_some(()));
}

/// The figure for a hundred kills; the test above has three.
#[test]
#[ignore = "takes minutes: cargo test --test evolution -- --ignored a_hundred_kills_of_the_tap"]
fn a_hundred_kills_of_the_tap() {
    const KILLS: usize = 100;
    let Some(mut lab) = Lab::serving(Setup::default()) else { return };
    lab.until_settled();
    let load = Load::on(lab.address());
    for _ in 0..KILLS {
        let first = lab.wait_for("a tap", |lab| tap(lab));
        until_seen(&mut lab);
        send(first, Signal::SIGKILL);
        lab.wait_for("another tap", |lab| tap(lab).filter(|pid| *pid != first));
    }
    lost_at_most(&load.finish(), KILLS * CLIENTS);
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait(), Some(0));
}

#[test]
fn connections_in_the_tap_outlive_supervisor_and_keeper() {
    let Some(mut lab) = Lab::serving(Setup::default()) else { return };
    lab.until_settled();
    let load = Load::on(lab.address());
    until_seen(&mut lab);
    let first = tap(&lab).expect("a tap");
    for _ in 0..3 {
        lab.kill();
        load.wait_for_more(50);
        lab.start();
        lab.until_settled();
        until_seen(&mut lab);
        assert_eq!(tap(&lab), Some(first), "the next supervisor has the same tap");
    }
    // Without a store the tap continues alone, and the next supervisor finds it by its process.
    let keeper = lab.keeper().expect("a keeper");
    lab.kill();
    send(keeper, Signal::SIGKILL);
    load.wait_for_more(50);
    lab.start();
    lab.until_settled();
    until_seen(&mut lab);
    assert!(tap(&lab).is_some_and(|pid| pid != first), "another tap accepts now");
    load.none_lost();
    // With everything gone, the tap ends by itself.
    let keeper = lab.keeper().expect("a keeper");
    lab.kill();
    send(keeper, Signal::SIGKILL);
    for process in lab.processes() {
        send(process.pid, Signal::SIGKILL);
    }
    lab.wait_for("the end of the tap", |lab| tap(lab).is_none().then_some(()));
    assert!(ask(lab.address(), "/").is_err());
}
