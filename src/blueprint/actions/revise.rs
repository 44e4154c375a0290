//! `checkout`, `update_inputs`: change to another commit, and update inputs of the flake.

use std::path::Path;
use std::time::Duration;

use super::{ActionContext, Failure, Made};
use crate::blueprint::job::Blame;
use crate::command::Command;
use crate::source::{Author, Mirror, ObjectId, Taken, Workspace};

/// Timeout of an update of inputs, which may need large downloads.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(300);
/// The first version of Nix in which `nix flake update` accepts names of inputs. Older versions use `nix flake lock`.
const NIX_UPDATE_TAKES_NAMES: (u32, u32) = (2, 19);

/// Resets the workspace to the commit of a branch, a tag or the followed ref, which becomes the base of the work.
pub(super) async fn checkout<W>(ctx: &mut ActionContext<'_, W>, rev: Option<&str>) -> Result<Made, Failure> {
    let mirror = &ctx.job.mirror;
    let commit = match (rev, &ctx.job.followed) {
        (Some(rev), _) => mirror.resolve(rev).await?,
        (None, Some(followed)) => followed.clone(),
        (None, None) => return Err(Failure::new("there is no followed commit to check out")),
    };
    replace(ctx, &commit, None).await?;
    ctx.job.mirror.keep_candidate(&ctx.job.candidate, &commit).await?;
    let summary = format!("the files of {commit}");
    Ok(Made::one(summary, "commit", commit.as_str().as_bytes().to_vec()))
}

/// Updates inputs in the flake's lock file, in a copy of the workspace that no agent has touched, and takes the result
/// over.
pub(super) async fn update_inputs<W>(ctx: &mut ActionContext<'_, W>, names: &[String]) -> Result<Made, Failure> {
    let (job, before) = (ctx.job, ctx.checkpoint.commit().clone());
    let dir = ctx.store.workspace().with_file_name("lock");
    remove(&dir)?;
    let copy = Workspace::create(&job.mirror, &before, &dir).await?;
    let flake = if job.flake_dir.is_empty() { dir.clone() } else { dir.join(&job.flake_dir) };
    let updated = update(&flake, names).await;
    let (parent, secrets) = (&ctx.checkpoint.base, &job.secrets);
    let author = Author { parent, message: &job.message, at: job.at, secrets };
    let taken = match updated {
        Ok(()) => copy.take(&job.mirror, &job.candidate, author).await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    copy.remove().await?;
    let Taken::Commit(commit) = taken? else { return Err(unchanged(names)) };
    if job.mirror.tree(&commit).await? == job.mirror.tree(&before).await? {
        return Err(unchanged(names));
    }
    let base = ctx.checkpoint.base.clone();
    replace(ctx, &base, Some(&commit)).await?;
    let summary = format!("updated {}", names.join(", "));
    Ok(Made::one(summary, "commit", commit.as_str().as_bytes().to_vec()))
}

fn unchanged(names: &[String]) -> Failure {
    Failure::new(format!("{} had no newer version: flake.lock is unchanged", names.join(", ")))
}

/// Recreates the workspace from `base`, with the files of `head` if there is one.
async fn replace<W>(ctx: &mut ActionContext<'_, W>, base: &ObjectId, head: Option<&ObjectId>) -> Result<(), Failure> {
    *ctx.workspace = recreate_workspace(&ctx.job.mirror, ctx.workspace.dir(), base, head).await?;
    ctx.checkpoint.base = base.clone();
    ctx.checkpoint.head = head.cloned();
    Ok(())
}

/// Makes a new workspace in `dir`, after removing everything there.
pub(in crate::blueprint) async fn recreate_workspace(
    mirror: &Mirror,
    dir: &Path,
    base: &ObjectId,
    head: Option<&ObjectId>,
) -> Result<Workspace, crate::source::Error> {
    Workspace::reopen(base, dir).remove().await?;
    let workspace = Workspace::create(mirror, base, dir).await?;
    if let Some(head) = head {
        workspace.advance(mirror, head).await?;
    }
    Ok(workspace)
}

async fn update(flake: &Path, names: &[String]) -> Result<(), Failure> {
    let run = |args: Vec<String>| async move {
        let command = Command::new("nix", UPDATE_TIMEOUT).args(args);
        command.run().await.map_err(|error| {
            Failure::of(&error, Some("install Nix, or check the network".into())).caused_by(Blame::Machine)
        })
    };
    let version = parse_nix_version(&run(vec!["--version".into()]).await?.stdout_text())
        .ok_or_else(|| Failure::new("cannot read the version of nix"))?;
    let output = run(update_args(version, flake, names)).await?;
    if output.success() {
        return Ok(());
    }
    let stderr = output.stderr_text();
    let message = stderr.lines().find(|line| line.contains("error:")).unwrap_or("nix failed").trim();
    Err(Failure::new(format!("cannot update {}: {message}", names.join(", ")))
        .with_log(output.stderr)
        .caused_by(Blame::Machine))
}

fn update_args(version: (u32, u32), flake: &Path, names: &[String]) -> Vec<String> {
    let common = ["--extra-experimental-features", "nix-command flakes", "--option", "accept-flake-config", "false"];
    let flake = format!("path:{}", flake.display());
    let mut args: Vec<String> = common.map(str::to_owned).to_vec();
    if version >= NIX_UPDATE_TAKES_NAMES {
        args.extend(["flake".into(), "update".into(), "--flake".into(), flake]);
        args.extend(names.iter().cloned());
    } else {
        args.extend(["flake".into(), "lock".into(), flake]);
        args.extend(names.iter().flat_map(|name| ["--update-input".to_owned(), name.clone()]));
    }
    args
}

/// Parses `nix (Nix) 2.8.0`, and variants with more words.
fn parse_nix_version(stdout: &str) -> Option<(u32, u32)> {
    let mut numbers = stdout.split_whitespace().last()?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn remove(dir: &Path) -> std::io::Result<()> {
    if dir.exists() { std::fs::remove_dir_all(dir) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_of_nix_gets_its_own_arguments() {
        assert_eq!(parse_nix_version("nix (Nix) 2.8.0\n"), Some((2, 8)));
        assert_eq!(parse_nix_version("nix (Nix) 2.34.8\n"), Some((2, 34)));
        assert_eq!(parse_nix_version("nix (Lix, like Nix) 2.91.1\n"), Some((2, 91)));
        assert_eq!(parse_nix_version("zsh: not found"), None);
        let names = ["a".to_owned(), "b".to_owned()];
        let tail = |version| update_args(version, Path::new("/f"), &names)[5..].join(" ");
        assert_eq!(tail((2, 8)), "flake lock path:/f --update-input a --update-input b");
        assert_eq!(tail((2, 26)), "flake update --flake path:/f a b");
    }
}
