//! Prepares the confinement before the fork: rulesets, paths and limits.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::{Uid, getegid, geteuid};
use serde::Serialize;

use super::child::{self, Hide, KeptDir, Namespaces, Plan};
use super::program::{Confined, Error};
use crate::sandbox::{ABI, Access, DEVICES, Domain, PROGRAMS, RulesetError, Tcp};
use crate::seccomp::{Filter, Network};

/// The user id of agents if rei is root: "REI" in ASCII and a number. It is far above the ids that distributions,
/// systemd, containers and Nix assign.
const AGENT_USER: u32 = 0x5245_4901;
/// `nobody`, used if the other id is not mapped (in a container with few users).
const NOBODY: u32 = 65_534;
/// Maximum number of processes of an agent. A compiler on a large machine starts a few hundred.
const PROCESSES_MAX: u64 = 1024;
/// The newest Landlock version that rei uses. An older kernel enforces less.
const LANDLOCK: ABI = ABI::V9;

/// Paths that every agent may read besides the system's programs: their settings, name service, facts about the machine.
const SETTINGS: [&str; 5] = [
    "/etc",
    "/run/systemd/resolve",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
];

/// The fences that were in force for a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fences {
    /// Landlock; always true.
    pub landlock: bool,
    /// The seccomp filter; always true.
    pub seccomp: bool,
    /// A user of its own.
    pub user: bool,
    /// Its own namespaces for processes, mounts and IPC.
    pub namespaces: bool,
    /// A network namespace with only a loopback.
    pub network: bool,
}

/// The user of agents. `None` if rei is not root, or is root of a container without another user; then agents run as
/// rei's own user.
pub fn agent_user() -> Option<u32> {
    static USER: OnceLock<Option<u32>> = OnceLock::new();
    let choose = || {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        [AGENT_USER, NOBODY].into_iter().find(|user| geteuid().is_root() && is_mapped(&map, *user))
    };
    *USER.get_or_init(choose)
}

/// True if a user namespace with this `uid_map` (FIRST OUTSIDE COUNT per line) contains the user.
fn is_mapped(map: &str, user: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first.saturating_add(count)).contains(&u64::from(user)))
    })
}

