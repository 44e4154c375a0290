//! Workspaces on real repositories, and what a hostile agent leaves in them.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::testing::Repository;
use super::*;
use crate::interface::types::CandidateId;
use crate::time::Timestamp;

struct World {
    repository: Repository,
    _state: tempfile::TempDir,
    mirror: Mirror,
    base: ObjectId,
    workspace: Workspace,
}

const ID: u64 = 7;

impl World {
    async fn new(files: &[(&str, &str)]) -> Self {
        let repository = Repository::new();
        repository.commit(files, "base with a history\n\nFix is 0xC0FFEE");
        Self::of(repository).await
    }

    async fn of(repository: Repository) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(state.path(), repository.path(), "main").await.unwrap();
        let base = mirror.fetch().await.unwrap();
        let workspace = Workspace::create(&mirror, &base, &state.path().join("w")).await.unwrap();
        Self { repository, _state: state, mirror, base, workspace }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.workspace.dir().join(name)
    }

    async fn take(&self) -> Result<Taken, Error> {
        let author = Author {
            parent: &self.base,
            message: "repair",
            at: Timestamp::from_unix_ms(1_700_000_000_000),
            secrets: &crate::redact::Secrets::default(),
        };
        self.workspace.take(&self.mirror, &CandidateId::numbered(ID), author).await
    }

    async fn taken(&self) -> ObjectId {
        match self.take().await.unwrap() {
            Taken::Commit(commit) => commit,
            Taken::Unchanged => panic!("nothing was taken"),
        }
    }

    async fn changed(&self) -> Vec<String> {
        let commit = self.taken().await;
        let paths = self.mirror.changed(&self.base, &commit).await.unwrap();
        paths.iter().map(|path| path.display().to_string()).collect()
    }

    /// Runs git as the agent does, with the configuration in the workspace's `.git`.
    fn agent_git(&self, args: &[&str]) -> std::process::Output {
        Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@a"])
            .args(args)
            .current_dir(self.workspace.dir())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap()
    }
}

#[tokio::test]
async fn a_workspace_has_one_commit_and_nothing_of_the_future() {
    let repository = Repository::new();
    repository.commit(&[("a", "1")], "one");
    repository.commit(&[("a", "2")], "two");
    let world = World::of(repository).await;
    let future = world.repository.commit(&[("a", "the fix")], "the fix");
    world.mirror.fetch().await.unwrap();
    let git = |args: &[&str]| String::from_utf8(world.agent_git(args).stdout).unwrap();
    assert_eq!(git(&["rev-list", "--all", "--count"]).trim(), "1");
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(git(&["remote"]), "");
    assert_eq!(git(&["reflog", "--all"]), "");
    assert_eq!(git(&["log", "--format=%s"]).trim(), "base", "the message of the base is not told");
    let objects = git(&["cat-file", "--batch-all-objects", "--batch-check=%(objecttype)"]);
    assert_eq!(objects.lines().count(), 3, "one commit, one tree, one blob: {objects}");
    assert!(!world.agent_git(&["cat-file", "-e", &future]).status.success());
    assert!(!world.path(".git/objects/info/alternates").exists());
    assert!(!world.path(".git/FETCH_HEAD").exists());
    let config = std::fs::read_to_string(world.path(".git/config")).unwrap();
    assert!(!config.contains("remote") && !config.contains("mirror"), "{config}");
}

