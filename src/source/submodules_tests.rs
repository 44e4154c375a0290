//! Submodules of real repositories, and what a hostile `.gitmodules` may not do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::Error;
use super::mirror::Mirror;
use super::parse::ObjectId;
use super::testing::Repository;
use super::workspace::{Author, Taken, Workspace};
use crate::interface::types::CandidateId;
use crate::time::Timestamp;

/// A directory with repositories beside each other, and a state directory among them.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        world.commit("inner", &[("deep", "inner 1")]);
        world.commit("library", &[("src/a", "library 1")]);
        world.add("library", "../inner", "nested");
        world.commit("app", &[("main", "app 1")]);
        world.add("app", "../library", "libs/library");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn git(&self, repository: &str, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "protocol.file.allow=always", "-c", "user.name=t", "-c", "user.email=t@t"])
            .args(args)
            .current_dir(self.path(repository))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")])
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits the files in a repository, which is made if it does not exist; returns the commit.
    fn commit(&self, repository: &str, files: &[(&str, &str)]) -> ObjectId {
        if !self.path(repository).exists() {
            std::fs::create_dir(self.path(repository)).unwrap();
            self.git(repository, &["init", "-q", "-b", "main"]);
        }
        for (file, text) in files {
            let file = self.path(repository).join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        self.git(repository, &["add", "-A"]);
        self.git(repository, &["commit", "-q", "--allow-empty", "-m", "x"]);
        ObjectId::parse(&self.git(repository, &["rev-parse", "HEAD"])).unwrap()
    }

    /// Adds a submodule; returns the commit.
    fn add(&self, repository: &str, url: &str, path: &str) -> ObjectId {
        self.git(repository, &["submodule", "--quiet", "add", url, path]);
        self.commit(repository, &[])
    }

    /// Sets the address of a submodule; returns the commit.
    fn readdress(&self, repository: &str, path: &str, url: &str) -> ObjectId {
        self.git(repository, &["config", "--file", ".gitmodules", &format!("submodule.{path}.url"), url]);
        self.commit(repository, &[])
    }

    /// Removes the copies of submodules that the source itself has, as in a clone without them.
    fn forget_modules(&self, repository: &str) {
        let _ = std::fs::remove_dir_all(self.path(repository).join(".git/modules"));
        let _ = std::fs::remove_file(self.path(repository).join("libs/library/.git"));
    }

    /// A mirror of the app with a state directory of this name.
    async fn mirror(&self, state: &str) -> Mirror {
        let mirror = Mirror::open(&self.path(state), self.path("app").to_str().unwrap(), "main").await.unwrap();
        mirror.with_submodules(true)
    }
}

fn read(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap()
}

#[tokio::test]
async fn submodules_and_their_submodules_are_exported_from_where_the_source_has_them_or_its_neighbours() {
    let world = World::new();
    for (state, forget) in [("own", false), ("beside", true)] {
        if forget {
            world.forget_modules("app");
        }
        let mirror = world.mirror(state).await;
        let commit = mirror.fetch().await.unwrap();
        let exported = mirror.export(&commit).await.unwrap();
        let dir = exported.dir();
        assert_eq!(read(&dir, "main"), "app 1");
        assert_eq!(read(&dir, "libs/library/src/a"), "library 1");
        assert_eq!(read(&dir, "libs/library/nested/deep"), "inner 1");
        assert!(exported.submodules().is_empty() && exported.gaps().is_empty());
        // The judge compares what is built: the same files.
        let listed: BTreeSet<_> = mirror.built_files(&commit).await.unwrap().into_iter().map(|it| it.path).collect();
        for path in ["main", "libs/library", "libs/library/src/a", "libs/library/nested/deep"] {
            assert!(listed.contains(Path::new(path)), "{path} in {listed:?}");
        }
        assert_eq!(mirror.files(&commit).await.unwrap().len(), 3, "the commit itself has no file of a submodule");
        exported.remove().await.unwrap();
    }
}

#[tokio::test]
async fn without_the_option_nothing_is_fetched() {
    let world = World::new();
    let mirror = world.mirror("state").await.with_submodules(false);
    let commit = mirror.fetch().await.unwrap();
    let exported = mirror.export(&commit).await.unwrap();
    assert_eq!(exported.submodules(), [PathBuf::from("libs/library")]);
    assert_eq!(std::fs::read_dir(exported.dir().join("libs/library")).unwrap().count(), 0);
    assert!(!mirror.submodules_dir().exists());
    exported.remove().await.unwrap();
}

