//! Reads the state of the machine when a supervisor starts, and compares it with the journal.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::StartError;
use super::fdstore::StoredFds;
use super::instances::ids::Named;
use super::reconcile::{self, Facts, Generation, Journaled, Living, Unfollowed, Verdict};
use super::versions;
use crate::config::{Config, Strategy};
use crate::history::entry::Entry;
use crate::interface::types::Version;
use crate::journal::{HeadStatus, Journal};
use crate::lifecycle::{Deployed, FoundInstance, Instance, Lifecycle, Reality, Slot};
use crate::nix::{Profile, Roots};
use crate::process::{self, Tag};
use crate::report::chain;
use crate::runtime::keeper::INSTANCE_PREFIX;
use crate::runtime::table::{Entry as Row, InstanceTable};
use crate::state::paths::Paths;

/// The bytes of a process's command line that are read. The program is the first word, or the word after its
/// interpreter.
const CMDLINE_BYTES_MAX: u64 = 64 << 10;
/// The bound of files in a directory whose names are searched for the highest number.
const NAMES_MAX: usize = 100_000;

/// Compares journal, sealed head, profile, instances and roots. If they agree, the head is sealed again. If reality is
/// ahead of the journal, this returns the reality to adopt. Before that, each living instance is added to the table of
/// instances, so that no living instance is started a second time.
///
/// # Errors
/// When the profile, the roots or the head cannot be read.
pub fn look(
    config: &Config,
    paths: &Paths,
    core: &Lifecycle,
    unfollowed: Option<Unfollowed>,
    journal: &mut Journal<Entry>,
    table: &InstanceTable,
    stored: &StoredFds,
) -> Result<Option<Reality>, StartError> {
    let head = journal.attach_head(&paths.head())?;
    let doubtful = table.is_new() || head != HeadStatus::Whole;
    complete(table, &paths.instance_digest(), stored, doubtful);
    let profile = Profile::open(&paths.profiles(), &config.runtime.name)?;
    let generations: Vec<Generation> = profile
        .generations()?
        .into_iter()
        .map(|it| Generation { number: it.number, store_path: it.path.display().to_string() })
        .collect();
    let current = profile.current()?.map(|current| current.number);
    let current = generations.iter().find(|it| Some(it.number) == current).cloned();
    let mut known: Vec<String> = generations.iter().map(|it| it.store_path.clone()).collect();
    known.extend(versions_of(core).map(|version| version.store_path.clone()));
    let rows = living_rows(table);
    let last = journal.last_seq();
    let facts = Facts {
        journaled: Journaled::by(core, unfollowed.as_ref().map_or(last, |it| it.first - 1)),
        unfollowed: unfollowed.map(|it| (it, last)),
        head: head.clone(),
        current,
        generations,
        instances: rows.iter().filter_map(|row| living(row, &known)).collect(),
        roots: Roots::open(&paths.roots())?.list()?.into_keys().collect(),
        overlap: config.runtime.strategy == Strategy::Overlap,
    };
    match reconcile::reconcile(&facts) {
        Verdict::Agreement => {
            let fresh = head == HeadStatus::NoHead && journal.last_seq() == 0;
            if !fresh && matches!(head, HeadStatus::NoHead | HeadStatus::DamagedHead) {
                let path = paths.head();
                tracing::warn!(
                    head = %path.display(),
                    "the journal has no sound sealed head; profile, instances and roots agree with it, so it is sealed as it is"
                );
            }
            journal.seal();
            if let Some(why) = journal.head_failure() {
                tracing::warn!(why, "the journal's head is not sealed: lost records would not be noticed");
            }
            Ok(None)
        }
        Verdict::Ahead { facts: contradictions } => {
            for fact in &contradictions {
                tracing::error!("reality is ahead of the journal: {fact}");
            }
            Ok(Some(reality(core, paths, &facts, contradictions, &rows)))
        }
    }
}

