//! Starts a process: clone3 (or clone) with VFORK, VM and PIDFD, then confinement, then exec. There is no helper
//! program, and page tables are not copied.
//!
//! Everything that allocates, or that can fail without a system call, is prepared here. The child ([`child`]) then
//! makes only raw system calls, on its own stack, with all signals blocked. It shares the supervisor's memory until
//! exec, so it can report exactly which step failed. The calling thread is suspended until exec: for about a
//! millisecond, or until the [`Gate`] opens, if there is one.
//!
//! The new process is in its own session, has `/dev/null` as standard input, the listeners as descriptors 3 and up, and
//! no other open descriptors. It intentionally outlives the supervisor.

mod child;
mod gate;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use rustix::io::fcntl_dupfd_cloexec;

pub use child::Step;
pub use gate::Gate;

use gate::GateWait;

use super::isolation::Sandbox;
use super::table::PidCell;
use crate::executable::{self, Obstacle, Role, Unfit};
use crate::interface::runtime::LISTEN_FDS_START;
use crate::process::{self, INSTANCE_VARIABLE};

/// The specification of a process.
pub struct SpawnSpec<'a> {
    /// The id of the instance. It is in the environment of all its processes as `REI_INSTANCE` from the start.
    pub id: &'a str,
    /// The program's absolute path.
    pub program: &'a Path,
    /// The arguments after the program name.
    pub args: &'a [OsString],
    /// The environment, without the variables that are set here: `REI_INSTANCE`, `LISTEN_*`, `NOTIFY_SOCKET`,
    /// `WATCHDOG_*`.
    pub env: &'a [(OsString, OsString)],
    /// The working directory; the default is `/`.
    pub dir: Option<&'a Path>,
    /// The descriptors to inherit as 3 and up, with their names for `LISTEN_FDNAMES`.
    pub fds: &'a [(String, BorrowedFd<'a>)],
    /// The standard output.
    pub stdout: BorrowedFd<'a>,
    /// The standard error.
    pub stderr: BorrowedFd<'a>,
    /// The sandbox. With `None` it has the rights of the supervisor, but no new privileges.
    pub sandbox: Option<&'a Sandbox>,
    /// The cgroup v2 directory in which it starts.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The notification socket, and the interval in which it must send WATCHDOG=1.
    pub notify: Option<(&'a Path, Option<Duration>)>,
    /// The cell where it writes its pid before exec.
    pub pid_cell: Option<PidCell<'a>>,
    /// The gate where it waits before exec, when all other steps are done. If the calling thread dies while it waits,
    /// it exits.
    pub gate: Option<&'a Gate>,
}

/// A process that has run exec.
#[derive(Debug)]
pub struct Spawned {
    /// The process id.
    pub pid: u32,
    /// The pidfd of this process.
    pub pidfd: OwnedFd,
    /// The start time, in clock ticks since boot.
    pub start_ticks: u64,
}

/// Why no process was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A string contains a NUL byte and cannot be passed to a program.
    #[error("{what} of {program} contains a NUL byte")]
    Nul {
        /// Which string: `an argument`, `a variable`, …
        what: &'static str,
        /// The program.
        program: PathBuf,
    },
    /// The process could not be created.
    #[error("cannot make a process for {program}")]
    Clone {
        /// The program.
        program: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The process was created, but a step before or during exec failed.
    #[error("cannot start {program}: {step}{} failed", of(interpreter.as_deref()))]
    Child {
        /// The program.
        program: PathBuf,
        /// The step that failed.
        step: Step,
        /// The interpreter that could not be executed, if the program itself could.
        interpreter: Option<Box<BadInterpreter>>,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The process was killed before exec.
    #[error("{program} was killed before it started")]
    Killed {
        /// The program.
        program: PathBuf,
    },
}

/// An interpreter of a program that cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadInterpreter {
    /// The interpreter.
    pub unfit: Unfit,
    /// What must be allowed so that the program can start.
    pub places: Vec<PathBuf>,
}

impl BadInterpreter {
    /// The first interpreter of a program that cannot be executed. `path` is the program's `PATH`, and `may_execute`
    /// tells whether a file may be executed.
    pub fn find(program: &Path, path: &OsStr, may_execute: impl Fn(&Path) -> bool) -> Option<Self> {
        let unfit = executable::unfit(program, path, &may_execute)?;
        Some(Self { unfit, places: executable::places(program, path, &may_execute) })
    }

