//! The child between fork and exec: descriptors, Landlock, exec.
//!
//! The builder has one thread, so its child may do all that a process may: no lock is held by a thread that is not there.

use std::ffi::{CString, NulError, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{ForkResult, Pid, chdir, execve, fork, pipe2, setpgid};
use rustix::io::fcntl_dupfd_cloexec;

use super::Infrastructure;
use crate::executable::{self, Obstacle};
use crate::interface::runtime::LISTEN_FDS_START;
use crate::sandbox::{ABI, Access, DEVICES, Domain, RulesetError, Tcp};

/// Descriptors are parked from this number on, before they take their places: it is above every place.
const PARKING: RawFd = 256;

/// The newest Landlock that is asked for; older kernels give what they have, and process 1 is out of reach of signals.
const LANDLOCK: ABI = ABI::V6;

/// What a version may read of the sandbox besides its closure, if it is there: a sandbox has nobody's secrets.
const SANDBOX: &[&str] = &["/etc", "/proc", "/bin"];

/// What a child becomes.
#[derive(Debug)]
pub(crate) struct Exec<'a> {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, after its name.
    pub args: &'a [String],
    /// Its variables, complete but for `LISTEN_PID`.
    pub env: Vec<(String, String)>,
    /// Its listeners, which become 3, 4, …
    pub listeners: Vec<BorrowedFd<'a>>,
    /// Where its output goes.
    pub output: BorrowedFd<'a>,
    /// All that it may read.
    pub read: &'a [PathBuf],
    /// What else it may read and execute.
    pub execute: &'a [PathBuf],
    /// The one directory that it may write, and its working directory.
    pub work: &'a Path,
}

fn rules(exec: &Exec<'_>) -> Result<Domain, RulesetError> {
    Domain::new(LANDLOCK, Tcp::Open)?
        .allow_if_there(SANDBOX, Access::Execute)?
        .allow_if_there(DEVICES, Access::Device)?
        .allow_if_there(exec.read, Access::Execute)?
        .allow_if_there(exec.execute, Access::Execute)?
        .allow_if_there([exec.work], Access::Write)
}

fn strings(words: impl Iterator<Item = Vec<u8>>) -> Result<Vec<CString>, NulError> {
    words.map(CString::new).collect()
}

/// Starts the child. `Ok(Err(reason))` is the candidate's own fault: its program cannot be executed.
pub(crate) fn start(exec: &Exec<'_>) -> Result<Result<Pid, String>, Infrastructure> {
    let rules = rules(exec).map_err(|error| Infrastructure::Confine { reason: error.to_string() })?;
    let words = [exec.program.as_os_str().as_bytes().to_vec()].into_iter();
    let args = strings(words.chain(exec.args.iter().map(|arg| arg.as_bytes().to_vec())));
    let env = strings(exec.env.iter().map(|(name, value)| format!("{name}={value}").into_bytes()));
    let (Ok(args), Ok(env)) = (args, env) else {
        return Ok(Err("a word of its command or environment holds a NUL".into()));
    };
    let failed = |what| move |errno: nix::errno::Errno| Infrastructure::system(what)(errno.into());
    let (told, low) = pipe2(OFlag::O_CLOEXEC).map_err(failed("make a pipe"))?;
    let tell = park(low.as_fd()).map_err(failed("park a descriptor"))?;
    drop(low);
    // SAFETY: this process has one thread, so the child's copy of the heap and of every lock is in a consistent state.
    match unsafe { fork() }.map_err(failed("fork"))? {
        ForkResult::Child => {
            drop(told);
            let (stage, reason) = become_it(exec, rules, &args, env);
            // The parent reads what went wrong, or the end of the file when exec closed it.
            let _ = File::from(tell).write_all(format!("{}{reason}", char::from(stage as u8)).as_bytes());
            // SAFETY: ends this process at once, without running anything of the parent's.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child } => {
            drop(tell);
            let mut said = String::new();
            File::from(told).read_to_string(&mut said).map_err(Infrastructure::system("hear from the child"))?;
            match (said.as_bytes().first(), said.get(1..)) {
                (None, _) => Ok(Ok(child)),
                (Some(&stage), reason) if stage == Stage::Exec as u8 => {
                    Ok(Err(format!("{}{}", reason.unwrap_or_default(), interpreter(exec))))
                }
                (Some(_), reason) => Err(Infrastructure::Confine { reason: reason.unwrap_or_default().to_owned() }),
            }
        }
    }
}

