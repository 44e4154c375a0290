//! Tests with trees that git itself would not create, with submodules, and of packing.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::error::Error;
use super::mirror::Mirror;
use super::parse::ObjectId;
use super::testing::Repository;
use crate::interface::types::CandidateId;

/// Writes a tree with these modes, names and objects, without git's checks.
fn raw_tree(repository: &Repository, entries: &[(&str, &[u8], &str)]) -> String {
    let mut raw = Vec::new();
    for (mode, name, object) in entries {
        raw.extend([mode.as_bytes(), b" ", name, b"\0"].concat());
        let byte = |n: usize| u8::from_str_radix(&object[n..n + 2], 16).unwrap();
        raw.extend((0..object.len()).step_by(2).map(byte));
    }
    let mut git = Command::new("git")
        .args(["hash-object", "-t", "tree", "--literally", "-w", "--stdin"])
        .current_dir(repository.dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    git.stdin.take().unwrap().write_all(&raw).unwrap();
    let output = git.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The tree as the followed commit of a mirror.
async fn mirrored(repository: &Repository, tree: &str) -> (Mirror, ObjectId, tempfile::TempDir) {
    let commit = repository.git(&["commit-tree", tree, "-m", "x"]);
    repository.git(&["update-ref", "refs/heads/main", &commit]);
    let state = tempfile::tempdir().unwrap();
    let mirror = Mirror::open(state.path(), repository.path(), "main").await.unwrap();
    let commit = mirror.fetch().await.unwrap();
    (mirror, commit, state)
}

#[tokio::test]
async fn a_tree_that_would_write_outside_its_directory_is_refused() {
    let repository = Repository::new();
    repository.commit(&[("file", "text"), ("target", "/etc")], "first");
    let (text, link) = (repository.git(&["rev-parse", "HEAD:file"]), repository.git(&["rev-parse", "HEAD:target"]));
    let (text, link) = (text.as_str(), link.as_str());
    let below = raw_tree(&repository, &[("100644", b"passwd", text)]);
    let long = [b'x'; 300];
    for (entries, why) in [
        (vec![("40000", &b".."[..], &*below)], "leads out of the tree"),
        (vec![("40000", b".", &*below)], "leads out of the tree"),
        (vec![("40000", b".git", &*below)], "is in a .git directory"),
        (vec![("40000", b".GiT", &*below)], "is in a .git directory"),
        (vec![("100644", b"../escaped", text)], "leads out of the tree"),
        (vec![("100644", b"/etc/escaped", text)], "has an empty name in its path"),
        (vec![("120000", b"a", link), ("40000", b"a", &*below)], "is a file and also a directory"),
        (vec![("100644", b"a", text), ("100644", b"a", text)], "is in the tree twice"),
        (vec![("100644", &long[..], text)], "has a name in its path that is longer than a file name may be"),
    ] {
        let tree = raw_tree(&repository, &entries);
        let (mirror, commit, state) = mirrored(&repository, &tree).await;
        let error = mirror.export(&commit).await.unwrap_err();
        assert!(matches!(error, Error::UnfitTree { why: said, .. } if said == why), "{why}: {error}");
        assert!(error.to_string().starts_with(&format!("commit {} cannot be built: ", &commit.as_str()[..12])));
        assert!(error.hint().is_some());
        let left: Vec<_> = std::fs::read_dir(state.path().join("source/scratch")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let (nowhere, empty) = (format!("{}\0", "x"), String::new());
    for target in [&nowhere, &empty, &"x".repeat(5000)] {
        let link = repository.commit(&[("target", target)], "a link's target");
        let blob = repository.git(&["rev-parse", &format!("{link}:target")]);
        let tree = raw_tree(&repository, &[("120000", b"link", &blob)]);
        let (mirror, commit, _state) = mirrored(&repository, &tree).await;
        let error = mirror.export(&commit).await.unwrap_err();
        assert!(matches!(error, Error::UnfitTree { why: "is a symbolic link with an invalid target", .. }), "{error}");
    }
}

#[tokio::test]
async fn a_submodule_is_an_empty_directory_and_listed() {
    let repository = Repository::new();
    let first = repository.commit(&[("dir/file", "text")], "first");
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{first},dir/sub")]);
    let tree = repository.git(&["write-tree"]);
    let (mirror, commit, _state) = mirrored(&repository, &tree).await;
    let exported = mirror.export(&commit).await.unwrap();
    assert_eq!(exported.submodules(), [PathBuf::from("dir/sub")]);
    let dir = exported.dir();
    assert_eq!(std::fs::read_dir(dir.join("dir/sub")).unwrap().count(), 0);
    assert_eq!(std::fs::read_to_string(dir.join("dir/file")).unwrap(), "text");
    exported.remove().await.unwrap();
    assert!(!dir.exists());
}

#[tokio::test]
async fn packing_stops_when_a_job_needs_objects() {
    let repository = Repository::new();
    let first = repository.commit(&[("file", "text")], "first");
    let tree = repository.git(&["rev-parse", &format!("{first}^{{tree}}")]);
    let (mirror, commit, _state) = mirrored(&repository, &tree).await;
    let reading = mirror.in_use().await;
    assert!(!mirror.tidy().await.unwrap(), "it packs while a job uses objects");
    drop(reading);
    let mut packing = std::pin::pin!(mirror.tidy());
    // The packing has begun.
    assert!(poll_once(packing.as_mut()).await.is_none());
    let reading = mirror.in_use();
    let (packed, reading) = tokio::join!(packing, reading);
    assert!(!packed.unwrap());
    drop(reading);
    assert!(mirror.tidy().await.unwrap());
    mirror.export(&commit).await.unwrap().remove().await.unwrap();
}

/// Polls once.
async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn commits_that_are_not_needed_are_removed_and_others_are_kept() {
    let repository = Repository::new();
    let first = repository.commit(&[("file", "text")], "first");
    let tree = repository.git(&["rev-parse", &format!("{first}^{{tree}}")]);
    let (mirror, commit, state) = mirrored(&repository, &tree).await;
    let (ended, current) = (CandidateId::numbered(1), CandidateId::numbered(2));
    for id in [&ended, &current] {
        mirror.keep_candidate(id, &commit).await.unwrap();
    }
    let unknown = ObjectId::parse(&"1".repeat(40)).unwrap();
    for _ in 0..2 {
        mirror.keep_only(&[commit.clone(), unknown.clone()].into(), |id| *id == current).await.unwrap();
        assert_eq!(mirror.candidate(&ended).await.unwrap(), None);
        assert_eq!(mirror.candidate(&current).await.unwrap().as_ref(), Some(&commit));
    }
    mirror.keep_only(&[].into(), |_| false).await.unwrap();
    assert_eq!(mirror.candidate(&current).await.unwrap(), None);
    let kept = std::process::Command::new("git").arg("--git-dir").arg(mirror.git_dir()).args(["for-each-ref"]).output();
    let kept = String::from_utf8(kept.unwrap().stdout).unwrap();
    assert!(kept.contains("refs/rei/followed") && kept.lines().count() == 1, "{kept}");

    // A directory that a crash left, with a subdirectory that its owner may not enter; and a directory that a job uses.
    let left = state.path().join("source/scratch/take-cand_0001");
    std::fs::create_dir_all(left.join("closed/deep")).unwrap();
    std::fs::set_permissions(left.join("closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let exported = mirror.export(&commit).await.unwrap();
    mirror.sweep().await.unwrap();
    assert!(!left.exists() && exported.dir().exists());
    let dir = exported.dir();
    drop(exported);
    mirror.sweep().await.unwrap();
    assert!(!dir.exists(), "no job uses it any more");
}
