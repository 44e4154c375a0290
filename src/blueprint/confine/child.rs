//! The child between fork and exec. It makes only system calls: no allocation, no lock, no panic.
//!
//! ```text
//! rei ─┬─ guard      waits for its child or for the end of rei (the lifeline), then ends all
//!      └── init      pid 1 of the namespace: when it ends, the kernel kills all that is left
//!           └─ agent user, limits, Landlock, seccomp, exec
//! ```
//! Without namespaces there is no init: the guard's child is the agent. The guard is a subreaper; it inherits the
//! processes that the agent leaves, and kills them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Everything the child needs, prepared by its parent.
pub(super) struct Plan {
    pub namespaces: Option<Namespaces>,
    pub landlock: OwnedFd,
    pub filter: Vec<libc::sock_filter>,
    pub user: Option<u32>,
    pub memory_bytes: u64,
    pub processes: Option<u64>,
    pub dir: CString,
}

/// The namespaces and their contents.
pub(super) struct Namespaces {
    pub flags: libc::c_int,
    /// The lines of `uid_map` and `gid_map`, if a user namespace is made.
    pub user_map: Option<[Vec<u8>; 2]>,
    pub hide: Option<Hide>,
    pub loopback: bool,
}

/// A directory that is covered by an empty one. Some directories below it stay visible.
pub(super) struct Hide {
    pub target: CString,
    pub keep: Vec<KeptDir>,
}

/// A directory that stays visible, and the directories to create for it, outermost first and itself last.
pub(super) struct KeptDir {
    pub path: CString,
    pub dirs: Vec<CString>,
}

/// Maximum number of directories that stay visible; the agent does not see more.
const KEEP_MAX: usize = 16;
/// Maximum size of a file that an agent may write, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Maximum number of open files per process.
const FILES_MAX: u64 = 4096;
/// The nice value of an agent, so that the runtime has priority for the CPU: half of the maximum.
const NICENESS: libc::c_int = 10;
/// Maximum number of rounds in which a guard kills remaining children. Each round kills all known ones, so only a
/// program that forks faster than it is killed reaches it.
const SWEEPS_MAX: usize = 100_000;
/// The exit code of a guard or init that could not wait for its child; shells use it for a program that cannot be run.
pub(super) const EXIT_LOST: libc::c_int = 126;
/// Added to a signal number to make an exit code, as in shells.
pub(super) const EXIT_SIGNAL: libc::c_int = 128;

/// SECBIT_NOROOT and SECBIT_NOROOT_LOCKED.
const SECBITS_NO_ROOT: libc::c_ulong = 0b11;

/// The kernel's layout of a Landlock rule for a directory.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}
const LANDLOCK_RULE_PATH_BENEATH: libc::c_int = 1;
const LANDLOCK_READ_FILE: u64 = 1 << 2;
const LANDLOCK_READ_DIR: u64 = 1 << 3;

/// Turns the forked child into guard, init and agent. Returns only in the agent, which is ready for exec.
///
/// # Errors
/// The error of the system call that failed; then the program is not run.
pub(super) fn enter(plan: &Plan, lifeline: &OwnedFd) -> io::Result<()> {
    write_file(c"/proc/self/oom_score_adj", b"1000"); // if memory runs out, the kernel kills the agent and not Active
    if let Some(namespaces) = &plan.namespaces {
        make_namespaces(namespaces)?;
    }
    // SAFETY: with these options prctl takes only integers and changes only this process.
    unsafe {
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))?;
    }
    match fork()? {
        0 => {}
        child => guard(child, lifeline.as_raw_fd()),
    }
    die_with_parent()?;
    // SAFETY: setpgid takes only integers. The agent gets a process group without the guard, because a signal to the
    // agent's group must not kill the guard.
    check(unsafe { libc::setpgid(0, 0) })?;
    if let Some(namespaces) = &plan.namespaces {
        mount_proc(plan, namespaces);
        match fork()? {
            0 => die_with_parent()?,
            child => init(child),
        }
    }
    limit(plan)?;
    if let Some(user) = plan.user {
        drop_user(user)?;
        die_with_parent()?; // the change of user clears the parent-death signal
    }
    // Root in a container without another user must not regain its capabilities at exec. Other users may not set these
    // bits, so an error is ignored.
    // SAFETY: with this option prctl takes only integers and changes only this process.
    unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBITS_NO_ROOT, 0, 0, 0) };
    // SAFETY: the Landlock fd is open and a ruleset; with this option prctl takes only integers; `dir` ends with NUL;
    // `filter` points to `len` instructions of `plan.filter`, which lives through the call.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::chdir(plan.dir.as_ptr()))?;
        check(syscall(libc::syscall(libc::SYS_landlock_restrict_self, plan.landlock.as_raw_fd(), 0)))?;
        let filter = libc::sock_fprog { len: plan.filter.len() as u16, filter: plan.filter.as_ptr().cast_mut() };
        check(syscall(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)))?;
    }
    Ok(())
}

