//! From a signal to a judged candidate: Steady, Diagnosing, Building, Validating, AwaitingApproval.

use super::effect::{Effect, Timer};
use super::event::{Fault, Finding, ReportDigest};
use super::reason::Reason;
use super::slot::Slot;
use super::state::{ATTEMPTS_MAX, Approval, Commit, Evolution, Lifecycle, OPEN_INCIDENTS_MAX, OpenIncident, Phase};
use super::step::{Out, SUPERVISOR};
use crate::interface::types::{CandidateId, EvolutionId, IncidentClass, IncidentId, ReportId, Verdict, Version};
use crate::time::Timestamp;

/// The hour of the hourly budget, in milliseconds.
pub(super) const HOUR_MS: u64 = 3_600_000;

/// A validation without a verdict is asked for this many times. Then the evolution ends without a verdict.
const VALIDATIONS_MAX: u32 = 2;

/// What an evolution begins from.
struct Cause {
    incident: Option<(String, IncidentId)>,
    asked_by: Option<String>,
    blueprint: String,
    rev: Option<String>,
    tree: Option<String>,
}

impl Lifecycle {
    pub(super) fn on_followed(&mut self, out: &mut Out, rev: String, tree: String) {
        self.followed = Some(rev.clone());
        self.followed_tree = Some(tree.clone());
        if self.phase == Phase::Empty {
            self.begin_install(out, rev);
            return;
        }
        self.upgrade = Some(Commit { rev, tree });
        self.forget_decided_upgrade();
    }

    /// A commit gets one evolution. It gets none while one about it is under way, and none after it is decided.
    fn forget_decided_upgrade(&mut self) {
        // A rollback is under way, so it is not known yet which version will be Active.
        let leaves = self.evolution.as_ref().is_some_and(|current| current.target.is_some());
        if self.is_held() || leaves {
            return;
        }
        let Some(Commit { rev, tree }) = &self.upgrade else { return };
        let is_it =
            |evolution: &Evolution| evolution.rev.as_ref() == Some(rev) || evolution.tree.as_ref() == Some(tree);
        let under_way = self.evolution.as_ref().is_some_and(is_it);
        let active = self.active.as_ref().is_some_and(|active| active.version.rev == *rev);
        if under_way || active || self.is_decided(tree) || self.is_settled(tree) {
            self.upgrade = None;
        }
    }

    /// The commit of an evolution is known now. A commit whose content is in quarantine is not built.
    pub(super) fn on_aimed(&mut self, out: &mut Out, evolution: &EvolutionId, rev: String, tree: String) {
        if self.phase != Phase::Building || !self.works_on(evolution) {
            return;
        }
        let quarantined = self.quarantine.iter().find(|entry| entry.tree == tree);
        let refused = quarantined.map(|entry| Reason::TreeInQuarantine {
            candidate: entry.candidate.clone(),
            reason: entry.reason.clone().boxed(),
        });
        let current = self.evolution.as_mut().expect("works_on found it");
        current.rev = Some(rev);
        current.tree = Some(tree);
        self.forget_decided_upgrade();
        if let Some(reason) = refused {
            self.give_back();
            self.end_rejected(out, SUPERVISOR, reason);
        }
    }

    pub(super) fn begin_install(&mut self, out: &mut Out, rev: String) {
        self.counters.evolution += 1;
        let id = EvolutionId::numbered(self.counters.evolution);
        let candidate = CandidateId::numbered(0);
        self.evolution =
            Some(Evolution { id: id.clone(), rev: Some(rev), since: out.at, candidate, ..Evolution::default() });
        self.enter(out, Phase::Installing);
        let bounds = self.rules().bounds;
        self.arm(out, Timer::Phase, bounds.build_ms, Reason::GivesUpFirstBuild);
        out.push(Effect::Install { evolution: id });
    }

    /// True if a finding about the version in a slot counts: the version is Active, and not under trial. A fault of a
    /// version under trial decides its verdict, so no fault is decided twice. A fault of Previous, or of a version that
    /// a rollback leaves, changes nothing. A request for an upgrade is no fault, so it always counts.
    pub(super) fn counts(&self, slot: Option<Slot>, finding: &Finding) -> bool {
        let Some(slot) = slot.or(self.active_slot) else { return false };
        let is_actives = self.active_slot == Some(slot) && self.holds_active(slot);
        let is_fault = finding.class != IncidentClass::UpgradeRequest;
        is_actives && !(is_fault && self.trial_slot() == Some(slot))
    }

