//! Runs a confined program to its end.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::child::{self, EXIT_LOST, EXIT_SIGNAL};
use super::excess::{Disks, Excess, ResourceWatch};
use super::fence::{self, Fences, agent_user};
use super::program::{Confined, Error};
use crate::redact::Secrets;

/// How long a killed process tree may take to exit. Only a process that hangs in the kernel takes longer.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the output is read after the program has exited. Everything that a killed process has written is available
/// at once.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a program was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It exceeded its timeout.
    Late(Duration),
    /// It exceeded a limit.
    Excess(Excess),
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(timeout) => write!(f, "did not end within {timeout:?} and was killed"),
            Self::Excess(excess) => write!(f, "{excess} and was killed"),
        }
    }
}

/// The result of a confined program.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit code; 128 plus the signal number for a program that a signal killed.
    pub code: Result<i32, Stopped>,
    /// The end of its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: Vec<u8>,
    /// True if output was dropped.
    pub truncated: bool,
    /// The fences that were in force.
    pub fences: Fences,
}

impl Ended {
    /// The failure, as the end of a sentence that begins with the program's name; `None` if it succeeded.
    pub fn failure(&self) -> Option<String> {
        match &self.code {
            Ok(0) => None,
            Ok(code) => Some(format!("exited with {code}{}", by_signal(*code))),
            Err(stopped) => Some(stopped.to_string()),
        }
    }

    /// Both streams; standard error follows under a heading.
    pub fn log(&self) -> Vec<u8> {
        let mut log = self.stdout.clone();
        if !self.stderr.is_empty() {
            log.extend_from_slice(b"\n--- standard error ---\n");
            log.extend_from_slice(&self.stderr);
        }
        log
    }
}

impl Confined {
    /// Runs the program to its end and kills all processes that it started. Dropping the future kills them, too.
    ///
    /// # Errors
    /// If it cannot be confined or started. A failing exit code is no error here.
    pub async fn run(&self) -> Result<Ended, Error> {
        let program = self.resolve()?;
        let lost = |source| Error::Lost { program: program.clone(), source };
        let (plan, fences) = fence::plan(self, &program)?;
        let (hangup, lifeline) = std::io::pipe().map_err(lost)?;
        let hangup = OwnedFd::from(hangup);
        let disks = Disks::before(&self.write);
        let mut command = std::process::Command::new(&program);
        command.args(&self.args).env_clear().envs(&self.env).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let held = hangup.try_clone().map_err(lost)?;
        // SAFETY: between fork and exec the closure makes only system calls, on memory that was prepared before.
        unsafe { command.pre_exec(move || child::enter(&plan, &held)) };
        let mut command = tokio::process::Command::from(command);
        // Creating namespaces takes milliseconds, so do it off the event loop.
        let spawned = tokio::task::spawn_blocking(move || command.spawn()).await;
        let spawned = spawned.map_err(|lost_task| lost(std::io::Error::other(lost_task)))?;
        let mut child = spawned.map_err(|source| Error::Start { program: program.clone(), source })?;
        drop(hangup);
        let guard = child.id().ok_or_else(|| lost(std::io::ErrorKind::NotFound.into()))?;
        let watch = ResourceWatch::begin(guard, self.memory_bytes, disks);
        let (mut stdout, mut stderr) = (self.tail(), self.tail());
        let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (code, drained) = {
            let feed = feed(stdin, &self.stdin);
            let read = async { tokio::join!(feed, stdout.fill(out), stderr.fill(err)) };
            tokio::pin!(read);
            let ended = async {
                tokio::select! {
                    status = child.wait() => (status, false),
                    // The program has closed its output but still runs, so wait for its exit.
                    _ = &mut read => (child.wait().await, true),
                }
            };
            let ended = tokio::select! {
                ended = ended => Ok(ended),
                excess = watch.exceeded() => Err(Stopped::Excess(excess)),
                () = tokio::time::sleep(self.timeout) => Err(Stopped::Late(self.timeout)),
            };
            // The guard exits after all other processes. If the lifeline closes, it kills them.
            drop(lifeline);
            let (code, done) = match ended {
                Ok((status, done)) => {
                    // The guard exits with a code; it has none only if another process killed it by SIGKILL.
                    (Ok(status.map_err(lost)?.code().unwrap_or(EXIT_LOST)), done)
                }
                Err(stopped) => {
                    let killed = tokio::time::timeout(KILL_TIMEOUT, child.wait()).await;
                    killed.map_err(|late| lost(late.into()))?.map_err(lost)?;
                    (Err(stopped), false)
                }
            };
            (code, done || tokio::time::timeout(DRAIN_TIMEOUT, read).await.is_ok())
        };
        let truncated = stdout.cut || stderr.cut || !drained;
        Ok(Ended { code, stdout: stdout.bytes, stderr: stderr.bytes, truncated, fences })
    }

