//! The child between clone and exec. It makes only raw system calls.
//!
//! The child shares the supervisor's memory and its thread-local storage. So it must not allocate, lock, or call
//! functions that change every thread of a process (as the C library's setuid does). It has its own descriptor table,
//! signal handlers, working directory and credentials.

use std::arch::asm;
use std::ffi::{c_char, c_int, c_long};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::gate::GateWait;
use crate::interface::runtime::LISTEN_FDS_START;
use crate::runtime::isolation::User;

/// Size of the child's stack, in bytes. The child calls only a few levels deep and has no large buffers; debug builds
/// need the most.
const STACK_BYTES: usize = 64 << 10;

/// The exit code of a child that did not reach exec, as a shell returns it.
const EXIT_NOT_STARTED: c_int = 127;

/// The highest signal number; the lowest is 1.
const SIGNAL_MAX: c_int = 64;

/// The size of the kernel's signal set, in bytes.
const SIGNAL_SET_BYTES: usize = 8;

/// The steps of the child, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Enters its cgroup, if clone did not put it there.
    Group = 1,
    /// Starts a new session.
    Session,
    /// Moves its descriptors to their numbers and sets close-on-exec on all others.
    Descriptors,
    /// Sets its resource limits.
    Limits,
    /// Switches to its user.
    User,
    /// Changes to its working directory.
    Directory,
    /// Sets no_new_privs.
    NoNewPrivileges,
    /// Enters its Landlock domain.
    Landlock,
    /// Installs its seccomp filter.
    Seccomp,
    /// Waits for the gate.
    Gate,
    /// Runs exec.
    Exec,
}

impl Step {
    const ALL: [Self; 11] = [
        Self::Group,
        Self::Session,
        Self::Descriptors,
        Self::Limits,
        Self::User,
        Self::Directory,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::Seccomp,
        Self::Gate,
        Self::Exec,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "entering its control group",
            Self::Session => "setsid",
            Self::Descriptors => "passing its descriptors",
            Self::Limits => "setting its limits",
            Self::User => "becoming its user",
            Self::Directory => "entering its working directory",
            Self::NoNewPrivileges => "giving up new privileges",
            Self::Landlock => "entering its Landlock domain",
            Self::Seccomp => "setting its system call filter",
            Self::Gate => "waiting until its program may run",
            Self::Exec => "exec",
        })
    }
}

/// Everything the child needs, prepared before clone.
pub(super) struct Plan<'a> {
    pub program: *const c_char,
    pub argv: *const *const c_char,
    pub envp: *const *const c_char,
    pub dir: *const c_char,
    /// Space for ten digits and a NUL, or null.
    pub listen_pid: *mut u8,
    /// Null if there is no instance table.
    pub pid_cell: *const AtomicU32,
    /// The sources of descriptors 0, 1 and 2.
    pub standard: [c_int; 3],
    /// The sources of descriptors 3 and up.
    pub fds: &'a [c_int],
    pub limits: &'a [(u32, libc::rlimit64)],
    pub user: Option<&'a User>,
    /// -1 if there is none.
    pub ruleset: c_int,
    pub filter: Option<libc::sock_fprog>,
    /// The directory of the cgroup if the child must enter it by itself, else -1.
    pub enter: AtomicI32,
    /// The gate before exec.
    pub behind: Option<GateWait<'a>>,
    pub failure: Failure,
}

/// The failure that the child reports through the shared memory.
#[derive(Default)]
pub(super) struct Failure {
    step: AtomicU32,
    errno: AtomicI32,
}

impl Failure {
    /// The step that failed and its errno.
    pub fn read(&self) -> Option<(Step, i32)> {
        let step = self.step.load(Ordering::Acquire);
        let step = Step::ALL.into_iter().find(|known| *known as u32 == step)?;
        Some((step, self.errno.load(Ordering::Acquire)))
    }
}

