//! For any journal the history reports the same facts as the core, although it replays nothing: for entries that say
//! where the lifecycle stands, and for those of earlier formats, which do not.

#[expect(dead_code, reason = "shared with the model checker, which uses all of it")]
#[path = "lifecycle/world.rs"]
mod world;

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rei::history::History;
use rei::history::entry::{Entry, StateSummary, replay};
use rei::interface::types::EvolutionId;
use rei::journal::Record;
use rei::lifecycle::{Event, Lifecycle, Policy, Standby, Timer};
use rei::narrate;
use world::{Cause, Left, NOW, World, policy};

/// A world whose events also go to three histories. The entries of the first say where the lifecycle stands, those of the
/// second do not, and those of the third sometimes do.
struct Recorded {
    world: World,
    histories: [History; 3],
    /// Which entries of the third history do not say it: one bit for each entry, and again from the first bit after 64 entries.
    unsaid: u64,
    seq: u64,
    /// The state at the start of the journal, and its records with the reasons of another version of rei.
    since: Lifecycle,
    journal: Vec<Entry>,
    /// The ids of the evolutions that the core started, in their order.
    begun: Vec<String>,
}

impl Recorded {
    fn new(world: World, unsaid: u64) -> Self {
        let since = world.core.clone();
        Self { world, histories: histories(), unsaid, seq: 0, since, journal: Vec::new(), begun: Vec::new() }
    }

    fn tell(&mut self, event: &Event) {
        let mut after = self.world.core.clone();
        let effects = after.step(NOW, event.clone());
        // As the supervisor does: an event that changes nothing is not recorded.
        if effects.is_empty() && after == self.world.core {
            return;
        }
        let said = Entry::new(event.clone(), effects, &after);
        let unsaid = Entry { state: None, ..said.clone() };
        self.seq += 1;
        self.journal.push(in_other_words(&said));
        let third = if self.unsaid >> (self.seq % 64) & 1 == 0 { said.clone() } else { unsaid.clone() };
        for (history, body) in self.histories.iter_mut().zip([said, unsaid, third]) {
            history.take(&Record { seq: self.seq, at: NOW, prev: String::new(), body });
        }
    }

    fn happens(&mut self, cause: Cause, carried: usize) {
        let event = self.world.event(cause);
        self.tell(&event);
        self.world.take(event, carried);
    }

    fn crashes(&mut self, reboot: bool) {
        self.world.end_strays(reboot);
        let running = self.world.running();
        // The world sends its core this event; it is recorded here first. Both come from the same processes.
        self.tell(&Event::Recovered { running, rebooted: reboot });
        self.world.crash(reboot);
    }

    /// The journal is removed; only the records of the next supervisor remain.
    fn loses(&mut self) {
        let policy = self.world.core.policy().cloned().expect("configured");
        let held = self.world.loss(false);
        (self.histories, self.seq, self.begun) = (histories(), 0, Vec::new());
        (self.since, self.journal) = (self.world.core.clone(), Vec::new());
        for event in [held, Event::Configured { policy }] {
            self.tell(&event);
            self.world.take(event, usize::MAX);
        }
    }

    fn agrees(&mut self, after: &str) -> Result<(), TestCaseError> {
        let core = &self.world.core;
        let state = StateSummary::of(core);
        prop_assert_eq!(self.histories[0].state(), &state, "after {}", after);
        let open = |incident: &rei::lifecycle::OpenIncident| (incident.id.clone(), incident.occurrences);
        let known: Vec<_> = core.incidents().values().map(open).collect();
        for history in &self.histories {
            let read = history.state();
            prop_assert_eq!(read.phase.name(), core.phase().name(), "after {}", after);
            prop_assert_eq!(&read.evolution, &state.evolution, "after {}", after);
            let incidents: Vec<_> = history.open_incidents().map(|it| (it.id.clone(), it.occurrences)).collect();
            prop_assert_eq!(&incidents, &known, "after {}", after);
            let under_way = history.under_way();
            let id = under_way.as_ref().map(|it| it.entry.id.clone());
            prop_assert_eq!(&id, &state.evolution.as_ref().map(|id| id.0.clone()), "after {}", after);
            // Its last step is the phase, and in a canary the share.
            let Some(under_way) = under_way else { continue };
            let step = under_way.steps.last().expect("an evolution has a step").name.clone();
            let expected = narrate::step(state.phase, state.share_ppm);
            prop_assert_eq!(step.split(':').next(), Some(&*expected), "after {}", after);
        }
        if let Some(EvolutionId(id)) = state.evolution.filter(|id| self.begun.last() != Some(&id.0)) {
            self.begun.push(id);
        }
        Ok(())
    }
}