/// The interpreter that could not be executed, for the end of a reason; empty if the program itself could not.
fn interpreter(exec: &Exec<'_>) -> String {
    let allowed: Vec<PathBuf> =
        SANDBOX.iter().map(PathBuf::from).chain(exec.read.iter().chain(exec.execute).cloned()).collect();
    let is_below = |file: &Path, path: &PathBuf| path.canonicalize().is_ok_and(|path| file.starts_with(path));
    let may_execute = |file: &Path| allowed.iter().any(|path| is_below(file, path));
    let Some(unfit) = executable::unfit(&exec.program, OsStr::new(""), may_execute) else { return String::new() };
    let why = match unfit.obstacle {
        Obstacle::Absent => "does not exist in the sandbox of the judge, which has only the Nix store",
        Obstacle::NotExecutable => "is not an executable file",
        Obstacle::Forbidden => "is not in the closure of the version and not in isolation.execute",
    };
    format!(
        "; its {unfit} {why}: let the package name one of the Nix store (patchShebangs, autoPatchelfHook), or set \
         isolation.execute, and sandbox-paths in nix.conf"
    )
}

/// At which stage the child failed: before exec it is the judge's fault, at exec the candidate's.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Stage {
    Prepare = b'p',
    Exec = b'x',
}

/// Runs in the child; returns only if something went wrong.
fn become_it(exec: &Exec<'_>, rules: Domain, args: &[CString], mut env: Vec<CString>) -> (Stage, String) {
    if let Err(reason) = prepare(exec, rules) {
        return (Stage::Prepare, reason);
    }
    match CString::new(format!("LISTEN_PID={}", std::process::id())) {
        Ok(pid) => env.push(pid),
        Err(error) => return (Stage::Prepare, error.to_string()),
    }
    let Some(program) = args.first() else { return (Stage::Prepare, "no program".into()) };
    match execve(program, args, &env) {
        Ok(never) => match never {},
        Err(errno) => (Stage::Exec, format!("cannot execute {}: {}", exec.program.display(), errno.desc())),
    }
}

/// A copy of a descriptor above every place that an inherited one takes.
fn park(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    fcntl_dupfd_cloexec(fd, PARKING).map_err(|errno| nix::errno::Errno::from_raw(errno.raw_os_error()))
}

fn prepare(exec: &Exec<'_>, rules: Domain) -> Result<(), String> {
    let text = |errno: nix::errno::Errno| errno.to_string();
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(text)?;
    let null = File::open("/dev/null").map_err(|error| format!("/dev/null: {error}"))?;
    let mut places = vec![(park(null.as_fd()).map_err(text)?, 0)];
    for place in [1, 2] {
        places.push((park(exec.output).map_err(text)?, place));
    }
    for (fd, place) in exec.listeners.iter().zip(LISTEN_FDS_START..) {
        places.push((park(*fd).map_err(text)?, place));
    }
    // Before the low places are taken: the rules are a descriptor too.
    rules.enter()?;
    for (from, place) in &places {
        // SAFETY: both are numbers of this process; what was at `place` is the parent's business, not the child's.
        if unsafe { libc::dup2(from.as_raw_fd(), *place) } < 0 {
            return Err(format!("dup2: {}", std::io::Error::last_os_error()));
        }
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(text)?;
    default_signals();
    chdir(exec.work).map_err(text)
}

/// Signals that the judge ignores or blocks have their default action again, as under any supervisor.
fn default_signals() {
    // SAFETY: sets the default action of one signal and an empty mask; no handler is installed.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}
