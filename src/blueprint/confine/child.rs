//! What happens in the child between fork and exec. System calls only: no allocation, no lock, no panic.
//!
//! ```text
//! rei ─┬─ guard      waits for its child or for the end of rei (the lifeline), then ends all
//!      └── init      pid 1 of the namespace: when it ends, the kernel kills all that is left
//!           └─ agent user, limits, Landlock, seccomp, exec
//! ```
//! Without namespaces there is no init: the guard's child is the agent, and the guard inherits what the agent leaves
//! behind, and kills it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Everything that the child needs, prepared by its parent.
pub(super) struct Plan {
    pub namespaces: Option<Namespaces>,
    pub landlock: OwnedFd,
    pub filter: Vec<libc::sock_filter>,
    pub user: Option<u32>,
    pub memory_bytes: u64,
    pub processes: Option<u64>,
    pub dir: CString,
}

/// The namespaces and what is in them.
pub(super) struct Namespaces {
    pub flags: libc::c_int,
    /// The lines of `uid_map` and `gid_map` where a user namespace is made.
    pub user_map: Option<[Vec<u8>; 2]>,
    pub hide: Option<Hide>,
    pub loopback: bool,
}

/// A directory that is covered by an empty one, with some directories below it carried over.
pub(super) struct Hide {
    pub target: CString,
    pub keep: Vec<Keep>,
}

/// A directory that is carried over, and the directories to be made for it, outermost first, itself last.
pub(super) struct Keep {
    pub path: CString,
    pub dirs: Vec<CString>,
}

/// Directories that are carried over at most; more are not seen by the agent.
const KEEP_MAX: usize = 16;
/// Size of one file that an agent may write, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Open files of a process.
const FILES_MAX: u64 = 4096;
/// How far an agent stands back behind the runtime for the processor: half way down.
const NICENESS: libc::c_int = 10;
/// How often a guard looks for children that are left: each round kills all that are known, so that only something that
/// forks faster than it dies gets so far.
const SWEEPS_MAX: usize = 100_000;
/// The exit code of a guard or init that lost its child; a shell's code for a program that cannot be run.
pub(super) const EXIT_LOST: libc::c_int = 126;
/// Added to a signal to make an exit code, as shells do.
pub(super) const EXIT_SIGNAL: libc::c_int = 128;

/// SECBIT_NOROOT and its lock.
const SECBITS_NO_ROOT: libc::c_ulong = 0b11;

/// Landlock's rule for a directory, as the kernel lays it out.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}
const LANDLOCK_RULE_PATH_BENEATH: libc::c_int = 1;
const LANDLOCK_READ_FILE: u64 = 1 << 2;
const LANDLOCK_READ_DIR: u64 = 1 << 3;

/// Turns the freshly forked child into guard, init and agent; returns in the agent alone, ready to exec.
///
/// # Errors
/// The system call that failed; the program is then not run.
pub(super) fn enter(plan: &Plan, lifeline: &OwnedFd) -> io::Result<()> {
    write_file(c"/proc/self/oom_score_adj", b"1000"); // when memory is short, the agent goes, not Active
    if let Some(namespaces) = &plan.namespaces {
        make_namespaces(namespaces)?;
    }
    // SAFETY: prctl with these arguments touches no memory.
    unsafe {
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))?;
    }
    match fork()? {
        0 => {}
        child => guard(child, lifeline.as_raw_fd()),
    }
    die_with_parent()?;
    // SAFETY: touches no memory. A group without the guard: a signal to the agent's own group must not end it.
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
        die_with_parent()?; // the change of user forgot it
    }
    // Root of a container that has no other user must not get its capabilities back by exec. Others may not ask for this.
    // SAFETY: touches no memory.
    unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBITS_NO_ROOT, 0, 0, 0) };
    // SAFETY: the fd is open and a rule set; prctl with these arguments touches no memory; `dir` is a C string; the
    // filter is as long as it says.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::chdir(plan.dir.as_ptr()))?;
        check(syscall(libc::syscall(libc::SYS_landlock_restrict_self, plan.landlock.as_raw_fd(), 0)))?;
        let filter = libc::sock_fprog { len: plan.filter.len() as u16, filter: plan.filter.as_ptr().cast_mut() };
        check(syscall(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)))?;
    }
    Ok(())
}

/// Leaves the namespaces of the parent.
pub(super) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: touches no memory.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