    pub(super) fn on_found(&mut self, out: &mut Out, finding: Finding) {
        let store_path = self.active.as_ref().map(|active| active.version.store_path.clone()).unwrap_or_default();
        if let Some(open) = self.incidents.get_mut(&finding.fingerprint) {
            open.occurrences += 1;
            open.last_seen = out.at;
            let evolve = open.finding.evolve || finding.evolve;
            open.finding = Finding { evolve, ..finding };
            return;
        }
        if self.incidents.len() >= OPEN_INCIDENTS_MAX {
            self.attention =
                Some(Reason::TooManyIncidents { limit: OPEN_INCIDENTS_MAX as u64, summary: finding.summary });
            return;
        }
        self.counters.incident += 1;
        let id = IncidentId::numbered(self.counters.incident);
        let fingerprint = finding.fingerprint.clone();
        let (first_seen, last_seen) = (out.at, out.at);
        let open = OpenIncident { id, finding, first_seen, last_seen, occurrences: 1, store_path };
        self.incidents.insert(fingerprint, open);
    }

    /// Begins the next evolution if none is under way and an incident, a commit or an operator asks for one.
    pub(super) fn begin_next(&mut self, out: &mut Out) {
        if self.phase != Phase::Steady || self.paused || self.active.is_none() {
            return;
        }
        self.forget_decided_upgrade();
        let mut waits = None;
        let cause = self.next_cause(out, &mut waits);
        self.arm_retry(out, waits.filter(|_| cause.is_none()));
        let Some(cause) = cause else { return };
        if let Some((fingerprint, _)) = &cause.incident {
            self.count_attempt(fingerprint.clone());
        }
        self.recent.push_back(out.at);
        self.counters.evolution += 1;
        self.counters.candidate += 1;
        let id = EvolutionId::numbered(self.counters.evolution);
        let incident = cause.incident.map(|(_, id)| id);
        self.evolution = Some(Evolution {
            id,
            incident,
            asked_by: cause.asked_by,
            blueprint: cause.blueprint,
            rev: cause.rev,
            tree: cause.tree,
            since: out.at,
            candidate: CandidateId::numbered(self.counters.candidate),
            ..Evolution::default()
        });
        self.enter(out, Phase::Diagnosing);
        let bound = self.rules().bounds.diagnose_ms;
        self.arm(out, Timer::Phase, bound, Reason::GoesOnWithoutContext);
        self.ask_for_diagnosis(out);
    }

    /// Asks for the context of the evolution under way.
    pub(super) fn ask_for_diagnosis(&self, out: &mut Out) {
        let Some(current) = &self.evolution else { return };
        out.push(Effect::Diagnose {
            evolution: current.id.clone(),
            incident: current.incident.clone(),
            slot: self.active_slot,
            active: self.active.as_ref().map(|active| active.version.clone()),
        });
    }

