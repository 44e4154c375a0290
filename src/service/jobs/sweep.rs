//! Removes what ended evolutions left: work trees at once, evidence if there is too much of it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::blueprint::clear_run;
use crate::interface::operations::StateStatus;
use crate::report::chain;
use crate::service::clock::Clock;
use crate::service::in_use::InUse;
use crate::service::tools::Tools;
use crate::service::versions;
use crate::source::{self, ObjectId};
use crate::time::Timestamp;

/// Number of objects for each run that is kept: a context, a candidate and some reports. One evolution needs fewer.
const OBJECTS_PER_RUN: u64 = 8;
/// Maximum number of files examined to measure the state directory: without work trees it has some thousands.
const FILES_MAX: u64 = 1_000_000;
/// The unit of `st_blocks`, in bytes.
const BLOCK_BYTES: u64 = 512;

/// Removes what is not needed any more, and measures the rest. A failure is logged; the sweep after the next evolution
/// tries again.
pub async fn sweep(tools: &Tools) {
    let _alone = tools.measured.turn.lock().await;
    let log_failure = |what: &str, done: Result<(), String>| {
        if let Err(error) = done {
            tracing::warn!(error, "cannot remove {what}");
        }
    };
    log_failure("roots of ended evolutions", drop_roots(tools));
    log_failure("records of old versions", drop_versions(tools));
    tools.sweep_sources().await;
    log_failure("trees of ended evolutions", clear_trees(tools).await);
    log_failure("old evidence", bound_evidence(tools).await);
    if tools.mirror.git_dir().is_dir() {
        log_failure("commits of ended evolutions", tidy_mirror(tools).await);
    }
    measure(tools).await;
}

/// Removes the roots of candidates that are not needed: a promoted version has a generation.
fn drop_roots(tools: &Tools) -> Result<(), String> {
    let needed = &tools.in_use;
    for name in tools.roots.list().map_err(|error| chain(&error))?.into_keys() {
        let ended = match &*name {
            name if name.starts_with("cand_") => !needed.needs(name),
            name if name.starts_with("first") => needed.evolving_since().is_none(),
            _ => false,
        };
        if ended {
            tools.roots.remove(&name).map_err(|error| chain(&error))?;
        }
    }
    Ok(())
}

/// Removes the record of a store path's commit if no generation has this path. Does nothing during an evolution,
/// because a candidate gets its generation late.
fn drop_versions(tools: &Tools) -> Result<(), String> {
    if tools.in_use.evolving_since().is_none() {
        let generations = tools.profile.generations().map_err(|error| chain(&error))?;
        let kept: Vec<PathBuf> = generations.into_iter().map(|generation| generation.path).collect();
        versions::prune(&tools.paths, &kept);
    }
    Ok(())
}

/// Removes the work trees that a crash or a cancelled run left.
async fn clear_trees(tools: &Tools) -> Result<(), String> {
    for run in entries(&tools.paths.runs()) {
        if !is_needed(&tools.in_use, &run) {
            clear_run(&run).await.map_err(|error| chain(&error))?;
        }
    }
    tools.mirror.sweep().await.map_err(|error| chain(&error))
}