    fn tail(&self) -> Tail<'_> {
        Tail { bytes: Vec::new(), max: self.output_bytes, cut: false, secrets: &self.secrets }
    }

    /// The path of the program. Its real file must not be in a directory that the agent can write.
    fn resolve(&self) -> Result<PathBuf, Error> {
        let missing = || Error::NoProgram { program: self.program.clone() };
        let path = self.env.get(std::ffi::OsStr::new("PATH"));
        let program = which::which_in(&self.program, path, "/").map_err(|_| missing())?;
        let real = program.canonicalize().map_err(|_| missing())?;
        let inside = |dir: &PathBuf| dir.canonicalize().is_ok_and(|dir| real.starts_with(dir));
        if self.write.iter().any(inside) {
            return Err(Error::OwnProgram { program });
        }
        Ok(program)
    }
}

/// The name of the signal in an exit code.
fn by_signal(code: i32) -> String {
    let signal = code.checked_sub(EXIT_SIGNAL).and_then(|number| Signal::try_from(number).ok());
    signal.map_or_else(String::new, |signal| format!(" ({signal})"))
}

async fn feed(stdin: Option<tokio::process::ChildStdin>, bytes: &[u8]) {
    if let Some(mut stdin) = stdin {
        // A program need not read its input, so an error is ignored.
        let _ = stdin.write_all(bytes).await;
    }
}

/// The end of a stream, without secrets.
struct Tail<'a> {
    bytes: Vec<u8>,
    max: usize,
    cut: bool,
    secrets: &'a Secrets,
}

impl Tail<'_> {
    async fn fill(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut chunk = [0_u8; 8192];
        // If a stream cannot be read any more, it has ended.
        while let Ok(n @ 1..) = stream.read(&mut chunk).await {
            self.bytes.extend_from_slice(&chunk[..n]);
            // Trim at twice the maximum, so that bytes are moved once per `max` bytes and not once per chunk.
            if self.bytes.len() > 2 * self.max + chunk.len() {
                // The end may contain a part of a secret that the next chunk completes, so keep enough to find it.
                self.trim(self.max.max(self.secrets.longest()));
            }
        }
        self.trim(self.max);
    }

    /// Removes secrets before truncating; otherwise the end of a cut secret would remain.
    fn trim(&mut self, max: usize) {
        self.secrets.remove_from(&mut self.bytes);
        if let Some(over @ 1..) = self.bytes.len().checked_sub(max) {
            self.bytes.drain(..over);
            self.cut = true;
        }
    }
}

/// The usual search path: of Debian, of NixOS, and of Nix's default profile.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Makes the user of agents the owner of `dir` and everything below it. Does nothing if rei is not root.
///
/// Blocks on the disk. No process that writes below `dir` may be running.
///
/// # Errors
/// If the owner cannot be changed.
pub fn give_to_agent(dir: &Path) -> std::io::Result<()> {
    let Some(user) = agent_user() else { return Ok(()) };
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        std::os::unix::fs::lchown(&path, Some(user), Some(user))?;
        if path.symlink_metadata()?.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        }
    }
    Ok(())
}