    /// What the next evolution begins from. If something has to wait, `waits` says until when, and why.
    fn next_cause(&mut self, out: &Out, waits: &mut Option<(Timestamp, Reason)>) -> Option<Cause> {
        let rules = self.rules().clone();
        if let Some(asked) = self.asked.take() {
            let incident = self.worst_incident().filter(|_| asked.rev.is_none());
            let default = match (&incident, rules.incident_blueprint) {
                (Some(_), Some(blueprint)) => blueprint,
                (Some(_), None) | (None, _) => rules.upgrade_blueprint,
            };
            let blueprint = asked.blueprint.unwrap_or(default);
            return Some(Cause { incident, asked_by: Some(asked.who), blueprint, rev: asked.rev, tree: None });
        }
        while self.recent.front().is_some_and(|&first| out.at.ms_since(first) >= HOUR_MS) {
            self.recent.pop_front();
        }
        let agents_spent = self.agents_spent(out.at);
        let hour_spent = self.recent.len() as u64 >= rules.per_hour;
        let mut wait_until = |until: Timestamp, reason: Reason| {
            if waits.as_ref().is_none_or(|(known, _)| until < *known) {
                *waits = Some((until, reason));
            }
        };
        let next_hour = self.recent.front().map(|first| first.plus_ms(HOUR_MS)).filter(|_| hour_spent);
        for (fingerprint, open) in &self.incidents {
            let blueprint = rules.class_blueprint.get(&open.finding.class).or(rules.incident_blueprint.as_ref());
            let stuck = match blueprint {
                _ if !open.finding.evolve => continue,
                None => Reason::NoBlueprint { incident: open.id.clone(), cause: open.finding.cause.clone() },
                Some(_) if self.attempts_of(fingerprint) >= rules.per_incident => {
                    Reason::IncidentBudgetSpent { incident: open.id.clone(), limit: rules.per_incident }
                }
                Some(_) if hour_spent => {
                    if let Some(next_hour) = next_hour {
                        wait_until(next_hour, Reason::BeginsRepair { incident: open.id.clone() });
                    }
                    Reason::HourBudgetSpent { limit: rules.per_hour, commit: None }
                }
                Some(_) if agents_spent.is_some() => {
                    let Some((until, told)) = agents_spent.clone() else { continue };
                    wait_until(until, Reason::BeginsRepair { incident: open.id.clone() });
                    told
                }
                Some(blueprint) => {
                    if let Some(put_off) = self.put_off(fingerprint).filter(|it| it.until > out.at) {
                        let (incident, reason) = (open.id.clone(), put_off.reason.clone().boxed());
                        wait_until(put_off.until, Reason::RetriesRepair { incident, reason });
                        continue;
                    }
                    let incident = Some((fingerprint.clone(), open.id.clone()));
                    return Some(Cause {
                        incident,
                        asked_by: None,
                        blueprint: blueprint.clone(),
                        rev: None,
                        tree: None,
                    });
                }
            };
            self.attention = Some(stuck);
        }
        let commit = self.upgrade.as_ref()?;
        if let Some(put_off) = self.put_off(&commit.tree).filter(|it| it.until > out.at) {
            let (rev, reason) = (commit.rev.clone(), put_off.reason.clone().boxed());
            wait_until(put_off.until, Reason::RetriesUpgrade { rev, reason });
            return None;
        }
        if let Some(next_hour) = next_hour {
            wait_until(next_hour, Reason::BeginsUpgrade { rev: commit.rev.clone() });
            self.attention = Some(Reason::HourBudgetSpent { limit: rules.per_hour, commit: Some(commit.rev.clone()) });
            return None;
        }
        let Commit { rev, tree } = self.upgrade.take()?;
        let (rev, tree) = (Some(rev), Some(tree));
        Some(Cause { incident: None, asked_by: None, blueprint: rules.upgrade_blueprint, rev, tree })
    }

    /// The open incident that asks for an evolution, or else any.
    fn worst_incident(&self) -> Option<(String, IncidentId)> {
        let mut open: Vec<_> = self.incidents.iter().collect();
        open.sort_by_key(|(_, open)| (!open.finding.evolve, std::cmp::Reverse(open.finding.severity)));
        open.first().map(|(fingerprint, open)| ((*fingerprint).clone(), open.id.clone()))
    }

    pub(super) fn attempts_of(&self, fingerprint: &str) -> u64 {
        self.attempts.iter().find(|(known, _)| known == fingerprint).map_or(0, |(_, count)| *count)
    }

    fn count_attempt(&mut self, fingerprint: String) {
        if let Some((_, count)) = self.attempts.iter_mut().find(|(known, _)| *known == fingerprint) {
            *count += 1;
            return;
        }
        if self.attempts.len() >= ATTEMPTS_MAX {
            self.attempts.remove(0);
        }
        self.attempts.push((fingerprint, 1));
    }

    pub(super) fn uncount_attempt(&mut self, fingerprint: &str) {
        if let Some((_, count)) = self.attempts.iter_mut().find(|(known, _)| known == fingerprint) {
            *count = count.saturating_sub(1);
        }
    }

    fn works_on(&self, evolution: &EvolutionId) -> bool {
        self.evolution.as_ref().is_some_and(|current| current.id == *evolution)
    }

