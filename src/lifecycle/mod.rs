//! The decision core: a state machine with no clock, no I/O, no async and no randomness.
//!
//! The rules: [`Lifecycle::step`] takes one [`Event`] and returns all its [`Effect`]s. The event is on disk before the
//! first effect. The supervisor executes the effects in order, before it takes the next event. An event answers every
//! slow effect, and an answer that is not expected any more changes nothing. Each event comes with the time. Each phase
//! except Empty, Steady, AwaitingApproval and Held has a deadline ([`Timer::Phase`]), whose expiry leads towards
//! Steady.
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
//! Phase Held is outside of this diagram: the supervisor found at its start that reality is ahead of the journal. The
//! running versions continue to serve, and a decision of an operator leads to Steady.
//!
//! The supervisor, the model checker, property tests and the replay of a journal all use this code.

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
mod shadow;
mod slot;
mod state;
mod step;
mod tried;
mod verdict;

pub use deployed::Deployed;
pub use effect::{Effect, Maintenance, Plan, Routing, Step, Timer, WHOLE_PPM};
pub use event::{
    Caller, Event, Fault, Finding, FoundInstance, Instance, Question, Reality, ReportDigest, Request, Running, Trust,
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
