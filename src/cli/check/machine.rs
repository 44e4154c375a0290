//! What the machine allows: files, ports, users, namespaces, cgroups, Landlock.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use super::{Context, Finding};
use crate::command::Command;
use crate::config::ListenAddress;
use crate::journal::Reader;

/// How long the lookup of a user may take: it may ask a directory server.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Free space below which a build or a mirror soon fails, in bytes.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// The Landlock ABI from which signals and abstract sockets can be kept inside.
const LANDLOCK_ABI_FULL: i64 = 6;
/// Flag of `landlock_create_ruleset` that asks for the ABI.
const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;

/// Can the state directory be written, and is there space?
pub(super) fn state(context: &Context<'_>) -> Option<Finding> {
    let directory = &context.config?.state.directory;
    let existing = directory.ancestors().find(|path| path.exists())?;
    if !existing.is_dir() {
        let line = format!("{} is no directory", existing.display());
        return Some(Finding::fail(line, "set `state.directory`"));
    }
    if access(existing, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let line = format!("{} cannot be written", existing.display());
        let hint = "set `state.directory`, or run rei as the user that owns it".to_owned();
        return Some(Finding::fail(line, hint));
    }
    let free = nix::sys::statvfs::statvfs(existing).ok().map(|stat| stat.blocks_available() * stat.fragment_size());
    if let Some(free) = free.filter(|free| *free < FREE_BYTES_MIN) {
        let line = format!("{} has only {} MiB free", existing.display(), free >> 20);
        return Some(Finding::warn(line, "builds and mirrors need space; free some"));
    }
    let word = if existing == directory { "is there" } else { "will be made" };
    Some(Finding::ok(format!("{} {word}", directory.display())))
}

/// Are the addresses free?
pub(super) fn listen(context: &Context<'_>) -> Option<Finding> {
    let config = context.config?;
    if let Some(pid) = Reader::open(&config.state.journal()).ok().and_then(|reader| reader.writer()) {
        let pid = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
        return Some(Finding::ok(format!("rei{pid} supervises already and holds the addresses")));
    }
    let addresses: Vec<&ListenAddress> = config.runtime.listen.iter().map(|listen| &listen.address).collect();
    for address in &addresses {
        let tried = match address {
            ListenAddress::Tcp(address) => TcpListener::bind(address).map(drop),
            ListenAddress::Udp(address) => std::net::UdpSocket::bind(address).map(drop),
            ListenAddress::Unix(path) => unix(path),
        };
        if let Err(error) = tried {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another program has it (ss -lntup); stop that one or change `runtime.listen`".to_owned()
                }
                std::io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned(),
                std::io::ErrorKind::AddrNotAvailable => "no interface has this address (ip address)".to_owned(),
                _ => "change `runtime.listen`".to_owned(),
            };
            return Some(Finding::fail(format!("{address} cannot be listened on: {error}"), hint));
        }
    }
    (!addresses.is_empty()).then(|| Finding::ok("the addresses are free"))
}