#[tokio::test]
async fn changes_come_back_as_a_child_of_the_true_base() {
    let world = World::new(&[("a", "1"), ("gone", "x"), (".gitignore", "target\n"), ("run.sh", "")]).await;
    assert_eq!(world.take().await.unwrap(), Taken::Unchanged);
    std::fs::write(world.path("a"), "2").unwrap();
    std::fs::remove_file(world.path("gone")).unwrap();
    std::fs::create_dir_all(world.path("target/deep")).unwrap();
    std::fs::write(world.path("target/deep/built"), "ignored").unwrap();
    std::fs::create_dir(world.path("new")).unwrap();
    std::fs::write(world.path("new/ file\n"), "odd name").unwrap();
    std::fs::set_permissions(world.path("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    // The agent's own commit changes nothing.
    world.agent_git(&["add", "-A"]);
    world.agent_git(&["commit", "-qm", "mine"]);
    assert_eq!(world.changed().await, ["a", "gone", "new/ file\n", "run.sh"]);
    let commit = world.taken().await;
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("--git-dir").arg(world.mirror.git_dir()).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let said = git(&["log", "-1", "--format=%P %an <%ae> %at %cn %ct %s", commit.as_str()]);
    assert_eq!(said.trim(), format!("{} rei <rei@localhost> 1700000000 rei 1700000000 repair", world.base));
    assert_eq!(world.mirror.candidate(&CandidateId::numbered(ID)).await.unwrap(), Some(commit.clone()));
    assert_eq!(world.taken().await, commit, "equal files, equal commit");
}

#[tokio::test]
async fn the_agents_git_directory_has_no_effect() {
    let world = World::new(&[("a", "1"), (".gitattributes", "*.txt text filter=evil\n"), ("b.txt", "x\r\n")]).await;
    let proof = tempfile::tempdir().unwrap();
    let run = format!("touch {}/ran; cat", proof.path().display());
    for (name, value) in [
        ("filter.evil.clean", run.as_str()),
        ("filter.evil.smudge", &run),
        ("core.fsmonitor", &run),
        ("core.worktree", "/etc"),
        ("core.excludesFile", "/dev/stdin"),
    ] {
        world.agent_git(&["config", name, value]);
    }
    let hooks = world.path(".git/hooks");
    std::fs::create_dir_all(&hooks).unwrap();
    for hook in ["pre-commit", "post-index-change", "reference-transaction", "post-checkout"] {
        std::fs::write(hooks.join(hook), format!("#!/bin/sh\n{run}\n")).unwrap();
        std::fs::set_permissions(hooks.join(hook), PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::write(world.path(".git/info/exclude"), "*\n").unwrap();
    std::fs::remove_file(world.path(".git/index")).unwrap();
    std::fs::write(world.path("b.txt"), "y\r\n").unwrap();
    std::fs::write(world.path("c.txt"), "z").unwrap();
    assert_eq!(world.changed().await, ["b.txt", "c.txt"]);
    assert!(!proof.path().join("ran").exists(), "something of the agent's was run");
    // The bytes are committed unchanged, with their line ends.
    let files = world.mirror.files(&world.taken().await).await.unwrap();
    let blob = files.iter().find(|file| file.path == Path::new("b.txt")).unwrap().blob.clone();
    std::fs::write(world.repository.dir().join("same"), "y\r\n").unwrap();
    assert_eq!(world.repository.git(&["hash-object", "--no-filters", "same"]), blob.as_str());
    // The files are taken even if `.git` is missing or replaced.
    std::fs::remove_dir_all(world.path(".git")).unwrap();
    std::fs::write(world.path(".git"), format!("gitdir: {}/.git\n", world.repository.path())).unwrap();
    assert_eq!(world.changed().await, ["b.txt", "c.txt"]);
}

#[tokio::test]
async fn links_out_of_the_tree_are_refused_and_never_followed() {
    let repository = Repository::new();
    symlink("/etc/hostname", repository.dir().join("old")).unwrap();
    repository.commit(&[("d/f", "1"), ("a", "1")], "base");
    let world = World::of(repository).await;
    // A link that Active has already may stay, and a new link inside the tree is allowed.
    symlink("../a", world.path("d/in")).unwrap();
    assert_eq!(world.changed().await, ["d/in"]);
    symlink("/etc/passwd", world.path("out")).unwrap();
    assert!(matches!(world.take().await, Err(Error::LinkOut { .. })));
    std::fs::remove_file(world.path("out")).unwrap();
    // A directory became a link: the files behind it are not taken, and the files of the directory are removed.
    std::fs::remove_dir_all(world.path("d")).unwrap();
    symlink("/etc", world.path("d")).unwrap();
    let error = world.take().await.unwrap_err();
    assert!(matches!(&error, Error::LinkOut { path, .. } if path == Path::new("d")), "{error}");
    std::fs::remove_file(world.path("d")).unwrap();
    assert_eq!(world.changed().await, ["d/f"]);
}

#[tokio::test]
async fn nested_repositories_and_changed_submodules_are_refused() {
    let repository = Repository::new();
    let inner = repository.commit(&[("a", "1")], "one");
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{inner},sub")]);
    repository.git(&["commit", "-qm", "a submodule"]);
    let world = World::of(repository).await;
    assert_eq!(world.take().await.unwrap(), Taken::Unchanged, "an empty submodule stays as it is");
    // A populated submodule must not change the commit of the submodule.
    let nest = |name: &str| {
        let dir = world.path(name);
        std::fs::create_dir_all(&dir).unwrap();
        for args in [
            &["init", "-q"][..],
            &["-c", "user.name=a", "-c", "user.email=a@a", "commit", "-q", "--allow-empty", "-m", "x"],
        ] {
            let status = Command::new("git").args(args).current_dir(&dir).status().unwrap();
            assert!(status.success());
        }
    };
    nest("sub");
    let error = world.take().await.unwrap_err();
    assert!(matches!(&error, Error::InSubmodule { path } if path == Path::new("sub")), "{error:?}");
    std::fs::remove_dir_all(world.path("sub/.git")).unwrap();
    nest("other");
    assert!(matches!(world.take().await, Err(Error::Nested { .. })));
}

#[tokio::test]
async fn patches_fit_or_change_nothing() {
    let world = World::new(&[("a", "1\n"), ("b", "1\n")]).await;
    std::fs::write(world.path("a"), "2\n").unwrap();
    let commit = world.taken().await;
    let patch = world.mirror.patch(&world.base, &commit, 1 << 20).await.unwrap();
    std::fs::write(world.path("a"), "1\n").unwrap();
    let file = world.mirror.git_dir().with_extension("patch");
    let apply = |text: Vec<u8>| {
        std::fs::write(&file, text).unwrap();
        world.workspace.apply(&world.mirror, &file)
    };
    assert_eq!(apply(patch.clone()).await.unwrap(), Applied::Now);
    assert_eq!(apply(patch).await.unwrap(), Applied::Before);
    assert_eq!(world.taken().await, commit);
    symlink("/etc", world.path("etc")).unwrap();
    let new = |path: &str| {
        format!("diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n")
    };
    for path in ["../outside", ".git/hooks/pre-commit", "etc/rei-was-here", "sub/.git/config", "/tmp/rei-was-here"] {
        let applied = apply(new(path).into_bytes()).await.unwrap();
        let ok = matches!(applied, Applied::Refused(_)) || world.path(path.trim_start_matches('/')).exists();
        assert!(ok, "{path}: {applied:?}");
    }
    assert!(!Path::new("/etc/rei-was-here").exists() && !Path::new("/tmp/rei-was-here").exists());
    assert!(!world.path(".git/hooks/pre-commit").exists() && !world.path("../outside").exists());
    assert!(matches!(apply(b"garbage".to_vec()).await.unwrap(), Applied::Refused(_)));
}

#[tokio::test]
async fn a_workspace_is_updated_after_a_restart() {
    let world = World::new(&[("a", "1"), ("gone", "x"), ("kept", "k")]).await;
    std::fs::write(world.path("a"), "2").unwrap();
    std::fs::remove_file(world.path("gone")).unwrap();
    std::fs::create_dir(world.path("new")).unwrap();
    std::fs::write(world.path("new/file"), "n").unwrap();
    let commit = world.taken().await;
    let again = world.workspace.dir().with_file_name("again");
    let workspace = Workspace::create(&world.mirror, &world.base, &again).await.unwrap();
    workspace.advance(&world.mirror, &commit).await.unwrap();
    assert_eq!(std::fs::read_to_string(again.join("new/file")).unwrap(), "n");
    assert!(!again.join("gone").exists());
    let author = Author {
        parent: &world.base,
        message: "repair",
        at: Timestamp::from_unix_ms(1_700_000_000_000),
        secrets: &crate::redact::Secrets::default(),
    };
    let taken = workspace.take(&world.mirror, &CandidateId::numbered(8), author).await.unwrap();
    assert_eq!(taken, Taken::Commit(commit));
    assert!(matches!(Workspace::create(&world.mirror, &world.base, &again).await, Err(Error::NotEmpty { .. })));
    workspace.remove().await.unwrap();
    assert!(!again.exists());
}
