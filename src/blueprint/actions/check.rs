//! `nix_build`, `run_tests`, `run_linters`: run the supervisor's builder and judge on the current commit.

use serde_json::json;

use super::{ActionContext, Failure, Made};
use crate::blueprint::job::{CheckResult, Checker};

pub(super) async fn nix_build<W: Checker>(ctx: &mut ActionContext<'_, W>) -> Result<Made, Failure> {
    let commit = ctx.checkpoint.commit().clone();
    let result = ctx.checker.build(&commit).await;
    let candidate = json!({"commit": commit, "store_path": result.product}).to_string();
    let made = passed(result)?;
    let log = made.artifacts.into_iter().map(|(_, log)| ("build_log".to_owned(), log));
    let artifacts = [("candidate".to_owned(), candidate.into_bytes())].into_iter().chain(log).collect();
    Ok(Made { summary: made.summary, artifacts })
}

pub(super) async fn run_tests<W: Checker>(ctx: &mut ActionContext<'_, W>) -> Result<Made, Failure> {
    passed(ctx.checker.test(ctx.checkpoint.commit()).await)
}

pub(super) async fn run_linters<W: Checker>(ctx: &mut ActionContext<'_, W>) -> Result<Made, Failure> {
    passed(ctx.checker.lint(ctx.checkpoint.commit()).await)
}

fn passed(result: CheckResult) -> Result<Made, Failure> {
    let CheckResult { ok, summary, log, blame, .. } = result;
    let report = format!("{summary}\n{log}").into_bytes();
    if ok {
        Ok(Made::one(summary, "report", report))
    } else {
        Err(Failure::new(summary).with_log(report).caused_by(blame))
    }
}