fn make_namespaces(namespaces: &Namespaces) -> io::Result<()> {
    unshare(namespaces.flags)?;
    if let Some([users, groups]) = &namespaces.user_map {
        // The supervisor is not dumpable, and then its map files belong to root. Nothing secret is at stake for these
        // few microseconds that a process of the same user could not have had before.
        // SAFETY: prctl with these arguments touches no memory.
        check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) })?;
        let written = write_file(c"/proc/self/setgroups", b"deny")
            && write_file(c"/proc/self/uid_map", users)
            && write_file(c"/proc/self/gid_map", groups);
        if !written {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: all pointers are C strings or null, as mount wants them.
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

/// Covers a directory and carries over what is kept.
fn hide(hide: &Hide) -> io::Result<()> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_RECURSIVE).cast_unsigned();
    let mut fds: [RawFd; KEEP_MAX] = [-1; KEEP_MAX];
    for (fd, keep) in fds.iter_mut().zip(&hide.keep) {
        // SAFETY: the path is a C string.
        *fd = check(syscall(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, keep.path.as_ptr(), flags) }))?;
    }
    let (kind, options) = (c"tmpfs".as_ptr(), c"mode=0711,size=256k".as_ptr());
    // SAFETY: all pointers are C strings.
    unsafe {
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        check(libc::mount(kind, hide.target.as_ptr(), kind, flags, options.cast()))?;
    }
    for (fd, keep) in fds.iter().zip(&hide.keep) {
        for dir in &keep.dirs {
            // SAFETY: the path is a C string. It can be there already, made for another.
            unsafe { libc::mkdir(dir.as_ptr(), 0o755) };
        }
        // SAFETY: the paths are C strings, the fd is open.
        check(syscall(unsafe {
            let (empty, path) = (c"".as_ptr(), keep.path.as_ptr());
            libc::syscall(libc::SYS_move_mount, *fd, empty, libc::AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH)
        }))?;
    }
    Ok(())
}

/// Brings the network namespace's own loopback up: tests of the agent may need it. Without it, they fail.
fn raise_loopback() {
    // SAFETY: `ifreq` is plain data for which zero is valid; the ioctl reads and writes it alone.
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

/// A `/proc` of the new namespace, in which the agent sees itself alone, and the right to read it. Where the kernel does
/// not allow one (inside some containers), the agent has no `/proc`.
fn mount_proc(plan: &Plan, namespaces: &Namespaces) {
    if namespaces.flags & libc::CLONE_NEWPID == 0 {
        return;
    }
    let (kind, path) = (c"proc".as_ptr(), c"/proc".as_ptr());
    // SAFETY: all pointers are C strings, null, or to a rule that outlives the call.
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
            // SAFETY: the struct outlives the call.
            check(unsafe { libc::setrlimit(resource, &limit) })?;
        }
    }
    // SAFETY: touch no memory.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
        libc::umask(0o022);
    }
    Ok(())
}

/// For good: real, effective and saved ids, and no supplementary group. Capabilities go with the user.
fn drop_user(user: u32) -> io::Result<()> {
    // SAFETY: an empty list of groups is not read.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(user, user, user))?;
        check(libc::setresuid(user, user, user))?;
    }
    Ok(())
}

/// Waits for the child or for the end of rei, kills what is left, and never returns.
fn guard(child: libc::pid_t, lifeline: RawFd) -> ! {
    // SAFETY: system calls on values and on arrays of this frame.
    unsafe {
        close_all_but(lifeline);
        // By hand: this process was forked from one with threads, and makes plain system calls alone.
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

/// Kills what has become the guard's child because its own parent ended, and what comes to light by that.
fn sweep() {
    let mut text = [0_u8; 4096];
    for _ in 0..SWEEPS_MAX {
        // SAFETY: the path is a C string, the buffer as long as it says, and the rest are values.
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
                // Each number is followed by a blank; one that was cut off at the end is read again.
                // SAFETY: touches no memory.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                pid = 0;
            }
        }
        // SAFETY: a null status is not written.
        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } < 0 {
            return; // no child is left
        }
    }
}

/// Pid 1 of the namespace: waits for everything, ends with the agent, and never returns.
fn init(agent: libc::pid_t) -> ! {
    // SAFETY: system calls on values and on a variable of this frame.
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

/// Closes what rei had open, and with it the pipe on which rei waits for the exec.
///
/// # Safety
/// Nothing in this process may use those descriptors any more.
unsafe fn close_all_but(kept: RawFd) {
    const FIRST: libc::c_uint = 3;
    // SAFETY: as the caller promises.
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
    // SAFETY: the child goes on with system calls alone, as this one does.
    check(unsafe { libc::fork() })
}

fn die_with_parent() -> io::Result<()> {
    // SAFETY: touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map(drop)
}

fn write_file(path: &std::ffi::CStr, bytes: &[u8]) -> bool {
    // SAFETY: the path is a C string, the buffer as long as it says.
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

/// A system call's result fits an `int`: a descriptor, zero or -1.
fn syscall(result: libc::c_long) -> libc::c_int {
    result as libc::c_int
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