fn histories() -> [History; 3] {
    std::array::from_fn(|_| History::last(1000))
}

/// The same record by a version of rei with other reasons and phases, and with more fields than this version knows.
fn in_other_words(entry: &Entry) -> Entry {
    let mut stored = serde_json::to_value(entry).unwrap();
    stored["stands"] = serde_json::json!({ "phase": "of_a_later_rei" });
    for effect in stored["effects"].as_array_mut().unwrap() {
        if let Some(reason) = effect.get_mut("reason") {
            *reason = serde_json::json!({ "why": "in_other_words", "instead_of": reason.take() });
        }
        effect["of_a_later_rei"] = true.into();
    }
    serde_json::from_value(stored).unwrap()
}

/// The next cause for this number: mostly the expected one, so that walks get far, and sometimes any other.
fn cause(world: &World, draw: u16) -> Option<Cause> {
    let mut causes = world.causes();
    let is_fault = |cause: &Cause| {
        use rei::interface::types::Verdict;
        matches!(
            cause,
            Cause::Due(Timer::Phase) | Cause::Answer(_, false) | Cause::Fails(..) | Cause::Exit(_) | Cause::Degrades
        ) || matches!(cause, Cause::Verdict(_, Verdict::Fail) | Cause::Carried(false) | Cause::Ask(_))
    };
    let calm = !draw.is_multiple_of(5) || world.core.active().is_none();
    if calm && causes.iter().any(|cause| !is_fault(cause)) {
        causes.retain(|cause| !is_fault(cause));
    }
    causes.get(usize::from(draw / 5) % causes.len().max(1)).cloned()
}

