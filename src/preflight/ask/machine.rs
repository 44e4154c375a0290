//! What the machine allows: programs, directories, addresses, users, namespaces, control groups, limits.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{AccessFlags, access};

use crate::config::{Config, Fixture, Isolation, Listen, ListenAddress};
use crate::journal::Reader;
use crate::preflight::answer::Answer;
use crate::runtime::cgroup::Base;
use crate::runtime::isolation::user::can_switch_user;
use crate::runtime::isolation::{InstancePaths, Sandbox, SandboxError, User};
use crate::runtime::keeper::{NoStore, is_alive_at};
use crate::runtime::traffic::{OpenError, Routing, Setup, Slot, Traffic};

/// Free space below which a build or a mirror soon fails, in bytes.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Descriptors that rei needs beside those of its listeners: two sockets with 32 connections each, three instances with
/// their pipes, probes and process descriptors, the files of the journal, and the pipes of a build. That is some 150.
const DESCRIPTORS_MIN: u64 = 256;
/// Descriptors of one listener: five sockets, and three more while they are renewed.
const DESCRIPTORS_OF_A_LISTENER: u64 = 8;
/// Stands between a lack and its remedy in a line of [`Sandbox::missing`].
const REMEDY: &str = "; ";

/// Are the operator's own programs and directories there?
pub fn programs(config: Option<&Config>) -> Vec<Answer> {
    let Some(config) = config else { return Vec::new() };
    let missing = missing(config);
    let count = config.agents.len() + config.commands.len() + usize::from(config.health.command.is_some());
    let hint = "install it, or correct the path in the file";
    match missing.len() {
        0 if count == 0 => Vec::new(),
        0 => vec![Answer::ok(format!("{count} of yours, all there"))],
        _ => missing.into_iter().map(|line| Answer::fail(line, hint)).collect(),
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
    let fixture = match &config.validation.state {
        Some(Fixture::Directory(path)) => Some(("validation.state.fixture", path)),
        Some(Fixture::Command(_)) | None => None,
    };
    let directories = directories.chain(fixture).filter(|(_, path)| !path.is_dir());
    programs.chain(directories.map(|(key, path)| format!("`{key}`: {} is no directory", path.display()))).collect()
}

/// Can the state directory be written, and is there space?
pub fn state(config: Option<&Config>) -> Vec<Answer> {
    let Some(config) = config else { return Vec::new() };
    let directory = &config.state.directory;
    let Some(existing) = directory.ancestors().find(|path| path.exists()) else { return Vec::new() };
    if !existing.is_dir() {
        return vec![Answer::fail(format!("{} is no directory", existing.display()), "set `state.directory`")];
    }
    if access(existing, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let line = format!("{} cannot be written", existing.display());
        return vec![Answer::fail(line, "set `state.directory`, or run rei as the user that owns it")];
    }
    let free = nix::sys::statvfs::statvfs(existing).ok().map(|stat| stat.blocks_available() * stat.fragment_size());
    if let Some(free) = free.filter(|free| *free < FREE_BYTES_MIN) {
        let line = format!("{} has only {} MiB free", existing.display(), free >> 20);
        return vec![Answer::warn(line, "builds and mirrors need space; free some")];
    }
    if let Some((closed, user)) = closed_to_instances(config, existing) {
        let line =
            format!("instances run as user {user}, who cannot pass through {} to their directories", closed.display());
        return vec![Answer::fail(line, format!("chmod o+x {}, or set `state.directory`", closed.display()))];
    }
    let word = if existing == directory { "is there" } else { "will be made" };
    vec![Answer::ok(format!("{} {word}", directory.display()))]
}

/// The directory on the way to this one that the user of the instances cannot pass, and that user.
fn closed_to_instances(config: &Config, existing: &Path) -> Option<(PathBuf, u32)> {
    let user = match &config.isolation.user {
        _ if !can_switch_user() => return None,
        None => User::derived(&config.runtime.name),
        Some(name) => User::named(name).ok()?,
    };
    let existing = existing.canonicalize().ok()?;
    let may_pass = |dir: &&Path| {
        let Ok(about) = dir.metadata() else { return true };
        let bit = match (about.uid() == user.uid, about.gid() == user.gid || user.groups.contains(&about.gid())) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        user.uid == 0 || about.mode() & bit != 0
    };
    let closed = existing.ancestors().find(|dir| !may_pass(dir))?;
    Some((closed.to_owned(), user.uid))
}

/// Can the listeners be opened? They are, and closed again; of Unix sockets only the places are looked at, as a socket there
/// would be replaced.
pub fn listen(config: Option<&Config>) -> Vec<Answer> {
    let Some(config) = config.filter(|config| !config.runtime.listen.is_empty()) else { return Vec::new() };
    if let Some(pid) = Reader::open(&config.state.journal()).ok().and_then(|reader| reader.writer()) {
        let pid = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
        return vec![Answer::ok(format!("rei{pid} supervises already and holds the addresses"))];
    }
    if is_alive_at(&config.state.directory.join("private/keeper.sock")) {
        return vec![Answer::ok("the keeper of an earlier rei has the sockets, and the next `rei run` gets them")];
    }
    let is_unix = |listen: &&Listen| matches!(listen.address, ListenAddress::Unix(_));
    let (unix, others): (Vec<Listen>, Vec<Listen>) = config.runtime.listen.iter().cloned().partition(|it| is_unix(&it));
    let setup = Setup { listens: &others, interface: None };
    let opened = Traffic::open(setup, Routing::All(Slot::A), &mut NoStore).map(drop);
    match opened.and_then(|()| unix.iter().try_for_each(place_of)) {
        Ok(()) => vec![Answer::ok("the addresses are free")],
        Err(error) => vec![Answer::of(&error, error.hint())],
    }
}

/// Whether rei can make a Unix socket: no process listens on it, and its directory can be written. rei replaces an old socket file.
fn place_of(listen: &Listen) -> Result<(), OpenError> {
    let ListenAddress::Unix(path) = &listen.address else { return Ok(()) };
    let (name, address) = (listen.name.clone(), listen.address.clone());
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(OpenError::InUse { name, address, source: std::io::ErrorKind::AddrInUse.into() });
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    match access(directory, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::ENOENT) => {
            Err(OpenError::NoSuchAddress { name, address, source: std::io::ErrorKind::NotFound.into() })
        }
        Err(errno) => Err(OpenError::Permission { name, address, source: errno.into() }),
    }
}

