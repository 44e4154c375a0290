//! Runs external programs, with limits on time and output.
//!
//! It is used for `git`, `nix` and the operator's commands. Each gets its own process group, only the given standard
//! input, and a fixed locale. The whole group is killed at the timeout or if the caller drops the future.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Maximum output on each stream, in bytes; the rest is dropped. It is enough for the evaluation of a large flake.
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// Number of bytes per read of an output stream.
const CHUNK_BYTES: usize = 8 << 10;

/// A program with its arguments, environment and limits.
#[derive(Clone, Debug)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    env_clear: bool,
    dir: Option<PathBuf>,
    timeout: Duration,
    grace: Option<Duration>,
    no_new_privileges: bool,
    ends_with_rei: bool,
    output_bytes_max: usize,
    file_bytes_max: Option<u64>,
    keep: Keep,
    stdin: Option<Vec<u8>>,
}

/// The end of a too long output that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Head,
    Tail,
}

/// The result of a command.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code; `None` if a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it, if there was one.
    pub signal: Option<i32>,
    /// Standard output, at most [`OUTPUT_BYTES_MAX`] or the limit that was set.
    pub stdout: Vec<u8>,
    /// Standard error, with the same limit.
    pub stderr: Vec<u8>,
    /// True if output beyond the limit was dropped.
    pub truncated: bool,
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The program exceeded its timeout and was killed with its process group.
    #[error("{program} {args} did not end within {timeout:?} and was killed")]
    Timeout {
        /// The program.
        program: PathBuf,
        /// The arguments, joined by spaces.
        args: String,
        /// The timeout.
        timeout: Duration,
    },
    /// Its output could not be read, or waiting for its exit failed.
    #[error("cannot read the output or the exit status of {program}")]
    Lost {
        /// The program.
        program: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
}