/// A child that has run exec, or that failed and exited.
pub(super) struct Cloned {
    pub pid: u32,
    pub pidfd: c_int,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

#[repr(C, align(16))]
struct Stack([u8; STACK_BYTES]);

/// Makes the child. Returns after its exec or its exit.
pub(super) fn clone_and_exec(plan: &Plan, cgroup: Option<c_int>) -> io::Result<Cloned> {
    let mut stack: Box<std::mem::MaybeUninit<Stack>> = Box::new_uninit();
    let mut pidfd: c_int = -1;
    let mut args = CloneArgs {
        flags: (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: STACK_BYTES as u64,
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd as u64;
    }
    let before = block_signals();
    let call = [&raw const args as u64, size_of::<CloneArgs>() as u64, 0];
    // SAFETY: the arguments are valid for clone3. The child runs `child_main` on its own stack and never returns from
    // it. With VFORK this thread sleeps until the child has run exec or exited, so `plan` and `stack` stay valid as
    // long as the child uses them.
    let mut result = unsafe { clone(libc::SYS_clone3, call, child_main, plan) };
    if result == -c_long::from(libc::ENOSYS) {
        // A seccomp filter that checks arguments (of systemd's RestrictNamespaces= or of a container) cannot read
        // clone3's structure, so it refuses clone3 with ENOSYS. The older clone has no cgroup argument, so the child
        // enters its cgroup itself.
        plan.enter.store(cgroup.unwrap_or(-1), Ordering::Relaxed);
        let flags = args.flags & !CLONE_INTO_CGROUP | args.exit_signal;
        let call = [flags, args.stack + args.stack_size, args.pidfd];
        // SAFETY: the same as for clone3; the arguments are valid for clone, which takes the stack's upper end.
        result = unsafe { clone(libc::SYS_clone, call, child_main, plan) };
    }
    restore_signals(before);
    if result < 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL)));
    }
    Ok(Cloned { pid: u32::try_from(result).map_err(io::Error::other)?, pidfd })
}

/// A 64-bit flag, too large for the type that `libc` uses.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Calls clone or clone3. A plain function call would return on the wrong stack in the child, so the jump to `main` is
/// part of the assembly.
///
/// # Safety
/// `number` and `args` must be a valid call of clone or clone3 with CLONE_VM and CLONE_VFORK, and with a new stack for the
/// child. `plan` must be what `main` needs.
#[cfg(target_arch = "x86_64")]
unsafe fn clone(number: c_long, args: [u64; 3], main: extern "C" fn(&Plan) -> !, plan: &Plan) -> c_long {
    let result: c_long;
    // SAFETY: the caller guarantees a valid call. In the child, `main` never returns, so the child does not use this
    // stack frame.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {plan}",
            "call {main}",
            "ud2",
            "2:",
            plan = in(reg) plan,
            main = in(reg) main,
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// Calls clone or clone3: see the version for x86_64.
///
/// # Safety
/// As for the version for x86_64.
#[cfg(target_arch = "aarch64")]
unsafe fn clone(number: c_long, args: [u64; 3], main: extern "C" fn(&Plan) -> !, plan: &Plan) -> c_long {
    let result: c_long;
    // SAFETY: the caller guarantees a valid call. In the child, `main` never returns, so the child does not use this
    // stack frame.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, {plan}",
            "blr {main}",
            "brk #1",
            "2:",
            plan = in(reg) plan,
            main = in(reg) main,
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1],
            in("x2") args[2],
        );
    }
    result
}

fn block_signals() -> u64 {
    let (all, mut before) = (u64::MAX, 0_u64);
    // SAFETY: both pointers are valid for the call, and both sets have the size of the kernel's set.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, SIGNAL_SET_BYTES)
    };
    before
}

fn restore_signals(mask: u64) {
    // SAFETY: `mask` is valid for the call and has the size of the kernel's set; null means that the old mask is not
    // wanted.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            std::ptr::null_mut::<u64>(),
            SIGNAL_SET_BYTES,
        )
    };
}

