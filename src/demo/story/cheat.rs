//! Act 4: an "improvement" that fails a test, and deletes it.

use super::acts::{Story, count, short};
use crate::demo::error::Error;
use crate::demo::repository::SHORTER;
use crate::interface::types::Verdict;

impl Story<'_, '_> {
    pub(super) async fn a_cheat(&mut self) -> Result<(), Error> {
        self.narrator.head("4 · A test deleted")?;
        let (good, mark, before) = (self.active_rev().await?, self.observer.mark(), self.load.tally());
        self.stage.repository.revert().await?;
        let rev = self.stage.repository.change(SHORTER, "Shorter farewells").await?;
        self.stage.repository.push().await?;
        self.narrator.say(&format!(
            "{} takes the feature back and shortens farewells. A test fails then: it deletes the test",
            short(&rev)
        ))?;
        let store_path = self.built(&rev, mark).await?;
        let report = self.report(&store_path, mark).await?;
        if report.verdict == Verdict::Pass {
            return Err(Error::unexpected("the improvement passed, but it deletes a test"));
        }
        let caught: Vec<_> = report.checks.iter().filter(|check| check.verdict == Verdict::Fail).collect();
        self.narrator.bad(&format!("rejected: caught by {}", count(caught.len() as u64, "check")))?;
        for check in &caught {
            self.narrator.quote(&format!("{}: {}", check.name, check.summary))?;
        }
        let caught: Vec<&str> = caught.iter().map(|check| check.name.as_str()).collect();
        if !caught.iter().any(|name| *name == "protected" || *name == "unit/farewell") {
            return Err(Error::unexpected(format!("the checks did not catch the deleted test: {caught:?}")));
        }
        self.steady_on(&good).await?;
        let Some(candidate) = self.quarantined(&store_path).await? else {
            return Err(Error::unexpected("the rejected candidate is not in quarantine"));
        };
        let tally = self.load.tally().since(&before);
        self.narrator.good(&format!("Active never changed; {candidate} is in quarantine. Meanwhile: {tally}"))?;
        if tally.lost() > 0 {
            return Err(Error::unexpected(format!("a rejected candidate lost requests: {tally}")));
        }
        self.fact("deleted test", format!("rejected by {}", caught.join(" and ")));
        Ok(())
    }
}