/// Can rei have the descriptors that it needs? The kernel is asked for them, up to the hard limit.
pub fn descriptors(config: Option<&Config>) -> Vec<Answer> {
    let listeners = config.map_or(0, |config| config.runtime.listen.len());
    let needed = DESCRIPTORS_MIN + DESCRIPTORS_OF_A_LISTENER * u64::try_from(listeners).unwrap_or(u64::MAX >> 8);
    let limits = getrlimit(Resource::RLIMIT_NOFILE).map_err(std::io::Error::from);
    let had = limits.and_then(|(soft, hard)| {
        if soft < needed && soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard)?;
        }
        Ok(soft.max(needed.min(hard)))
    });
    vec![match had {
        Ok(had) if had >= needed => Answer::ok(format!("{had} descriptors; rei needs {needed}")),
        Ok(had) => {
            let line = format!("rei may have {had} descriptors (RLIMIT_NOFILE), and needs {needed}");
            Answer::fail(line, "raise the limit: LimitNOFILE= in the unit, `ulimit -Hn` in a shell")
        }
        Err(error) => Answer::fail(format!("cannot have {needed} descriptors: {error}"), "look at `ulimit -n`"),
    }]
}

/// Who will the instances be?
pub fn user(config: Option<&Config>) -> Vec<Answer> {
    let Some(config) = config else { return Vec::new() };
    vec![match &config.isolation.user {
        None if can_switch_user() => Answer::ok("each instance gets an unprivileged user of its own"),
        None => Answer::warn(
            "rei is not root: instances run as its own user, who may change the modes of its files; rei only undoes that",
            "run rei as root, so that they are apart from it",
        ),
        Some(name) if !can_switch_user() => Answer::warn(
            format!("rei is not root and cannot become `{name}`: instances run as its own user"),
            "run rei as root, or take `isolation.user` out",
        ),
        Some(name) => match User::named(name) {
            Ok(user) => Answer::ok(format!("instances run as {name} (uid {})", user.uid)),
            Err(error) => Answer::of(&error, error.hint()),
        },
    }]
}