extern "C" fn child_main(plan: &Plan) -> ! {
    // SAFETY: `clone` calls this once, in the child, with a plan that lives until exec.
    let (step, errno) = unsafe { become_program(plan) };
    plan.failure.errno.store(errno, Ordering::Release);
    plan.failure.step.store(step as u32, Ordering::Release);
    loop {
        // SAFETY: exit_group takes an integer; it ends only this process, not the supervisor, which is another thread
        // group.
        unsafe { libc::syscall(libc::SYS_exit_group, EXIT_NOT_STARTED) };
    }
}

/// Runs all steps; returns only if one fails.
///
/// # Safety
/// Call this only in the child, which never returns to the supervisor's code. The pointers of `plan` must be valid.
unsafe fn become_program(plan: &Plan) -> (Step, c_int) {
    // SAFETY: the caller guarantees both; execve reads only memory that `plan` points to.
    unsafe {
        match prepare(plan) {
            Ok(()) => {}
            Err(failed) => return failed,
        }
        restore_signals(0);
        libc::syscall(libc::SYS_execve, plan.program, plan.argv, plan.envp);
        (Step::Exec, errno())
    }
}

/// All steps before exec.
///
/// # Safety
/// As for [`become_program`].
unsafe fn prepare(plan: &Plan) -> Result<(), (Step, c_int)> {
    // SAFETY: the pointers that the system calls read are valid, as the caller guarantees; the calls change only the
    // child.
    unsafe {
        write_pid(plan);
        enter_cgroup(plan)?;
        default_signals();
        check(Step::Session, libc::syscall(libc::SYS_setsid))?;
        libc::syscall(libc::SYS_umask, 0o022);
        pass_descriptors(plan)?;
        for (resource, limit) in plan.limits {
            let none = std::ptr::null_mut::<libc::rlimit64>();
            check(Step::Limits, libc::syscall(libc::SYS_prlimit64, 0, *resource, limit as *const _, none))?;
        }
        if let Some(user) = plan.user {
            // This also clears the dumpable flag of the shared memory, so no process of that user can read it before
            // exec. The supervisor itself is never dumpable anyway.
            let (uid, gid) = (user.uid, user.gid);
            check(Step::User, libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()))?;
            check(Step::User, libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            check(Step::User, libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        }
        check(Step::Directory, libc::syscall(libc::SYS_chdir, plan.dir))?;
        check(Step::NoNewPrivileges, libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        if plan.ruleset >= 0 {
            check(Step::Landlock, libc::syscall(libc::SYS_landlock_restrict_self, plan.ruleset, 0))?;
        }
        if let Some(filter) = &plan.filter {
            let set = libc::SECCOMP_SET_MODE_FILTER;
            check(Step::Seccomp, libc::syscall(libc::SYS_seccomp, set, 0, filter as *const libc::sock_fprog))?;
        }
    }
    plan.behind.map_or(Ok(()), |behind| wait(&behind))
}

/// Waits at the gate. The supervisor may be killed meanwhile; then this process must exit.
fn wait(behind: &GateWait) -> Result<(), (Step, c_int)> {
    let end_with_parent = |signal: c_int| {
        // SAFETY: prctl with this option takes only integers and changes only this process.
        check(Step::Gate, unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) })
    };
    end_with_parent(libc::SIGKILL)?;
    // A parent that died before the prctl call sends no signal, so check the parent.
    // SAFETY: getppid takes no arguments and cannot fail.
    let orphan = unsafe { libc::syscall(libc::SYS_getppid) } != c_long::from(behind.parent);
    if orphan || !behind.gate.wait_until_decided() {
        return Err((Step::Gate, libc::ECANCELED));
    }
    // From here on the process outlives its parent.
    end_with_parent(0)
}

