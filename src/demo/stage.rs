//! The stage of the story: a directory with the repositories, rei.toml and a supervisor. All of it is removed afterwards.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, access};

use super::error::Error;
use super::repository::Repository;
use crate::command::{Command, Output};
use crate::interface::client::OperationsClient;
use crate::nix::{Error as NixError, Nix, Roots};

/// The time limit from SIGTERM to the supervisor's exit: the limit of its instances plus its own.
const END_MAX: Duration = Duration::from_secs(40);
/// How long a process that the supervisor has told to end may take, and the pause between two looks.
const LEFT_MAX: Duration = Duration::from_secs(2);
const LEFT_PAUSE: Duration = Duration::from_millis(10);
/// The time limit of a command in act 5.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// The width of the commands' output, in columns: a page that fits into the story.
const COLUMNS: &str = "98";
/// The lines of the supervisor's log that an error shows.
const LOG_LINES: usize = 20;
/// The operator's limit for the 99th percentile: far above the delays that a busy machine causes.
pub const LATENCY_BOUND: Duration = Duration::from_millis(500);
/// The name of the interpreter's program.
const RUNTIME: &str = "rei-demo-runtime";

/// The directory and the processes in it. [`Stage::clear`] stops them; dropping the stage kills them.
pub struct Stage {
    home: PathBuf,
    /// The Nix of the demo.
    pub nix: Nix,
    /// The repositories.
    pub repository: Repository,
    /// The address of the greeter.
    pub address: SocketAddr,
    env: Vec<(OsString, OsString)>,
    supervisor: Option<tokio::process::Child>,
}

