//! Builds and starts every git command of rei.
//!
//! These commands do not read the configuration of the machine or the user, and do not execute programs that a
//! repository's own configuration names: no hooks, no file-system monitor, no external diff, filter, pager, editor or
//! credential helper. git never asks for a password: a command that needs one fails.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use super::error::{Error, GIT_VERSION_MIN};
use super::parse::{ObjectId, parse_object_id, parse_version, reason_lines};
use crate::command::{self, Command, Output};

/// Timeout of a command that reads or writes a repository on this machine: a large repository takes seconds.
pub(super) const LOCAL_TIMEOUT: Duration = Duration::from_secs(120);
/// Timeout of a request to the followed repository, which may be far away.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a transfer from the followed repository: the first one transfers its whole history.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(600);

/// The time between SIGTERM and SIGKILL, in which git removes its lock files.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Configuration that overrides all files: disables every setting that could execute a program or change bytes.
const CONFIG: [&str; 24] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.autocrlf=false",
    "core.quotePath=false",
    "core.logAllRefUpdates=false",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "core.fsync=committed", // a commit that the journal names is on disk
    "core.fsyncMethod=batch",
    "core.filesRefLockTimeout=2000", // ms; a git that holds a lock needs only some of them
    "core.packedRefsTimeout=2000",
    "credential.helper=",
    "credential.interactive=false",
    "gc.auto=0", // rei alone decides when git collects garbage
    "maintenance.auto=false",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "commit.gpgSign=false",
    "diff.renames=false",
    "log.showSignature=false",
    "apply.whitespace=nowarn",
];

