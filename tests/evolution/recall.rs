//! A long journal slows only the reader of the history.

use std::path::Path;
use std::process::Command;

use rei::history::entry::{Entry, replay};
use rei::interface::client::OperationsClient;
use rei::interface::operations::Phase;
use rei::journal::{Journal, Meta};
use rei::lifecycle::{Caller, Event, Lifecycle, Request};
use rei::time::Timestamp;

use crate::lab::{Lab, Setup};

/// The number of records of a journal after years.
const RECORDS: u64 = 50_000;

/// Adds that many records to a journal without a supervisor: an operator pauses and resumes.
fn grow(directory: &Path) {
    let meta = Meta { runtime: "served".into(), created: Timestamp::default() };
    let (mut journal, opened) = Journal::<Entry>::open::<Lifecycle>(directory, &meta).unwrap();
    let state = opened.snapshot.map_or_else(Lifecycle::default, |(_, state)| state);
    let at = opened.records.last().map_or(state.phase_since(), |record| record.at);
    let records = opened.records.iter().map(|record| (record.seq, record.at, &record.body));
    let replayed = replay(state, records);
    assert_eq!(replayed.divergence, None);
    let mut core = replayed.state;
    for number in 0..RECORDS {
        let request = if number % 2 == 0 { Request::Pause } else { Request::Resume };
        let event = Event::Operator { who: Caller::Operator("ada".into()), request };
        let effects = core.step(at, event.clone());
        journal.append(at, &Entry::new(event, effects, &core)).unwrap();
    }
    journal.snapshot(&core).unwrap();
}

/// The same, in a memory file system if there is one: the syncs of a disk would only cost time here.
fn grow_quickly(directory: &Path) {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else { return grow(directory) };
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
        assert!(copied.success());
    };
    copy(directory, memory.path());
    grow(memory.path());
    copy(memory.path(), directory);
}

#[test]
fn a_supervisor_answers_while_its_long_history_is_read() {
    let Some(mut lab) = Lab::serving(Setup::default()) else { return };
    lab.kill();
    grow_quickly(&lab.path("state/journal"));
    lab.start();
    lab.until("phase steady with the long journal", |status| status.phase == Phase::Steady);
    let control = lab.path("state/control.sock");
    let reader = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { OperationsClient::connect(control).await?.history(Some(500)).await })
    });
    let mut answers = 0;
    while !reader.is_finished() {
        lab.ask(async |client| client.status().await).expect("the supervisor answers meanwhile");
        answers += 1;
    }
    let history = reader.join().unwrap().expect("a history");
    println!("{answers} answers while {RECORDS} records were read");
    assert!(history.iter().any(|entry| entry.id == "evo_0001"), "{history:#?}");
    // If the loop itself read the journal, it would answer only once, at the end.
    assert!(answers > 3, "{answers} answers while the history was read");
}