    /// The error of the system for it.
    pub fn errno(&self) -> i32 {
        match self.unfit.obstacle {
            Obstacle::Absent => libc::ENOENT,
            Obstacle::NotExecutable | Obstacle::Forbidden => libc::EACCES,
        }
    }

    fn hint(&self) -> String {
        const PACKAGE: &str = "let the package name one of the Nix store (patchShebangs for scripts, autoPatchelfHook for ELF \
                               programs)";
        let Unfit { interpreter, obstacle } = &self.unfit;
        let (path, of) = (interpreter.path.display(), interpreter.of.display());
        let what = match interpreter.role {
            Role::Script | Role::Sought => "interpreter",
            Role::Loader => "loader",
        };
        match obstacle {
            Obstacle::Absent => format!("its {what} does not exist: {of} names {path}; {PACKAGE}"),
            Obstacle::NotExecutable => format!("its {what} must be an executable file: ls -l {path}"),
            Obstacle::Forbidden => {
                let places: Vec<String> = self.places.iter().map(|place| format!("\"{}\"", place.display())).collect();
                let places = places.join(", ");
                format!(
                    "{path} is not in the Nix store, and an instance may execute only what the store has: {PACKAGE}, or \
                     allow it by isolation.execute = [{places}] (to judge candidates, Nix's sandbox needs it too: \
                     sandbox-paths in nix.conf)"
                )
            }
        }
    }
}

fn of(interpreter: Option<&BadInterpreter>) -> String {
    interpreter.map_or_else(String::new, |bad| format!(" of its {}", bad.unfit))
}

impl SpawnError {
    /// A hint for the operator.
    pub fn hint(&self) -> Option<String> {
        let Self::Child { program, step, interpreter, source } = self else { return None };
        if let Some(bad) = interpreter {
            return Some(bad.hint());
        }
        let shown = program.display();
        match (step, source.raw_os_error()?) {
            (Step::Exec, libc::ENOENT) if program.exists() => {
                Some(format!("one of its interpreters does not exist: run `file {shown}`"))
            }
            (Step::Exec, libc::ENOENT) => {
                let dir = program.parent().unwrap_or(Path::new("/")).display();
                Some(format!("runtime.command names a program that the package does not have: ls {dir}"))
            }
            (Step::Exec, libc::EACCES) => Some(format!(
                "the file must be executable, and in a directory that the instance may read: ls -l {shown}"
            )),
            (Step::Exec, libc::ENOEXEC) => {
                Some("the file is not a program: a script needs a first line like #!/bin/sh".into())
            }
            (Step::Exec | Step::User, libc::EAGAIN) => {
                Some("its user already has as many processes as isolation.processes allows".into())
            }
            (Step::Landlock | Step::Seccomp, libc::EPERM) => Some(
                "a seccomp filter around rei blocks it (the unit's SystemCallFilter, or the container's profile): allow the \
                 system calls seccomp, landlock_create_ruleset, landlock_add_rule and landlock_restrict_self"
                    .into(),
            ),
            (Step::Directory, _) => Some("its user must be able to enter the directory".into()),
            _ => None,
        }
    }
}

/// The `PATH` of an instance if rei.toml sets none.
pub const PATH: &str = "/run/current-system/sw/bin:/usr/local/bin:/usr/bin:/bin";

/// The environment of an instance: the variables of the operator, and the usual variables of a service under systemd.
pub fn environment<'a>(
    variables: impl IntoIterator<Item = (&'a String, &'a String)>,
    state: &Path,
    temporary: &Path,
) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), PATH.into()),
        ("HOME".into(), state.into()),
        ("STATE_DIRECTORY".into(), state.into()),
        ("TMPDIR".into(), temporary.into()),
    ];
    for (name, value) in variables {
        env.retain(|(known, _)| known != OsStr::new(name));
        env.push((name.into(), value.into()));
    }
    env
}