    pub(super) fn on_diagnosed(&mut self, out: &mut Out, evolution: &EvolutionId, context: String) {
        if self.phase != Phase::Diagnosing || !self.works_on(evolution) {
            return;
        }
        if let Some(current) = &mut self.evolution {
            current.context = Some(context);
        }
        self.begin_building(out);
    }

    pub(super) fn begin_building(&mut self, out: &mut Out) {
        self.enter(out, Phase::Building);
        let bound = self.rules().bounds.build_ms;
        self.arm(out, Timer::Phase, bound, Reason::GivesUpBuild);
        self.ask_for_build(out, false);
    }

    pub(super) fn ask_for_build(&self, out: &mut Out, approved: bool) {
        let Some(current) = &self.evolution else { return };
        out.push(Effect::Build {
            evolution: current.id.clone(),
            candidate: current.candidate.clone(),
            blueprint: current.blueprint.clone(),
            rev: current.rev.clone(),
            checkpoint: current.checkpoint.as_ref().map(|(_, checkpoint)| checkpoint.clone()),
            approved,
        });
    }

    pub(super) fn on_build_paused(&mut self, out: &mut Out, id: &EvolutionId, stage: String, checkpoint: String) {
        if self.phase != Phase::Building || !self.works_on(id) {
            return;
        }
        self.enter(out, Phase::AwaitingApproval { of: Approval::Stage });
        self.wait(Reason::ApprovalAfterStage { stage: stage.clone() });
        let current = self.evolution.as_mut().expect("works_on found it");
        current.checkpoint = Some((stage, checkpoint));
    }

    /// Continues the blueprint after an operator has approved the stage.
    pub(super) fn go_on_building(&mut self, out: &mut Out) {
        self.enter(out, Phase::Building);
        let bound = self.rules().bounds.build_ms;
        self.arm(out, Timer::Phase, bound, Reason::GivesUpBuild);
        self.ask_for_build(out, true);
    }

    pub(super) fn on_stage(&mut self, evolution: &EvolutionId, stage: String, checkpoint: String) {
        if self.phase == Phase::Building && self.works_on(evolution) {
            let current = self.evolution.as_mut().expect("works_on found it");
            current.checkpoint = Some((stage, checkpoint));
        }
    }

    pub(super) fn on_built(
        &mut self,
        out: &mut Out,
        evolution: &EvolutionId,
        version: Version,
        base_rev: String,
        files_changed: Vec<String>,
    ) {
        if !self.works_on(evolution) {
            return;
        }
        let installing = self.phase == Phase::Installing;
        if !installing && self.phase != Phase::Building {
            return;
        }
        let current = self.evolution.as_mut().expect("works_on found it");
        current.base_rev = base_rev;
        current.files_changed = files_changed;
        current.version = Some(version.clone());
        if installing {
            self.prepare_generation(out, version.store_path);
            return;
        }
        if self.is_quarantined(&version.tree) || self.is_quarantined(&version.store_path) {
            self.end_rejected(out, SUPERVISOR, Reason::PathInQuarantine { store_path: version.store_path });
            return;
        }
        if self.active.as_ref().is_some_and(|active| active.version.store_path == version.store_path) {
            self.end_unchanged(out, version);
            return;
        }
        self.ask_for_validation(out);
    }

    pub(super) fn on_build_failed(&mut self, out: &mut Out, evolution: &EvolutionId, reason: String, fault: Fault) {
        if !self.works_on(evolution) {
            return;
        }
        match self.phase {
            Phase::Installing => self.give_up(out, reason.into()),
            Phase::Building => match fault {
                Fault::Content { tree, store_path } => {
                    let reason = Reason::Text(reason);
                    self.quarantine_content(out, tree, store_path, &reason);
                    self.end_rejected(out, SUPERVISOR, reason);
                }
                Fault::Maker => self.end_rejected(out, SUPERVISOR, reason.into()),
                Fault::Repeat => {
                    let reason = Reason::Text(reason);
                    self.attention = Some(reason.clone());
                    self.end_rejected(out, SUPERVISOR, reason);
                }
                Fault::Machine => self.end_put_off(out, reason.into()),
            },
            Phase::Empty
            | Phase::Steady
            | Phase::Diagnosing
            | Phase::Validating
            | Phase::AwaitingApproval { .. }
            | Phase::Canary { .. }
            | Phase::Promoting { .. }
            | Phase::Observing { .. }
            | Phase::RollingBack { .. }
            | Phase::Held => {}
        }
    }

