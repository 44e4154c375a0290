//! The demo's git repositories: the one that rei follows, and a developer's clone (the desk), which pushes to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Error;
use crate::command::Command;

/// The time limit of one git command: the repositories are tiny.
const GIT_TIMEOUT: Duration = Duration::from_secs(30);
/// The branch that rei follows.
pub const BRANCH: &str = "main";

/// The files of the greeter's first version. `@path@` and `@hash@` stand for the interpreter's store path and hash.
const FILES: [(&str, &str); 6] = [
    ("flake.nix", include_str!("tree/flake.nix")),
    ("flake.lock", include_str!("tree/flake.lock")),
    ("bin/greeter", include_str!("tree/bin/greeter")),
    ("tests/greet.rhai", include_str!("tree/tests/greet.rhai")),
    ("tests/pages.rhai", include_str!("tree/tests/pages.rhai")),
    ("tests/farewell.rhai", include_str!("tree/tests/farewell.rhai")),
];
/// The files among them that only the second commit adds.
const ADDED_LATER: [&str; 1] = ["tests/farewell.rhai"];

/// A commit that names the most frequent guest in every answer. The more guests there were, the longer an answer takes.
pub const FAVOURITE: &str = include_str!("tree/commits/favourite.patch");
/// A commit that shortens farewells, and deletes the test that then fails.
pub const SHORTER: &str = include_str!("tree/commits/shorter.patch");

/// Both repositories.
#[derive(Clone, Debug)]
pub struct Repository {
    home: PathBuf,
}

impl Repository {
    /// Makes the repositories in `home` and writes the greeter's first two commits; `interpreter` is its store path and
    /// NAR hash.
    ///
    /// # Errors
    /// If git or the disk fails.
    pub async fn create(home: &Path, interpreter: (&Path, &str)) -> Result<Self, Error> {
        let repository = Self { home: home.to_owned() };
        let (path, hash) = interpreter;
        git(home, &["init", "--quiet", "--bare", "--initial-branch", BRANCH, "greeter.git"]).await?;
        git(home, &["init", "--quiet", "--initial-branch", BRANCH, "desk"]).await?;
        repository.git(&["remote", "add", "origin", "../greeter.git"]).await?;
        for (later, message) in [(false, "A greeter, and what it must do"), (true, "Test that farewells are polite")] {
            for (name, text) in FILES.iter().filter(|(name, _)| ADDED_LATER.contains(name) == later) {
                let text = text.replace("@path@", &path.display().to_string()).replace("@hash@", hash);
                repository.write(name, &text)?;
            }
            repository.commit(message).await?;
        }
        repository.push().await?;
        Ok(repository)
    }

    /// The repository that rei follows.
    pub fn origin(&self) -> PathBuf {
        self.home.join("greeter.git")
    }

    fn desk(&self) -> PathBuf {
        self.home.join("desk")
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.desk().join(name);
        let parent = path.parent().unwrap_or(&path).to_owned();
        let write = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, text));
        write.map_err(|source| Error::File { act: "write", path, source })
    }

    /// Moves the desk's branch to a commit of another repository.
    ///
    /// # Errors
    /// If git fails, or the branch is not an ancestor of the commit.
    pub async fn take_over(&self, from: &Path, commit: &str) -> Result<(), Error> {
        // rei keeps the commit under a candidate's ref, and after the end of its evolution under a version's ref.
        self.git(&["fetch", "--quiet", &from.display().to_string(), "refs/rei/*:refs/taken/*"]).await?;
        self.git(&["merge", "--quiet", "--ff-only", commit]).await.map(drop)
    }

    /// Reverts the newest commit with another commit.
    ///
    /// # Errors
    /// If git fails.
    pub async fn revert(&self) -> Result<(), Error> {
        self.git(&["revert", "--no-edit", "HEAD"]).await.map(drop)
    }

    /// Applies a patch and commits it.
    ///
    /// # Errors
    /// If git fails.
    pub async fn change(&self, patch: &str, message: &str) -> Result<String, Error> {
        let path = self.home.join("change.patch");
        std::fs::write(&path, patch).map_err(|source| Error::File { act: "write", path: path.clone(), source })?;
        self.git(&["apply", "--index", "--whitespace=nowarn", &path.display().to_string()]).await?;
        self.commit(message).await
    }

    async fn commit(&self, message: &str) -> Result<String, Error> {
        self.git(&["add", "--all"]).await?;
        self.git(&["commit", "--quiet", "--message", message]).await?;
        Ok(self.git(&["rev-parse", "HEAD"]).await?.trim().to_owned())
    }

    /// Pushes the desk's branch to the repository that rei follows.
    ///
    /// # Errors
    /// If git fails.
    pub async fn push(&self) -> Result<(), Error> {
        self.git(&["push", "--quiet", "origin", BRANCH]).await.map(drop)
    }

    async fn git(&self, args: &[&str]) -> Result<String, Error> {
        git(&self.desk(), args).await
    }
}

/// The lines that a commit adds and removes, without headers.
///
/// # Errors
/// If git fails.
pub async fn changed_lines(repository: &Path, commit: &str) -> Result<Vec<String>, Error> {
    let shown = git(repository, &["show", "--format=", "--unified=0", "--no-color", commit]).await?;
    let change = |line: &&str| {
        (line.starts_with('+') && !line.starts_with("+++")) || (line.starts_with('-') && !line.starts_with("---"))
    };
    Ok(shown.lines().filter(change).map(str::to_owned).collect())
}