/// What of the walls and limits of `[isolation]` cannot be had here? The rules of an instance are made, as for an instance.
pub fn isolation(config: Option<&Config>, scratch: &Path) -> Vec<Answer> {
    let Some(config) = config else { return Vec::new() };
    match rules(&config.isolation, &config.runtime.name, scratch) {
        // There is a line that says so already.
        Err(SandboxError::User(_)) => Vec::new(),
        Err(error) => vec![Answer::of(&error, error.hint())],
        Ok(sandbox) if sandbox.missing().is_empty() => vec![Answer::ok("each wall and limit of `[isolation]` holds")],
        Ok(sandbox) => sandbox.missing().iter().map(|missing| lacks(missing)).collect(),
    }
}

fn rules(isolation: &Isolation, name: &str, scratch: &Path) -> Result<Sandbox, SandboxError> {
    let (memory, processes) = Base::find().map_or((false, false), |base| (base.memory, base.pids));
    let paths = InstancePaths {
        user: name,
        closure: &[],
        state: &scratch.join("instance"),
        temporary: &scratch.join("temporary"),
        memory_by_cgroup: memory,
        processes_by_cgroup: processes,
    };
    Sandbox::instance(isolation, &paths)
}

fn lacks(missing: &str) -> Answer {
    let (what, hint) = missing.split_once(REMEDY).unwrap_or((missing, "run rei as root, on a newer kernel"));
    Answer::warn(format!("this machine cannot isolate instances fully: {what}"), hint)
}

/// Can a process have a user namespace? Nix's sandbox without root, and the inner sandbox of the checks, need one.
pub fn namespaces() -> Vec<Answer> {
    // SAFETY: the child calls `unshare` and `_exit` alone, which need no lock that another thread could hold.
    let child = match unsafe { libc::fork() } {
        -1 => return vec![Answer::warn("no process could be started to try a user namespace", "look at `ulimit -u`")],
        0 => {
            // SAFETY: both are plain system calls; `_exit` ends the child without running anything of its parent's.
            unsafe { libc::_exit(libc::unshare(libc::CLONE_NEWUSER)) }
        }
        child => child,
    };
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None);
    let done = matches!(status, Ok(nix::sys::wait::WaitStatus::Exited(_, 0)));
    let hint = "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns";
    vec![match done {
        true => Answer::ok("user namespaces can be made"),
        false => {
            Answer::warn("user namespaces cannot be made: the inner sandbox of the checks is Landlock alone", hint)
        }
    }]
}

/// How does rei find and kill the processes of an instance?
pub fn cgroup() -> Vec<Answer> {
    let base = match Base::find() {
        Ok(base) => base,
        Err(why) => {
            let line = format!("instances are killed by process group and scan: {why}");
            return vec![Answer::warn(line, "under systemd set Delegate=yes")];
        }
    };
    let bound: Vec<&str> = [("memory", base.memory), ("pids", base.pids)]
        .into_iter()
        .filter(|(_, has)| *has)
        .map(|(name, _)| name)
        .collect();
    vec![Answer::ok(match bound.as_slice() {
        [] => "cgroups can be made; they kill, but bound neither memory nor processes here".to_owned(),
        bound => format!("cgroups can be made; they kill and bound {}", bound.join(" and ")),
    })]
}
