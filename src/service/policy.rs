//! Translates `rei.toml` to the policy of the lifecycle.

use std::time::Duration;

use crate::config::{self, Config};
use crate::lifecycle::{Bounds, CanaryStep, OnInconclusive, Policy, Standby, WHOLE_PPM};
use crate::time::millis;

/// The timeout of the phase Diagnosing. If a runtime answers, its evidence is collected within seconds.
const DIAGNOSE: Duration = Duration::from_secs(300);
/// The first and the longest pause before a second restart: about as quick as an operator, and without a storm of
/// restarts.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// If an instance ran this long, its start counts as a success, and it is restarted at once when it ends, as with
/// runit, s6 and supervisord. An incident reports an instance that ends too often.
const STABLE: Duration = Duration::from_secs(1);
/// The pause between two judgements while a canary step or the window lacks data.
const RECHECK: Duration = Duration::from_secs(1);
/// Added to a timeout that another part also enforces, so that the other part reports first and with the better
/// message.
pub const GRACE: Duration = Duration::from_secs(30);

/// The policy of a configuration.
pub fn policy(config: &Config) -> Policy {
    let promotion = &config.promotion;
    Policy {
        overlap: config.runtime.strategy == config::Strategy::Overlap,
        standby: match config.runtime.standby {
            config::Standby::Keep => Standby::Keep,
            config::Standby::Fresh => Standby::Fresh,
            config::Standby::Cold => Standby::Cold,
        },
        approve: promotion.mode == config::PromotionMode::Approve,
        shadow_ms: promotion.shadow.as_ref().map(|shadow| millis(shadow.r#for)),
        canary: promotion.canary.iter().map(canary_step).collect(),
        observe_ms: millis(promotion.observe),
        hold_ms: millis(promotion.hold),
        on_inconclusive: match promotion.on_inconclusive {
            config::OnInconclusive::Ask => OnInconclusive::Ask,
            config::OnInconclusive::Promote => OnInconclusive::Promote,
            config::OnInconclusive::Revert => OnInconclusive::Revert,
        },
        keep_generations: promotion.keep_generations,
        per_incident: config.evolution.per_incident,
        per_hour: config.evolution.per_hour,
        agent_runs: config.evolution.agent_runs,
        agent_ms: millis(config.evolution.agent_time),
        tries: config.evolution.retry.tries,
        retry_ms: millis(config.evolution.retry.pause),
        retry_max_ms: millis(config.evolution.retry.pause_max),
        incident_blueprint: config.blueprints.incident.clone(),
        class_blueprint: config.blueprints.by_class.clone(),
        upgrade_blueprint: config.blueprints.upgrade.clone(),
        bounds: Bounds {
            diagnose_ms: millis(DIAGNOSE),
            build_ms: millis(config.blueprints.timeout + GRACE),
            validate_ms: millis(config.validation.timeout + GRACE),
            start_ms: millis(config.runtime.start_timeout),
            stop_ms: millis(config.runtime.stop_timeout + GRACE),
            backoff_ms: millis(BACKOFF),
            backoff_max_ms: millis(BACKOFF_MAX),
            stable_ms: millis(STABLE),
            recheck_ms: millis(RECHECK),
        },
    }
}

fn canary_step(step: &config::CanaryStep) -> CanaryStep {
    // The cast is in range, because the configuration's share is above 0 and below 1.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share below 1 is below WHOLE_PPM")]
    let share_ppm = (step.share * f64::from(WHOLE_PPM)).round() as u32;
    CanaryStep { share_ppm: share_ppm.clamp(1, WHOLE_PPM - 1), for_ms: millis(step.r#for) }
}
