//! The supervisor is killed again and again, in every phase, under load, and nobody notices.

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
use rei::lifecycle::{Lifecycle, Phase};

use crate::common::process::{self, Process, of_service};
use crate::lab::{Lab, Setup};
use crate::load::Load;

/// Kills, unless `REI_KILLS` says otherwise.
const KILLS: usize = 50;
/// How the kills are spread, in percent. The phases differ in length by four orders of magnitude, so each is aimed at.
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
/// How long after a phase was entered it is killed at most, in microseconds. What takes less has passed by then: that is
/// as good a moment as any.
const fn delay_max_us(phase: &str) -> u64 {
    match phase.as_bytes() {
        b"Diagnosing" => 8_000,
        b"Promoting" | b"RollingBack" => 1_500,
        _ => 1_200_000,
    }
}
/// How long the canary takes, as the set-up of the test says.
const CANARY: Duration = Duration::from_secs(1);
/// An evolution that does not bring a wanted phase is followed by another, at most so many.
const EVOLUTIONS_MAX: usize = 60;

/// splitmix64: the same seed, the same draws.
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

/// Reads the journal as it grows, and so knows the phase as soon as it is decided.
struct Spy {
    path: PathBuf,
    read: u64,
    unread: Vec<u8>,
    state: Lifecycle,
    records: u64,
}

impl Spy {
    fn on(journal: &Path) -> Self {
        let path = first_segment(journal);
        Self { path, read: 0, unread: Vec::new(), state: Lifecycle::default(), records: 0 }
    }

