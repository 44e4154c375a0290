//! Observes health: a monitor for the version in each slot, and the judgement of the version under trial.

use std::collections::{BTreeMap, BTreeSet};

use super::live_trial::{Kind, LiveTrial, Plan};
use crate::config::{self, Config};
use crate::health::{self, Analysis, Baseline, Bounds, Comparison, Monitor, Signal, Sources};
use crate::interface::operations::{ErrorStatus, RouteStatus, TrafficStatus};
use crate::interface::types::{ProcessUsage, RuntimeHealthReport, RuntimeRef, Verdict};
use crate::lifecycle::{Event, OpenIncident, Slot};
use crate::live::{Class, ErrorLines, Recent, Sample, Source};
use crate::runtime::traffic::Unanswered;
use crate::time::Timestamp;

/// The bound of health reports that are stored for the evidence of an incident: one minute at one report a second.
const SERIES_MAX: usize = 60;

/// Routes that `rei status` shows of each source.
const ROUTES_SHOWN: usize = 8;
/// Messages of error lines that it has of each source.
const ERRORS_SHOWN: usize = 8;

/// The requests that a version served, by source.
type Before = BTreeMap<Source, Recent>;

/// Open incidents by their fingerprints.
type Incidents = BTreeMap<String, OpenIncident>;

/// All monitors.
pub struct Monitors {
    incidents: config::Incidents,
    sources: Sources,
    bounds: Bounds,
    plan: Plan,
    slots: [Option<Monitored>; 2],
    /// The baseline of the version that was in a slot before the present one, and the requests that it served.
    replaced: [(Option<Baseline>, Before); 2],
    trial: Option<Trial>,
    usage: [Option<ProcessUsage>; 2],
    series: std::collections::VecDeque<RuntimeHealthReport>,
}

/// The version in a slot, with its monitor. If the version restarts, the monitor stays the same.
struct Monitored {
    store_path: String,
    monitor: Monitor,
}

/// A canary step or an observation window.
struct Trial {
    slot: Slot,
    baseline: Option<Slot>,
    learned: Option<Baseline>,
    live: LiveTrial,
    since: Timestamp,
    /// Whether no user's connection goes to the version: then users' requests say nothing about it.
    is_shadow: bool,
}

impl Monitors {
    /// No version is monitored yet.
    pub fn new(config: &Config) -> Self {
        Self {
            incidents: config.incidents.clone(),
            sources: Sources::of(&config.health),
            bounds: Bounds::of(&config.incidents),
            plan: Plan::of(config),
            slots: [None, None],
            replaced: Default::default(),
            trial: None,
            usage: [None, None],
            series: std::collections::VecDeque::new(),
        }
    }

    /// Takes the bounds of a configuration that was read again. Existing monitors keep their old bounds.
    pub fn configure(&mut self, config: &Config) {
        self.incidents = config.incidents.clone();
        self.sources = Sources::of(&config.health);
        self.bounds = Bounds::of(&config.incidents);
        self.plan = Plan::of(config);
    }

    /// Monitors the version that starts in a slot. If that version is already monitored, its monitor and data stay. For
    /// a new version, `open` may have incidents that an earlier supervisor saw: repeated findings continue their
    /// counts.
    pub fn begin(&mut self, slot: Slot, store_path: &str, runtime: RuntimeRef, at: Timestamp, open: &Incidents) {
        let watched = &mut self.slots[slot.index()];
        match watched {
            Some(watched) if watched.store_path == store_path => watched.monitor.set_runtime(runtime),
            _ => {
                let mut monitor = Monitor::new(runtime, &self.incidents, self.sources, at);
                for incident in open.values().filter(|incident| incident.store_path == store_path) {
                    monitor.remember(&incident.finding.fingerprint, incident.occurrences);
                }
                let monitor_before = watched.as_ref().map(|watched| &watched.monitor);
                self.replaced[slot.index()] = monitor_before.map(|it| learned(it, at)).unwrap_or_default();
                *watched = Some(Monitored { store_path: store_path.to_owned(), monitor });
            }
        }
    }

    /// The monitor of the version in a slot.
    pub fn monitor(&mut self, slot: Slot) -> Option<&mut Monitor> {
        self.slots[slot.index()].as_mut().map(|watched| &mut watched.monitor)
    }

    /// Takes a health signal of the instance in a slot, and returns the present findings.
    pub fn observe(&mut self, slot: Slot, at: Timestamp, signal: Signal) -> Vec<health::Finding> {
        if let Signal::Usage(usage) = &signal {
            self.usage[slot.index()] = Some(*usage);
        }
        self.monitor(slot).map(|monitor| monitor.observe(at, signal)).unwrap_or_default()
    }