/// Starts the program.
///
/// # Errors
/// If a string contains a NUL byte, no process can be created, or a step before the program's first instruction fails.
/// Then no process is left.
pub fn spawn(spec: &SpawnSpec) -> Result<Spawned, SpawnError> {
    let program = || spec.program.to_owned();
    let clone_failed = |source: io::Error| SpawnError::Clone { program: program(), source };
    let nul = |what| move |_| SpawnError::Nul { what, program: spec.program.to_owned() };
    let path = c_string(spec.program.as_os_str()).map_err(nul("the path"))?;
    let dir = c_string(spec.dir.unwrap_or(Path::new("/")).as_os_str()).map_err(nul("the directory"))?;
    let args: Result<Vec<CString>, _> = spec.args.iter().map(|arg| c_string(arg)).collect();
    let args = args.map_err(nul("an argument"))?;
    let mut env = Environment::of(spec).map_err(nul("a variable"))?;
    let moved = move_descriptors(spec).map_err(clone_failed)?;
    let argv: Vec<*const libc::c_char> =
        std::iter::once(&path).chain(&args).map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
    let envp = env.pointers();
    let fds: Vec<libc::c_int> = moved.fds.iter().map(AsRawFd::as_raw_fd).collect();
    let limits: Vec<(u32, libc::rlimit64)> = spec.sandbox.map_or_else(Vec::new, child_limits);
    let filter = spec.sandbox.map(|sandbox| &sandbox.filter).filter(|filter| !filter.is_empty());
    let plan = child::Plan {
        program: path.as_ptr(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        dir: dir.as_ptr(),
        listen_pid: env.listen_pid(),
        pid_cell: spec.pid_cell.map_or(std::ptr::null(), PidCell::as_ptr),
        standard: [moved.stdin.as_raw_fd(), moved.stdout.as_raw_fd(), moved.stderr.as_raw_fd()],
        fds: &fds,
        limits: &limits,
        user: spec.sandbox.and_then(Sandbox::user),
        ruleset: moved.ruleset.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        filter: filter.map(|filter| libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() }),
        enter: AtomicI32::new(-1),
        behind: spec.gate.map(|gate| GateWait { gate, parent: std::process::id().cast_signed() }),
        failure: child::Failure::default(),
    };
    let cloned = child::clone_and_exec(&plan, spec.cgroup.map(|fd| fd.as_raw_fd())).map_err(clone_failed)?;
    // SAFETY: the kernel has just created this close-on-exec descriptor for us, and no other code owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(cloned.pidfd) };
    if let Some((step, errno)) = plan.failure.read() {
        reap(&pidfd);
        let interpreter = (step == Step::Exec).then(|| interpreter_of(spec)).flatten().map(Box::new);
        let source = io::Error::from_raw_os_error(errno);
        return Err(SpawnError::Child { program: program(), step, interpreter, source });
    }
    // The process exists until it is reaped. Only we reap it, unless SIGCHLD is ignored.
    let Some(stat) = process::stat(cloned.pid) else { return Err(SpawnError::Killed { program: program() }) };
    Ok(Spawned { pid: cloned.pid, pidfd, start_ticks: stat.start_ticks })
}

/// The interpreter that the kernel could not execute, if the program itself is an executable file.
fn interpreter_of(spec: &SpawnSpec) -> Option<BadInterpreter> {
    let is_program = spec.program.metadata().is_ok_and(|about| about.permissions().mode() & 0o111 != 0);
    let path = spec.env.iter().rev().find(|(name, _)| name == "PATH").map_or(OsStr::new(""), |(_, path)| path);
    let may_execute = |file: &Path| spec.sandbox.is_none_or(|sandbox| sandbox.may_execute(file));
    let bad = BadInterpreter::find(spec.program, path, may_execute).filter(|_| is_program)?;
    // `env` looks for its program after exec.
    (bad.unfit.interpreter.role != Role::Sought).then_some(bad)
}

fn reap(pidfd: &OwnedFd) {
    // The child has called _exit, and its failure is known already, so the status is not needed.
    let _ = nix::sys::wait::waitid(nix::sys::wait::Id::PIDFd(pidfd.as_fd()), nix::sys::wait::WaitPidFlag::WEXITED);
}

fn c_string(word: &OsStr) -> Result<CString, std::ffi::NulError> {
    CString::new(word.as_bytes())
}

