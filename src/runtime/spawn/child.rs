//! The child between clone and exec: raw system calls only.
//!
//! It shares the supervisor's memory and its thread-local storage, so it must not allocate, lock, or call what changes
//! every thread of a process (the C library's setuid does). Its own are the descriptor table, the signal handlers, the
//! working directory and the credentials.

use std::arch::asm;
use std::ffi::{c_char, c_int, c_long};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::gate::Behind;
use crate::interface::runtime::LISTEN_FDS_START;
use crate::runtime::isolation::User;

/// The child's stack, in bytes. It calls a few levels deep without buffers; debug builds need the most.
const STACK_BYTES: usize = 64 << 10;

/// The exit code of a child that did not become its program, as a shell gives it.
const EXIT_NOT_STARTED: c_int = 127;

/// Signals are numbered from 1 to this.
const SIGNAL_MAX: c_int = 64;

/// The size of the kernel's signal set, in bytes.
const SIGNAL_SET_BYTES: usize = 8;

/// What the child does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Enters its control group, where it was not made inside.
    Group = 1,
    /// Leaves the supervisor's session.
    Session,
    /// Puts its descriptors in place and marks all others to be closed.
    Descriptors,
    /// Bounds its resources.
    Limits,
    /// Becomes its user.
    User,
    /// Enters its working directory.
    Directory,
    /// Gives up new privileges.
    NoNewPrivileges,
    /// Enters its Landlock domain.
    Landlock,
    /// Puts on its system call filter.
    Seccomp,
    /// Waits until its program may run.
    Gate,
    /// Becomes the program.
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

/// Everything the child needs, made before it.
pub(super) struct Plan<'a> {
    pub program: *const c_char,
    pub argv: *const *const c_char,
    pub envp: *const *const c_char,
    pub dir: *const c_char,
    /// Room for ten digits and a NUL, or null.
    pub listen_pid: *mut u8,
    /// Null without a table.
    pub pid_cell: *const AtomicU32,
    /// What become 0, 1 and 2.
    pub standard: [c_int; 3],
    /// What become 3 and up.
    pub fds: &'a [c_int],
    pub limits: &'a [(u32, libc::rlimit64)],
    pub user: Option<&'a User>,
    /// -1 without one.
    pub ruleset: c_int,
    pub filter: Option<libc::sock_fprog>,
    /// The control group's directory, where the child has to enter it by itself, else -1.
    pub enter: AtomicI32,
    /// What it waits at before it runs the program.
    pub behind: Option<Behind<'a>>,
    pub failure: Failure,
}

/// What the child says when it fails, through the memory that it shares.
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

/// A child that has run exec, or failed to and ended.
pub(super) struct Born {
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

/// Makes the child and returns when it runs its program or has ended.
pub(super) fn clone_and_exec(plan: &Plan, cgroup: Option<c_int>) -> io::Result<Born> {
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
    // SAFETY: the arguments are those of clone3; the child runs `child_main` on its own stack and never returns from
    // it, and with VFORK this thread sleeps, and so keeps `plan` and `stack`, until the child needs them no more.
    let mut result = unsafe { clone(libc::SYS_clone3, call, child_main, plan) };
    if result == -c_long::from(libc::ENOSYS) {
        // A filter that looks at arguments (systemd's RestrictNamespaces, a container's) cannot look into clone3's, and
        // refuses it. The older call takes no group, so the child enters it itself.
        plan.enter.store(cgroup.unwrap_or(-1), Ordering::Relaxed);
        let flags = args.flags & !CLONE_INTO_CGROUP | args.exit_signal;
        let call = [flags, args.stack + args.stack_size, args.pidfd];
        // SAFETY: as above, with the arguments of clone.
        result = unsafe { clone(libc::SYS_clone, call, child_main, plan) };
    }
    restore_signals(before);
    if result < 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL)));
    }
    Ok(Born { pid: u32::try_from(result).map_err(io::Error::other)?, pidfd })
}

/// A 64-bit flag, beyond the type that libc gives it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone or clone3. As a plain call it would return on the wrong stack in the child, so the child's jump is part of it.
#[cfg(target_arch = "x86_64")]
unsafe fn clone(number: c_long, args: [u64; 3], main: extern "C" fn(&Plan) -> !, plan: &Plan) -> c_long {
    let result: c_long;
    // SAFETY: the caller upholds what clone3 needs; the child leaves this code at once and for good.
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

#[cfg(target_arch = "aarch64")]
unsafe fn clone(number: c_long, args: [u64; 3], main: extern "C" fn(&Plan) -> !, plan: &Plan) -> c_long {
    let result: c_long;
    // SAFETY: the caller upholds what clone3 needs; the child leaves this code at once and for good.
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
    // SAFETY: both sets have the kernel's size.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, SIGNAL_SET_BYTES)
    };
    before
}

