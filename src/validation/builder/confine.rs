//! The child between fork and exec: descriptors, Landlock, exec.
//!
//! The builder has one thread, so its child may do all that a process may: no lock is held by a thread that is not there.

use std::ffi::{CString, NulError};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetStatus, Scope,
};
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{ForkResult, Pid, chdir, execve, fork, pipe2, setpgid};
use rustix::io::fcntl_dupfd_cloexec;

use super::Infrastructure;
use crate::interface::runtime::LISTEN_FDS_START;

/// Where descriptors wait before they take their places: above every place.
const PARKING: RawFd = 256;

/// The newest Landlock that is asked for; older kernels give what they have, and process 1 is out of reach of signals.
const LANDLOCK: ABI = ABI::V6;

/// Files of the sandbox that any program may read, where they are there.
const COMMON_READ: &[&str] =
    &["/etc", "/proc", "/bin", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Devices that any program may write.
const COMMON_WRITE: &[&str] = &["/dev/null", "/dev/zero", "/dev/full"];

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
    /// The one directory that it may write, and its working directory.
    pub work: &'a Path,
}

fn ruleset(exec: &Exec<'_>) -> Result<RulesetCreated, Infrastructure> {
    let refused = |error: landlock::RulesetError| Infrastructure::Confine { reason: error.to_string() };
    let (read, all) = (AccessFs::from_read(LANDLOCK), AccessFs::from_all(LANDLOCK));
    let created = Ruleset::default().handle_access(all).and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)));
    let mut rules = created.and_then(Ruleset::create).map_err(refused)?;
    let common = COMMON_READ.iter().map(|path| (Path::new(path), read));
    let devices = COMMON_WRITE.iter().map(|path| (Path::new(path), AccessFs::WriteFile.into()));
    let own = exec.read.iter().map(|path| (path.as_path(), read)).chain([(exec.work, all)]);
    for (path, access) in common.chain(devices).chain(own) {
        // What is not there needs no right.
        let Ok(fd) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(LANDLOCK) };
        rules = rules.add_rule(PathBeneath::new(fd, access)).map_err(refused)?;
    }
    Ok(rules)
}

fn strings(words: impl Iterator<Item = Vec<u8>>) -> Result<Vec<CString>, NulError> {
    words.map(CString::new).collect()
}

/// Starts the child. `Ok(Err(reason))` is the candidate's own fault: its program cannot be executed.
pub(crate) fn start(exec: &Exec<'_>) -> Result<Result<Pid, String>, Infrastructure> {
    let rules = ruleset(exec)?;
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
                (Some(&stage), reason) if stage == Stage::Exec as u8 => Ok(Err(reason.unwrap_or_default().to_owned())),
                (Some(_), reason) => Err(Infrastructure::Confine { reason: reason.unwrap_or_default().to_owned() }),
            }
        }
    }
}

/// Where the child stopped: before exec is the judge's matter, exec itself the candidate's.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Stage {
    Prepare = b'p',
    Exec = b'x',
}

/// Runs in the child; returns only where something went wrong.
fn become_it(exec: &Exec<'_>, rules: RulesetCreated, args: &[CString], mut env: Vec<CString>) -> (Stage, String) {
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

fn prepare(exec: &Exec<'_>, rules: RulesetCreated) -> Result<(), String> {
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
    restrict(rules)?;
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

fn restrict(rules: RulesetCreated) -> Result<(), String> {
    let status = rules.restrict_self().map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock".into()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

/// What the judge ignores or blocks, the judged meets as it would under any supervisor.
fn default_signals() {
    // SAFETY: sets the default action of one signal and an empty mask; no handler is installed.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}
