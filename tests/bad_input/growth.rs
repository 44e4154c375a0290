//! Many upgrades: the space that rei uses is bounded.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rei::interface::types::MaintenanceAction;

use crate::lab::{Lab, Supervisor};

/// The size of a file in the tree that cannot be compressed, in bytes.
const LARGE: usize = 4 << 20;
/// The space that an upgrade may add, in bytes: records, reports, git objects.
const SMALL: u64 = 1 << 20;

/// The disk usage of the files below a directory, in bytes.
fn taken(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |path: PathBuf| match path.symlink_metadata() {
        Ok(about) if about.is_dir() => taken(&path),
        Ok(about) => about.blocks() * 512,
        // The file was deleted in the meantime.
        Err(_) => 0,
    };
    entries.flatten().map(|entry| size(entry.path())).sum()
}

/// The names in a directory of the state directory.
fn names(lab: &Lab, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(lab.path("state").join(dir)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A service with a large file in its tree.
fn large(more: &str) -> Option<(Lab, Supervisor)> {
    let lab = Lab::new()?;
    let mut seed = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    })
    .take(LARGE)
    .collect();
    std::fs::write(lab.path("repo/large"), noise).unwrap();
    lab.commit_tree("a large file");
    lab.configure(&format!("{more}\n[evolution]\nbudget = {{ per_incident = 3, per_hour = 60 }}"));
    let supervisor = lab.serving();
    Some((lab, supervisor))
}

fn promote(lab: &Lab, supervisor: &mut Supervisor, version: u32) {
    let rev = lab.commit(&format!("well {version}"));
    let entry = supervisor.verdict_on(&rev);
    assert_eq!(entry.action, Some(MaintenanceAction::Promoted), "{}", entry.summary);
}

#[test]
fn five_upgrades_of_a_large_repository_leave_no_trees() {
    let Some((lab, mut supervisor)) = large("") else { return };
    promote(&lab, &mut supervisor, 2);
    let state = lab.path("state");
    supervisor.until("the sweep after the first upgrade", |_| trees(&lab).is_empty());
    let before = taken(&state);
    for version in 3..=6 {
        promote(&lab, &mut supervisor, version);
    }
    supervisor.until("the sweep after the others", |_| trees(&lab).is_empty());
    let after = taken(&state);
    assert!(after < before + 4 * SMALL, "{before} bytes became {after}");
    // The evidence is still there: the objects for operators, and the results of the runs.
    let history = supervisor.operator(async |client| client.history(Some(50)).await.unwrap()).unwrap();
    assert_eq!(names(&lab, "runs").len(), history.iter().filter(|entry| entry.candidate_id.is_some()).count());
    // The store keeps the sources of Active and Previous.
    supervisor.until("the removal of old sources", |_| roots(&lab, "tree_") <= 2 && roots(&lab, "cand_") == 0);
    supervisor.until("the measurement of the state directory", |it| {
        let state = it.status().and_then(|status| status.state);
        state.is_some_and(|state| state.runs == 5 && state.bytes > LARGE as u64 && state.evidence_bytes < SMALL)
    });
    assert_eq!(supervisor.stop(), Some(0));
}

fn roots(lab: &Lab, prefix: &str) -> usize {
    names(lab, "roots").iter().filter(|name| name.starts_with(prefix)).count()
}

#[test]
fn only_the_configured_runs_are_kept_and_leftovers_of_a_crash_are_removed() {
    let Some(lab) = Lab::new() else { return };
    lab.configure("runs = 2\n[evolution]\nbudget = { per_incident = 3, per_hour = 60 }");
    // The same state as after a supervisor was killed in the middle of a run, and the run's evolution has ended.
    let old = lab.path("state/runs/evo_0000-cand_0000");
    for tree in ["workspace/d", "agent/home"] {
        std::fs::create_dir_all(old.join(tree)).unwrap();
        std::fs::write(old.join(tree).join("file"), "left").unwrap();
    }
    std::fs::write(old.join("timeline.jsonl"), "{}\n").unwrap();
    std::fs::create_dir_all(lab.path("state/source/scratch/take-cand_0000")).unwrap();
    let mut supervisor = lab.serving();
    supervisor.until("the sweep at the start", |_| trees(&lab).is_empty());
    assert!(old.join("timeline.jsonl").exists(), "the timeline is evidence and stays");
    promote(&lab, &mut supervisor, 2);
    let second = names(&lab, "runs");
    promote(&lab, &mut supervisor, 3);
    supervisor.until("the removal of the oldest run", |_| !old.exists());
    assert!(second.iter().any(|run| lab.path("state/runs").join(run).exists()));
    promote(&lab, &mut supervisor, 4);
    supervisor.until("only two runs", |_| names(&lab, "runs").len() == 2);
    assert!(second.iter().all(|run| !lab.path("state/runs").join(run).exists()), "the newest stay");
    // The mirror keeps the commits of versions that can serve, and no commit of a candidate.
    let git = |args: &[&str]| crate::common::git::git(&lab.path("state/source/mirror.git"), args);
    supervisor
        .until("the removal of candidates' commits", |_| git(&["for-each-ref", "refs/rei/candidates"]).is_empty());
    let active = supervisor.status().and_then(|it| it.active).unwrap().version.rev;
    assert!(git(&["for-each-ref", "refs/rei/versions"]).contains(&active));
    assert_eq!(supervisor.stop(), Some(0));
}

/// The remaining trees of runs.
fn trees(lab: &Lab) -> Vec<String> {
    let mut left: Vec<_> = names(lab, "source/scratch");
    for run in names(lab, "runs") {
        let inside = names(lab, &format!("runs/{run}"));
        let kept = ["artifacts", "timeline.jsonl", "context_pack.json"];
        left.extend(inside.into_iter().filter(|name| !kept.contains(&name.as_str())));
    }
    left
}