/// Keeps the commits of versions that can serve again, removes the other candidates' commits, and packs the mirror if
/// it has too many files.
async fn tidy_mirror(tools: &Tools) -> Result<(), String> {
    let versions: BTreeSet<_> = tools.in_use.versions().iter().filter_map(|it| ObjectId::parse(&it.rev)).collect();
    let needed = &tools.in_use;
    let kept = tools.mirror.keep_only(&versions, |id| needed.needs(&id.0)).await;
    kept.map_err(|error| chain(&error))?;
    let mirror = tools.mirror.clone();
    let untidy = tokio::task::spawn_blocking(move || mirror.is_untidy()).await.unwrap_or(false);
    if untidy && tools.in_use.evolving_since().is_none() {
        // A job that needs the mirror interrupts the packing; then the next sweep packs it.
        tools.mirror.tidy().await.map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// Evidence that `rei show` can show and that is removed as a whole: a directory or a file.
#[derive(Debug, PartialEq, Eq)]
struct Unit {
    changed: SystemTime,
    path: PathBuf,
    bytes: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Run,
    Incident,
    Object,
}

/// Removes the oldest evidence until the rest is within the bounds of rei.toml.
async fn bound_evidence(tools: &Tools) -> Result<(), String> {
    let state = &tools.config.state;
    let (runs, bytes) = (state.runs, state.evidence_bytes);
    let (units, since) = (units(tools).await, tools.in_use.evolving_since());
    for path in surplus(units, runs, bytes, |unit| {
        is_needed(&tools.in_use, &unit.path) || since.is_some_and(|since| unit.changed >= system_time(since))
    }) {
        // An evolution may need it since it was listed.
        if is_needed(&tools.in_use, &path) {
            continue;
        }
        remove(&path).await.map_err(|error| chain(&error))?;
        if path.parent() == Some(&*tools.paths.incidents())
            && let Some(id) = path.file_name().and_then(|name| name.to_str())
        {
            // The incident names files that are removed now.
            remove(&tools.paths.object(id)).await.map_err(|error| chain(&error))?;
        }
    }
    Ok(())
}

/// The units to remove, oldest first: those that exceed the maximum number of their kind or the total number of bytes.
fn surplus(mut units: Vec<Unit>, runs: u64, bytes: u64, needed: impl Fn(&Unit) -> bool) -> Vec<PathBuf> {
    units.sort_by(|one, other| other.changed.cmp(&one.changed).then_with(|| other.path.cmp(&one.path)));
    let (mut counts, mut kept_bytes, mut full) = ([0_u64; 3], 0_u64, false);
    let mut gone = Vec::new();
    for unit in units {
        let count = &mut counts[unit.kind as usize];
        let max = if unit.kind == Kind::Object { runs.saturating_mul(OBJECTS_PER_RUN) } else { runs };
        // After the first unit that exceeds the bytes, all older units are removed too.
        full |= kept_bytes.saturating_add(unit.bytes) > bytes;
        if !needed(&unit) && (full || *count >= max) {
            gone.push(unit.path);
            continue;
        }
        *count += 1;
        kept_bytes = kept_bytes.saturating_add(unit.bytes);
    }
    gone.reverse();
    gone
}

async fn units(tools: &Tools) -> Vec<Unit> {
    let dirs = [
        (tools.paths.runs(), Kind::Run),
        (tools.paths.incidents(), Kind::Incident),
        (tools.paths.objects(), Kind::Object),
    ];
    let list = move || {
        let in_dir = |(dir, kind): (PathBuf, Kind)| {
            entries(&dir).into_iter().filter_map(move |path| {
                let changed = path.symlink_metadata().ok()?.modified().ok()?;
                let bytes = disk_usage(&path, &mut FILES_MAX.clone());
                Some(Unit { changed, path, bytes, kind })
            })
        };
        dirs.into_iter().flat_map(in_dir).collect()
    };
    tokio::task::spawn_blocking(list).await.unwrap_or_default()
}

/// Measures the state directory in this job, so that `rei status` need not. The runtime's own state does not count.
async fn measure(tools: &Tools) {
    let units = units(tools).await;
    let (state, runtime) = (tools.paths.state().to_owned(), tools.paths.instance_state());
    let measured = tokio::task::spawn_blocking(move || {
        let mut left = FILES_MAX;
        let all = entries(&state).into_iter().filter(|path| *path != runtime);
        all.map(|path| disk_usage(&path, &mut left)).sum::<u64>()
    });
    let Ok(bytes) = measured.await else { return };
    let config = &tools.config.state;
    tools.measured.set(StateStatus {
        directory: tools.paths.state().display().to_string(),
        bytes,
        evidence_bytes: units.iter().map(|unit| unit.bytes).sum(),
        evidence_bytes_max: config.evidence_bytes,
        runs: units.iter().filter(|unit| unit.kind == Kind::Run).count() as u64,
        runs_max: config.runs,
        measured_at: Clock::starting(Timestamp::default()).now(),
    });
}

/// The disk usage of a file or tree, in bytes; examines at most `left` files.
fn disk_usage(path: &Path, left: &mut u64) -> u64 {
    let (mut bytes, mut open) = (0_u64, vec![path.to_owned()]);
    while let Some(next) = open.pop() {
        // A file that was removed meanwhile uses no space.
        let Ok(about) = next.symlink_metadata() else { continue };
        bytes = bytes.saturating_add(about.blocks().saturating_mul(BLOCK_BYTES));
        *left = left.saturating_sub(1);
        if about.is_dir() && *left > 0 {
            open.extend(entries(&next));
        }
    }
    bytes
}

/// The entries of a directory; none if the directory does not exist.
fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn is_needed(needed: &InUse, path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| needed.needs(name))
}

async fn remove(path: &Path) -> Result<(), source::Error> {
    if path.is_dir() {
        return source::remove_dir(path).await;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(source::Error::Io { doing: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(at.as_unix_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, age: u64, bytes: u64, kind: Kind) -> Unit {
        let changed = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 - age);
        Unit { changed, path: name.into(), bytes, kind }
    }

    fn gone(units: Vec<Unit>, runs: u64, bytes: u64, needed: &[&str]) -> Vec<String> {
        let needed = |unit: &Unit| needed.iter().any(|name| unit.path == Path::new(name));
        surplus(units, runs, bytes, needed).into_iter().map(|path| path.display().to_string()).collect()
    }

    fn some() -> Vec<Unit> {
        let runs = (1..=4).map(|age| unit(&format!("run{age}"), age, 10, Kind::Run));
        let incidents = (1..=3).map(|age| unit(&format!("inc{age}"), age, 5, Kind::Incident));
        runs.chain(incidents).collect()
    }

    #[test]
    fn the_oldest_are_removed_first_and_needed_ones_stay() {
        assert!(gone(some(), 9, 1000, &[]).is_empty());
        assert_eq!(gone(some(), 2, 1000, &[]), ["run4", "inc3", "run3"]);
        assert_eq!(gone(some(), 2, 1000, &["run4", "inc3"]), ["run3"]);
        assert_eq!(gone(some(), 9, 30, &[]), ["run4", "inc3", "run3"]);
        assert_eq!(gone(some(), 9, 0, &["run3"]), ["run4", "inc3", "inc2", "run2", "inc1", "run1"]);
    }

    #[test]
    fn objects_have_their_own_count() {
        let units = (1..=20).map(|age| unit(&format!("o{age}"), age, 1, Kind::Object)).collect();
        assert_eq!(gone(units, 2, 1000, &[]), ["o20", "o19", "o18", "o17"]);
    }

    #[test]
    fn the_disk_usage_of_a_tree_examines_a_bounded_number_of_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("d/link")).unwrap();
        let mut left = 100;
        let bytes = disk_usage(dir.path(), &mut left);
        assert!((100_000..1_000_000).contains(&bytes), "{bytes}");
        assert_eq!(left, 96);
        assert!(disk_usage(dir.path(), &mut 1) < 100_000);
    }
}