/// Variables of rei's environment that git may need for a repository on another host: keys, certificates and proxies.
const NETWORK_VARIABLES: [&str; 12] = [
    "HOME",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// The repository, files and settings of a git command.
#[derive(Clone, Debug)]
pub(super) struct Git {
    config_file: PathBuf,
    git_dir: PathBuf,
    work_tree: Option<PathBuf>,
    index: Option<PathBuf>,
    network: bool,
    env: Vec<(&'static str, OsString)>,
}

impl Git {
    /// Works on the repository `git_dir`; `config_file` holds the few settings that must reach git's own children.
    pub fn at(git_dir: impl Into<PathBuf>, config_file: impl Into<PathBuf>) -> Self {
        Self {
            config_file: config_file.into(),
            git_dir: git_dir.into(),
            work_tree: None,
            index: None,
            network: false,
            env: Vec::new(),
        }
    }

    /// Sets the work tree, even if its own `.git` names another repository.
    pub fn work_tree(mut self, dir: impl Into<PathBuf>) -> Self {
        self.work_tree = Some(dir.into());
        self
    }

    /// Sets the index file.
    pub fn index(mut self, file: impl Into<PathBuf>) -> Self {
        self.index = Some(file.into());
        self
    }

    /// Passes the operator's variables that git needs to reach other hosts.
    pub fn network(mut self) -> Self {
        self.network = true;
        self
    }

    /// Sets one environment variable.
    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// The command with these arguments.
    pub fn command<S: AsRef<OsStr>>(&self, timeout: Duration, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("git", timeout)
            // git removes its lock files after SIGTERM, but not after SIGKILL.
            .terminate_first(GRACE)
            .ends_with_rei()
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .env("HOME", "/nonexistent")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", &self.config_file)
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh")
            .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=10")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_DIR", &self.git_dir);
        if self.network {
            for name in NETWORK_VARIABLES {
                if let Some(value) = std::env::var_os(name) {
                    command = command.env(name, value);
                }
            }
        }
        if let Some(dir) = &self.work_tree {
            command = command.env("GIT_WORK_TREE", dir).dir(dir);
        }
        if let Some(file) = &self.index {
            command = command.env("GIT_INDEX_FILE", file);
        }
        for (name, value) in &self.env {
            command = command.env(name, value);
        }
        for setting in CONFIG {
            command = command.args(["-c", setting]);
        }
        command.args(args)
    }

    /// Runs git on a repository of this machine. An exit code other than 0 is an error.
    pub async fn run<S: AsRef<OsStr>>(
        &self,
        doing: &'static str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Vec<u8>, Error> {
        let output = self.try_run(doing, LOCAL_TIMEOUT, args).await?;
        if output.truncated {
            return Err(Error::Answer { doing, answer: "more than rei keeps".into() });
        }
        if !output.success() {
            return Err(Error::Git { doing, said: reason_lines(&output.stderr_text()) });
        }
        Ok(output.stdout)
    }

    /// Runs git. The caller checks the exit code.
    pub async fn try_run<S: AsRef<OsStr>>(
        &self,
        doing: &'static str,
        timeout: Duration,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Output, Error> {
        self.command(timeout, args).run().await.map_err(|source| Error::Run { doing, source })
    }

    /// Runs a short git command that writes refs. It runs to its end even if the caller is cancelled or rei exits: a
    /// git that is ended just after it has created a lock file does not remove it (seen once in 600 times).
    pub async fn finish(&self, doing: &'static str, args: &[&str]) -> Result<Output, Error> {
        let command = self.command(LOCAL_TIMEOUT, args).outlives_rei();
        let run = tokio::spawn(async move { command.run().await });
        let lost = |lost| command::Error::Lost { program: "git".into(), source: std::io::Error::other(lost) };
        run.await.unwrap_or_else(|error| Err(lost(error))).map_err(|source| Error::Run { doing, source })
    }

    /// Runs git and reads the one object name that it prints.
    pub async fn object<S: AsRef<OsStr>>(
        &self,
        doing: &'static str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<ObjectId, Error> {
        let stdout = self.run(doing, args).await?;
        parse_object_id(&stdout).ok_or_else(|| answer(doing, &stdout))
    }
}

/// The error for an answer of git that rei cannot parse.
pub(super) fn answer(doing: &'static str, stdout: &[u8]) -> Error {
    const ANSWER_CHARS_MAX: usize = 200; // enough to recognise it
    Error::Answer { doing, answer: String::from_utf8_lossy(stdout).chars().take(ANSWER_CHARS_MAX).collect() }
}

/// Checks the version of the installed git.
///
/// # Errors
/// If git is missing or too old.
pub async fn git_version() -> Result<String, Error> {
    let doing = "ask git for its version";
    let command = Command::new("git", LOCAL_TIMEOUT).arg("version");
    let output = command.run().await.map_err(|source| Error::Run { doing, source })?;
    let version = parse_version(&output.stdout).ok_or_else(|| answer(doing, &output.stdout))?;
    if version < GIT_VERSION_MIN {
        return Err(Error::TooOld { found: format!("{}.{}", version.0, version.1) });
    }
    Ok(output.stdout_text().trim().to_owned())
}

/// The text of the configuration file. It has the only setting that git's child processes need.
pub(super) fn config_text(trusted: &[PathBuf]) -> String {
    let mut text = String::from("[safe]\n");
    for path in trusted {
        let quoted = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
        text.push_str(&format!("\tdirectory = \"{quoted}\"\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_carries_the_guards() {
        let argv = Git::at("/m", "/c").command(LOCAL_TIMEOUT, ["fetch"]).argv();
        assert_eq!(argv.first().map(String::as_str), Some("git"));
        assert_eq!(argv.last().map(String::as_str), Some("fetch"));
        for guard in ["core.hooksPath=/dev/null", "core.fsmonitor=false", "credential.helper=", "gc.auto=0"] {
            let at = argv.iter().position(|word| word == guard).unwrap();
            assert_eq!(argv[at - 1], "-c");
        }
    }

    #[test]
    fn odd_paths_are_quoted_in_the_configuration() {
        assert_eq!(config_text(&["/a \"b\\c".into()]), "[safe]\n\tdirectory = \"/a \\\"b\\\\c\"\n");
    }
}