/// The reality to adopt, in the types of the lifecycle.
fn reality(core: &Lifecycle, paths: &Paths, facts: &Facts, contradictions: Vec<String>, rows: &[Row]) -> Reality {
    let adoption = reconcile::adopt(facts);
    let version = |store_path: &str| {
        let known = versions_of(core).find(|version| version.store_path == store_path).cloned();
        let found = known.or_else(|| versions::find(paths, store_path));
        found.unwrap_or_else(|| Version { store_path: store_path.to_owned(), ..Version::default() })
    };
    let serves = adoption.serves.map(|(slot, generation)| {
        let version = version(&generation.store_path);
        if version.rev.is_empty() {
            tracing::warn!(
                store_path = version.store_path,
                "the commit that this store path was built from is not known"
            );
        }
        (slot, Deployed { version, generation: generation.number })
    });
    let running = Slot::ALL.map(|slot| {
        let living = &facts.instances[adoption.instances[slot.index()]?];
        let row = rows.iter().find(|row| row.id == living.id)?;
        let active = serves.as_ref().filter(|(serving, _)| *serving == slot).map(|(_, deployed)| deployed);
        let version = match (active, &living.store_path) {
            (Some(active), _) => active.version.clone(),
            (None, path) => version(path.as_deref().unwrap_or_default()),
        };
        let instance =
            Instance { id: living.id.clone(), pid: living.pid, start_ticks: row.start_ticks.unwrap_or_default() };
        // The current generation of the profile was ready once.
        Some(FoundInstance { version, instance, ready: active.is_some() || row.reported_ready })
    });
    Reality { facts: contradictions, running, serves, numbered: highest_number(paths) }
}

/// Every version that the journal knows.
fn versions_of(core: &Lifecycle) -> impl Iterator<Item = &Version> {
    let deployed = core.active().into_iter().chain(core.previous()).chain(core.active_by_journal());
    let slots = Slot::ALL.into_iter().filter_map(|slot| core.slot(slot).version.as_ref());
    let candidate = core.evolution().and_then(|evolution| evolution.version.as_ref());
    deployed.map(|it| &it.version).chain(core.known_good().values()).chain(slots).chain(candidate)
}

/// The rows of the table whose process lives.
fn living_rows(table: &InstanceTable) -> Vec<Row> {
    let lives = |row: &Row| {
        let stat = row.pid.and_then(process::stat).filter(|stat| !stat.is_zombie());
        stat.is_some_and(|stat| row.start_ticks.is_none_or(|start| start == stat.start_ticks))
    };
    table.entries().into_iter().filter(lives).collect()
}

fn living(row: &Row, known: &[String]) -> Option<Living> {
    let (named, pid) = (Named::parse(&row.id)?, row.pid?);
    let Named { seq, slot, drains } = named;
    Some(Living { id: row.id.clone(), pid, seq, slot, drains, store_path: store_path_of(pid, known) })
}

/// The one of these store paths that a process runs. Its program shows it, or, if an interpreter runs it, its command
/// line.
fn store_path_of(pid: u32, known: &[String]) -> Option<String> {
    let mut line = Vec::new();
    if let Ok(file) = std::fs::File::open(format!("/proc/{pid}/cmdline")) {
        // A command line that cannot be read is taken as empty.
        let _ = file.take(CMDLINE_BYTES_MAX).read_to_end(&mut line);
    }
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let words = line.split(|byte| *byte == 0).map(|word| PathBuf::from(std::ffi::OsStr::from_bytes(word)));
    let words: Vec<PathBuf> = std::iter::once(program).chain(words).collect();
    known.iter().find(|path| words.iter().any(|word| word.starts_with(Path::new(path)))).cloned()
}

/// Adds each living instance that the table lacks, so that it is adopted or ended, and never started a second time.
///
/// The descriptor store identifies an instance by its process descriptor, which no process can forge. If the table
/// itself is in doubt, for example because it was removed together with the store, the environments of processes are
/// read too. A process may change its own environment, so in all other cases the environment is not read.
fn complete(table: &InstanceTable, digest: &str, stored: &StoredFds, doubtful: bool) {
    let mut found: BTreeMap<String, (u32, u64)> = BTreeMap::new();
    for (name, fd) in stored {
        let Some(id) = name.strip_prefix(INSTANCE_PREFIX) else { continue };
        let stat = pid_of(fd.as_raw_fd()).and_then(process::stat).filter(|stat| !stat.is_zombie());
        found.extend(stat.map(|stat| (id.to_owned(), (stat.pid, stat.start_ticks))));
    }
    if doubtful {
        let (ours, own) = (format!("{digest}-"), std::process::id());
        // The main process of an instance leads a session of its own. If several do, the oldest is the instance.
        for stat in
            process::all().iter().filter(|stat| stat.session == stat.pid && stat.pid != own && !stat.is_zombie())
        {
            let Tag::Instance(id) = process::tag(stat.pid) else { continue };
            if !id.starts_with(&ours) || Named::parse(&id).is_none() {
                continue;
            }
            let known = found.entry(id).or_insert((stat.pid, stat.start_ticks));
            if stat.start_ticks < known.1 {
                *known = (stat.pid, stat.start_ticks);
            }
        }
    }
    let rows = table.entries();
    for (id, (pid, start_ticks)) in found {
        if rows.iter().any(|row| row.id == id && row.pid == Some(pid)) {
            continue;
        }
        match table.insert(&id, pid, start_ticks) {
            Ok(()) => tracing::warn!(id, pid, "the table of instances lacked an instance that is alive"),
            Err(error) => {
                tracing::error!(id, pid, error = chain(&error), "an instance is alive and cannot be taken over")
            }
        }
    }
}