/// True if namespaces can be created here. Tried once.
fn namespaces_work() -> bool {
    static WORK: OnceLock<bool> = OnceLock::new();
    let tried = || {
        let flags = namespace_flags(false);
        let mut command = std::process::Command::new("/nonexistent/program");
        // SAFETY: the closure makes only one system call, which is allowed between fork and exec.
        unsafe { command.pre_exec(move || child::unshare(flags)) };
        // exec reports "not found" only after the namespaces were created.
        command.spawn().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    *WORK.get_or_init(tried)
}

fn namespace_flags(network: bool) -> libc::c_int {
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let net = if network { 0 } else { libc::CLONE_NEWNET };
    let user = if geteuid().is_root() { 0 } else { libc::CLONE_NEWUSER };
    flags | net | user
}

/// Prepares everything to run `confined`.
pub(super) fn plan(confined: &Confined, program: &Path) -> Result<(Plan, Fences), Error> {
    let fail = |what: &str| Error::Fence { program: program.to_owned(), what: what.to_owned() };
    let namespaces = namespaces_work();
    let user = agent_user();
    let landlock = ruleset(confined, program, namespaces).map_err(|error| fail(&error.to_string()))?;
    let landlock = landlock.into_fd().ok_or(Error::NoLandlock)?;
    let own_network = !confined.network && namespaces;
    let network = if confined.network || namespaces { Network::Open } else { Network::None };
    let filter = Filter { network, shares_user: user.is_none() && !own_network };
    let filter = filter.program().map_err(|error| fail(&error.to_string()))?;
    let fences = Fences { landlock: true, seccomp: true, user: user.is_some(), namespaces, network: own_network };
    let plan = Plan {
        namespaces: if namespaces {
            Some(plan_namespaces(confined).ok_or_else(|| fail("a path contains a NUL byte"))?)
        } else {
            None
        },
        landlock,
        filter,
        user,
        memory_bytes: confined.memory_bytes,
        // Without either, the kernel would count all processes of rei's own user.
        processes: (namespaces || user.is_some()).then_some(PROCESSES_MAX),
        dir: c_path(&confined.dir).ok_or_else(|| fail("a path contains a NUL byte"))?,
    };
    Ok((plan, fences))
}

/// A path that does not exist needs no rule.
fn ruleset(confined: &Confined, program: &Path, namespaces: bool) -> Result<Domain, RulesetError> {
    let tcp = if confined.network || namespaces { Tcp::Open } else { Tcp::Closed };
    Domain::new(LANDLOCK, tcp)?
        .allow_if_there(PROGRAMS, Access::Execute)?
        .allow_if_there(SETTINGS, Access::Execute)?
        .allow_if_there(&confined.read, Access::Execute)?
        // The program itself, by its own path and by the target of that path.
        .allow_if_there([program], Access::Execute)?
        .allow_if_there([&confined.dir], Access::Execute)?
        .allow_if_there(DEVICES, Access::Device)?
        .allow_if_there(&confined.write, Access::WriteNoDevices)
}

fn plan_namespaces(confined: &Confined) -> Option<Namespaces> {
    let mut kept: Vec<PathBuf> =
        [&confined.write[..], &confined.read[..], std::slice::from_ref(&confined.dir)].concat();
    kept.retain(|path| path.is_dir());
    kept.sort();
    // A directory inside another one is included with it.
    let inner = |path: &PathBuf| kept.iter().any(|other| other != path && path.starts_with(other));
    let mut outer: Vec<PathBuf> = kept.iter().filter(|path| !inner(path)).cloned().collect();
    outer.dedup();
    let hide = hidden(&confined.hide, &outer);
    let keep = outer.iter().filter(|path| path.starts_with(&hide) && **path != hide);
    let keep = keep.map(|path| keep_path(&hide, path)).collect::<Option<Vec<_>>>()?;
    let root = geteuid().is_root();
    let map = |id: u32| format!("{id} {id} 1\n").into_bytes();
    Some(Namespaces {
        flags: namespace_flags(confined.network),
        user_map: (!root).then(|| [map(geteuid().as_raw()), map(getegid().as_raw())]),
        hide: if keep.is_empty() { None } else { Some(Hide { target: c_path(&hide)?, keep }) },
        loopback: !confined.network,
    })
}

/// The directory over which an empty one is mounted: the one to hide, or a directory around it that the agent's user
/// cannot enter.
fn hidden(hide: &Path, kept: &[PathBuf]) -> PathBuf {
    let closed = |path: &Path| {
        let mode = path.metadata().map_or(0o777, |meta| meta.permissions().mode());
        Uid::effective().is_root() && mode & 0o001 == 0
    };
    let outermost = kept.iter().filter(|path| path.starts_with(hide)).flat_map(|path| path.ancestors().skip(1));
    let outermost = outermost.filter(|path| closed(path)).min_by_key(|path| path.components().count());
    match outermost {
        Some(path) if hide.starts_with(path) && path.parent().is_some() => path.to_owned(),
        _ => hide.to_owned(),
    }
}

fn keep_path(hide: &Path, path: &Path) -> Option<KeptDir> {
    let below: Vec<&Path> = path.ancestors().take_while(|ancestor| *ancestor != hide).collect();
    let dirs = below.into_iter().rev().map(c_path).collect::<Option<Vec<_>>>()?;
    Some(KeptDir { path: c_path(path)?, dirs })
}

fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mapped_users_are_used() {
        assert!(is_mapped("         0          0 4294967295\n", AGENT_USER));
        assert!(!is_mapped("0 1000 65536\n", AGENT_USER) && is_mapped("0 1000 65536\n", NOBODY));
        assert!(!is_mapped("0 1000 1\n", NOBODY) && !is_mapped("", NOBODY) && !is_mapped("a b\n", 0));
    }

    #[test]
    fn the_hidden_directory_includes_parents_that_the_agent_cannot_enter() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir_all(state.join("work")).unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let kept = [state.join("work")];
        let expected = if geteuid().is_root() { dir.path() } else { &state };
        assert_eq!(hidden(&state, &kept), expected);
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(hidden(&state, &kept), state);
    }
}