    pub(super) fn ask_for_validation(&mut self, out: &mut Out) {
        self.enter(out, Phase::Validating);
        let bound = self.rules().bounds.validate_ms;
        self.arm(out, Timer::Phase, bound, Reason::GivesUpValidation);
        self.counters.report += 1;
        let current = self.evolution.as_mut().expect("Validating belongs to an evolution");
        current.validations += 1;
        self.ask_again_for_validation(out);
    }

    pub(super) fn ask_again_for_validation(&self, out: &mut Out) {
        let Some(current) = &self.evolution else { return };
        out.push(Effect::Validate {
            evolution: current.id.clone(),
            candidate: current.candidate.clone(),
            version: current.version.clone().expect("Validating begins with a built candidate"),
            report: ReportId::numbered(self.counters.report),
            active: self.active.as_ref().map(|active| active.version.clone()).unwrap_or_default(),
            incident: current.incident.clone(),
        });
    }

    pub(super) fn on_validated(&mut self, out: &mut Out, evolution: &EvolutionId, report: ReportDigest) {
        if self.phase != Phase::Validating || !self.works_on(evolution) {
            return;
        }
        let approve = self.rules().approve;
        let current = self.evolution.as_mut().expect("works_on found it");
        let speaks_of_it = current.version.as_ref().is_some_and(|version| version.store_path == report.store_path);
        let verdict = if speaks_of_it { report.verdict } else { Verdict::Inconclusive };
        let (summary, tries) = (report.summary.clone(), current.validations);
        current.report = Some(report);
        match verdict {
            Verdict::Pass if approve => {
                self.enter(out, Phase::AwaitingApproval { of: Approval::Promotion });
                self.wait(Reason::ApprovalOfPromotion);
            }
            Verdict::Pass => self.begin_canary(out),
            Verdict::Fail => {
                let reason = Reason::Text(summary);
                self.quarantine_candidate(out, &reason);
                self.end_rejected(out, SUPERVISOR, reason);
            }
            Verdict::Inconclusive if tries < VALIDATIONS_MAX => self.ask_for_validation(out),
            Verdict::Inconclusive => self.end_put_off(out, Reason::NotJudged { summary }),
        }
    }

    /// The deadline of the phase has passed.
    pub(super) fn on_deadline(&mut self, out: &mut Out) {
        match self.phase {
            Phase::Empty | Phase::Steady | Phase::AwaitingApproval { .. } | Phase::Held => {}
            Phase::Installing => {
                self.give_up(out, Reason::FirstVersionLate);
            }
            Phase::Diagnosing => {
                self.cancel(out);
                self.begin_building(out);
            }
            Phase::Building => self.end_put_off(out, Reason::BuildLate),
            Phase::Validating => self.end_put_off(out, Reason::ValidationLate),
            Phase::Canary { .. } | Phase::Promoting { .. } | Phase::Observing { .. } | Phase::RollingBack { .. } => {
                self.on_trial_deadline(out);
            }
        }
    }

    pub(super) fn wait(&mut self, reason: Reason) {
        if let Some(current) = &mut self.evolution {
            current.waits_for = Some(reason);
        }
    }

    pub(super) fn cancel(&self, out: &mut Out) {
        if let Some(current) = &self.evolution {
            out.push(Effect::Cancel { evolution: current.id.clone() });
        }
    }

    /// Closes the incident that the evolution under way was about.
    pub(super) fn close_incident(&mut self) {
        let Some(id) = self.evolution.as_ref().and_then(|current| current.incident.clone()) else { return };
        let closed: Vec<String> = self
            .incidents
            .iter()
            .filter(|(_, open)| open.id == id)
            .map(|(fingerprint, _)| fingerprint.clone())
            .collect();
        for fingerprint in closed {
            self.incidents.remove(&fingerprint);
            self.attempts.retain(|(known, _)| *known != fingerprint);
        }
    }
}