impl Stage {
    /// Makes all files in the new directory `home`, and starts no process.
    ///
    /// # Errors
    /// If there is no Nix or no git, or the disk fails.
    pub async fn set(home: &Path, runtime: &Path) -> Result<Self, Error> {
        // Instances and the agent have their own users, which must be able to enter the directory.
        let open = std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o755));
        open.map_err(|source| Error::File { act: "open", path: home.to_owned(), source })?;
        let (nix, env) = locate(home).await?;
        let interpreter = add_interpreter(&nix, home, runtime).await?;
        let hash = nix.nar_hash(&interpreter).await?;
        let repository = Repository::create(home, (&interpreter, &hash)).await?;
        let address =
            free_address().map_err(|source| Error::File { act: "find a free port in", path: home.into(), source })?;
        let stage = Self { home: home.to_owned(), nix, repository, address, env, supervisor: None };
        let toml = rei_toml(&stage.repository.origin(), address, &interpreter, &stage.state());
        write(&stage.config(), &toml)?;
        std::fs::create_dir_all(stage.golden()).map_err(|source| Error::File {
            act: "make",
            path: stage.golden(),
            source,
        })?;
        Ok(stage)
    }

    /// Whether the demo has its own store, because this user cannot use the machine's store.
    pub fn has_own_store(&self) -> bool {
        !self.env.is_empty()
    }

    /// The path of rei.toml.
    pub fn config(&self) -> PathBuf {
        self.home.join("rei.toml")
    }

    /// The directory of the golden runs.
    pub fn golden(&self) -> PathBuf {
        self.home.join("golden")
    }

    fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// The supervisor's mirror of the repository.
    pub fn mirror(&self) -> PathBuf {
        self.state().join("source/mirror.git")
    }

    /// The profile of the greeter.
    pub fn profile(&self) -> PathBuf {
        self.state().join("profiles/greeter")
    }

    fn log(&self) -> PathBuf {
        self.home.join("rei.log")
    }

    /// Starts the supervisor: `rei run`, as an operator would.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self, rei: &Path) -> Result<(), Error> {
        let failed = |source| Error::File { act: "start", path: rei.to_owned(), source };
        let log = std::fs::File::create(self.log()).map_err(failed)?;
        let mut command = tokio::process::Command::new(rei);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.arg("--config").arg(self.config()).arg("run").current_dir(&self.home);
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        // Ctrl-C must reach only the demo, which then stops the supervisor in order.
        command.process_group(0).kill_on_drop(true);
        self.supervisor = Some(command.spawn().map_err(failed)?);
        Ok(())
    }

    /// Connects to the supervisor as an operator.
    ///
    /// # Errors
    /// If the supervisor does not answer, or not yet.
    pub async fn operator(&self) -> Result<OperationsClient, Error> {
        Ok(OperationsClient::connect(self.state().join("control.sock")).await?)
    }

    /// Fails if the supervisor has exited.
    ///
    /// # Errors
    /// If it has exited; the error has the end of its log.
    pub fn alive(&mut self) -> Result<(), Error> {
        match self.supervisor.as_mut().map(tokio::process::Child::try_wait) {
            Some(Ok(None)) => Ok(()),
            Some(Ok(Some(status))) => Err(Error::Ended { how: status.to_string(), log: self.log_tail() }),
            _ => Err(Error::Ended { how: "it was never started".into(), log: self.log_tail() }),
        }
    }

    /// The last lines of the supervisor's log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Runs a command of an operator, and returns its output.
    ///
    /// # Errors
    /// If it cannot be run, or fails.
    pub async fn type_command(&self, program: &Path, args: &[&str]) -> Result<Output, Error> {
        let command = Command::new(program, COMMAND_MAX).args(args).dir(&self.home).env("HOME", &self.home);
        let command = self.env.iter().fold(command, |command, (name, value)| command.env(name, value));
        let output = command
            .env("NO_COLOR", "1")
            .env("COLUMNS", COLUMNS)
            .run()
            .await
            .map_err(|source| Error::Command { source })?;
        if output.success() {
            return Ok(output);
        }
        let what = format!("{} {} failed", program.display(), args.join(" "));
        Err(Error::ProgramFailed {
            what,
            output: [output.stdout_text(), output.stderr_text()].concat().trim().to_owned(),
        })
    }

    /// Stops the supervisor and all its processes, and kills the processes that are left.
    ///
    /// # Errors
    /// If the supervisor did not exit in time, or left a process.
    pub async fn clear(&mut self) -> Result<(), Error> {
        let mut ended = Ok(());
        if let Some(mut supervisor) = self.supervisor.take() {
            if let Some(pid) = supervisor.id().and_then(|pid| i32::try_from(pid).ok()) {
                // An error means that it has already exited.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            if tokio::time::timeout(END_MAX, supervisor.wait()).await.is_err() {
                let _ = supervisor.kill().await;
                ended = Err(Error::unexpected(format!("the supervisor did not exit within {END_MAX:?}")));
            }
        }
        // A process that was told to end needs a moment to exit.
        let until = Instant::now() + LEFT_MAX;
        while !self.left_over().is_empty() && Instant::now() < until {
            tokio::time::sleep(LEFT_PAUSE).await;
        }
        let left = self.left_over();
        for pid in &left {
            // An error means that it has exited in the meantime.
            let _ = kill(*pid, Signal::SIGKILL);
        }
        match (ended, left.len()) {
            (Ok(()), 0) => Ok(()),
            (Ok(()), count) => {
                Err(Error::unexpected(format!("the supervisor left {count} processes, which were killed")))
            }
            (late, _) => late,
        }
    }

    /// The processes whose command line or environment contains the demo's state directory, whose name is unique.
    fn left_over(&self) -> Vec<Pid> {
        let state = self.state().display().to_string().into_bytes();
        let names = |path: PathBuf| {
            let bytes = std::fs::read(path).unwrap_or_default();
            bytes.windows(state.len()).any(|window| window == state)
        };
        let own = std::process::id();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| *pid != own)
            .filter(|pid| {
                let process = PathBuf::from(format!("/proc/{pid}"));
                names(process.join("cmdline")) || names(process.join("environ"))
            })
            .filter_map(|pid| i32::try_from(pid).ok().map(Pid::from_raw))
            .collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.supervisor.take().is_some() {
            for pid in self.left_over() {
                // An error means that it has exited in the meantime.
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }
}

/// The machine's Nix. If the user may not use its store, the same programs with a store in the demo's own directory.
async fn locate(home: &Path) -> Result<(Nix, Vec<(OsString, OsString)>), Error> {
    let own_home = home.join("nix-home");
    let refused = match Nix::locate(&own_home).await {
        Ok(nix) if usable(&nix) => return Ok((nix, Vec::new())),
        Ok(_) => None,
        Err(error @ (NixError::Missing { .. } | NixError::Old { .. })) => return Err(error.into()),
        Err(error) => Some(error),
    };
    let (store, conf) = (home.join("nix"), home.join("nix/etc"));
    let made = std::fs::create_dir_all(&conf);
    made.map_err(|source| Error::File { act: "make", path: conf.clone(), source })?;
    write(&conf.join("nix.conf"), "build-users-group =\nsubstituters =\nrequire-sigs = false\n")?;
    let places = [("STORE", "store"), ("STATE", "var/nix"), ("LOG", "var/log/nix"), ("CONF", "etc")];
    let mut env: Vec<(OsString, OsString)> =
        places.iter().map(|(name, at)| (format!("NIX_{name}_DIR").into(), store.join(at).into())).collect();
    env.extend(["NIX_REMOTE", "NIX_USER_CONF_FILES"].map(|name| (name.into(), OsString::new())));
    let others = std::env::vars_os().filter(|(name, _)| env.iter().all(|(own, _)| own != name));
    match Nix::locate_in(&own_home, others.chain(env.iter().cloned())).await {
        Ok(nix) => Ok((nix, env)),
        // The error of the machine's own store is the one that the user can solve.
        Err(error) => Err(refused.unwrap_or(error).into()),
    }
}