/// Leaves the parent's namespaces.
pub(super) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare takes only integers and changes only this process, which has one thread after fork.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

fn make_namespaces(namespaces: &Namespaces) -> io::Result<()> {
    unshare(namespaces.flags)?;
    if let Some([users, groups]) = &namespaces.user_map {
        // The supervisor is not dumpable, so the map files of this fork belong to root. Making it dumpable for a few
        // microseconds exposes no secret that a process of the same user could not read before.
        // SAFETY: with this option prctl takes only integers and changes only this process.
        check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) })?;
        let written = write_file(c"/proc/self/setgroups", b"deny")
            && write_file(c"/proc/self/uid_map", users)
            && write_file(c"/proc/self/gid_map", groups);
        if !written {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: all pointers are null or to constant strings that end with NUL.
    unsafe {
        let none = std::ptr::null();
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
    }
    if let Some(hidden) = &namespaces.hide {
        hide(hidden)?;
    }
    if namespaces.loopback {
        raise_loopback();
    }
    Ok(())
}

/// Mounts an empty directory over `target`, and moves the kept directories back into it.
fn hide(hide: &Hide) -> io::Result<()> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_RECURSIVE).cast_unsigned();
    let mut fds: [RawFd; KEEP_MAX] = [-1; KEEP_MAX];
    for (fd, keep) in fds.iter_mut().zip(&hide.keep) {
        // SAFETY: `path` ends with NUL.
        *fd = check(syscall(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, keep.path.as_ptr(), flags) }))?;
    }
    let (kind, options) = (c"tmpfs".as_ptr(), c"mode=0711,size=256k".as_ptr());
    // SAFETY: all strings end with NUL.
    unsafe {
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        check(libc::mount(kind, hide.target.as_ptr(), kind, flags, options.cast()))?;
    }
    for (fd, keep) in fds.iter().zip(&hide.keep) {
        for dir in &keep.dirs {
            // SAFETY: `dir` ends with NUL. The directory may exist already, made for another kept directory.
            unsafe { libc::mkdir(dir.as_ptr(), 0o755) };
        }
        // SAFETY: both paths end with NUL, and the fd is open.
        check(syscall(unsafe {
            let (empty, path) = (c"".as_ptr(), keep.path.as_ptr());
            libc::syscall(libc::SYS_move_mount, *fd, empty, libc::AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH)
        }))?;
    }
    Ok(())
}

/// Brings the loopback of the new network namespace up: the agent's tests may need it. On an error they fail.
fn raise_loopback() {
    // SAFETY: `ifreq` is plain data for which zero is valid, and the ioctl accesses only `request`.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return;
        }
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        libc::ioctl(fd, libc::SIOCSIFFLAGS, &request);
        libc::close(fd);
    }
}

/// Mounts a `/proc` of the new PID namespace, where the agent sees only its own processes, and allows reading it. If
/// the kernel does not allow the mount (in some containers), the agent has no `/proc`.
fn mount_proc(plan: &Plan, namespaces: &Namespaces) {
    if namespaces.flags & libc::CLONE_NEWPID == 0 {
        return;
    }
    let (kind, path) = (c"proc".as_ptr(), c"/proc".as_ptr());
    // SAFETY: all strings end with NUL; the other pointers are null or to a rule that lives through the call.
    unsafe {
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        if libc::mount(kind, path, kind, flags, std::ptr::null()) != 0 {
            return;
        }
        let fd = libc::open(path, libc::O_PATH | libc::O_CLOEXEC);
        let rule = PathBeneathAttr { allowed_access: LANDLOCK_READ_FILE | LANDLOCK_READ_DIR, parent_fd: fd };
        let ruleset = plan.landlock.as_raw_fd();
        libc::syscall(libc::SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &raw const rule, 0);
        libc::close(fd);
    }
}

fn limit(plan: &Plan) -> io::Result<()> {
    let limits = [
        // Not the address space: runtimes with a garbage collector reserve much more than they use.
        (libc::RLIMIT_DATA, Some(plan.memory_bytes)),
        (libc::RLIMIT_NPROC, plan.processes),
        (libc::RLIMIT_FSIZE, Some(FILE_BYTES_MAX)),
        (libc::RLIMIT_NOFILE, Some(FILES_MAX)),
        (libc::RLIMIT_CORE, Some(0)),
    ];
    for (resource, limit) in limits {
        if let Some(limit) = limit {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            // SAFETY: `limit` lives through the call.
            check(unsafe { libc::setrlimit(resource, &limit) })?;
        }
    }
    // SAFETY: setpriority and umask take only integers.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
        libc::umask(0o022);
    }
    Ok(())
}

