//! The candidate becomes ready in time, stays in the foreground, and stops on its stop signal in time.

use crate::interface::types::Verdict;
use crate::time::millis;
use crate::validation::builder::Infrastructure;
use crate::validation::builder::instance::{AFTERMATH, JudgedInstance};
use crate::validation::builder::job::Job;
use crate::validation::builder::outcome::CheckOutcome;
use crate::validation::builder::ready::ready;
use crate::validation::checks::InputName;

pub(crate) async fn boot(job: &Job) -> Result<CheckOutcome, Infrastructure> {
    let spec = &job.spec.instance;
    let mut instance = match JudgedInstance::start(spec, job.version(InputName::Candidate)?, &job.top).await? {
        Ok(instance) => instance,
        Err(reason) => return Ok(CheckOutcome::new(Verdict::Fail, format!("it does not start: {reason}"))),
    };
    let took = match ready(&mut instance, spec).await {
        Ok(took) => took,
        Err(reason) => return Ok(CheckOutcome::new(Verdict::Fail, reason).details(instance.tail().await)),
    };
    if let Ok(how) = tokio::time::timeout(AFTERMATH, instance.end()).await {
        let outcome = CheckOutcome::new(Verdict::Fail, format!("ready after {} ms, it {how}", millis(took)));
        return Ok(outcome.details(instance.tail().await).figure("ready_ms", millis(took)));
    }
    let signal = instance.stop_signal();
    let outcome = match instance.stop().await {
        None => {
            CheckOutcome::new(Verdict::Fail, format!("it did not stop within {} ms of {signal}", spec.stop_timeout_ms))
        }
        Some((how, _)) if how.contains("by signal") && !how.contains(signal.as_str()) => {
            CheckOutcome::new(Verdict::Fail, format!("asked to finish, it {how}"))
        }
        Some((how, stopped)) => {
            let summary = format!("ready after {} ms; on {signal} it {how} after {} ms", millis(took), millis(stopped));
            CheckOutcome::new(Verdict::Pass, summary).figure("stop_ms", millis(stopped))
        }
    };
    let details = if outcome.verdict == Verdict::Pass { Vec::new() } else { instance.tail().await };
    Ok(outcome.details(details).figure("ready_ms", millis(took)))
}
