//! Act 3: an upgrade that every check passes, and that real load turns slow.

use super::acts::{Story, TRIAL_MAX, count, short};
use crate::demo::error::Error;
use crate::demo::repository::FAVOURITE;
use crate::demo::tally::Latency;
use crate::interface::types::Verdict;
use crate::lifecycle::Event;

/// Requests from which a percentile means something.
const REQUESTS: u64 = 200;

impl Story<'_, '_> {
    pub(super) async fn a_slow_upgrade(&mut self) -> Result<(), Error> {
        self.teller.head("3 · A slow upgrade")?;
        let good = self.active_rev().await?;
        let mark = self.watch.mark();
        self.stage.repository.take_over(&self.stage.mirror(), &good).await?;
        let rev = self.stage.repository.change(FAVOURITE, "Name the guest who was here most often").await?;
        self.stage.repository.push().await?;
        self.teller.say(&format!("a developer takes the repair over and pushes {}: a new feature", short(&rev)))?;
        let store_path = self.built(&rev, mark).await?;
        let report = self.report(&store_path, mark).await?;
        if report.verdict != Verdict::Pass {
            return Err(Error::unexpected(format!("the upgrade should pass its checks: {:?}", report.checks)));
        }
        self.teller.good(&format!("it is built, and {} pass", count(report.checks.len() as u64, "check")))?;
        let before = self.load.tally();
        let took = self.promoted(mark).await?;
        self.teller.good(&format!("promoted, switched in {}", Latency(took)))?;
        let switched = self.watch.mark();
        let begun = std::time::Instant::now();
        let judged = self.event("the judgement", TRIAL_MAX, switched, |told| match &told.event {
            Event::Judged { verdict: Verdict::Fail, reason } => Some((reason.clone(), told.at)),
            _ => None,
        });
        let (reason, at) = judged.await?;
        let slow = self.load.tally().since(&before);
        let after = at.saturating_duration_since(begun).as_secs_f64();
        self.teller.bad(&format!("degraded, {after:.1} s into the window"))?;
        self.teller.quote(&reason.replace("; ", "\n"))?;
        let (half, most) = (Latency(slow.latency_us(0.5)), Latency(slow.latency_us(0.99)));
        self.teller.quote(&format!("seen from outside: p50 {half}, p99 {most}"))?;
        let restored = self.event("the rollback", TRIAL_MAX, switched, |told| match &told.event {
            Event::PlanDone { took_us, .. } => Some(*took_us),
            _ => None,
        });
        let restored = restored.await?;
        self.teller.good(&format!("Previous is restored in {}: no build, no start, no Nix", Latency(restored)))?;
        let generation = self.steady_on(&good).await?;
        let tally = self.load.tally().since(&before);
        self.teller.good(&format!("generation {generation} is current again. Since the canary: {tally}"))?;
        let quick = self.quick_again(REQUESTS).await?;
        self.teller.good(&format!("quick again: p99 {}", Latency(quick.latency_us(0.99))))?;
        let Some(candidate) = self.quarantined(&store_path).await? else {
            return Err(Error::unexpected("the slow upgrade is not in quarantine"));
        };
        self.teller.say(&format!("{candidate} is in quarantine: never built, judged or promoted again"))?;
        if tally.lost() > 0 {
            return Err(Error::unexpected(format!("the rollback lost requests: {tally}")));
        }
        self.fact("slow upgrade", format!("Previous restored in {}", Latency(restored)));
        self.fact("requests lost to it", format!("{} of {}", tally.lost(), tally.total()));
        Ok(())
    }

    pub(super) async fn active_rev(&mut self) -> Result<String, Error> {
        let status = self.watch.operator.status().await?;
        let active = status.active.ok_or_else(|| Error::unexpected("nothing is Active"))?;
        Ok(active.version.rev)
    }
}