    /// Advances the time of a slot's monitor, and returns the present findings.
    pub fn tick(&mut self, slot: Slot, at: Timestamp) -> Vec<health::Finding> {
        self.monitor(slot).map(|monitor| monitor.tick(at)).unwrap_or_default()
    }

    /// Begins the trial of a version. Without a slot to compare with, the baseline is the data about the version that
    /// served before the trial. That version in the other slot, as it runs now, is then the control.
    pub fn begin_trial(&mut self, slot: Slot, baseline: Option<Slot>, since: Timestamp) {
        let kind = if baseline.is_some() { Kind::Beside } else { Kind::After };
        let (learned, live) = match self.trial.take() {
            // This is a later step of the same trial. The baseline is still the time before the candidate ran, and the
            // evidence of a canary's earlier steps counts.
            Some(trial) if trial.slot == slot && trial.live.kind() == kind => (trial.learned, trial.live),
            Some(trial) if trial.slot == slot => (trial.learned, trial.live.turned(kind)),
            _ => {
                let (learned, before) = self.learned_beside(slot, since);
                (learned, LiveTrial::new(self.plan.clone(), kind, before))
            }
        };
        // What came before this moment is no part of the trial.
        for watched in self.slots.iter_mut().flatten() {
            watched.monitor.take_requests();
        }
        self.trial = Some(Trial { slot, baseline, learned, live, since, is_shadow: false });
    }

    /// Begins the trial of a version that gets no connections of users. What was learned of Active until now is the baseline
    /// of its canary and window.
    pub fn begin_shadow(&mut self, slot: Slot, active: Slot, since: Timestamp) {
        self.begin_trial(slot, Some(active), since);
        if let Some(trial) = &mut self.trial {
            trial.is_shadow = true;
        }
    }

    /// What one source saw of the users of the version in a slot.
    pub fn served(&self, slot: Slot, source: Source, at: Timestamp) -> Recent {
        let watched = self.slots[slot.index()].as_ref();
        watched.and_then(|it| it.monitor.requests().reference(at).remove(&source)).unwrap_or_default()
    }

    /// The baseline of the version that a candidate in `slot` is to replace: the version in the other slot. With
    /// strategy recreate the other slot is empty, and it is the version that ran in `slot` before the candidate.
    fn learned_beside(&self, slot: Slot, at: Timestamp) -> (Option<Baseline>, Before) {
        match &self.slots[slot.other().index()] {
            Some(active) => learned(&active.monitor, at),
            None => self.replaced[slot.index()].clone(),
        }
    }

    /// The slot of a candidate on trial that had no answer for users in the last second.
    pub fn silent(&self) -> Option<Slot> {
        self.trial.as_ref().filter(|trial| trial.live.is_silent()).map(|trial| trial.slot)
    }

    /// Tells the trial which connections of the candidate and of the other slot have no answer now.
    pub fn unanswered(&mut self, candidate: &[Unanswered], other: &[Unanswered]) {
        if let Some(trial) = &mut self.trial {
            trial.live.unanswered(candidate, other);
        }
    }

    /// Hands the requests since the last call to the trial. Once a second is enough.
    pub fn block(&mut self, at: Timestamp) {
        let [a, b] = self.slots.each_mut().map(|watched| watched.as_mut().map(|it| it.monitor.take_requests()));
        let Some(trial) = self.trial.as_mut().filter(|trial| !trial.is_shadow) else { return };
        let [a, b] = [a, b].map(Option::unwrap_or_default);
        let (candidate, other) = if trial.slot == Slot::A { (a, b) } else { (b, a) };
        trial.live.block(at, candidate, other);
    }

    /// The verdict on a trial that has failed, returned once. Other verdicts are given by [`Self::judge`] when they are
    /// due.
    pub fn failure(&mut self, at: Timestamp) -> Option<Event> {
        let analysis = self.judge(at).filter(|analysis| analysis.verdict == Verdict::Fail)?;
        self.end_trial();
        Some(Event::Judged { verdict: Verdict::Fail, reason: analysis.reasons.join("; ") })
    }

    /// Ends the trial.
    pub fn end_trial(&mut self) {
        self.trial = None;
    }