/// Runs git without the configuration of the user or the system.
async fn git(dir: &Path, args: &[&str]) -> Result<String, Error> {
    let command = Command::new("git", GIT_TIMEOUT).env_clear().dir(dir);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut command = command.env("PATH", path).env("HOME", dir).env("LC_ALL", "C.UTF-8");
    for (name, value) in [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_AUTHOR_NAME", "A developer"),
        ("GIT_AUTHOR_EMAIL", "developer@example.org"),
        ("GIT_COMMITTER_NAME", "A developer"),
        ("GIT_COMMITTER_EMAIL", "developer@example.org"),
    ] {
        command = command.env(name, value);
    }
    let output = command.args(args).run().await.map_err(|source| Error::Command { source })?;
    if !output.success() {
        let output = output.stderr_text().trim().to_owned();
        return Err(Error::ProgramFailed { what: format!("git {} failed", args.join(" ")), output });
    }
    Ok(output.stdout_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the repositories; prints SKIPPED and returns `None` if there is no git.
    async fn repository(home: &Path) -> Option<Repository> {
        match Repository::create(home, (Path::new("/nix/store/x-runtime"), "sha256-x")).await {
            Err(Error::Command { source }) => {
                eprintln!("SKIPPED: {source}");
                None
            }
            made => Some(made.unwrap()),
        }
    }

    #[tokio::test]
    async fn the_commits_of_the_story_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let Some(repository) = repository(dir.path()).await else { return };
        let lock = std::fs::read_to_string(repository.desk().join("flake.lock")).unwrap();
        assert!(lock.contains("/nix/store/x-runtime") && !lock.contains('@'), "{lock}");

        let slow = repository.change(FAVOURITE, "Name the favourite guest").await.unwrap();
        repository.revert().await.unwrap();
        let cheat = repository.change(SHORTER, "Shorter farewells").await.unwrap();
        repository.push().await.unwrap();
        let log = git(&repository.origin(), &["log", "--format=%s", BRANCH]).await.unwrap();
        assert_eq!(log.lines().count(), 5, "{log}");
        assert!(changed_lines(&repository.desk(), &slow).await.unwrap().iter().any(|line| line.contains("favourite")));
        assert!(!repository.desk().join("tests/farewell.rhai").exists());
        assert_ne!(slow, cheat);
    }

    #[test]
    fn the_changes_do_what_the_story_says() {
        use super::super::script::{Request, Script, test_script};
        let dir = tempfile::tempdir().unwrap();
        for patch in [FAVOURITE, SHORTER] {
            std::fs::create_dir_all(dir.path().join("bin")).unwrap();
            std::fs::create_dir_all(dir.path().join("tests")).unwrap();
            for (name, text) in FILES.iter().filter(|(name, _)| name.contains('/')) {
                std::fs::write(dir.path().join(name), text).unwrap();
            }
            std::fs::write(dir.path().join("change.patch"), patch).unwrap();
            let mut apply = std::process::Command::new("git");
            let applied = apply.args(["apply", "change.patch"]).current_dir(dir.path()).status();
            let Ok(status) = applied else { return eprintln!("SKIPPED: no git") };
            assert!(status.success());
            let greeter = std::fs::read_to_string(dir.path().join("bin/greeter")).unwrap();
            let passes = |test: &str| {
                let script = test_script(("bin/greeter", &greeter), ("t", test)).unwrap();
                script.functions("test_").iter().all(|name| script.run(name).is_ok())
            };
            let tests = FILES.iter().filter(|(name, _)| name.starts_with("tests/"));
            let failing: Vec<&str> = tests.filter(|(_, text)| !passes(text)).map(|(name, _)| *name).collect();
            if patch == FAVOURITE {
                assert_eq!(failing, [""; 0], "it passes every test");
                let script = Script::parse("x", &greeter).unwrap();
                let answers = (0..201).map(|n| script.handle(&Request::new("GET", &format!("/greet?name={n}"))));
                let named = answers.filter(|answer| answer.as_ref().unwrap().headers.contains_key("x-favourite"));
                assert_eq!(named.count(), 2, "answers name a guest from the 200th guest on");
            } else {
                assert_eq!(failing, ["tests/farewell.rhai"], "it fails the test that it deletes");
                assert!(!dir.path().join("tests/farewell.rhai").exists());
            }
        }
    }

    #[tokio::test]
    async fn a_repair_is_taken_over_before_and_after_its_evolution_has_ended() {
        for kept_as in ["refs/rei/candidates/cand_0001", "refs/rei/versions/x"] {
            let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let repository =
                Repository::create(homes[0].path(), (Path::new("/interpreter"), "sha256-x")).await.unwrap();
            let mirror = homes[1].path().join("mirror");
            let origin = repository.origin().display().to_string();
            git(homes[1].path(), &["clone", "--quiet", "--bare", &origin, "mirror"]).await.unwrap();
            git(homes[1].path(), &["clone", "--quiet", &origin, "agent"]).await.unwrap();
            let agent = homes[1].path().join("agent");
            git(&agent, &["commit", "--quiet", "--allow-empty", "--message", "Repair"]).await.unwrap();
            let commit = git(&agent, &["rev-parse", "HEAD"]).await.unwrap().trim().to_owned();
            git(&agent, &["push", "--quiet", "../mirror", &format!("HEAD:{kept_as}")]).await.unwrap();
            repository.take_over(&mirror, &commit).await.unwrap_or_else(|error| panic!("{kept_as}: {error}"));
            assert_eq!(repository.git(&["rev-parse", "HEAD"]).await.unwrap().trim(), commit);
        }
    }
}