    /// Takes in what was written since.
    fn look(&mut self) -> &Lifecycle {
        let mut file = File::open(&self.path).expect("the journal");
        file.seek(SeekFrom::Start(self.read)).expect("the journal");
        let before = self.unread.len();
        file.read_to_end(&mut self.unread).expect("the journal");
        self.read += (self.unread.len() - before) as u64;
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            // The header is no record. What a kill cut short is cut off, and written again from the same place.
            if let Ok(record) = serde_json::from_slice::<Record<Entry>>(&line) {
                self.state.step(record.at, record.body.event);
                self.records += 1;
            }
        }
        &self.state
    }

    /// Begins anew: a supervisor that was killed may have left half a line, which the next one takes off.
    fn again(&mut self) {
        *self = Self {
            path: std::mem::take(&mut self.path),
            read: 0,
            unread: Vec::new(),
            state: Lifecycle::default(),
            records: 0,
        };
        self.look();
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

/// Counts the instances all the time: no slot ever has two.
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
                        // Processes are looked at one after the other, and one that was there may have ended before its
                        // successor was looked at. Two that are seen again were there at once.
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

/// Whether a slot has more than one.
fn is_double(there: &[Process]) -> bool {
    let slots: Vec<&str> = there.iter().filter_map(Process::slot).collect();
    ["a", "b"].iter().any(|slot| slots.iter().filter(|it| *it == slot).count() > 1)
}

struct Run {
    lab: Lab,
    load: Load,
    spy: Spy,
    random: Random,
    /// Kills that are still wanted, by phase.
    wanted: BTreeMap<&'static str, usize>,
    killed: usize,
    /// The longest time without a supervisor that answers.
    longest_away: Duration,
    /// The profile's lock, held so that Promoting lasts until it is killed. It is over in a millisecond otherwise.
    profile: Option<Flock<File>>,
}

impl Run {
    fn phase(&mut self) -> &'static str {
        self.spy.look().phase().name()
    }

    fn wants(&self, phase: &str) -> bool {
        self.wanted.get(phase).is_some_and(|count| *count > 0)
    }

    fn left(&self) -> usize {
        self.wanted.values().sum()
    }

    /// Holds the profile as another program would, where the next phase is a Promoting that is to be killed; lets go of it
    /// where it is not. `entered` is when the phase began.
    fn hold_profile(&mut self, phase: &str, entered: Instant) {
        let holds = match phase {
            // The profile's next generation is made as the canary begins.
            "Canary" => self.wants("Promoting") && entered.elapsed() > CANARY / 2,
            // Until it was killed.
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

    /// Kills, starts anew, and waits until the same instances are cared for as before. `ending` is a process that was asked
    /// to end: the service waits for its successor.
    fn kill(&mut self, aimed_at: &'static str, ending: Option<u32>) {
        let before = self.lab.processes();
        let keeper = self.lab.keeper();
        self.lab.kill();
        let away = Instant::now();
        self.killed += 1;
        if let Some(count) = self.wanted.get_mut(aimed_at) {
            *count = count.saturating_sub(1);
        }
        // Sometimes nobody is there for a while.
        if self.random.below(4) == 0 && ending.is_none() {
            self.load.wait_for_more(60);
        }
        self.lab.start();
        self.lab.wait_for("an answer", |lab| lab.status());
        self.longest_away = self.longest_away.max(away.elapsed());
        assert_eq!(self.lab.keeper(), keeper, "the keeper stays");
        self.spy.again();
        let status = self.lab.status().expect("it answered");
        let there = self.lab.processes();
        // Who serves was not touched.
        for instance in status.active.iter().flat_map(|active| &active.instances) {
            // It may wait for the end of its backoff.
            let Some(pid) = instance.usage.pid else { continue };
            if ending == Some(pid) {
                // Its end may not be known yet; whoever is there in its place was started by the new supervisor.
                continue;
            }
            assert!(
                before.iter().chain(&there).any(|process| process.pid == pid && process.instance == instance.id),
                "{instance:?} is none of {before:?} and {there:?}"
            );
        }
    }

    /// Watches one evolution to its end, and kills on the way where it is wanted.
    fn through(&mut self, rev: &str) {
        let since = Instant::now();
        let mut entered = ("", Instant::now());
        // When to kill in the present phase, if at all.
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
                // The same phase may be hit again, later.
                entered.0 = "";
                continue;
            }
            let ended = phase == "Steady"
                && (self.spy.state.active().is_some_and(|active| active.version.rev == rev)
                    || self.spy.state.followed() == Some(rev));
            if ended {
                return;
            }
            assert!(
                since.elapsed() < Duration::from_secs(240),
                "the evolution to {rev} does not end: {phase}\n{}",
                self.lab.output()
            );
            // What comes next may take a millisecond: then it is looked for without a pause.
            let quick = (matches!(phase, "Steady") && self.wants("Diagnosing"))
                || (matches!(phase, "Canary") && self.wants("Promoting"))
                || (matches!(phase, "Observing") && self.wants("RollingBack"))
                || due.is_some();
            std::thread::sleep(if quick { Duration::from_micros(100) } else { Duration::from_millis(3) });
        }
    }

    /// Kills while nothing goes on but that an instance ends and is started again.
    fn in_steady(&mut self) {
        let status = self.lab.until("Steady", |status| status.phase == operations::Phase::Steady);
        let serving = status.active.and_then(|active| active.instances.first().and_then(|it| it.usage.pid));
        let ending = serving.filter(|_| self.random.below(2) == 0);
        if let Some(pid) = ending {
            // It finishes what it has; clients wait for the next one.
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
    println!("again: REI_SEED={seed} REI_KILLS={kills} cargo test --test evolution killed_fifty -- --nocapture");
    let setup = Setup {
        promotion: "canary = [{ share = 0.3, for = \"1s\" }]\nobserve = \"1500ms\"\nhold = \"20s\"\non_inconclusive = \"promote\"",
        more: "[incidents]\ncrash = { restarts = 60, within = \"60s\" }\nlatency = { p99 = \"400ms\", for = \"1s\" }",
        ..Setup::default()
    };
    let Some(lab) = Lab::serving(setup) else { return };
    let begun = Instant::now();
    let census = Census::of(&lab);
    let (load, spy) = (Load::on(lab.address()), Spy::on(&lab.path("state/journal")));
    let wanted = SPREAD.map(|(phase, percent)| (phase, (kills * percent).div_ceil(100))).into();
    let mut run =
        Run { lab, load, spy, random: Random(seed), wanted, killed: 0, longest_away: Duration::ZERO, profile: None };
    run.load.wait_for_more(100);
    let mut commits = Vec::new();
    while run.left() > 0 && commits.len() < EVOLUTIONS_MAX {
        if run.wants("Steady") {
            run.in_steady();
        }
        let number = commits.len() + 2;
        // Every second version turns out bad in its window, as long as rollbacks are wanted.
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
    assert!(wanted.values().all(|count| *count == 0), "kills that never came about: {wanted:?}");
    // A supervisor that was killed before it had written that it took over is not seen here.
    assert!(recoveries.len() <= killed && recoveries.len() + 5 >= killed, "{} of {killed}", recoveries.len());
    assert!(recoveries.iter().all(|(before, after)| before == after), "the phase goes on: {recoveries:?}");
    if kills >= KILLS {
        for (phase, _) in SPREAD {
            assert!(hit.contains_key(phase), "no supervisor was lost in {phase}: {hit:?}");
        }
    }
    assert_eq!(ledger.commits(), commits, "one evolution a commit, in order");
    for (evolution, ends) in ledger.ends() {
        assert_eq!(ends.len(), 1, "{evolution} ended as {ends:?}");
    }
    let (held, intervals) = ledger.hold_against(&tally, |path| versions.get(path).cloned().unwrap_or_default());
    println!("{held} fresh connections in {intervals} intervals went where the journal said");
    let said = std::fs::read_to_string(lab.path("output")).unwrap();
    assert!(!said.contains("opened anew"), "a listener was lost");
    assert!(!said.contains("panicked"), "a supervisor panicked");
}

/// What each store path answers.
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