#[test]
fn the_history_agrees_with_the_core() {
    let seen = RefCell::new(BTreeSet::new());
    let strategy = (any::<[bool; 3]>(), any::<u64>(), proptest::collection::vec(any::<u16>(), 0..400));
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let walked = TestRunner::new(config).run(&strategy, |([overlap, approve, cold], unsaid, draws)| {
        let left = Left {
            commits: 6,
            findings: 6,
            exits: 6,
            crashes: 4,
            requests: 6,
            failures: 6,
            rechecks: 20,
            losses: 2,
            waits: 4,
        };
        let standby = if cold { Standby::Cold } else { Standby::Keep };
        let world = World::new(Policy { per_hour: 9, per_incident: 3, ..policy(overlap, approve, standby) }, left);
        let mut told = Recorded::new(world, unsaid);
        for draw in draws {
            let Some(cause) = cause(&told.world, draw) else { break };
            let crash = told.world.left.crashes > 0 && draw % 31 == 0;
            told.happens(cause.clone(), if crash { usize::from(draw % 3) } else { usize::MAX });
            told.agrees(&format!("{cause:?}"))?;
            if crash {
                told.crashes(draw % 2 == 0);
                told.agrees("a crash")?;
            }
            if draw % 29 == 0 && !told.world.losses().is_empty() {
                told.loses();
                told.agrees("a loss")?;
            }
            seen.borrow_mut().insert(format!("{:?}", told.world.core.phase()));
        }
        // No decision depends on reasons, in any phase.
        let records = (1..).zip(&told.journal).map(|(seq, entry)| (seq, NOW, entry));
        let replayed = replay(told.since, records);
        prop_assert_eq!(replayed.divergence, None);
        prop_assert_eq!(&replayed.state, &told.world.core);
        // Every evolution that ever ran is in the history exactly once.
        let [named, others @ ..] = told.histories.map(|history| history.entries());
        let mut listed: Vec<String> = named.iter().map(|entry| entry.id.clone()).collect();
        listed.retain(|id| id.starts_with("evo_"));
        listed.sort();
        prop_assert!(told.begun.iter().all(|id| listed.contains(id)), "{:?} of {listed:?}", told.begun);
        let count = listed.len();
        listed.dedup();
        prop_assert_eq!(listed.len(), count);
        // The history is the same if entries do not say where the lifecycle stands.
        for other in others {
            prop_assert_eq!(&other, &named);
        }
        Ok(())
    });
    walked.unwrap_or_else(|error| panic!("{error}"));
    // The walks must reach every phase; otherwise they prove little.
    let seen = seen.into_inner();
    for phase in [
        "Installing",
        "Steady",
        "Diagnosing",
        "Building",
        "Validating",
        "AwaitingApproval { of: Promotion }",
        "AwaitingApproval { of: Canary",
        "AwaitingApproval { of: Observation }",
        "Canary { stage: Preparing }",
        "Canary { stage: Stopping }",
        "Canary { stage: Share",
        "Promoting",
        "Observing { stage: Starting }",
        "Observing { stage: Window",
        "RollingBack",
        "Held",
    ] {
        assert!(seen.iter().any(|name| name.starts_with(phase)), "no walk reached {phase}: {seen:?}");
    }
}

/// A supervisor's journal: a first version that crashes once, then its repair.
mod story {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use rei::history::entry::Entry;
    use rei::interface::types::{EvolutionId, IncidentClass, ReportId, Severity, Verdict, Version};
    use rei::journal::{Journal, Meta};
    use rei::lifecycle::{Event, Finding, Instance, Lifecycle, Plan, ReportDigest, Slot, Standby, Timer};
    use rei::time::Timestamp;

    use super::world::{path, policy};

    struct Supervisor {
        core: Lifecycle,
        journal: Journal<Entry>,
        seconds: u64,
    }

    impl Supervisor {
        /// One event a second.
        fn tell(&mut self, event: Event) -> Vec<rei::lifecycle::Effect> {
            self.seconds += 1;
            let at = Timestamp::from_unix_ms(1_795_359_670_250 + self.seconds * 1000);
            let effects = self.core.step(at, event.clone());
            self.journal.append(at, &Entry::new(event, effects.clone(), &self.core)).unwrap();
            effects
        }

        fn built(&mut self, evolution: u64, tree: &str, files_changed: &[&str]) {
            let version =
                Version { store_path: path(tree), rev: format!("r-{tree}"), tree: tree.into(), drv: String::new() };
            let files_changed = files_changed.iter().map(|path| (*path).to_owned()).collect();
            let evolution = EvolutionId::numbered(evolution);
            self.tell(Event::Built { evolution, version, base_rev: "r-t1".into(), files_changed });
        }

        fn serves(&mut self, slot: Slot) {
            self.tell(Event::Started { slot, instance: Instance::default() });
            self.tell(Event::Ready { slot });
        }
    }