#[tokio::test]
async fn a_hostile_address_is_never_used() {
    let world = World::new();
    world.forget_modules("app");
    // A repository in another directory, which the user of rei may read.
    let elsewhere = Repository::new();
    elsewhere.commit(&[("secret", "s")], "x");
    std::os::unix::fs::symlink(elsewhere.dir(), world.path("link")).unwrap();
    world.commit("state-of-rei", &[]);
    std::fs::create_dir(world.path("state-of-rei/work")).unwrap();
    let mirror = world.mirror("state-of-rei").await;
    let proof = world.path("ran");
    let run = format!("ext::touch {}", proof.display());
    for (url, why) in [
        (elsewhere.path(), "is not beside runtime.source"),
        ("../link", "is not beside runtime.source"),
        ("../../../etc", "is not beside runtime.source"),
        ("/nonexistent/x", "is not beside runtime.source"),
        ("../state-of-rei", "is in rei's state directory"),
        (run.as_str(), "would run a program"),
        ("file://etc", "invalid URL"),
        ("ftp://127.0.0.1/x", "git forbids"),
        ("library", "neither absolute nor"),
    ] {
        let commit = world.readdress("app", "libs/library", url);
        assert_eq!(mirror.fetch().await.unwrap(), commit);
        for error in [mirror.export(&commit).await.unwrap_err(), mirror.built_files(&commit).await.unwrap_err()] {
            let Error::UnfitSubmodule { path, why: said, .. } = &error else { panic!("{url}: {error}") };
            assert_eq!(path, Path::new("libs/library"));
            assert!(said.contains(why), "{url}: {said}");
            assert!(error.hint().is_some());
        }
    }
    assert!(!proof.exists());
    let mut submodules = Command::new("git");
    submodules.arg("--git-dir").arg(mirror.submodules_dir()).args(["for-each-ref"]);
    assert!(submodules.output().unwrap().stdout.is_empty(), "something was fetched");
    // A source on another machine has no neighbours here.
    let remote = Mirror::at(&world.path("other"), "https://127.0.0.1:1/app", "main").unwrap().with_submodules(true);
    let url = world.path("library").display().to_string();
    std::fs::rename(mirror.git_dir(), remote_git_dir(&remote)).unwrap();
    let commit = world.readdress("app", "libs/library", &url);
    let fetch = ["fetch", "-q", world.path("app").to_str().unwrap(), "main"].map(str::to_owned);
    let done = Command::new("git").arg("--git-dir").arg(remote.git_dir()).args(fetch).status().unwrap();
    assert!(done.success());
    let error = remote.export(&commit).await.unwrap_err();
    assert!(error.to_string().contains("runtime.source is on another machine"), "{error}");
}

fn remote_git_dir(mirror: &Mirror) -> PathBuf {
    std::fs::create_dir_all(mirror.git_dir().parent().unwrap()).unwrap();
    mirror.git_dir()
}

