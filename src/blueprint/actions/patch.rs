//! `apply_patch`, `commit`, `generate_diff_report`: changes as patches, and as a commit.

use super::{ActionContext, Failure, Made};
use crate::blueprint::store::ARTIFACT_BYTES_MAX;
use crate::source::Applied;

/// Applies the first input, completely or not at all. If the workspace has the change already, because the agent that
/// wrote the patch also made the change, this succeeds.
pub(super) async fn apply_patch<W>(ctx: &mut ActionContext<'_, W>) -> Result<Made, Failure> {
    let file = ctx.first_input().ok_or_else(|| Failure::new("there is no patch to apply"))?;
    if file.metadata()?.len() == 0 {
        return Err(Failure::new("the patch is empty: nothing was changed"));
    }
    let summary = match ctx.workspace.apply(&ctx.job.mirror, &file).await? {
        Applied::Now => "applied",
        Applied::Before => "the workspace has it already",
        Applied::Refused(why) => return Err(Failure::new(format!("the patch does not fit: {why}"))),
    };
    Ok(Made::one(summary.into(), "patch_applied", summary.as_bytes().to_vec()))
}

/// Reports the commit of the workspace's files. The commit was made at the end of the previous stage; here it must
/// differ from Active.
pub(super) async fn commit<W>(ctx: &mut ActionContext<'_, W>) -> Result<Made, Failure> {
    let (commit, active) = (ctx.checkpoint.commit(), &ctx.job.active);
    let mirror = &ctx.job.mirror;
    if mirror.tree(commit).await? == mirror.tree(active).await? {
        return Err(Failure::new("nothing was changed: the files are those of Active"));
    }
    let files = mirror.changed(active, commit).await?.len();
    let summary = format!("{commit} changes {files} file{}", if files == 1 { "" } else { "s" });
    Ok(Made::one(summary, "commit", commit.as_str().as_bytes().to_vec()))
}

/// The diff against Active: the names of the files first, then the patch.
pub(super) async fn generate_diff_report<W>(ctx: &mut ActionContext<'_, W>) -> Result<Made, Failure> {
    let (commit, active) = (ctx.checkpoint.commit(), &ctx.job.active);
    let changed = ctx.job.mirror.changed(active, commit).await?;
    let mut report = format!("{} files differ between {active} and {commit}\n", changed.len()).into_bytes();
    for path in &changed {
        report.extend_from_slice(format!("  {}\n", path.display()).as_bytes());
    }
    report.push(b'\n');
    report.extend(ctx.job.mirror.patch(active, commit, ARTIFACT_BYTES_MAX).await?);
    let summary = format!("{} files differ from Active", changed.len());
    Ok(Made::one(summary, "diff_report", report))
}
