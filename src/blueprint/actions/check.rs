//! `nix_build`, `run_tests`, `run_linters`: run the supervisor's builder and judge on the current commit.

use serde_json::json;

use super::{Failure, Made, Stand};
use crate::blueprint::job::{Finding, Workbench};

pub(super) async fn nix_build<W: Workbench>(stand: &mut Stand<'_, W>) -> Result<Made, Failure> {
    let commit = stand.checkpoint.commit().clone();
    let finding = stand.workbench.build(&commit).await;
    let candidate = json!({"commit": commit, "store_path": finding.product}).to_string();
    let made = passed(finding)?;
    let log = made.artifacts.into_iter().map(|(_, log)| ("build_log".to_owned(), log));
    let artifacts = [("candidate".to_owned(), candidate.into_bytes())].into_iter().chain(log).collect();
    Ok(Made { summary: made.summary, artifacts })
}

pub(super) async fn run_tests<W: Workbench>(stand: &mut Stand<'_, W>) -> Result<Made, Failure> {
    passed(stand.workbench.test(stand.checkpoint.commit()).await)
}

pub(super) async fn run_linters<W: Workbench>(stand: &mut Stand<'_, W>) -> Result<Made, Failure> {
    passed(stand.workbench.lint(stand.checkpoint.commit()).await)
}

fn passed(finding: Finding) -> Result<Made, Failure> {
    let Finding { ok, summary, log, blame, .. } = finding;
    let report = format!("{summary}\n{log}").into_bytes();
    if ok {
        Ok(Made::one(summary, "report", report))
    } else {
        Err(Failure::new(summary).with_log(report).of_whom(blame))
    }
}