fn child_limits(sandbox: &Sandbox) -> Vec<(u32, libc::rlimit64)> {
    sandbox.limits.iter().map(|(what, max)| (*what as u32, libc::rlimit64 { rlim_cur: *max, rlim_max: *max })).collect()
}

/// Copies of all descriptors for the child, with numbers above its targets, so that dup3 overwrites none of them.
struct MovedDescriptors {
    fds: Vec<OwnedFd>,
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    ruleset: Option<OwnedFd>,
    /// Keeps the lock of the instance table until exec, so that the next supervisor knows that no process is between
    /// clone and exec.
    _lock: Option<OwnedFd>,
}

fn move_descriptors(spec: &SpawnSpec) -> io::Result<MovedDescriptors> {
    let first_free = LISTEN_FDS_START + i32::try_from(spec.fds.len()).unwrap_or(i32::MAX / 2);
    let above = |fd: BorrowedFd| fcntl_dupfd_cloexec(fd, first_free);
    let fds = spec.fds.iter().map(|(_, fd)| above(*fd)).collect::<rustix::io::Result<_>>()?;
    let ruleset = spec.sandbox.and_then(|sandbox| sandbox.ruleset.as_ref());
    Ok(MovedDescriptors {
        fds,
        stdin: above(File::open("/dev/null")?.as_fd())?,
        stdout: above(spec.stdout)?,
        stderr: above(spec.stderr)?,
        ruleset: ruleset.map(|fd| above(fd.as_fd())).transpose()?,
        _lock: spec.pid_cell.map(|cell| above(cell.lock())).transpose()?,
    })
}

/// The environment block. Only the process itself knows its pid, so space for it is reserved.
struct Environment {
    /// Each `NAME=value` with its final NUL. Moving this vector does not move the inner buffers, so pointers to them
    /// stay valid.
    words: Vec<Vec<u8>>,
    has_listeners: bool,
}

impl Environment {
    const LISTEN_PID: &[u8] = b"LISTEN_PID=";
    /// Bytes for the digits of the largest pid and a NUL.
    const PID_ROOM: usize = 11;
    const RESERVED: [&str; 7] = [
        INSTANCE_VARIABLE,
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ];

    fn of(spec: &SpawnSpec) -> Result<Self, std::ffi::NulError> {
        let mut words = Vec::with_capacity(spec.env.len() + Self::RESERVED.len());
        let mut set = |name: &OsStr, value: &OsStr| -> Result<(), std::ffi::NulError> {
            let word = CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?;
            words.push(word.into_bytes_with_nul());
            Ok(())
        };
        set(INSTANCE_VARIABLE.as_ref(), spec.id.as_ref())?;
        if !spec.fds.is_empty() {
            let names: Vec<&str> = spec.fds.iter().map(|(name, _)| name.as_str()).collect();
            set("LISTEN_FDS".as_ref(), spec.fds.len().to_string().as_ref())?;
            set("LISTEN_FDNAMES".as_ref(), names.join(":").as_ref())?;
        }
        if let Some((socket, watchdog)) = spec.notify {
            set("NOTIFY_SOCKET".as_ref(), socket.as_os_str())?;
            if let Some(watchdog) = watchdog {
                set("WATCHDOG_USEC".as_ref(), watchdog.as_micros().to_string().as_ref())?;
            }
        }
        for (name, value) in spec.env {
            if !Self::RESERVED.iter().any(|ours| name == ours) {
                set(name, value)?;
            }
        }
        if !spec.fds.is_empty() {
            let mut word = Self::LISTEN_PID.to_vec();
            word.resize(word.len() + Self::PID_ROOM, 0);
            words.push(word);
        }
        Ok(Self { words, has_listeners: !spec.fds.is_empty() })
    }

    fn pointers(&self) -> Vec<*const libc::c_char> {
        self.words.iter().map(|word| word.as_ptr().cast()).chain([std::ptr::null()]).collect()
    }

    /// The address for the digits of the pid; null without listeners.
    fn listen_pid(&mut self) -> *mut u8 {
        match self.words.last_mut() {
            Some(word) if self.has_listeners => word[Self::LISTEN_PID.len()..].as_mut_ptr(),
            _ => std::ptr::null_mut(),
        }
    }
}