    /// The judgement of the version under trial; `None` if no version is under trial.
    pub fn judge(&self, at: Timestamp) -> Option<Analysis> {
        let trial = self.trial.as_ref()?;
        let candidate = &self.slots[trial.slot.index()].as_ref()?.monitor;
        let baseline = trial.baseline.and_then(|slot| self.slots[slot.index()].as_ref());
        let reference = match (baseline, &trial.learned) {
            (Some(watched), _) => Some(Comparison::Beside(&watched.monitor)),
            (None, Some(learned)) => {
                let previous = self.slots[trial.slot.other().index()].as_ref();
                Some(Comparison::Before(learned, previous.map(|watched| &watched.monitor)))
            }
            (None, None) => None,
        };
        if trial.is_shadow {
            // Durations are not judged: rei's questions are an additional load, and users' requests show them later.
            let bounds = Bounds { compares_probes: false, ..self.bounds.clone() };
            return Some(health::judge(candidate, reference, trial.since, at, &bounds));
        }
        let bounds = Bounds { compares_probes: !trial.live.compares_durations(), ..self.bounds.clone() };
        Some(trial.live.add_to(health::judge(candidate, reference, trial.since, at, &bounds)))
    }

    /// The requests of users that the version in a slot served in the last minute, by source.
    pub fn traffic(&self, slot: Slot, at: Timestamp) -> Vec<TrafficStatus> {
        let watched = self.slots[slot.index()].as_ref();
        let recent = watched.into_iter().flat_map(|watched| watched.monitor.requests().recent(at));
        recent.map(|recent| shown(self.whole(slot, recent))).collect()
    }

    /// The same with all routes.
    pub fn all_routes(&self, slot: Slot, at: Timestamp) -> Vec<TrafficStatus> {
        let watched = self.slots[slot.index()].as_ref();
        let recent = watched.into_iter().flat_map(|watched| watched.monitor.requests().recent(at));
        recent.map(|recent| self.whole(slot, recent)).collect()
    }

    /// What an operator can see of a source of a slot.
    fn whole(&self, slot: Slot, recent: (Source, Recent)) -> TrafficStatus {
        let trial = self.trial.as_ref().filter(|trial| trial.slot == slot && recent.0 == Source::Log);
        let of = |lines: &ErrorLines<'_>| lines.new_messages().into_iter().map(|(it, _)| it.to_owned()).collect();
        let new = trial.and_then(|trial| trial.live.error_lines(of)).unwrap_or_default();
        whole(recent, &new)
    }

    /// Whether this version is monitored in a slot.
    pub fn is_of(&self, slot: Slot, store_path: &str) -> bool {
        self.slots[slot.index()].as_ref().is_some_and(|watched| watched.store_path == store_path)
    }

    /// Stores a report of Active, and drops the oldest.
    pub fn push(&mut self, report: RuntimeHealthReport) {
        self.series.push_back(report);
        if self.series.len() > SERIES_MAX {
            self.series.pop_front();
        }
    }

    /// The resource usage of the instance in a slot at the last look.
    pub fn usage(&self, slot: Slot) -> Option<ProcessUsage> {
        self.usage[slot.index()]
    }

    /// The last reports of Active, oldest first.
    pub fn series(&self) -> Vec<RuntimeHealthReport> {
        self.series.iter().cloned().collect()
    }
}

/// What a later candidate can be compared with.
fn learned(monitor: &Monitor, at: Timestamp) -> (Option<Baseline>, Before) {
    (monitor.learned(), monitor.requests().reference(at))
}

/// What `rei status` shows of a source.
fn shown(mut traffic: TrafficStatus) -> TrafficStatus {
    traffic.routes.truncate(ROUTES_SHOWN);
    traffic
}

/// What an operator can see of a source. `new` are the messages that the version before did not write.
fn whole((source, Recent { sample, span_ms }): (Source, Recent), new: &BTreeSet<String>) -> TrafficStatus {
    let total = sample.total();
    let mut routes: Vec<RouteStatus> = sample
        .routes()
        .map(|(route, counts)| RouteStatus {
            route: route.name().to_owned(),
            requests: counts.total(),
            failed: counts.failed(),
            p99_us: counts.latencies.quantile_us(0.99),
        })
        .collect();
    routes.sort_by_key(|route| std::cmp::Reverse((route.failed, route.requests)));
    TrafficStatus {
        source: source.name().to_owned(),
        window_ms: span_ms,
        requests: total.total(),
        redirects: total.of(Class::Redirect),
        client_errors: total.of(Class::ClientError),
        failed: total.failed(),
        latency: total.latencies.summary(),
        routes,
        unread: sample.unread,
        found: String::new(),
        error_lines: sample.error_lines,
        errors: errors(&sample, new),
    }
}