    fn write(state: &Path) {
        let meta = Meta { runtime: "greeter".into(), created: Timestamp::from_unix_ms(0) };
        let (journal, _) = Journal::open::<Lifecycle>(&state.join("journal"), &meta).unwrap();
        let mut it = Supervisor { core: Lifecycle::default(), journal, seconds: 0 };
        it.tell(Event::Configured { policy: policy(true, false, Standby::Keep) });
        it.tell(Event::Followed { rev: "r-t1".into(), tree: "t1".into() });
        it.built(1, "t1", &[]);
        it.tell(Event::GenerationPrepared { store_path: path("t1"), generation: 1 });
        it.serves(Slot::A);
        it.tell(Event::Exited { slot: Slot::A, exit: "exit code 2".into(), ran_ms: 5 });
        it.serves(Slot::A);
        let finding = Finding {
            class: IncidentClass::RuntimeFailure,
            cause: "crash".into(),
            severity: Severity::Critical,
            fingerprint: "sha256:f".into(),
            summary: "exit code 2: index out of bounds".into(),
            evolve: true,
        };
        it.tell(Event::Found { slot: Some(Slot::A), finding });
        let evolution = EvolutionId::numbered(2);
        it.tell(Event::Diagnosed { evolution: evolution.clone(), context: "sha256:c".into() });
        it.tell(Event::StageReached { evolution: evolution.clone(), stage: "edit".into(), checkpoint: "{}".into() });
        it.built(2, "t2", &["src/main.rs"]);
        let (id, summary) = (ReportId::numbered(1), String::new());
        let report = ReportDigest { id, store_path: path("t2"), verdict: Verdict::Pass, summary };
        it.tell(Event::Validated { evolution, report });
        it.tell(Event::GenerationPrepared { store_path: path("t2"), generation: 2 });
        it.serves(Slot::B);
        it.tell(Event::Due(Timer::Window));
        let effects = it.tell(Event::Judged { verdict: Verdict::Pass, reason: "as good as Active".into() });
        let carried = effects.iter().find_map(|effect| match effect {
            rei::lifecycle::Effect::Execute(Plan { number, .. }) => Some(*number),
            _ => None,
        });
        it.tell(Event::PlanDone { plan: carried.expect("a promotion"), took_us: 12 });
        it.tell(Event::Due(Timer::Window));
        it.tell(Event::Judged { verdict: Verdict::Pass, reason: "60 probes, none failed".into() });
    }

    fn rei(directory: &Path, args: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_rei"))
            .current_dir(directory)
            .args(args)
            .env("COLUMNS", "110")
            .output()
            .unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// A directory with a rei.toml and a state directory below it.
    fn home() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::create_dir_all(state.join("objects")).unwrap();
        let text = format!(
            "[runtime]\nname = \"greeter\"\nsource = \"/nonexistent\"\ncommand = [\"bin/x\"]\n[state]\ndirectory = \"{}\"\n",
            state.display()
        );
        std::fs::write(directory.path().join("rei.toml"), text).unwrap();
        (directory, state)
    }

    /// What the commands print there.
    fn pages(directory: &Path, asked: &[&str]) -> String {
        let page = |line: &&str| {
            let args: Vec<&str> = line.split(' ').collect();
            format!("$ rei {line}\n{}\n", rei(directory, &args))
        };
        asked.iter().map(page).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_history_is_readable_without_a_supervisor() {
        let (directory, state) = home();
        write(&state);
        std::fs::write(state.join("objects/ctx_0001.json"), r#"{ "id": "ctx_0001", "digest": "sha256:c" }"#).unwrap();
        let asked = ["history", "show evo_0001", "show evo_0002", "show inc_0001", "show cand_0001", "show rec_0002"];
        let files = ["show ctx_0001", "show val_0001", "show ../objects/ctx_0001"];
        insta::assert_snapshot!(pages(directory.path(), &[&asked[..], &files].concat()));
    }

    /// Its entries do not say where the lifecycle stands. It was written by the rei of commit 694bbea.
    #[test]
    fn a_journal_of_format_1_0_is_shown() {
        let (directory, state) = home();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal/694bbea/000000000001.jsonl");
        std::fs::create_dir(state.join("journal")).unwrap();
        std::fs::copy(fixture, state.join("journal/000000000001.jsonl")).unwrap();
        let asked = ["history", "show evo_0001", "show evo_0002", "show evo_0003", "show evo_0004"];
        let objects = ["show inc_0001", "show cand_0002", "show rec_0002"];
        insta::assert_snapshot!(pages(directory.path(), &[&asked[..], &objects].concat()));
    }
}