/// The pid of the process that a process descriptor refers to; `None` if the process has ended.
fn pid_of(pidfd: i32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

/// The highest number in the names that the lifecycle has given.
fn highest_number(paths: &Paths) -> u64 {
    let objects = paths.object("x").parent().map(Path::to_owned).unwrap_or_default();
    let names = |dir: PathBuf| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).take(NAMES_MAX)
    };
    let all = [objects, paths.incidents(), paths.roots()].into_iter().flat_map(names);
    all.filter_map(|name| number_in(&name)).max().unwrap_or(0)
}

fn number_in(name: &str) -> Option<u64> {
    let (kind, rest) = name.split_once('_')?;
    let known = ["cand", "val", "ctx", "inc", "evo"].contains(&kind);
    rest.split(['.', '-']).next()?.parse().ok().filter(|_| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_contains_its_record_and_its_slot() {
        let named = |seq, slot, drains| Some(Named { seq, slot, drains });
        assert_eq!(Named::parse("0a1b2c3d-17-a"), named(17, Slot::A, false));
        assert_eq!(Named::parse("0a1b2c3d-17-b-drain"), named(17, Slot::B, true));
        for id in ["", "0a1b2c3d-17-c", "0a1b2c3d-x-a", "a", "-a"] {
            assert_eq!(Named::parse(id), None, "{id}");
        }
    }

    #[test]
    fn a_number_is_read_only_from_names_that_the_lifecycle_gave() {
        let numbers = [("cand_0007-drv", 7), ("val_0012.json", 12), ("inc_0003", 3), ("ctx_0009.json", 9)];
        assert!(numbers.iter().all(|(name, number)| number_in(name) == Some(*number)));
        assert!(["cand_x12-1", "builder", "first-drv", "other_7"].iter().all(|name| number_in(name).is_none()));
    }

    #[test]
    fn a_process_descriptor_names_its_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = crate::runtime::pidfd::open(child.id()).unwrap();
        assert_eq!(pid_of(pidfd.as_raw_fd()), Some(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(pid_of(pidfd.as_raw_fd()), None);
    }

    /// A process whose environment names this instance.
    fn tagged(id: &str, leads_a_session: bool) -> std::process::Child {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new("sleep");
        command.arg("60").env(process::INSTANCE_VARIABLE, id);
        let lead = move || if leads_a_session { Ok(nix::unistd::setsid().map(drop)?) } else { Ok(()) };
        // SAFETY: between fork and exec it makes one system call.
        unsafe { command.pre_exec(lead) };
        command.spawn().unwrap()
    }

    #[test]
    fn a_living_instance_that_the_table_lacks_is_added_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let table = InstanceTable::open(&dir.path().join("instances")).unwrap();
        let known = |table: &InstanceTable| {
            let mut rows: Vec<_> = table.entries().into_iter().map(|row| (row.id, row.pid.unwrap())).collect();
            rows.sort();
            rows
        };
        let ids = ["0a1b2c3d-9-a", "0a1b2c3d-12-b", "ffffffff-9-a"];
        let mut children = [tagged(ids[0], true), tagged(ids[1], false), tagged(ids[2], true)];
        // If the table is not in doubt, the environments of processes are not read.
        complete(&table, "0a1b2c3d", &StoredFds::new(), false);
        assert_eq!(known(&table), []);
        // The descriptor store is always read.
        let stored =
            vec![(format!("{INSTANCE_PREFIX}{}", ids[1]), crate::runtime::pidfd::open(children[1].id()).unwrap())];
        complete(&table, "0a1b2c3d", &stored, false);
        assert_eq!(known(&table), [(ids[1].to_owned(), children[1].id())]);
        complete(&table, "0a1b2c3d", &StoredFds::new(), true);
        let both = [(ids[1].to_owned(), children[1].id()), (ids[0].to_owned(), children[0].id())];
        assert_eq!(
            known(&table),
            both,
            "only the process that leads a session and belongs to this state directory is added"
        );
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(living_rows(&table).is_empty());
    }

    #[test]
    fn the_store_path_of_a_process_is_the_path_of_its_program() {
        let exe = std::env::current_exe().unwrap();
        let home = exe.parent().unwrap().display().to_string();
        assert_eq!(store_path_of(std::process::id(), &["/nix/store/x".into(), home.clone()]), Some(home));
        assert_eq!(store_path_of(std::process::id(), &["/nix/store/x".into()]), None);
    }
}