/// Switches to the user permanently: real, effective and saved ids, without supplementary groups. Capabilities are lost
/// with the user.
fn drop_user(user: u32) -> io::Result<()> {
    // SAFETY: with a length of 0 the list of groups is not read; the other calls take only integers.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(user, user, user))?;
        check(libc::setresuid(user, user, user))?;
    }
    Ok(())
}

/// Waits for the child's exit or for the end of rei, then kills the rest. Never returns.
fn guard(child: libc::pid_t, lifeline: RawFd) -> ! {
    // SAFETY: the system calls get integers, or pointers to local variables that live through the call.
    unsafe {
        close_all_but(lifeline);
        // By a raw system call: this process was forked from one with threads, so it must not use library code that
        // allocates or locks.
        let pidfd = libc::syscall(libc::SYS_pidfd_open, child, 0) as RawFd;
        let mut fds = [
            libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: lifeline, events: 0, revents: 0 },
        ];
        while pidfd >= 0 && libc::poll(fds.as_mut_ptr(), 2, -1) < 0 {}
        if fds[1].revents != 0 {
            libc::kill(child, libc::SIGKILL);
        }
        let mut status = 0;
        while libc::waitpid(child, &mut status, 0) < 0 {
            if *libc::__errno_location() != libc::EINTR {
                libc::_exit(EXIT_LOST);
            }
        }
        sweep();
        libc::_exit(exit_code(status))
    }
}

/// Kills processes that became children of the guard because their parent died, and repeats this for their children.
fn sweep() {
    let mut text = [0_u8; 4096];
    for _ in 0..SWEEPS_MAX {
        // SAFETY: the path ends with NUL, the kernel writes at most `text.len()` bytes, and the rest are integers.
        let length = unsafe {
            let fd = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            let length = libc::read(fd, text.as_mut_ptr().cast(), text.len());
            libc::close(fd);
            length
        };
        let mut pid: libc::pid_t = 0;
        for byte in text.iter().take(usize::try_from(length).unwrap_or(0)) {
            if byte.is_ascii_digit() {
                pid = pid.wrapping_mul(10).wrapping_add(libc::pid_t::from(byte - b'0'));
            } else if pid > 1 {
                // Each number is followed by a space. A number that is cut off at the end of the buffer is read in the
                // next round.
                // SAFETY: kill takes only integers.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                pid = 0;
            }
        }
        // SAFETY: with a null pointer the status is not written.
        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } < 0 {
            return; // no child is left
        }
    }
}

/// Pid 1 of the namespace: reaps all processes, exits when the agent exits. Never returns.
fn init(agent: libc::pid_t) -> ! {
    // SAFETY: the system calls get integers, or a pointer to a local variable that lives through the call.
    unsafe {
        close_all_but(-1);
        let mut status = 0;
        loop {
            let ended = libc::waitpid(-1, &mut status, 0);
            if ended == agent {
                libc::_exit(exit_code(status));
            }
            if ended < 0 && *libc::__errno_location() != libc::EINTR {
                libc::_exit(EXIT_LOST);
            }
        }
    }
}

fn exit_code(status: libc::c_int) -> libc::c_int {
    if libc::WIFSIGNALED(status) { EXIT_SIGNAL + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Closes the descriptors of rei, also the pipe on which rei waits for the exec.
///
/// # Safety
/// No code of this process may use those descriptors any more.
unsafe fn close_all_but(kept: RawFd) {
    const FIRST: libc::c_uint = 3;
    // SAFETY: close_range takes only integers; the caller guarantees that the descriptors are not used.
    unsafe {
        match libc::c_uint::try_from(kept) {
            Ok(kept) if kept >= FIRST => {
                if kept > FIRST {
                    libc::syscall(libc::SYS_close_range, FIRST, kept - 1, 0);
                }
                libc::syscall(libc::SYS_close_range, kept + 1, libc::c_uint::MAX, 0);
            }
            _ => {
                libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0);
            }
        }
    }
}

fn fork() -> io::Result<libc::pid_t> {
    // SAFETY: the parent had one thread since its own fork, and parent and child make only system calls.
    check(unsafe { libc::fork() })
}

fn die_with_parent() -> io::Result<()> {
    // SAFETY: with this option prctl takes only integers and changes only this process.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map(drop)
}

fn write_file(path: &std::ffi::CStr, bytes: &[u8]) -> bool {
    // SAFETY: the path ends with NUL, and `bytes` has `bytes.len()` bytes.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return false;
        }
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        libc::close(fd);
        usize::try_from(written) == Ok(bytes.len())
    }
}

/// Converts the result of a system call: a descriptor, zero or -1 fits into an `int`.
fn syscall(result: libc::c_long) -> libc::c_int {
    result as libc::c_int
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
