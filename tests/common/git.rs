//! Real git, without the user's configuration.

use std::path::Path;
use std::process::Command;

/// Runs git in a repository; it must succeed. Returns its output.
pub fn git(repository: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(repository)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", repository)
        .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
        .envs([("GIT_AUTHOR_NAME", "test"), ("GIT_AUTHOR_EMAIL", "test@example.org")])
        .envs([("GIT_COMMITTER_NAME", "test"), ("GIT_COMMITTER_EMAIL", "test@example.org")])
        .args(args)
        .output()
        .expect("git is needed");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Makes an empty repository with the branch that rei follows by default.
pub fn init(repository: &Path) {
    std::fs::create_dir_all(repository).unwrap();
    git(repository, &["init", "--quiet", "--initial-branch=main"]);
    // The tree contains the program of the service: compressing it would take longer than copying it.
    git(repository, &["config", "core.compression", "0"]);
}

/// Commits the whole tree, even if it is unchanged; returns the commit.
pub fn commit(repository: &Path, message: &str) -> String {
    git(repository, &["add", "--all"]);
    git(repository, &["commit", "--quiet", "--allow-empty", "--message", message]);
    git(repository, &["rev-parse", "HEAD"]).trim().to_owned()
}