fn restore_signals(mask: u64) {
    // SAFETY: the set has the kernel's size; the old one is not asked for.
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
    // SAFETY: called once, in the child, with a plan that outlives it.
    let (step, errno) = unsafe { become_program(plan) };
    plan.failure.errno.store(errno, Ordering::Release);
    plan.failure.step.store(step as u32, Ordering::Release);
    loop {
        // SAFETY: ends this process and nothing else.
        unsafe { libc::syscall(libc::SYS_exit_group, EXIT_NOT_STARTED) };
    }
}

/// Does every step; returns only with the one that failed.
unsafe fn become_program(plan: &Plan) -> (Step, c_int) {
    // SAFETY: the caller is the child, and the plan's pointers are valid for it.
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

unsafe fn prepare(plan: &Plan) -> Result<(), (Step, c_int)> {
    // SAFETY: as in `become_program`.
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
            // Also takes the dumpable flag from the memory that is shared, so no process of that user can look into
            // it before exec. The supervisor itself is never dumpable anyway.
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

/// Waits at the gate. Who could open it may be killed meanwhile, and a process that nobody lets go must not stay.
fn wait(behind: &Behind) -> Result<(), (Step, c_int)> {
    let end_with_parent = |signal: c_int| {
        // SAFETY: plain numbers.
        check(Step::Gate, unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) })
    };
    end_with_parent(libc::SIGKILL)?;
    // One that ended before that sends nothing.
    // SAFETY: no arguments.
    let orphan = unsafe { libc::syscall(libc::SYS_getppid) } != c_long::from(behind.parent);
    if orphan || !behind.gate.is_passed() {
        return Err((Step::Gate, libc::ECANCELED));
    }
    // From here on it outlives its parent.
    end_with_parent(0)
}

/// The first act: from here on the supervisor's successor knows of this process.
unsafe fn write_pid(plan: &Plan) {
    // SAFETY: getpid has no arguments; cell and digits are valid or null as the plan says.
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

/// Before any program runs: nothing of the instance is ever outside.
unsafe fn enter_cgroup(plan: &Plan) -> Result<(), (Step, c_int)> {
    let dir = plan.enter.load(Ordering::Relaxed);
    if dir < 0 {
        return Ok(());
    }
    // SAFETY: the text is a constant; the descriptor is closed by exec.
    unsafe {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let procs = libc::syscall(libc::SYS_openat, dir, c"cgroup.procs".as_ptr(), flags);
        check(Step::Group, procs)?;
        check(Step::Group, libc::syscall(libc::SYS_write, procs, c"0".as_ptr(), 1))
    }
}

/// Without leading zeros: sd_listen_fds(3) would read them as octal.
unsafe fn write_digits(to: *mut u8, number: u32) {
    let (mut digits, mut rest) = (1, number);
    while rest >= 10 {
        (digits, rest) = (digits + 1, rest / 10);
    }
    let mut rest = number;
    for place in (0..digits).rev() {
        // SAFETY: a 32-bit number has at most ten digits, and there is room for eleven bytes.
        unsafe { to.add(place).write(b'0' + (rest % 10) as u8) };
        rest /= 10;
    }
}

/// Handlers go by exec, but what the supervisor ignores (SIGPIPE) would stay ignored.
unsafe fn default_signals() {
    // The kernel's struct sigaction of all zeros: SIG_DFL, no flags, no restorer, empty mask.
    let default = [0_u64; 4];
    for signal in 1..=SIGNAL_MAX {
        // Fails for SIGKILL and SIGSTOP, which have no other disposition.
        // SAFETY: the struct is at least as large as the kernel's, and the old one is not asked for.
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

unsafe fn pass_descriptors(plan: &Plan) -> Result<(), (Step, c_int)> {
    // The sources are all above the last target.
    let standard = plan.standard.iter().zip(0..);
    let inherited = plan.fds.iter().zip(LISTEN_FDS_START..);
    for (source, target) in standard.chain(inherited) {
        // SAFETY: plain numbers.
        check(Step::Descriptors, unsafe { libc::syscall(libc::SYS_dup3, *source, target, 0) })?;
    }
    let first = LISTEN_FDS_START + plan.fds.len() as c_int;
    // Marks, not closes: the lock of the instance table is held until exec, and the rules are still needed.
    // SAFETY: plain numbers.
    unsafe {
        let marked =
            libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint);
        check(Step::Descriptors, marked)
    }
}

fn check(step: Step, result: c_long) -> Result<(), (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(()) }
}

/// The calling thread's errno, which the child shares with the sleeping supervisor.
fn errno() -> c_int {
    // SAFETY: the C library's thread-local is valid in the child, which has the supervisor's thread pointer.
    unsafe { *libc::__errno_location() }
}