/// Whether this user can build: as root, through a daemon, or in a writable store.
fn usable(nix: &Nix) -> bool {
    let daemon = Path::new("/nix/var/nix/daemon-socket/socket");
    access(nix.store_dir(), AccessFlags::W_OK).is_ok() || access(daemon, AccessFlags::W_OK).is_ok()
}

/// Adds the interpreter to the store, as a tree with `bin/`, and keeps a garbage collector root for it as long as the stage exists.
async fn add_interpreter(nix: &Nix, home: &Path, runtime: &Path) -> Result<PathBuf, Error> {
    let path = runtime.to_owned();
    if !runtime.is_file() {
        return Err(Error::NoRuntime { path });
    }
    let program = std::fs::read(runtime).map_err(|source| Error::File { act: "read", path: path.clone(), source })?;
    if !is_static(&program) {
        return Err(Error::NotStatic { path });
    }
    let tree = home.join(RUNTIME);
    let bin = tree.join("bin");
    let copied = std::fs::create_dir_all(&bin).and_then(|()| std::fs::copy(runtime, bin.join(RUNTIME)));
    copied.map_err(|source| Error::File { act: "copy", path, source })?;
    let added = nix.add(&tree).await?;
    Roots::open(&home.join("roots"))?.add(nix, "interpreter", &added).await?;
    Ok(added)
}

/// Whether an ELF program is static: its headers name no interpreter (the dynamic linker).
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let bytes = |at: usize, count: usize| program.get(at..at.checked_add(count)?);
    let u16_at = |at| bytes(at, 2).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes).map(usize::from);
    let u64_at = |at| bytes(at, 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    // 64 bits and little-endian, like every machine for which rei is built.
    let headers = || {
        let (at, size, count) = (usize::try_from(u64_at(32)?).ok()?, u16_at(54)?, u16_at(56)?);
        (0..count).map(|index| bytes(at + index * size, 4)).collect::<Option<Vec<_>>>()
    };
    let elf = program.starts_with(b"\x7fELF\x02\x01");
    elf && headers().is_some_and(|headers| headers.iter().all(|kind| *kind != PT_INTERP.to_le_bytes()))
}

/// A free address.
fn free_address() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|source| Error::File { act: "write", path: path.to_owned(), source })
}

/// The rei.toml of the story, with short times, so that the story is short.
fn rei_toml(source: &Path, address: SocketAddr, interpreter: &Path, state: &Path) -> String {
    let bound = LATENCY_BOUND.as_millis();
    let (source, interpreter, state) = (source.display(), interpreter.display(), state.display());
    format!(
        r#"[runtime]
name    = "greeter"
source  = "{source}"
command = ["bin/greeter"]
listen  = ["http={address}"]
poll    = "500ms"
[health]
http      = {{ listen = "http", path = "/healthz", interval = "50ms", timeout = "2s" }}
interface = {{ interval = "500ms" }}
[incidents]
crash   = {{ restarts = 10, within = "60s" }}
latency = {{ p99 = "{bound}ms", for = "2s" }}
[promotion]
canary  = [{{ share = 0.2, for = "2s" }}]
observe = "8s"
[evolution]
budget = {{ per_incident = 3, per_hour = 12 }}
[validation]
golden = ["golden"]
[blueprints]
incident = "repair"
[agents.stand-in]
command = ["{interpreter}/bin/{RUNTIME}", "repair"]
read    = ["{interpreter}"]
network = false
[state]
directory = "{state}"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rei_toml_is_valid() {
        let address = free_address().unwrap();
        let text = rei_toml(Path::new("/x/greeter.git"), address, Path::new("/nix/store/x"), Path::new("/x/state"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rei.toml"), &text).unwrap();
        let config =
            crate::config::Config::load(&dir.path().join("rei.toml")).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(config.runtime.name, "greeter");
        assert_eq!(config.promotion.canary.len(), 1);
    }

    #[test]
    fn static_programs_are_recognised() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(is_static(&own), cfg!(target_feature = "crt-static"));
        let shell = std::fs::read("/bin/sh").unwrap();
        assert!(!is_static(b"#!/bin/sh\n") && !is_static(&shell[..40]));
    }
}
