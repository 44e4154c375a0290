//! What is built and made: git, the repository, Nix, the operator's programs.

use std::path::Path;
use std::time::Duration;

use super::{Context, Finding};
use crate::command::{Command, Error, Output};
use crate::config::Config;

/// How long a program may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long git may take to answer about a repository, which may be far away.
const GIT_TIMEOUT: Duration = Duration::from_secs(30);
/// The oldest Nix that rei is tested with.
const NIX_MIN: (u64, u64) = (2, 8);

pub(super) fn git(context: &Context<'_>) -> Option<Finding> {
    let install = "install git (Debian: apt-get install git)";
    Some(match context.run(&Command::new("git", VERSION_TIMEOUT).arg("--version")) {
        Ok(output) if output.success() => Finding::ok(output.stdout_text().trim().to_owned()),
        Ok(output) => Finding::fail(format!("git --version fails: {}", said(&output)), install),
        Err(error) => Finding::fail(told(&error), install),
    })
}

/// Is the source a repository, and has the followed ref a flake?
pub(super) fn source(context: &Context<'_>) -> Option<Finding> {
    let runtime = &context.config?.runtime;
    let (source, followed) = (&runtime.source, &runtime.r#ref);
    let git = |args: &[&str]| context.run(&Command::new("git", GIT_TIMEOUT).env("GIT_TERMINAL_PROMPT", "0").args(args));
    let refs = match git(&["ls-remote", "--", source.as_str()]) {
        Err(error) => return Some(Finding::fail(told(&error), "see the line about git")),
        Ok(output) if !output.success() => {
            let line = format!("git cannot read {source}: {}", said(&output));
            return Some(Finding::fail(line, "`runtime.source` must be a git repository that this user can read"));
        }
        Ok(output) => output.stdout_text(),
    };
    let Some(rev) = find_ref(&refs, followed) else {
        let names: Vec<&str> = refs.lines().filter_map(|line| line.split("refs/heads/").nth(1)).take(5).collect();
        let hint = match names.is_empty() {
            true => "it has no branch: make a commit first".to_owned(),
            false => format!("set `runtime.ref`; branches there: {}", names.join(", ")),
        };
        return Some(Finding::fail(format!("{source} has no branch or tag `{followed}`"), hint));
    };
    let short = crate::digest::short(rev);
    if !Path::new(source).is_absolute() {
        return Some(Finding::ok(format!("{source} has {followed} at {short}")));
    }
    let flake = Path::new(&runtime.dir).join("flake.nix");
    let object = format!("{rev}:{}", flake.display());
    Some(match git(&["-C", source.as_str(), "cat-file", "-e", &object]) {
        Ok(output) if output.success() => {
            Finding::ok(format!("{source} has {} on {followed} at {short}", flake.display()))
        }
        Ok(_) => {
            let line = format!("{followed} of {source} has no {} at {short}", flake.display());
            Finding::fail(line, "commit it, or set `runtime.dir` to its directory")
        }
        Err(error) => Finding::fail(told(&error), "see the line about git"),
    })
}

/// The commit of a branch or tag in what `git ls-remote` prints; a tag's own commit where it is annotated.
fn find_ref<'r>(refs: &'r str, name: &str) -> Option<&'r str> {
    let wanted =
        [format!("refs/heads/{name}"), format!("refs/tags/{name}^{{}}"), format!("refs/tags/{name}"), name.to_owned()];
    let named =
        |wanted: &String| refs.lines().filter_map(|line| line.split_once('\t')).find(|(_, found)| found == wanted);
    wanted.iter().find_map(named).map(|(rev, _)| rev)
}

pub(super) fn nix(context: &Context<'_>) -> Option<Finding> {
    let install = "install Nix (Debian: apt-get install nix-bin; elsewhere: https://nixos.org/download)";
    let output = match context.run(&Command::new("nix", VERSION_TIMEOUT).arg("--version")) {
        Ok(output) if output.success() => output.stdout_text(),
        Ok(output) => return Some(Finding::fail(format!("nix --version fails: {}", said(&output)), install)),
        Err(error) => return Some(Finding::fail(told(&error), install)),
    };
    let (line, (major, minor)) = (output.trim().to_owned(), NIX_MIN);
    Some(match version(&line) {
        Some(found) if found >= NIX_MIN => Finding::ok(line),
        Some(_) => Finding::fail(format!("{line} is older than {major}.{minor}"), install),
        None => Finding::warn(
            format!("a Nix of unknown version: {line}"),
            format!("rei is tested with {major}.{minor} and later"),
        ),
    })
}

/// The version in `nix (Nix) 2.34.8`.
fn version(line: &str) -> Option<(u64, u64)> {
    let mut numbers = line.split_whitespace().last()?.split(['.', 'p', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Are the operator's own programs and directories there?
pub(super) fn programs(context: &Context<'_>) -> Option<Finding> {
    let config = context.config?;
    let missing = missing(config);
    let count = config.agents.len() + config.commands.len() + usize::from(config.health.command.is_some());
    match missing.as_slice() {
        [] if count == 0 => None,
        [] => Some(Finding::ok(format!("{count} of yours, all there"))),
        [first, ..] => Some(Finding::fail(first.clone(), "install it, or correct the path in the file")),
    }
}

fn missing(config: &Config) -> Vec<String> {
    let agents = config.agents.iter().map(|(name, agent)| (format!("agents.{name}"), agent.command.first()));
    let commands = config.commands.iter().map(|(name, command)| (format!("commands.{name}"), command.first()));
    let probe = config.health.command.iter().map(|probe| ("health.command".to_owned(), probe.command.first()));
    let programs = agents.chain(commands).chain(probe).filter_map(|(key, program)| Some((key, program?)));
    let programs = programs.filter(|(_, program)| which::which(program).is_err());
    let programs = programs.map(|(key, program)| format!("`{key}`: {program} is no program here"));
    let golden = config.validation.golden.iter().map(|path| ("validation.golden", path));
    let directories = golden.chain(config.blueprints.directory.iter().map(|path| ("blueprints.directory", path)));
    let directories = directories.filter(|(_, path)| !path.is_dir());
    programs.chain(directories.map(|(key, path)| format!("`{key}`: {} is no directory", path.display()))).collect()
}

/// An error with its cause, on one line.
fn told(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// What a failed program says: git's own word where it has one, else the last line.
fn said(output: &Output) -> String {
    let text = output.stderr_text();
    let fatal = text.lines().find_map(|line| line.strip_prefix("fatal: "));
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    fatal.or(last).unwrap_or("it says nothing").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (line, found) in [
            ("nix (Nix) 2.8.0", Some((2, 8))),
            ("nix (Nix) 2.34.8", Some((2, 34))),
            ("nix (Nix) 2.30pre20250101_abc", Some((2, 30))),
            ("nix (Determinate Nix 3.5.2) 2.28.3", Some((2, 28))),
            ("nix", None),
        ] {
            assert_eq!(version(line), found, "{line}");
        }
    }

    #[test]
    fn a_ref_is_found_as_git_would() {
        let refs = "aa\tHEAD\nbb\trefs/heads/main\ncc\trefs/tags/v1\ndd\trefs/tags/v1^{}\nee\trefs/heads/x/main\n";
        assert_eq!(find_ref(refs, "main"), Some("bb"));
        assert_eq!(find_ref(refs, "v1"), Some("dd"));
        assert_eq!(find_ref(refs, "ain"), None);
    }
}