impl Output {
    /// True if the command exited with 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output as text; bytes that are not UTF-8 are replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text; bytes that are not UTF-8 are replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl Command {
    /// A command without arguments, with this timeout.
    pub fn new(program: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: vec![("LC_ALL".into(), "C.UTF-8".into())],
            env_clear: false,
            dir: None,
            timeout,
            grace: None,
            no_new_privileges: false,
            ends_with_rei: false,
            output_bytes_max: OUTPUT_BYTES_MAX,
            file_bytes_max: None,
            keep: Keep::Head,
            stdin: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Clears the environment; only variables that are set after this call remain.
    pub fn env_clear(mut self) -> Self {
        self.env.clear();
        self.env_clear = true;
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Sets another timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Limits each output stream to `bytes`.
    pub fn output_bytes_max(mut self, bytes: usize) -> Self {
        self.output_bytes_max = bytes;
        self
    }

    /// Limits each file that the command and its descendants write to `bytes`.
    pub fn file_bytes_max(mut self, bytes: u64) -> Self {
        self.file_bytes_max = Some(bytes);
        self
    }

    /// If an output is too long, keeps its end instead of its beginning.
    pub fn keep_tail(mut self) -> Self {
        self.keep = Keep::Tail;
        self
    }

    /// At the timeout, or if the caller drops the future, sends SIGTERM first, and SIGKILL only after `grace`. For
    /// programs that must stop processes outside of their own process group.
    pub fn terminate_first(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Sets its standard input. Use this for data that is too long for an argument (128 KiB on Linux).
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets no_new_privs for the command and all its descendants. It is the mark by which rei's sockets recognise
    /// possible descendants of an instance. Use this for commands that may run a program of a version.
    pub fn no_new_privileges(mut self) -> Self {
        self.no_new_privileges = true;
        self
    }

    /// Sends SIGTERM to the command if rei dies. For programs that would disturb the next rei. Call `run` on the main
    /// thread: the kernel sends the signal when the thread that started the command exits.
    pub fn ends_with_rei(mut self) -> Self {
        self.ends_with_rei = true;
        self
    }

    /// Cancels [`Command::ends_with_rei`].
    pub fn outlives_rei(mut self) -> Self {
        self.ends_with_rei = false;
        self
    }

    /// The program and its arguments, for tests and messages.
    pub fn argv(&self) -> Vec<String> {
        std::iter::once(self.program.as_os_str())
            .chain(self.args.iter().map(OsString::as_os_str))
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    /// Runs the command.
    ///
    /// # Errors
    /// If it cannot be started, exceeds its timeout, or waiting for it fails. A failing exit code is no error here.
    pub async fn run(&self) -> Result<Output, Error> {
        self.run_with_lines(None).await
    }

    /// Runs the command, and sends each line of standard error when it is printed.
    ///
    /// If the channel is full or closed, lines are dropped: a slow receiver never slows the command down.
    ///
    /// # Errors
    /// As for [`Command::run`].
    pub async fn run_with_lines(&self, lines: Option<mpsc::Sender<String>>) -> Result<Output, Error> {
        let mut child = self.spawn()?;
        let stdout = child.stdout.take();
        let out = read_bounded(stdout, self.output_bytes_max, self.keep, None);
        let (output, (stdout, cut)) = self.finish(child, lines, out).await?;
        Ok(Output { stdout, truncated: output.truncated || cut, ..output })
    }

    /// Runs the command while `read` reads its standard output, of any size, in a separate thread. If `read` stops
    /// early, the rest is discarded. The returned output has no standard output.
    ///
    /// At the timeout, or if the caller drops the future, `read` reaches the end of the stream.
    ///
    /// # Errors
    /// As for [`Command::run`].
    pub async fn run_reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(std::fs::File) -> T + Send + 'static,
    ) -> Result<(Output, T), Error> {
        let mut child = self.spawn()?;
        let stdout = child.stdout.take();
        let reading = async {
            let stdout = stdout.ok_or_else(|| std::io::Error::other("read twice"))?.into_owned_fd()?;
            let reading = tokio::task::spawn_blocking(move || read(stdout.into()));
            reading.await.map_err(std::io::Error::other)
        };
        self.finish(child, None, reading).await
    }

    fn spawn(&self) -> Result<tokio::process::Child, Error> {
        let mut command = tokio::process::Command::new(&self.program);
        if self.env_clear {
            command.env_clear();
        }
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        if self.ends_with_rei {
            let rei = std::process::id();
            // SAFETY: between fork and exec the closure makes only system calls and does not allocate.
            unsafe { command.pre_exec(move || die_with(rei)) };
        }
        if self.no_new_privileges {
            // SAFETY: between fork and exec the closure makes one system call and does not allocate.
            unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_no_new_privs()?)) };
        }
        if let Some(bytes) = self.file_bytes_max {
            // More than the hard limit cannot be set.
            let hard = getrlimit(Resource::RLIMIT_FSIZE).map_or(bytes, |(_, hard)| hard);
            let limit = bytes.min(hard);
            // SAFETY: between fork and exec the closure makes one system call and does not allocate.
            unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_FSIZE, limit, limit)?)) };
        }
        command.spawn().map_err(|source| Error::Start { program: self.program.clone(), source })
    }

    /// Writes the input of a child and waits for it, while `out` reads its standard output.
    async fn finish<T>(
        &self,
        mut child: tokio::process::Child,
        lines: Option<mpsc::Sender<String>>,
        out: impl Future<Output = std::io::Result<T>>,
    ) -> Result<(Output, T), Error> {
        let lost = |source| Error::Lost { program: self.program.clone(), source };
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let mut group = Group::of(child, self.grace);
        let work = async {
            let feed = feed(stdin, self.stdin.as_deref().unwrap_or_default());
            let err = read_bounded(stderr, self.output_bytes_max, self.keep, lines);
            let ((), out, err) = tokio::join!(feed, out, err);
            let status = group.wait().await.map_err(lost)?;
            let (out, (stderr, truncated)) = (out.map_err(lost)?, err.map_err(lost)?);
            use std::os::unix::process::ExitStatusExt;
            let (code, signal) = (status.code(), status.signal());
            Ok((Output { code, signal, stdout: Vec::new(), stderr, truncated }, out))
        };
        match tokio::time::timeout(self.timeout, work).await {
            Ok(output) => output,
            Err(_) => Err(Error::Timeout {
                program: self.program.clone(),
                args: self.argv()[1..].join(" "),
                timeout: self.timeout,
            }),
        }
    }
}

