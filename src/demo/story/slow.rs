//! Act 3: an upgrade that passes every check, and that becomes slow under real load.

use super::acts::{Story, TRIAL_MAX, count, short};
use crate::demo::error::Error;
use crate::demo::repository::FAVOURITE;
use crate::demo::tally::Latency;
use crate::interface::types::Verdict;
use crate::lifecycle::Event;

/// The number of requests from which a percentile is meaningful.
const REQUESTS: u64 = 200;

impl Story<'_, '_> {
    pub(super) async fn a_slow_upgrade(&mut self) -> Result<(), Error> {
        self.narrator.head("3 · A slow upgrade")?;
        let good = self.active_rev().await?;
        let mark = self.observer.mark();
        self.stage.repository.take_over(&self.stage.mirror(), &good).await?;
        let rev = self.stage.repository.change(FAVOURITE, "Name the guest who was here most often").await?;
        self.stage.repository.push().await?;
        self.narrator.say(&format!("a developer takes the repair over and pushes {}: a new feature", short(&rev)))?;
        let store_path = self.built(&rev, mark).await?;
        let report = self.report(&store_path, mark).await?;
        if report.verdict != Verdict::Pass {
            return Err(Error::unexpected(format!("the upgrade should pass its checks: {:?}", report.checks)));
        }
        self.narrator.good(&format!("it is built, and {} pass", count(report.checks.len() as u64, "check")))?;
        let before = self.load.tally();
        let took = self.promoted(mark).await?;
        self.narrator.good(&format!("promoted, switched in {}", Latency(took)))?;
        let switched = self.observer.mark();
        let begun = std::time::Instant::now();
        let judged = self.event("the judgement", TRIAL_MAX, switched, |it| match &it.event {
            Event::Judged { verdict: Verdict::Fail, reason } => Some((reason.clone(), it.at)),
            _ => None,
        });
        let (reason, at) = judged.await?;
        let slow = self.load.tally().since(&before);
        let after = at.saturating_duration_since(begun).as_secs_f64();
        self.narrator.bad(&format!("degraded, {after:.1} s into the window"))?;
        self.narrator.quote(&reason.replace("; ", "\n"))?;
        let (half, most) = (Latency(slow.latency_us(0.5)), Latency(slow.latency_us(0.99)));
        self.narrator.quote(&format!("seen from outside: p50 {half}, p99 {most}"))?;
        let restored = self.event("the rollback", TRIAL_MAX, switched, |it| match &it.event {
            Event::PlanDone { took_us, .. } => Some(*took_us),
            _ => None,
        });
        let restored = restored.await?;
        self.narrator.good(&format!("Previous is restored in {}: no build, no start, no Nix", Latency(restored)))?;
        let generation = self.steady_on(&good).await?;
        let tally = self.load.tally().since(&before);
        self.narrator.good(&format!("generation {generation} is current again. Since the canary: {tally}"))?;
        let quick = self.quick_again(REQUESTS).await?;
        self.narrator.good(&format!("quick again: p99 {}", Latency(quick.latency_us(0.99))))?;
        let Some(candidate) = self.quarantined(&store_path).await? else {
            return Err(Error::unexpected("the slow upgrade is not in quarantine"));
        };
        self.narrator.say(&format!("{candidate} is in quarantine: never built, judged or promoted again"))?;
        if tally.lost() > 0 {
            return Err(Error::unexpected(format!("the rollback lost requests: {tally}")));
        }
        self.fact("slow upgrade", format!("Previous restored in {}", Latency(restored)));
        self.fact("requests lost to it", format!("{} of {}", tally.lost(), tally.total()));
        Ok(())
    }

    pub(super) async fn active_rev(&mut self) -> Result<String, Error> {
        let status = self.observer.operator.status().await?;
        let active = status.active.ok_or_else(|| Error::unexpected("no version is Active"))?;
        Ok(active.version.rev)
    }
}
