//! The decision core: a state machine with no clock, no I/O, no async and no randomness.
//!
//! The law: [`Lifecycle::step`] takes one [`Event`] and returns all its [`Effect`]s. The event is on disk before the
//! first effect; the effects are carried out in order before the next event is taken; every slow effect is answered by
//! an event, and an answer that is not expected any more changes nothing. Time comes in with the event. Each phase
//! but Empty, Steady, AwaitingApproval and Held has a deadline ([`Timer::Phase`]), whose expiry leads towards Steady.
//!
//! ```text
//! Empty ─▶ Installing ─▶ Steady ──incident, commit or operator──▶ Diagnosing ─▶ Building ─▶ Validating
//!                          ▲                                          │            │            │
//!                          ├────── failed, rejected, unchanged ───────┴────────────┴────────────┤
//!                          │                                                            [AwaitingApproval]
//!                          ├──◀ confirmed ── Observing ◀── Promoting ◀── Canary ◀───────────────┘
//!                          │                     │             │            │
//!                          └──── RollingBack ◀───┴── degraded ─┴────────────┘
//! ```
//!
//! Beside them stands Held: a start found reality ahead of the journal. What runs serves on, and an operator leads from
//! there to Steady.
//!
//! The same code is driven by the supervisor, by the model checker, by property tests and by replay of a journal.

mod deployed;
mod effect;
mod event;
mod evolve;
mod extend;
mod held;
mod operate;
mod plans;
mod policy;
mod promote;
mod reason;
mod recover;
mod serve;
mod slot;
mod state;
mod step;
mod tried;
mod verdict;

pub use deployed::Deployed;
pub use effect::{Effect, Maintenance, Plan, Routing, Step, Timer, WHOLE_PPM};
pub use event::{
    Caller, Event, Fault, Finding, Found, Instance, Question, Reality, ReportDigest, Request, Running, Trust,
};
pub use extend::EXTENDED_MS_MAX;
pub use operate::Refusal;
pub use policy::{Bounds, CanaryStep, OnInconclusive, Policy, Standby};
pub use reason::Reason;
pub use slot::Slot;
pub use state::{
    Approval, Armed, CanaryStage, Commit, Ended, Evolution, Held, Lifecycle, OPEN_INCIDENTS_MAX, ObservationStage,
    OpenIncident, Phase, PlanUnderWay, PutOff, QUARANTINE_MAX, Quarantined, RollbackStage, RunState, Settled,
    SlotState, Tried,
};
pub use tried::TRIED_MAX;
