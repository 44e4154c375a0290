//! Act 2: from the incident to a repaired Active.

use super::acts::{BUG, Story, WORK_MAX, count, names, short};
use crate::demo::error::Error;
use crate::demo::repository::changed_lines;
use crate::demo::tally::Latency;
use crate::interface::types::{EvolutionContext, Verdict, Version};
use crate::lifecycle::Event;

impl Story<'_, '_> {
    pub(super) async fn a_repair(&mut self) -> Result<(), Error> {
        self.narrator.head("2 · A repair")?;
        let mark = self.opened;
        self.the_context(mark).await?;
        let version = self.the_candidate(mark).await?;
        let report = self.report(&version.store_path, mark).await?;
        if report.verdict != Verdict::Pass {
            let failed = [names(&report.checks, Verdict::Fail), names(&report.checks, Verdict::Inconclusive)].concat();
            return Err(Error::unexpected(format!("the repair did not pass: {failed}")));
        }
        self.narrator.good(&format!(
            "{} pass: {}",
            count(report.checks.len() as u64, "check"),
            names(&report.checks, Verdict::Pass)
        ))?;
        if let Some(check) = report.checks.iter().find(|check| check.name == "reproduction") {
            self.narrator.quote(&format!("reproduction: {}", check.summary))?;
        }
        let before = self.load.tally();
        let took = self.promoted(mark).await?;
        self.narrator
            .good(&format!("promoted: all new connections go to the repair, switched in {}", Latency(took)))?;
        self.narrator.say("Previous stays warm while the window is observed")?;
        let generation = self.steady_on(&version.rev).await?;
        let tally = self.load.tally().since(&before);
        self.narrator.good(&format!("the window is confirmed: generation {generation}. Since the canary: {tally}"))?;
        if tally.lost() > 0 {
            return Err(Error::unexpected(format!("the promotion lost requests: {tally}")));
        }
        match self.ask(BUG).await {
            Some(404) => self.narrator.good(&format!("GET {BUG} is answered with 404 now"))?,
            other => return Err(Error::unexpected(format!("GET {BUG} is answered with {other:?} after the repair"))),
        }
        self.fact("repair", format!("{} checks passed, switched in {}", report.checks.len(), Latency(took)));
        self.fact("requests lost to the promotion", format!("{} of {}", tally.lost(), tally.total()));
        Ok(())
    }

    async fn the_context(&mut self, mark: usize) -> Result<(), Error> {
        let repair = self.repair.clone();
        let diagnosed = self.event("the context", WORK_MAX, mark, |it| match &it.event {
            Event::Diagnosed { evolution, .. } if *evolution == repair => Some(()),
            _ => None,
        });
        diagnosed.await?;
        let id = self.repair.0.replacen("evo", "ctx", 1);
        let shown = self.observer.operator.show(id).await?;
        let context: EvolutionContext = serde_json::from_value(shown.object)
            .map_err(|error| Error::unexpected(format!("the context cannot be read: {error}")))?;
        let trace = context.stack_traces.last().ok_or_else(|| Error::unexpected("the context has no stack trace"))?;
        self.narrator.good("the context is collected: log, stack trace, health, source, what the runtime says")?;
        let frames: Vec<String> = trace.frames.iter().map(|frame| format!("  {frame}")).collect();
        self.narrator.quote(&format!("{}\n{}", trace.reason, frames.join("\n")))?;
        let run = context.reproduction_runs.first().ok_or_else(|| Error::unexpected("nothing was reproduced"))?;
        if run.reproduces != Some(true) {
            return Err(Error::unexpected(format!("the crash was not reproduced: {}", run.detail)));
        }
        self.narrator.bad(&format!(
            "reproduced: the request that led to it stops Active in a sandbox, too, {} of {} times",
            run.failures, run.tries
        ))?;
        Ok(())
    }

    /// Waits for the candidate, and prints the blueprint's stages and the change.
    async fn the_candidate(&mut self, mark: usize) -> Result<Version, Error> {
        let repair = self.repair.clone();
        let built = self.event("the candidate", WORK_MAX, mark, |it| match &it.event {
            Event::Built { evolution, version, files_changed, .. } if *evolution == repair => {
                Some(Ok((version.clone(), files_changed.clone())))
            }
            Event::BuildFailed { evolution, reason, .. } if *evolution == repair => {
                Some(Err(Error::unexpected(format!("no repair: {reason}"))))
            }
            _ => None,
        });
        let (version, files) = built.await??;
        let stages = self.observer.since(mark).iter().filter_map(|it| match &it.event {
            Event::StageReached { evolution, stage, .. } if *evolution == self.repair => Some(stage.as_str()),
            _ => None,
        });
        let mut stages: Vec<&str> = stages.collect();
        stages.dedup();
        let stages = stages.join(" → ");
        self.narrator.say(&format!("blueprint repair: {stages}"))?;
        self.narrator.good(&format!(
            "the agent changed {}; rei committed it as {}",
            files.join(", "),
            short(&version.rev)
        ))?;
        let lines = changed_lines(&self.stage.mirror(), &version.rev).await?;
        self.narrator.quote(&lines.join("\n"))?;
        self.narrator.good("Nix built it, in a sandbox")?;
        self.narrator.quote(&version.store_path)?;
        Ok(version)
    }
}
