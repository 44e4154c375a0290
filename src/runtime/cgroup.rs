//! cgroup v2 directories of instances. Only a cgroup can kill a whole tree at once and list it without a race.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::process;

/// The subgroup in which systemd puts only the supervisor (`DelegateSubgroup=supervisor`), so that the cgroups beside
/// it can have controllers.
const OWN_SUBGROUP: &str = "supervisor";

/// Length of the digest at the beginning of an instance's id, in characters.
const DIGEST_CHARS: usize = 8;

/// Maximum depth of directories to remove. Instances cannot create cgroups, so deeper directories belong to another
/// program.
const DEPTH_MAX: usize = 8;

/// The parent of the instances' cgroups, and the limits that are available there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The parent directory, which rei may write.
    pub dir: PathBuf,
    /// Its path in `/proc/PID/cgroup`.
    pub name: PathBuf,
    /// True if instances have `memory.max`.
    pub memory: bool,
    /// True if instances have `pids.max`.
    pub pids: bool,
}

/// Limits of an instance's cgroup.
#[derive(Clone, Copy, Debug, Default)]
pub struct TreeLimits {
    /// Maximum memory of the whole tree, in bytes.
    pub memory_bytes: Option<u64>,
    /// Maximum number of processes and threads in the tree.
    pub processes: Option<u64>,
}

/// The cgroup of one instance.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    name: PathBuf,
    handle: File,
}

impl Base {
    /// Finds a parent directory, and tests it by creating a cgroup there.
    ///
    /// # Errors
    /// Returns the reason as text if there is none.
    pub fn find() -> Result<Self, String> {
        let own = process::cgroup(std::process::id()).ok_or("no cgroup v2 for this process")?;
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| format!("no list of mounts: {error}"))?;
        let mount = mount_point(&mounts).ok_or("cgroup v2 is not mounted")?;
        let name = if own.file_name().is_some_and(|last| last == OWN_SUBGROUP) {
            own.parent().unwrap_or(&own).to_owned()
        } else {
            own
        };
        let dir = mount.join(name.strip_prefix("/").unwrap_or(&name));
        if Path::new("/run/systemd/system").exists() && !is_delegated(&dir) {
            return Err(format!("systemd has not delegated {} (Delegate=yes)", dir.display()));
        }
        // This fails if the supervisor itself is in this cgroup; then killing works, but there are no limits.
        let _ = fs::write(dir.join("cgroup.subtree_control"), "+memory +pids");
        let trial = dir.join(format!("rei-trial-{}", std::process::id()));
        let failed = |error: io::Error| format!("cannot make a cgroup in {}: {error}", dir.display());
        fs::create_dir(&trial).map_err(failed)?;
        let has = |file: &str| trial.join(file).exists();
        let (kill, memory, pids) = (has("cgroup.kill"), has("memory.max"), has("pids.max"));
        fs::remove_dir(&trial).map_err(failed)?;
        if !kill {
            return Err("this kernel has no cgroup.kill (Linux 5.14 has)".into());
        }
        Ok(Self { dir, name, memory, pids })
    }

    /// Creates the cgroup of an instance. If it exists (from a supervisor that died), it is used.
    ///
    /// # Errors
    /// If it cannot be created, or a limit cannot be set.
    pub fn create(&self, id: &str, limits: TreeLimits) -> io::Result<Cgroup> {
        let dir = self.dir.join(directory_of(id));
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let cgroup = self.open(id)?;
        if let Some(bytes) = limits.memory_bytes.filter(|_| self.memory) {
            fs::write(dir.join("memory.max"), bytes.to_string())?;
        }
        if let Some(processes) = limits.processes.filter(|_| self.pids) {
            fs::write(dir.join("pids.max"), processes.to_string())?;
        }
        Ok(cgroup)
    }

    /// Opens the cgroup of a running instance.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn open(&self, id: &str) -> io::Result<Cgroup> {
        let dir = self.dir.join(directory_of(id));
        let handle = File::open(&dir)?;
        Ok(Cgroup { name: self.name.join(directory_of(id)), dir, handle })
    }
}

impl Cgroup {
    /// The directory, for `CLONE_INTO_CGROUP`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Sends SIGKILL to every process in it. No process can escape by forking.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.kill"), "1")
    }

    /// True if it contains a live process.
    pub fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 1")
    }

    /// The processes in it and in its subdirectories.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        walk(&self.dir, DEPTH_MAX, &mut |dir| {
            let lines = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(lines.lines().filter_map(|pid| pid.parse::<u32>().ok()));
        });
        pids
    }

    /// CPU time of all processes that were ever in it, in microseconds.
    pub fn cpu_us(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.dir.join("cpu.stat")).ok()?;
        stat.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok())
    }

    /// True if the process is in it.
    pub fn contains(&self, pid: u32) -> bool {
        process::cgroup(pid).is_some_and(|name| name.starts_with(&self.name))
    }

    /// Removes the directory. It must not contain processes.
    ///
    /// # Errors
    /// If it contains processes.
    pub fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        walk(&self.dir, DEPTH_MAX, &mut |dir| result = fs::remove_dir(dir));
        result
    }
}

/// Calls `visit` for every directory, children before parents.
fn walk(dir: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    if depth > 0 {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), depth - 1, visit);
            }
        }
    }
    visit(dir);
}

fn directory_of(id: &str) -> String {
    format!("rei-{id}")
}

/// True if this cgroup path (as in `/proc/PID/cgroup`) is the cgroup of an instance of any supervisor on this machine,
/// or below one. A process in such a cgroup belongs to an instance and may not use the control socket. Each supervisor
/// has a digest of its own, so only the form of the name is checked: `rei-DIGEST-NUMBER…`.
pub fn is_instance_cgroup(path: &str) -> bool {
    let is_instance = |name: &str| {
        let mut words = name.split('-');
        let is_digest = |word: &str| word.len() == DIGEST_CHARS && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        words.next() == Some("rei")
            && words.next().is_some_and(is_digest)
            && words.next().is_some_and(|seq| seq.parse::<u64>().is_ok())
    };
    path.split('/').any(is_instance)
}

/// The directory where cgroup2 is mounted, read from the text of `/proc/mounts`.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(point))
    })
}

/// True if systemd has delegated the directory. systemd marks it with an extended attribute; which of the two depends on
/// its version and its privileges.
fn is_delegated(dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(dir.as_os_str().as_bytes()) else { return false };
    [c"trusted.delegate", c"user.delegate"].iter().any(|name| {
        let mut value = [0_u8; 1];
        // SAFETY: both strings end with NUL, and the kernel writes at most `value.len()` bytes to `value`.
        let n = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        n == 1 && value == *b"1"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_of_any_supervisors_instance_is_recognised() {
        let unit = "/system.slice/rei-served.service";
        for inside in ["rei-0a1b2c3d-17-a", "rei-0a1b2c3d-17-b-drain", "rei-0a1b2c3d-17-a/below"] {
            assert!(is_instance_cgroup(&format!("{unit}/{inside}")), "{inside}");
        }
        for outside in ["", "/supervisor", "/rei-operators-1-a", "/rei-0a1b2c3d", "/xrei-0a1b2c3d-17-a"] {
            assert!(!is_instance_cgroup(&format!("{unit}{outside}")), "{outside}");
        }
    }

    #[test]
    fn the_unified_hierarchy_is_found_among_others() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(mount_point(mounts).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("proc /proc proc rw 0 0\n"), None);
    }
}