/// The first step: from here on, the next supervisor finds this process in the instance table.
///
/// # Safety
/// As for [`become_program`].
unsafe fn write_pid(plan: &Plan) {
    // SAFETY: getpid takes no arguments; `pid_cell` and `listen_pid` are valid or null, as the caller guarantees.
    unsafe {
        let pid = libc::syscall(libc::SYS_getpid) as u32;
        if let Some(cell) = plan.pid_cell.as_ref() {
            cell.store(pid, Ordering::Release);
        }
        if !plan.listen_pid.is_null() {
            write_digits(plan.listen_pid, pid);
        }
    }
}

/// Enters the cgroup before exec, so that no program of the instance ever runs outside of it.
///
/// # Safety
/// As for [`become_program`].
unsafe fn enter_cgroup(plan: &Plan) -> Result<(), (Step, c_int)> {
    let dir = plan.enter.load(Ordering::Relaxed);
    if dir < 0 {
        return Ok(());
    }
    // SAFETY: both strings are constants that end with NUL, and write reads one byte. Exec closes the descriptor.
    unsafe {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let procs = libc::syscall(libc::SYS_openat, dir, c"cgroup.procs".as_ptr(), flags);
        check(Step::Group, procs)?;
        check(Step::Group, libc::syscall(libc::SYS_write, procs, c"0".as_ptr(), 1))
    }
}

/// Writes a number in decimal, without leading zeros: sd_listen_fds(3) would parse those as octal.
///
/// # Safety
/// `to` must have space for ten bytes.
unsafe fn write_digits(to: *mut u8, number: u32) {
    let (mut digits, mut rest) = (1, number);
    while rest >= 10 {
        (digits, rest) = (digits + 1, rest / 10);
    }
    let mut rest = number;
    for place in (0..digits).rev() {
        // SAFETY: a 32-bit number has at most ten digits, so `place` is below ten.
        unsafe { to.add(place).write(b'0' + (rest % 10) as u8) };
        rest /= 10;
    }
}

/// Resets all signals to their default. exec resets signal handlers, but ignored signals (here SIGPIPE) would stay
/// ignored.
///
/// # Safety
/// As for [`become_program`]: in the supervisor this would remove its own handlers.
unsafe fn default_signals() {
    // The kernel's struct sigaction of all zeros: SIG_DFL, no flags, no restorer, empty mask.
    let default = [0_u64; 4];
    for signal in 1..=SIGNAL_MAX {
        // This fails for SIGKILL and SIGSTOP, whose disposition cannot change.
        // SAFETY: `default` is at least as large as the kernel's struct; null means that the old disposition is not
        // wanted.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null_mut::<u64>(),
                SIGNAL_SET_BYTES,
            )
        };
    }
}

/// Moves the descriptors of the plan to their numbers.
///
/// # Safety
/// As for [`become_program`]: in the supervisor this would replace its own descriptors.
unsafe fn pass_descriptors(plan: &Plan) -> Result<(), (Step, c_int)> {
    // All sources have numbers above the last target.
    let standard = plan.standard.iter().zip(0..);
    let inherited = plan.fds.iter().zip(LISTEN_FDS_START..);
    for (source, target) in standard.chain(inherited) {
        // SAFETY: dup3 takes only integers. It replaces descriptors of the child, whose table is its own.
        check(Step::Descriptors, unsafe { libc::syscall(libc::SYS_dup3, *source, target, 0) })?;
    }
    let first = LISTEN_FDS_START + plan.fds.len() as c_int;
    // Only set close-on-exec: the lock of the instance table must be held until exec, and the Landlock ruleset is
    // needed later.
    // SAFETY: close_range takes only integers and changes only the child's own descriptor table.
    unsafe {
        let marked =
            libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint);
        check(Step::Descriptors, marked)
    }
}

fn check(step: Step, result: c_long) -> Result<(), (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(()) }
}

/// The errno of the calling thread; the child uses that of the sleeping supervisor thread.
fn errno() -> c_int {
    // SAFETY: the child has the thread pointer of the supervisor's thread, so the C library's thread-local errno is
    // valid.
    unsafe { *libc::__errno_location() }
}