#[tokio::test]
async fn what_cannot_be_fetched_is_a_failure_of_the_machine_with_the_address() {
    let world = World::new();
    world.forget_modules("app");
    let mirror = world.mirror("state").await;
    // The commit of the submodule was not pushed; the repository is not there; the host does not answer.
    let lost = world.path("library/.git/objects");
    for (url, said) in [("../absent", "no such directory"), ("http://key@127.0.0.1:1/x", "…@127.0.0.1:1/x")] {
        let commit = world.readdress("app", "libs/library", url);
        mirror.fetch().await.unwrap();
        let error = mirror.export(&commit).await.unwrap_err();
        assert!(matches!(error, Error::SubmoduleUnreachable { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(said) && text.contains("libs/library") && !text.contains("key@"), "{text}");
    }
    let commit = world.readdress("app", "libs/library", "../library");
    mirror.fetch().await.unwrap();
    std::fs::rename(&lost, world.path("lost")).unwrap();
    std::fs::create_dir_all(&lost).unwrap();
    let error = mirror.export(&commit).await.unwrap_err();
    assert!(matches!(error, Error::SubmoduleUnreachable { .. }), "{error}");
    std::fs::remove_dir_all(&lost).unwrap();
    std::fs::rename(world.path("lost"), &lost).unwrap();
    mirror.export(&commit).await.unwrap().remove().await.unwrap();
}

#[tokio::test]
async fn an_agent_cannot_change_what_a_submodule_is_or_where_it_comes_from() {
    let world = World::new();
    let mirror = world.mirror("state").await;
    let base = mirror.fetch().await.unwrap();
    let workspace = Workspace::create(&mirror, &base, &world.path("w")).await.unwrap();
    // The source is gone: what the workspace's commit pins is here already.
    world.forget_modules("app");
    std::fs::rename(world.path("library"), world.path("moved")).unwrap();
    let hostile = "[submodule \"libs/library\"]\n\tpath = libs/library\n\turl = ext::false\n";
    std::fs::write(workspace.dir().join(".gitmodules"), hostile).unwrap();
    let secrets = crate::redact::Secrets::default();
    let author = || Author { parent: &base, message: "x", at: Timestamp::default(), secrets: &secrets };
    let id = CandidateId::numbered(1);
    let Taken::Commit(commit) = workspace.take(&mirror, &id, author()).await.unwrap() else { panic!("unchanged") };
    let exported = mirror.export(&commit).await.unwrap();
    assert_eq!(read(&exported.dir(), "libs/library/src/a"), "library 1");
    assert!(read(&exported.dir(), ".gitmodules").contains("ext::false"));
    exported.remove().await.unwrap();
    // Files in the submodule's directory could not be committed.
    std::fs::write(workspace.dir().join("libs/library/new"), "x").unwrap();
    let error = workspace.take(&mirror, &id, author()).await.unwrap_err();
    assert!(matches!(&error, Error::InSubmodule { path } if path == Path::new("libs/library")), "{error}");
}

#[tokio::test]
async fn submodules_are_bounded_in_number_and_depth() {
    let world = World::new();
    let library = world.git("library", &["rev-parse", "HEAD"]);
    let mut index = String::new();
    for number in 0..200 {
        index.push_str(&format!("160000 {library}\tmany/{number}\n"));
    }
    std::fs::write(world.path("index"), index).unwrap();
    let file = std::fs::File::open(world.path("index")).unwrap();
    let mut git = Command::new("git");
    git.args(["update-index", "--index-info"]).current_dir(world.path("app")).stdin(file);
    assert!(git.status().unwrap().success());
    world.git("app", &["commit", "-q", "-m", "many"]);
    let mirror = world.mirror("state").await;
    let commit = mirror.fetch().await.unwrap();
    let error = mirror.export(&commit).await.unwrap_err();
    assert!(error.to_string().ends_with("it has more than 128 submodules"), "{error}");
    // A chain of submodules.
    world.commit("level0", &[("x", "x")]);
    for level in 1..=10 {
        let (name, below) = (format!("level{level}"), format!("../level{}", level - 1));
        world.commit(&name, &[("x", "x")]);
        world.add(&name, &below, "below");
    }
    world.git("app", &["reset", "-q", "--hard", "HEAD^"]);
    world.add("app", "../level10", "deep");
    let commit = mirror.fetch().await.unwrap();
    let error = mirror.export(&commit).await.unwrap_err();
    assert!(error.to_string().ends_with("it has more than 8 submodules inside each other"), "{error}");
}

#[tokio::test]
async fn commits_of_submodules_are_kept_as_long_as_the_commits_that_pin_them() {
    let world = World::new();
    let mirror = world.mirror("state").await;
    let first = mirror.fetch().await.unwrap();
    mirror.export(&first).await.unwrap().remove().await.unwrap();
    let second = world.commit("app", &[("main", "app 2")]);
    mirror.fetch().await.unwrap();
    mirror.export(&second).await.unwrap().remove().await.unwrap();
    let pinned = || {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(mirror.submodules_dir()).args(["for-each-ref", "--format=%(refname)"]);
        String::from_utf8(git.output().unwrap().stdout).unwrap()
    };
    assert_eq!(pinned().matches(first.as_str()).count(), 2, "{}", pinned());
    mirror.keep_only(&[first.clone()].into(), |_| false).await.unwrap();
    assert_eq!(pinned().matches(first.as_str()).count(), 2, "a version that can serve again");
    mirror.keep_only(&BTreeSet::new(), |_| false).await.unwrap();
    assert_eq!((pinned().contains(first.as_str()), pinned().matches(second.as_str()).count()), (false, 2));
    assert!(mirror.tidy().await.unwrap());
    mirror.export(&second).await.unwrap().remove().await.unwrap();
}