/// Nobody listens on the socket, and its directory can be written. A socket that nobody listens on any more is taken over.
fn unix(path: &Path) -> std::io::Result<()> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(std::io::ErrorKind::AddrInUse.into());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    Ok(access(directory, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// Who will the instances be?
pub(super) fn user(context: &Context<'_>) -> Option<Finding> {
    let isolation = &context.config?.isolation;
    let root = nix::unistd::geteuid().is_root();
    let Some(name) = &isolation.user else {
        return Some(match root {
            true => Finding::ok("each instance gets an unprivileged user of its own"),
            false => Finding::warn(
                "rei is not root: instances run as its own user, who may change the modes of its files; rei only undoes that",
                "run rei as root, so that they are apart from it",
            ),
        });
    };
    Some(match uid(name, context) {
        None => Finding::fail(
            format!("there is no user `{name}`"),
            format!("useradd --system {name}, or change `isolation.user`"),
        ),
        Some(_) if !root => Finding::fail(
            format!("rei is not root and cannot become `{name}`"),
            "run rei as root, or take `isolation.user` out",
        ),
        Some(uid) => Finding::ok(format!("instances run as {name} (uid {uid})")),
    })
}

/// The uid of a user. glibc's own lookup loads modules, which a statically linked program cannot: it crashes.
fn uid(name: &str, context: &Context<'_>) -> Option<u32> {
    let output = context.run(&Command::new("id", LOOKUP_TIMEOUT).args(["-u", "--", name])).ok()?;
    output.stdout_text().trim().parse().ok().filter(|_| output.success())
}

/// Can a process have a user namespace? Nix's sandbox without root, and the inner sandbox of the checks, need one.
pub(super) fn namespaces(_: &Context<'_>) -> Option<Finding> {
    // SAFETY: rei check has no other thread that could hold a lock, and the child calls `unshare` and `_exit` alone.
    let child = match unsafe { libc::fork() } {
        -1 => return Some(Finding::warn("no process could be started to try a user namespace", "look at `ulimit -u`")),
        0 => {
            // SAFETY: both are plain system calls; `_exit` ends the child without running anything of its parent's.
            unsafe { libc::_exit(libc::unshare(libc::CLONE_NEWUSER)) }
        }
        child => child,
    };
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None);
    let done = matches!(status, Ok(nix::sys::wait::WaitStatus::Exited(_, 0)));
    let hint = "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns";
    Some(match done {
        true => Finding::ok("user namespaces can be made"),
        false => {
            Finding::warn("user namespaces cannot be made: the inner sandbox of the checks is Landlock alone", hint)
        }
    })
}

/// Can rei make cgroups for its instances?
pub(super) fn cgroup(_: &Context<'_>) -> Option<Finding> {
    let without = "without it, trees are killed by process group and scan; under systemd set Delegate=yes";
    let Some(own) = own_cgroup() else {
        return Some(Finding::warn("this process is in no cgroup of version 2", without));
    };
    let trial = own.join(format!("rei-check-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir(&trial) {
        return Some(Finding::warn(format!("no cgroup can be made in {}: {error}", own.display()), without));
    }
    let kill = trial.join("cgroup.kill").exists();
    let controllers = std::fs::read_to_string(trial.join("cgroup.controllers")).unwrap_or_default();
    // An empty cgroup that stays behind does no harm, and the next check has another pid.
    let _ = std::fs::remove_dir(&trial);
    if !kill {
        return Some(Finding::warn("the kernel has no cgroup.kill", "use Linux 5.14 or later"));
    }
    let bound: Vec<&str> =
        ["memory", "pids"].into_iter().filter(|name| controllers.split_whitespace().any(|c| c == *name)).collect();
    Some(match bound.as_slice() {
        [] => Finding::ok("cgroups can be made; they kill, but bound neither memory nor processes here"),
        bound => Finding::ok(format!("cgroups can be made; they kill and bound {}", bound.join(" and "))),
    })
}

/// The directory of this process's cgroup of version 2, where one is mounted.
fn own_cgroup() -> Option<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().map(|line| line.split(' ')).find_map(|mut fields| {
        let point = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(point))
    })?;
    Some(mount.join(own.trim_start_matches('/'))).filter(|path| path.is_dir())
}

/// What can Landlock keep an instance from?
pub(super) fn landlock(context: &Context<'_>) -> Option<Finding> {
    if context.config.is_some_and(|config| !config.isolation.enabled) {
        return Some(Finding::warn(
            "`isolation.enabled` is false: instances are not confined",
            "take it out of the file",
        ));
    }
    let attributes: *const libc::c_void = std::ptr::null();
    // SAFETY: with no attributes, size 0 and this flag the call reads nothing and only answers the ABI.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, attributes, 0_usize, LANDLOCK_CREATE_RULESET_VERSION)
    };
    let hint = "boot a newer kernel, with landlock among its security modules (lsm=landlock,...)";
    Some(match abi {
        abi if abi >= LANDLOCK_ABI_FULL => Finding::ok(format!("Landlock ABI {abi}")),
        abi if abi > 0 => Finding::warn(
            format!("Landlock ABI {abi} is older than {LANDLOCK_ABI_FULL}: signals are not kept inside"),
            hint,
        ),
        _ => Finding::warn("the kernel has no Landlock: instances are confined by their user alone", hint),
    })
}
