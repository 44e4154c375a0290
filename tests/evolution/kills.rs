//! The supervisor is killed again and again, in every phase, under load; no client notices.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use rei::history::entry::Entry;
use rei::interface::operations;
use rei::journal::Record;
use rei::lifecycle::{Lifecycle, Phase, RunState, Slot};

use crate::common::process::{self, Process, of_service};
use crate::lab::{Lab, Setup};
use crate::load::Load;

/// The number of kills, unless `REI_KILLS` is set.
const KILLS: usize = 50;
/// The share of kills in each phase, in percent. The lengths of the phases differ by four orders of magnitude, so the test aims at each phase.
const SPREAD: [(&str, usize); 8] = [
    ("Diagnosing", 8),
    ("Building", 16),
    ("Validating", 16),
    ("Canary", 16),
    ("Promoting", 10),
    ("Observing", 12),
    ("RollingBack", 10),
    ("Steady", 12),
];
/// The longest time from the start of a phase to the kill, in microseconds. A shorter phase has ended by then, which is as good a
/// time for a kill as any other.
const fn delay_max_us(phase: &str) -> u64 {
    match phase.as_bytes() {
        b"Diagnosing" => 8_000,
        b"Promoting" | b"RollingBack" => 1_500,
        _ => 1_200_000,
    }
}
/// How long the canary takes in the setup of this test.
const CANARY: Duration = Duration::from_secs(1);
/// The most kills of the test that aims at the time between a start and its record.
const ATTEMPTS_MAX: usize = 12;
/// The most evolutions: if one does not reach a wanted phase, another one follows.
const EVOLUTIONS_MAX: usize = 60;

/// splitmix64: the same seed gives the same numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Reads the journal while it grows, so it knows each phase as soon as it is decided.
struct JournalReader {
    path: PathBuf,
    read: u64,
    unread: Vec<u8>,
    state: Lifecycle,
    records: u64,
}

impl JournalReader {
    fn on(journal: &Path) -> Self {
        let path = first_segment(journal);
        Self { path, read: 0, unread: Vec::new(), state: Lifecycle::default(), records: 0 }
    }

    /// Reads the records since the last call.
    fn read_on(&mut self) -> &Lifecycle {
        let mut file = File::open(&self.path).expect("the journal");
        file.seek(SeekFrom::Start(self.read)).expect("the journal");
        let before = self.unread.len();
        file.read_to_end(&mut self.unread).expect("the journal");
        self.read += (self.unread.len() - before) as u64;
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            // The header is not a record. If a kill left a part of a line, the next supervisor removes it and writes at the same place.
            if let Ok(record) = serde_json::from_slice::<Record<Entry>>(&line) {
                self.state.step(record.at, record.body.event);
                self.records += 1;
            }
        }
        &self.state
    }

    /// Starts at the beginning again: a killed supervisor may have left half a line, which the next one removes.
    fn restart(&mut self) {
        *self = Self {
            path: std::mem::take(&mut self.path),
            read: 0,
            unread: Vec::new(),
            state: Lifecycle::default(),
            records: 0,
        };
        self.read_on();
    }
}

fn first_segment(journal: &Path) -> PathBuf {
    let mut segments: Vec<PathBuf> = std::fs::read_dir(journal)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == "jsonl"))
        .collect();
    segments.sort();
    segments.into_iter().next().expect("a segment")
}

/// Counts the instances all the time: no slot may ever have two.
struct Census {
    end: Arc<AtomicBool>,
    doubles: Arc<Mutex<Vec<Vec<Process>>>>,
    thread: Option<JoinHandle<u64>>,
}

impl Census {
    fn of(lab: &Lab) -> Self {
        let (end, doubles) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let state = lab.path("state");
        let thread = std::thread::spawn({
            let (end, doubles) = (end.clone(), doubles.clone());
            move || {
                let mut looks = 0;
                while !end.load(Ordering::Relaxed) {
                    let mut there = of_service(&state);
                    if is_double(&there) {
                        // The processes are read one after the other, so one may have exited before its successor was read. Two
                        // that are found again existed at the same time.
                        let again = of_service(&state);
                        there.retain(|process| again.contains(process));
                    }
                    if is_double(&there) {
                        doubles.lock().unwrap().push(there);
                    }
                    looks += 1;
                    std::thread::sleep(Duration::from_millis(40));
                }
                looks
            }
        });
        Self { end, doubles, thread: Some(thread) }
    }

