//! The derivations of a plan's sandboxed steps: one evaluation of rei's own expressions.

use serde_json::{Value, json};

use super::plan::{Built, Plan, Work};
use crate::nix::{Derivation, Nix, Result};

/// The expressions of the sandboxed checks, which the flake exports too.
const CHECKS: &str = include_str!("../../checks/default.nix");

/// The function from those and a request to derivations.
const PLAN: &str = include_str!("../../checks/plan.nix");

/// Makes the derivations of the plan's sandboxed steps, in their order.
///
/// # Errors
/// When Nix cannot be asked, or a golden run has changed since the plan was made.
pub async fn derive(plan: &Plan, nix: &Nix) -> Result<Vec<Built>> {
    let (asked, count) = request(plan, nix.system());
    let expression = format!("({PLAN}) ({CHECKS})");
    let mut made = nix.instantiate_own(&expression, &asked, None).await?;
    Ok((0..count).filter_map(|n| made.remove(&n.to_string())).map(Built::from).collect())
}

/// What [`PLAN`] is asked for, and how many derivations that is.
fn request(plan: &Plan, system: &str) -> (Value, usize) {
    let checks = plan.steps.iter().filter_map(|step| match &step.work {
        Work::Sandboxed { spec, inputs } => Some(json!({ "spec": spec, "inputs": inputs })),
        Work::Decided { .. } | Work::Build(_) => None,
    });
    let checks: Vec<Value> = checks.collect();
    let count = checks.len();
    (json!({ "rei": plan.rei, "nonce": plan.nonce, "system": system, "checks": checks }), count)
}

impl From<Derivation> for Built {
    fn from(derivation: Derivation) -> Self {
        Self { drv: derivation.drv.display().to_string(), out: derivation.out.display().to_string() }
    }
}

impl From<&Built> for Derivation {
    fn from(built: &Built) -> Self {
        Self { drv: built.drv.clone().into(), out: built.out.clone().into() }
    }
}
