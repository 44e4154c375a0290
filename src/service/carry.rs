//! Carries out what the lifecycle wants. Nothing is decided here.

use std::sync::Arc;
use std::time::Instant;

use super::failure::HINT;
use super::instances::ids::DRAINS;
use super::jobs;
use super::shell::{End, Shell};
use super::sync::lock;
use crate::interface::types::{EvolutionId, Role, Version};
use crate::lifecycle::{Effect, Event, Plan, Reason, Routing, Slot, Step};
use crate::narrate;
use crate::nix;
use crate::report::chain;

/// Why a step is not done.
#[derive(Debug, thiserror::Error)]
enum NotCarried {
    /// Another program holds the profile's lock.
    #[error("another program holds the lock of the profile")]
    Busy,
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

impl Shell {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Diagnose { evolution, incident, slot, active } => {
                let facts = self.diagnosis_facts(Some(&evolution), incident, slot, active);
                self.begin_work(&evolution.clone(), jobs::diagnose(self.tools.clone(), evolution, facts));
            }
            Effect::Build { evolution, candidate, blueprint, rev, checkpoint, approved } => {
                let order = self.build_order(evolution.clone(), candidate, blueprint, rev, checkpoint, approved);
                self.begin_work(&evolution, jobs::build(self.tools.clone(), order, self.inputs.clone()));
            }
            Effect::Install { evolution } => {
                self.begin_work(&evolution.clone(), jobs::install(self.tools.clone(), evolution, self.inputs.clone()));
            }
            Effect::Validate { evolution, candidate, version, report, active, incident } => {
                let order = jobs::ValidationOrder { candidate, version, report, active, incident };
                self.begin_work(
                    &evolution.clone(),
                    jobs::validate(self.tools.clone(), evolution, order, self.inputs.clone()),
                );
            }
            Effect::Cancel { evolution } => self.working.retain(|(of, handle)| {
                if *of == evolution {
                    handle.abort();
                }
                *of != evolution
            }),
            Effect::PrepareGeneration { evolution, store_path, way_back } => {
                self.begin_work(&evolution, jobs::prepare_generation(self.tools.clone(), store_path, way_back));
            }
            Effect::Start { slot, version, role } => self.start(slot, &version, role),
            Effect::Stop { slot, drain } => self.stop(slot, drain),
            Effect::Drain { slot, version } => self.drain_slot(slot, &version),
            Effect::Refresh { slot, version } => self.refresh(slot, &version),
            Effect::Execute(plan) => self.carry_plan(&plan),
            Effect::Route { routing } => self.restore(routing, None),
            Effect::Restore { routing, generation } => self.restore(routing, generation),
            Effect::Observe { slot, baseline } => {
                let now = self.clock.now();
                self.watch.observe(slot, baseline, now);
            }
            Effect::Judge => self.judge_now(),
            Effect::Prune { keep, in_use } => self.prune(keep, &in_use),
            Effect::GiveUp { reason } => self.end = Some(self.give_up(&reason)),
            // The loop looks at the lifecycle's own timers; a record is in the journal by now.
            Effect::SetTimer { .. } | Effect::ClearTimer { .. } | Effect::Record(_) => {}
        }
    }

    /// Why there is no first version, and what to do about it.
    fn give_up(&self, why: &Reason) -> End {
        let slot = Slot::A;
        let reason = narrate::reason(why);
        if let Some((reason, hint)) = reason.split_once(HINT) {
            return End::GaveUp { reason: reason.to_owned(), hint: hint.to_owned() };
        }
        let log = self.tools.paths.log(slot);
        let (detail, next) = match &self.not_yet[slot.index()] {
            Some(probe) => {
                (format!(" (the last probe: {probe})"), "see what it says, or raise runtime.start_timeout".to_owned())
            }
            None if matches!(why, Reason::FirstVersionExits { exit } if exit == "exit code 0") => {
                (String::new(), "the command must stay in the foreground, without a daemon mode; see".to_owned())
            }
            None => (String::new(), "see what it says".to_owned()),
        };
        End::GaveUp { reason: format!("{reason}{detail}"), hint: format!("{next}: tail {}", log.display()) }
    }

    /// Starts slow work; its answer comes as an input.
    fn begin_work(
        &mut self,
        evolution: &crate::interface::types::EvolutionId,
        work: impl Future<Output = Option<Event>> + 'static + Send,
    ) {
        let inputs = self.inputs.clone();
        let task = tokio::spawn(async move {
            if let Some(event) = work.await {
                // The loop is gone only when everything ends.
                let _ = inputs.send(super::input::Input::Event(event)).await;
            }
        });
        self.working.retain(|(_, handle)| !handle.is_finished());
        self.working.push((evolution.clone(), task.abort_handle()));
    }

    /// Asks the instance of a slot to exit. `drain` says whether its queue is emptied first.
    fn stop(&mut self, slot: Slot, drain: bool) {
        if !self.occupants.stop(slot, drain) {
            self.on_stopped(slot);
        }
    }

    /// An instance exited as it was asked to, or there was none.
    pub(super) fn on_stopped(&mut self, slot: Slot) {
        self.occupants.remove(slot);
        let waiting = lock(&self.traffic).backlog(slot.into()).unwrap_or_default() > 0;
        self.pending.push_back(Event::Stopped { slot, waiting });
    }

    /// Starts an instance that empties the queue of a slot and then exits.
    fn drain_slot(&mut self, slot: Slot, version: &Version) {
        let id = format!("{}{DRAINS}", self.tools.paths.instance_id(self.journal.last_seq(), slot));
        match self.with(slot, &version.store_path, |occupants, wanted| occupants.start(wanted, id, None)) {
            Ok(_) => {
                self.occupants.stop(slot, true);
            }
            Err(reason) => {
                tracing::error!(%slot, reason, "connections wait in a queue and cannot be served");
                self.pending.push_back(Event::StartFailed { slot, reason });
            }
        }
    }

    /// A second, idle instance of the same version takes the place of the first, which drains.
    fn refresh(&mut self, slot: Slot, version: &Version) {
        self.occupants.retire(slot);
        self.start(slot, version, Role::Previous);
    }

    pub(super) fn on_exited(&mut self, slot: Slot, exit: crate::runtime::exit::Exit, ran_ms: u64) {
        self.occupants.remove(slot);
        self.last_exit = Some(exit.to_string());
        self.pending.push_back(Event::Exited { slot, exit: exit.to_string(), ran_ms });
    }

    /// Every step in order. If one is not done and the plan says so, those before it are taken back.
    fn carry_plan(&mut self, plan: &Plan) {
        let begun = Instant::now();
        let mut done: Vec<Step> = Vec::new();
        let mut failure = None;
        for step in &plan.steps {
            match self.carry_step(*step) {
                Ok(()) => done.push(*step),
                Err(error) => {
                    if !matches!(failure, Some(NotCarried::Failed(_))) {
                        failure = Some(error);
                    }
                    if plan.undo {
                        break;
                    }
                }
            }
        }
        if plan.undo && failure.is_some() {
            for undo in done.iter().rev().filter_map(|step| step.undo()) {
                if let Err(error) = self.carry_step(undo) {
                    tracing::error!(?undo, "cannot take a step back: {error}");
                }
            }
        }
        let plan = plan.number;
        self.pending.push_front(match failure {
            None => {
                let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                Event::PlanDone { plan, took_us }
            }
            Some(busy @ NotCarried::Busy) => Event::PlanBusy { plan, reason: busy.to_string() },
            Some(NotCarried::Failed(reason)) => Event::PlanFailed { plan, reason },
        });
    }

    fn carry_step(&mut self, step: Step) -> Result<(), NotCarried> {
        match step {
            Step::SwitchProfile { to, .. } => match self.tools.profile.switch_now(to) {
                Err(nix::Error::ProfileBusy { .. }) => Err(NotCarried::Busy),
                switched => switched.map_err(|error| NotCarried::Failed(chain(&error))),
            },
            Step::Route { to, .. } => self.route(to).map_err(NotCarried::Failed),
        }
    }

    fn route(&mut self, routing: Routing) -> Result<(), String> {
        let routed = lock(&self.traffic).route(routing.into()).map_err(|error| chain(&error))?;
        for name in routed.unshared {
            tracing::info!(name, "a unix socket cannot share: Active keeps all of it until the switch");
        }
        Ok(())
    }

    fn restore(&mut self, routing: Routing, generation: Option<u64>) {
        if let Err(reason) = self.route(routing) {
            tracing::error!(reason, "cannot restore the routing");
        }
        let current = self.tools.profile.current().ok().flatten().map(|generation| generation.number);
        if let Some(generation) = generation.filter(|generation| Some(*generation) != current)
            && let Err(error) = self.tools.profile.switch(generation)
        {
            tracing::error!(error = chain(&error), generation, "cannot restore the profile");
        }
    }

    fn prune(&mut self, keep: u64, in_use: &[u64]) {
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let (tools, in_use) = (Arc::clone(&self.tools), in_use.to_vec());
        tokio::spawn(async move { jobs::prune(&tools, keep, in_use).await });
    }

    /// Clears away, beside the loop, what ended evolutions have left.
    pub(super) fn sweep(&mut self) {
        // The journal has lost what it knew: nobody can say yet what is needed.
        if self.core.is_held() {
            return;
        }
        let tools = Arc::clone(&self.tools);
        let task = tokio::spawn(async move { jobs::sweep(&tools).await });
        self.working.retain(|(_, handle)| !handle.is_finished());
        self.working.push((EvolutionId::default(), task.abort_handle()));
    }
}