    fn finish(mut self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        let looks = self.thread.take().unwrap().join().unwrap();
        let doubles = self.doubles.lock().unwrap();
        assert!(doubles.is_empty(), "two instances in one slot, {} times: {:?}", doubles.len(), doubles.first());
        looks
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Whether a slot has more than one instance.
fn is_double(there: &[Process]) -> bool {
    let slots: Vec<&str> = there.iter().filter_map(Process::slot).collect();
    ["a", "b"].iter().any(|slot| slots.iter().filter(|it| *it == slot).count() > 1)
}

struct Run {
    lab: Lab,
    load: Load,
    reader: JournalReader,
    random: Random,
    /// The remaining kills, by phase.
    wanted: BTreeMap<&'static str, usize>,
    killed: usize,
    /// The longest time without an answering supervisor.
    longest_away: Duration,
    /// The profile's lock, held so that Promoting lasts until the kill. Otherwise it ends after a millisecond.
    profile: Option<Flock<File>>,
}

impl Run {
    fn phase(&mut self) -> &'static str {
        self.reader.read_on().phase().name()
    }

    fn wants(&self, phase: &str) -> bool {
        self.wanted.get(phase).is_some_and(|count| *count > 0)
    }

    fn left(&self) -> usize {
        self.wanted.values().sum()
    }

    /// Holds the profile's lock like another program, if the next phase is a Promoting that is to be killed; releases it otherwise.
    /// `entered` is the start time of the phase.
    fn hold_profile(&mut self, phase: &str, entered: Instant) {
        let holds = match phase {
            // rei makes the profile's next generation at the start of the canary.
            "Canary" => self.wants("Promoting") && entered.elapsed() > CANARY / 2,
            // Held until the kill.
            "Promoting" => self.profile.is_some() && self.wants("Promoting"),
            _ => false,
        };
        if !holds {
            self.profile = None;
        } else if self.profile.is_none() {
            let lock = File::create(self.lab.path("state/profiles/served.lock")).expect("the profile's lock");
            let locked = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
            self.profile = Some(locked.expect("the profile's lock"));
        }
    }

    /// Kills the supervisor, starts the next one, and waits until it has the same instances as before. `ending` is a process that got
    /// the stop signal: then the service waits for its successor.
    fn kill(&mut self, aimed_at: &'static str, ending: Option<u32>) {
        let before = self.lab.processes();
        let keeper = self.lab.keeper();
        self.lab.kill();
        let away = Instant::now();
        self.killed += 1;
        if let Some(count) = self.wanted.get_mut(aimed_at) {
            *count = count.saturating_sub(1);
        }
        // Sometimes there is no supervisor for a while.
        if self.random.below(4) == 0 && ending.is_none() {
            self.load.wait_for_more(60);
        }
        self.lab.start();
        self.lab.wait_for("an answer", |lab| lab.status());
        self.longest_away = self.longest_away.max(away.elapsed());
        assert_eq!(self.lab.keeper(), keeper, "the keeper must stay");
        self.reader.restart();
        let status = self.lab.status().expect("it answered");
        let there = self.lab.processes();
        // The serving instances were not touched.
        for instance in status.active.iter().flat_map(|active| &active.instances) {
            // The instance may wait for the end of its backoff.
            let Some(pid) = instance.usage.pid else { continue };
            if ending == Some(pid) {
                // Its exit may not be known yet; the new supervisor has started the instance in its place.
                continue;
            }
            assert!(
                before.iter().chain(&there).any(|process| process.pid == pid && process.instance == instance.id),
                "{instance:?} is not among {before:?} and {there:?}"
            );
        }
    }

    /// Watches one evolution to its end, and kills the supervisor in the chosen phases.
    fn through(&mut self, rev: &str) {
        let since = Instant::now();
        let mut entered = ("", Instant::now());
        // The time of the kill in the current phase, if there is one.
        let mut due: Option<Instant> = None;
        loop {
            let phase = self.phase();
            if phase != entered.0 {
                entered = (phase, Instant::now());
                due = (phase != "Steady" && self.wants(phase)).then(|| {
                    let delay = self.random.below(delay_max_us(phase));
                    entered.1 + Duration::from_micros(delay)
                });
            }
            self.hold_profile(phase, entered.1);
            if let Some(at) = due
                && Instant::now() >= at
            {
                self.kill(entered.0, None);
                // The same phase may be chosen again later.
                entered.0 = "";
                continue;
            }
            let ended = phase == "Steady"
                && (self.reader.state.active().is_some_and(|active| active.version.rev == rev)
                    || self.reader.state.followed() == Some(rev));
            if ended {
                return;
            }
            assert!(
                since.elapsed() < Duration::from_secs(240),
                "the evolution to {rev} does not end: {phase}\n{}",
                self.lab.output()
            );
            // The next phase may last a millisecond: then this loop polls without a pause.
            let quick = (matches!(phase, "Steady") && self.wants("Diagnosing"))
                || (matches!(phase, "Canary") && self.wants("Promoting"))
                || (matches!(phase, "Observing") && self.wants("RollingBack"))
                || due.is_some();
            std::thread::sleep(if quick { Duration::from_micros(100) } else { Duration::from_millis(3) });
        }
    }

    /// Kills the supervisor in Steady, while an instance stops and is restarted.
    fn in_steady(&mut self) {
        let status = self.lab.until("Steady", |status| status.phase == operations::Phase::Steady);
        let serving = status.active.and_then(|active| active.instances.first().and_then(|it| it.usage.pid));
        let ending = serving.filter(|_| self.random.below(2) == 0);
        if let Some(pid) = ending {
            // The instance finishes its requests; clients wait for the next instance.
            process::send(pid, Signal::SIGTERM);
        }
        std::thread::sleep(Duration::from_micros(self.random.below(30_000)));
        self.kill("Steady", ending);
        self.lab.until_settled();
    }
}

#[test]
fn a_supervisor_killed_fifty_times_in_all_phases_loses_no_request() {
    let seed = variable("REI_SEED").unwrap_or_else(crate::load::now_ms);
    let kills = variable("REI_KILLS").map_or(KILLS, |kills| usize::try_from(kills).unwrap());
    println!("to repeat: REI_SEED={seed} REI_KILLS={kills} cargo test --test evolution killed_fifty -- --nocapture");
    let setup = Setup {
        promotion: "canary = [{ share = 0.3, for = \"1s\" }]\nobserve = \"1500ms\"\nhold = \"20s\"\non_inconclusive = \"promote\"",
        more: "[incidents]\ncrash = { restarts = 60, within = \"60s\" }\nlatency = { p99 = \"400ms\", for = \"1s\" }",
        ..Setup::default()
    };
    let Some(lab) = Lab::serving(setup) else { return };
    let begun = Instant::now();
    let census = Census::of(&lab);
    let (load, reader) = (Load::on(lab.address()), JournalReader::on(&lab.path("state/journal")));
    let wanted = SPREAD.map(|(phase, percent)| (phase, (kills * percent).div_ceil(100))).into();
    let mut run =
        Run { lab, load, reader, random: Random(seed), wanted, killed: 0, longest_away: Duration::ZERO, profile: None };
    run.load.wait_for_more(100);
    let mut commits = Vec::new();
    while run.left() > 0 && commits.len() < EVOLUTIONS_MAX {
        if run.wants("Steady") {
            run.in_steady();
        }
        let number = commits.len() + 2;
        // Every second version degrades in its window, as long as kills in rollbacks remain.
        let slow = run.wants("RollingBack") && number % 2 == 0;
        let behaviour = if slow { format!("slow=120:900 {number}") } else { format!("ok {number}") };
        let rev = run.lab.commit(&behaviour);
        commits.push(rev.clone());
        run.through(&rev);
    }
    run.lab.until("Steady", |status| status.phase == operations::Phase::Steady);
    run.lab.until_settled();
    run.load.wait_for_more(100);

    let Run { lab, load, killed, longest_away, wanted, .. } = run;
    let (tally, looks) = (load.finish(), census.finish());
    let ledger = lab.ledger();
    let recoveries = ledger.recoveries();
    let mut hit: BTreeMap<&str, usize> = BTreeMap::new();
    recoveries.iter().for_each(|(phase, _)| *hit.entry(phase).or_default() += 1);
    let versions = versions(&ledger.states);
    println!(
        "{killed} kills in {:?}: {hit:?}; {} evolutions; {} requests, {} failed; longest without a supervisor {longest_away:?}; \
         {looks} counts of instances; the slowest answer {} ms",
        begun.elapsed(),
        commits.len(),
        tally.answers.len() + tally.failures.len(),
        tally.failures.len(),
        tally.longest_ms(),
    );
    tally.assert_none_lost();
    assert!(wanted.values().all(|count| *count == 0), "kills that never happened: {wanted:?}");
    // A supervisor that was killed before it had recorded its start does not appear here.
    assert!(recoveries.len() <= killed && recoveries.len() + 5 >= killed, "{} of {killed}", recoveries.len());
    assert!(recoveries.iter().all(|(before, after)| before == after), "the phase must continue: {recoveries:?}");
    if kills >= KILLS {
        for (phase, _) in SPREAD {
            assert!(hit.contains_key(phase), "no supervisor was lost in {phase}: {hit:?}");
        }
    }
    assert_eq!(ledger.commits(), commits, "one evolution for each commit, in order");
    for (evolution, ends) in ledger.ends() {
        assert_eq!(ends.len(), 1, "{evolution} ended as {ends:?}");
    }
    let (held, intervals) = ledger.compare_with(&tally, |path| versions.get(path).cloned().unwrap_or_default());
    println!("{held} new connections in {intervals} intervals were routed as the journal says");
    let said = std::fs::read_to_string(lab.path("output")).unwrap();
    assert!(!said.contains("opened anew"), "a listener was lost");
    assert!(!said.contains("panicked"), "a supervisor panicked");
}

/// A supervisor may be killed after it started an instance and before it recorded that. The next supervisor takes the instance
/// over. The one after that must know that the slot has it.
#[test]
fn an_instance_whose_start_was_not_recorded_stays_the_only_one_of_its_slot() {
    let setup = Setup { more: "[incidents]\ncrash = { restarts = 60, within = \"60s\" }", ..Setup::default() };
    let Some(mut lab) = Lab::serving(setup) else { return };
    let census = Census::of(&lab);
    let mut reader = JournalReader::on(&lab.path("state/journal"));
    let unrecorded = |state: &Lifecycle| {
        let slot = state.slot(state.active_slot().expect("a version serves"));
        slot.run == RunState::Starting && slot.instance.is_none()
    };
    // The time between a start and its record is short, so the kill does not always hit it.
    let hit = (0..ATTEMPTS_MAX).any(|_| {
        lab.until_settled();
        let serving = lab.status().and_then(|status| status.active?.instances.first()?.usage.pid).expect("an instance");
        process::send(serving, Signal::SIGTERM);
        while !unrecorded(reader.read_on()) {
            if reader.state.slot(Slot::A).instance.as_ref().is_some_and(|instance| instance.pid != serving) {
                break;
            }
        }
        lab.kill();
        let there = lab.processes();
        reader.restart();
        let hit = unrecorded(&reader.state) && there.iter().any(|process| process.pid != serving);
        lab.start();
        lab.wait_for("an answer", |lab| lab.status());
        hit
    });
    assert!(hit, "no kill came between a start and its record");
    let adopted = lab.until_settled();
    lab.kill();
    lab.start();
    lab.wait_for("an answer", |lab| lab.status());
    assert_eq!(lab.until_settled(), adopted, "the next supervisor must keep the instance");
    census.finish();
}

/// The answer of each store path.
fn versions(states: &[Lifecycle]) -> BTreeMap<String, String> {
    let slots = states.iter().flat_map(|state| rei::lifecycle::Slot::ALL.map(|slot| state.slot(slot).version.clone()));
    let trial = states.iter().filter(|state| !matches!(state.phase(), Phase::Steady));
    let trial = trial.map(|state| state.evolution().and_then(|evolution| evolution.version.clone()));
    let paths = slots.chain(trial).flatten().map(|version| version.store_path);
    let text = |path: String| {
        let behaviour = std::fs::read_to_string(Path::new(&path).join("behaviour")).unwrap_or_default();
        (path, behaviour.trim().to_owned())
    };
    paths.map(text).collect()
}