/// The messages of error lines: the new ones first, then the most frequent ones.
fn errors(sample: &Sample, new: &BTreeSet<String>) -> Vec<ErrorStatus> {
    let status = |(message, lines): (&str, u64)| {
        let is_new = new.contains(message);
        ErrorStatus { message: message.to_owned(), lines, is_new }
    };
    let mut errors: Vec<ErrorStatus> = sample.errors.by_count().into_iter().map(status).collect();
    errors.sort_by_key(|error| !error.is_new);
    errors.truncate(ERRORS_SHOWN);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;
    use crate::health::{Exit, Probe, ProbeOutcome};
    use crate::interface::types::IncidentId;
    use crate::lifecycle;

    const SLOW_US: u64 = 80_000;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_700_000_000_000 + second * 1_000)
    }

    fn monitors() -> Monitors {
        let text = "[runtime]\nname = \"a\"\nsource = \"/a\"\ncommand = [\"b\"]\nlisten = [\"http=127.0.0.1:1\"]\n\
                    [health]\nhttp = { path = \"/\" }";
        let place = Place { directory: "/etc/rei".into(), root: true, state_home: None };
        Monitors::new(&Config::from_toml(text, &place).unwrap())
    }

    fn probed(monitors: &mut Monitors, slot: Slot, seconds: std::ops::Range<u64>, latency_us: u64) {
        for second in seconds {
            let probe = Probe { outcome: ProbeOutcome::Ok, latency_us, detail: String::new() };
            monitors.monitor(slot).unwrap().observe(at(second), Signal::Probe(probe));
        }
    }

    fn begun(monitors: &mut Monitors, slot: Slot, name: &str, second: u64) {
        monitors.begin(slot, &format!("/nix/store/{name}"), RuntimeRef::default(), at(second), &Incidents::new());
    }

    /// A minute of Active in slot A.
    fn serving() -> Monitors {
        let mut monitors = monitors();
        begun(&mut monitors, Slot::A, "active", 0);
        probed(&mut monitors, Slot::A, 0..60, 5_000);
        monitors
    }

    #[test]
    fn a_window_is_compared_with_the_time_before_the_canary() {
        let mut monitors = serving();
        begun(&mut monitors, Slot::B, "candidate", 60);
        monitors.begin_trial(Slot::B, Some(Slot::A), at(60));
        // The candidate slows both versions down, so the canary shows no difference.
        probed(&mut monitors, Slot::A, 60..300, SLOW_US);
        probed(&mut monitors, Slot::B, 60..300, SLOW_US);
        assert_eq!(monitors.judge(at(300)).unwrap().verdict, Verdict::Pass);
        monitors.begin_trial(Slot::B, None, at(300));
        probed(&mut monitors, Slot::B, 300..330, SLOW_US);
        assert_eq!(monitors.judge(at(330)).unwrap().verdict, Verdict::Fail);
        monitors.end_trial();
        monitors.begin_trial(Slot::B, None, at(300));
        assert_eq!(monitors.judge(at(330)).unwrap().verdict, Verdict::Pass, "another trial has another time before it");
    }

    #[test]
    fn a_crash_that_an_earlier_supervisor_saw_counts() {
        let crash = || Signal::Exited(Exit { code: Some(101), reason: Some("boom".to_owned()), ..Exit::default() });
        let (store_path, runtime) = ("/nix/store/active", RuntimeRef::default());
        let crashed =
            |monitors: &mut Monitors, second| monitors.monitor(Slot::A).unwrap().observe(at(second), crash()).remove(0);
        let mut before = serving();
        let first = crashed(&mut before, 61);
        assert!(!first.evolve, "one crash asks for no evolution");
        let incident = OpenIncident {
            id: IncidentId::numbered(1),
            finding: lifecycle::Finding::from(first),
            first_seen: at(61),
            last_seen: at(61),
            occurrences: 1,
            store_path: store_path.to_owned(),
        };
        let open = Incidents::from([(incident.finding.fingerprint.clone(), incident)]);
        let mut after = monitors();
        after.begin(Slot::A, store_path, runtime.clone(), at(70), &open);
        let second = crashed(&mut after, 80);
        assert!(second.evolve && second.occurrence == 2, "{second:?}");
        let mut other = monitors();
        other.begin(Slot::A, "/nix/store/other", runtime, at(70), &open);
        assert!(!crashed(&mut other, 80).evolve, "another version has crashes of its own");
    }

    #[test]
    fn a_runtime_that_is_recreated_is_compared_with_the_one_that_made_place() {
        let mut monitors = serving();
        begun(&mut monitors, Slot::A, "candidate", 61);
        monitors.begin_trial(Slot::A, None, at(62));
        probed(&mut monitors, Slot::A, 62..92, SLOW_US);
        assert_eq!(monitors.judge(at(92)).unwrap().verdict, Verdict::Fail);
        begun(&mut monitors, Slot::A, "candidate", 93);
        assert_eq!(monitors.judge(at(93)).unwrap().verdict, Verdict::Fail, "a restart of the same is no other version");
    }
}
