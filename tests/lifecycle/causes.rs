//! The possible next events in the world.

use rei::interface::types::Verdict;
use rei::lifecycle::{Request, Slot, Timer, Trust};

use super::{Cause, Files, Task, Whose, World, operator};

impl World {
    /// All causes that are possible now.
    pub fn causes(&self) -> Vec<Cause> {
        let mut causes = Vec::new();
        if self.gave_up {
            return causes;
        }
        let fallible = self.left.failures > 0;
        if self.left.commits > 0 {
            causes.push(Cause::Commit(Files::New));
            if !self.core.quarantine().is_empty() {
                causes.push(Cause::Commit(Files::Quarantined));
            }
            if self.core.active().is_some() {
                causes.push(Cause::Commit(Files::SameBuild));
            }
        }
        if self.left.findings > 0 && self.core.active().is_some() {
            causes.extend(Slot::ALL.into_iter().filter(|slot| self.processes[slot.index()].is_some()).map(Cause::Find));
        }
        for task in &self.tasks {
            match task {
                Task::Validate(..) | Task::Judge => {
                    causes.push(Cause::Verdict(task.clone(), Verdict::Pass));
                    if fallible {
                        causes.push(Cause::Verdict(task.clone(), Verdict::Fail));
                        causes.push(Cause::Verdict(task.clone(), Verdict::Inconclusive));
                    }
                }
                Task::Diagnose(_) => causes.push(Cause::Answer(task.clone(), true)),
                Task::Build(evolution) => {
                    causes.push(Cause::Answer(task.clone(), true));
                    if fallible {
                        causes.push(Cause::Fails(evolution.clone(), Whose::Contents));
                        causes.push(Cause::Fails(evolution.clone(), Whose::Makers));
                        // With only one try, a machine's failure ends in the same way as a maker's failure.
                        if self.core.policy().is_some_and(|policy| policy.tries > 1) {
                            causes.push(Cause::Fails(evolution.clone(), Whose::Machines));
                        }
                    }
                    let aimed = self.core.evolution().is_some_and(|it| it.tree.is_some() || it.incident.is_some());
                    if self.core.followed().is_some() && !aimed {
                        causes.push(Cause::Aims(evolution.clone()));
                    }
                }
                Task::Install(_) | Task::Prepare(_) => {
                    causes.push(Cause::Answer(task.clone(), true));
                    if fallible {
                        causes.push(Cause::Answer(task.clone(), false));
                    }
                }
            }
        }
        if self.plan.is_some() {
            causes.push(Cause::Carried(true));
            if fallible {
                causes.push(Cause::Carried(false));
                causes.push(Cause::Busy);
            }
        }
        for slot in Slot::ALL {
            if let Some(process) = &self.processes[slot.index()] {
                if !process.ready && !process.asked_to_end {
                    causes.push(Cause::Ready(slot));
                }
                if self.left.exits > 0 && (!process.asked_to_end || process.drains) {
                    causes.push(Cause::Exit(slot));
                }
                if fallible && process.drains {
                    causes.push(Cause::CannotDrain(slot));
                }
            }
            if self.stopping[slot.index()] {
                causes.push(Cause::Stopped(slot, false));
                if self.left.waits > 0 {
                    causes.push(Cause::Stopped(slot, true));
                }
            }
        }
        for timer in self.core.timers().keys() {
            if *timer != Timer::Recheck || self.left.rechecks > 0 {
                causes.push(Cause::Due(*timer));
            }
        }
        if fallible && self.core.trial_slot().is_some() {
            causes.push(Cause::Degrades);
        }
        if self.left.requests > 0 {
            let asked = self.requests().into_iter().filter(|request| self.core.refusal(&operator(), request).is_none());
            causes.extend(asked.map(Cause::Ask));
        }
        causes
    }

    /// All requests that a caller may make.
    pub(super) fn requests(&self) -> [Request; 6] {
        let id = self.core.evolution().map(|evolution| evolution.id.0.clone()).unwrap_or_default();
        [
            Request::Approve { id: id.clone() },
            Request::Reject { id, reason: "no".into() },
            Request::Rollback { to: None },
            Request::Evolve { rev: None, blueprint: None },
            Request::Settle { trust: Trust::Reality, reason: String::new() },
            Request::Settle { trust: Trust::Journal, reason: String::new() },
        ]
    }
}