/// Makes this process get SIGTERM when its parent dies. Fails if the parent is gone already.
fn die_with(parent: u32) -> std::io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
    if nix::unistd::getppid().as_raw().unsigned_abs() == parent {
        return Ok(());
    }
    Err(std::io::ErrorKind::BrokenPipe.into())
}

/// Kills the process group of a command when the caller drops it: after its exit, at the timeout, or when it is
/// cancelled.
struct Group {
    id: Option<Pid>,
    child: Option<tokio::process::Child>,
    grace: Option<Duration>,
}

impl Group {
    fn of(child: tokio::process::Child, grace: Option<Duration>) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Self { id, child: Some(child), grace }
    }

    async fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        let Some(child) = &mut self.child else { return Err(std::io::Error::other("awaited twice")) };
        let status = child.wait().await?;
        // It has exited by itself. What it left in its group needs no grace.
        self.child = None;
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.id else { return };
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(mut child), Some(grace), Ok(runtime)) = (self.child.take(), self.grace, runtime) {
            // The group may be gone already, so errors are ignored, here and below.
            let _ = killpg(group, Signal::SIGTERM);
            runtime.spawn(async move {
                // Processes that the child left keep the group id in use; an empty group no longer exists.
                let _ = tokio::time::timeout(grace, child.wait()).await;
                let _ = killpg(group, Signal::SIGKILL);
            });
        } else {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

async fn feed(stdin: Option<tokio::process::ChildStdin>, bytes: &[u8]) {
    if let Some(mut stdin) = stdin {
        // A program need not read its input, so an error is ignored.
        let _ = stdin.write_all(bytes).await;
    }
}

async fn read_bounded(
    stream: Option<impl AsyncRead + Unpin>,
    max: usize,
    keep: Keep,
    lines: Option<mpsc::Sender<String>>,
) -> std::io::Result<(Vec<u8>, bool)> {
    let Some(mut stream) = stream else { return Ok((Vec::new(), false)) };
    let (mut kept, mut truncated, mut line) = (Vec::new(), false, Vec::new());
    // On the heap, because the future that contains it is moved.
    let mut chunk = vec![0_u8; CHUNK_BYTES];
    loop {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            break;
        }
        match keep {
            Keep::Head => {
                let len = max.saturating_sub(kept.len()).min(n);
                kept.extend_from_slice(&chunk[..len]);
                truncated |= len < n;
            }
            Keep::Tail => {
                kept.extend_from_slice(&chunk[..n]);
                // Wait until twice the maximum before removing the front, so that bytes are moved rarely.
                if kept.len() > max.saturating_mul(2) {
                    kept.drain(..kept.len() - max);
                    truncated = true;
                }
            }
        }
        if let Some(lines) = &lines {
            for &byte in &chunk[..n] {
                if byte == b'\n' {
                    let _ = lines.try_send(String::from_utf8_lossy(&line).into_owned());
                    line.clear();
                } else if line.len() < max {
                    line.push(byte);
                }
            }
        }
    }
    if kept.len() > max {
        kept.drain(..kept.len() - max);
        truncated = true;
    }
    Ok((kept, truncated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_command_without_new_privileges_has_the_mark() {
        let command = || Command::new("grep", Duration::from_secs(10)).args(["NoNewPrivs", "/proc/self/status"]);
        let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let (plain, marked) = (command().run().await.unwrap(), command().no_new_privileges().run().await.unwrap());
        assert!(own.contains(&plain.stdout_text()), "as this process: {}", plain.stdout_text());
        assert_eq!(marked.stdout_text().trim(), "NoNewPrivs:\t1");
    }

    #[tokio::test]
    async fn output_is_limited_and_the_exit_code_is_returned() {
        let command = Command::new("sh", Duration::from_secs(10)).args(["-c", "yes | head -c 100000; exit 3"]);
        let output = command.output_bytes_max(10).run().await.unwrap();
        assert_eq!((output.code, output.stdout.len(), output.truncated), (Some(3), 10, true));
    }

    #[tokio::test]
    async fn a_late_command_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("sleep 1000 & echo $! > {0}/pid; wait", dir.path().display());
        let error = Command::new("sh", Duration::from_millis(300)).args(["-c", &script]).run().await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        let pid: i32 = std::fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !gone() {
            assert!(std::time::Instant::now() < deadline, "sleep {pid} outlived its group");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn input_longer_than_a_pipe_arrives_and_may_be_left_unread() {
        let input = vec![b'x'; 1 << 20];
        let count = Command::new("wc", Duration::from_secs(10)).arg("-c").stdin(input.clone());
        assert_eq!(count.run().await.unwrap().stdout_text().trim(), "1048576");
        let deaf = Command::new("true", Duration::from_secs(10)).stdin(input);
        assert!(deaf.run().await.unwrap().success());
    }

    #[tokio::test]
    async fn output_of_any_size_can_be_read_as_it_comes() {
        let count = |mut stdout: std::fs::File| std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
        let much = Command::new("head", Duration::from_secs(60)).args(["-c", "20000000", "/dev/zero"]);
        let (output, read) = much.output_bytes_max(10).run_reading(count).await.unwrap();
        assert_eq!((output.success(), output.truncated, read), (true, false, 20_000_000));
        // A reader that stops early ends the command, and a command without an end does not keep its reader.
        let (output, ()) = Command::new("yes", Duration::from_secs(60)).run_reading(drop).await.unwrap();
        assert!(!output.success());
        let (told, read) = tokio::sync::oneshot::channel();
        let late = Command::new("sleep", Duration::from_millis(100)).arg("1000");
        let error = late.run_reading(move |stdout| told.send(count(stdout))).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert_eq!(tokio::time::timeout(Duration::from_secs(30), read).await.expect("it reads on"), Ok(0));
    }

    #[tokio::test]
    async fn the_tail_can_be_kept() {
        let command = Command::new("seq", Duration::from_secs(10)).arg("100000").keep_tail();
        let output = command.output_bytes_max(10).run().await.unwrap();
        assert_eq!((output.stdout_text().as_str(), output.truncated), ("99\n100000\n", true));
        let output = Command::new("seq", Duration::from_secs(10)).arg("3").keep_tail().run().await.unwrap();
        assert_eq!((output.stdout_text().as_str(), output.truncated), ("1\n2\n3\n", false));
    }

    #[tokio::test]
    async fn a_command_can_get_sigterm_before_it_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        // The shell reports the sleep that was killed with it. Nothing reads that any more, so SIGPIPE would kill the
        // shell first.
        let script = format!(
            "exec 2>/dev/null; trap 'echo asked > {0}/asked; exit 0' TERM; echo > {0}/up; while :; do sleep 0.01; done",
            dir.path().display()
        );
        let command = Command::new("sh", Duration::from_secs(60)).args(["-c", &script]);
        let run = tokio::spawn(async move { command.terminate_first(Duration::from_secs(60)).run().await });
        let until = async |name: &str| {
            while !dir.path().join(name).exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        until("up").await;
        run.abort();
        tokio::time::timeout(Duration::from_secs(30), until("asked"))
            .await
            .expect("no SIGTERM after the caller was cancelled");
    }

    #[tokio::test]
    async fn the_error_names_a_missing_program() {
        let error = Command::new("/nonexistent/program", Duration::from_secs(1)).run().await.unwrap_err();
        assert_eq!(error.to_string(), "cannot start /nonexistent/program");
    }
}
