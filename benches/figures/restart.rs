//! Crash to the new process's first instruction.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::peers::{BARE, Peer};
use super::report::Report;
use super::rig::Result;

const CHAPTER: &str = "crash";
/// After this run time every supervisor takes its child as started, and restarts it without a pause.
const UP: Duration = Duration::from_millis(1200);
/// Rounds. Each round kills the child of every supervisor once, in turn, so that all see the same load of the machine.
const ROUNDS: usize = 40;
/// Rounds that kill children right after their start.
const EARLY_ROUNDS: usize = 5;

pub fn measure(report: &mut Report, dir: &Path, target: &Path) -> Result<()> {
    println!("crash to the new process's first instruction, {ROUNDS} rounds");
    let mut peers = Vec::new();
    for (name, peer) in [
        ("rei", Peer::rei(&dir.join("rei"))),
        (BARE, Peer::bare(&dir.join("bare"))),
        ("runit runsv", Peer::runit(&dir.join("runit"))),
        ("s6-supervise", Peer::s6(&dir.join("s6"))),
        ("supervisord", Peer::supervisord(&dir.join("supervisord"), target)),
    ] {
        match peer {
            Ok(peer) => peers.push((peer, Vec::new(), Vec::new())),
            Err(error) => report.note(format!("{name} is not measured: {error}")),
        }
    }
    for _ in 0..ROUNDS {
        for (peer, late, _) in &mut peers {
            std::thread::sleep(UP.saturating_sub(peer.since.elapsed()));
            late.push(crash(peer)?);
        }
    }
    for _ in 0..EARLY_ROUNDS {
        for (peer, _, early) in &mut peers {
            std::thread::sleep(UP.saturating_sub(peer.since.elapsed()));
            crash(peer)?;
            early.push(crash(peer)?);
        }
    }
    let mut medians = Vec::new();
    for (peer, late, early) in peers {
        medians.push((peer.name, report.row(CHAPTER, peer.name, "ms", late)));
        report.row(CHAPTER, &format!("{}, again right after the start", peer.name), "ms", early);
    }
    let of = |name| medians.iter().find(|(of, _)| *of == name).and_then(|(_, p50)| *p50);
    if let (Some(rei), Some(runit)) = (of("rei"), of("runit runsv")) {
        let ratio = rei / runit;
        report.goal(CHAPTER, "rei's p50 divided by runit's", "at most 0.5", format!("{ratio:.2}"), ratio <= 0.5);
    }
    if let (Some(bare), Some(runit)) = (of(BARE), of("runit runsv")) {
        report.note(format!("crash: the minimal restarter needs {:.2} of runit's p50", bare / runit));
    }
    for name in ["s6-supervise", "supervisord"] {
        if let (Some(rei), Some(peer)) = (of("rei"), of(name)) {
            report.note(format!("crash: {name}'s p50 is {:.0} times rei's", peer / rei));
        }
    }
    Ok(())
}

/// Kills the child and returns the milliseconds until the next child's first act.
fn crash(peer: &mut Peer) -> Result<f64> {
    let killed = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    kill(Pid::from_raw(peer.pid), Signal::SIGKILL)?;
    let began_ns = peer.next()?;
    let killed_ns = killed.tv_sec().cast_unsigned() * 1_000_000_000 + killed.tv_nsec().cast_unsigned();
    Ok(began_ns.saturating_sub(killed_ns) as f64 / 1e6)
}
