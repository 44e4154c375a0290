//! A real supervisor and a real service in their own directory: store, repository, state, address.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rei::interface::client::{Operation, OperationsClient};
use rei::interface::operations::{HistoryEntry, InstanceState, Phase, Status};

use crate::common::addresses;
use crate::common::git::{commit, git, init};
use crate::common::process::{self, Process};
use crate::common::programs::{can_build, passable, stripped};
use crate::common::store;
use crate::ledger::Ledger;

/// The time limit of a wait for a fact: on two busy cores a build of milliseconds takes seconds.
const FACT: Duration = Duration::from_secs(120);
/// The pause between two polls: tests that run side by side share the processors with the polls.
const POLL_PAUSE: Duration = Duration::from_millis(25);
/// The pause between two polls of the history: the supervisor reads its journal for each.
const HISTORY_PAUSE: Duration = Duration::from_millis(150);

/// The flake of the service: the file `behaviour` beside it says what a version does.
const FLAKE: &str = r#"{
  outputs = { self }: let
    run = verb: derivation {
      name = "served"; lab = "LAB"; system = "SYSTEM"; builder = "${./served}"; args = [ verb ]; program = "${./served}";
      behaviour = builtins.readFile ./behaviour;
    };
  in {
    packages.SYSTEM.default = run "make";
    checks.SYSTEM.tests = run "check";
  };
}
"#;

/// The differences from the usual rei.toml.
#[derive(Clone, Copy, Default)]
pub struct Setup {
    /// Lines of `[runtime]`.
    pub runtime: &'static str,
    /// `[health]` in place of the usual probe.
    pub health: &'static str,
    /// `[promotion]` in place of the usual one.
    pub promotion: &'static str,
    /// More tables.
    pub more: &'static str,
    /// Whether the service listens on a unix socket, `service.sock` in the lab.
    pub unix: bool,
    /// Whether the service also listens for datagrams.
    pub udp: bool,
    /// The behaviour of the first version; `ok 1` if empty.
    pub first: &'static str,
}

/// An address of the service.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A directory with everything that one supervisor needs, and the supervisor.
pub struct Lab {
    dir: tempfile::TempDir,
    store: Vec<(OsString, OsString)>,
    address: Address,
    udp: Option<SocketAddr>,
    supervisor: Option<Child>,
    runtime: tokio::runtime::Runtime,
}

impl Lab {
    /// A healthy service without a supervisor; if the machine has no Nix or no user namespaces, prints the reason and returns
    /// `None`.
    pub fn new(setup: Setup) -> Option<Self> {
        if !can_build() {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("rei-lab-").tempdir().unwrap();
        passable(dir.path());
        let own = addresses::own();
        let address = if setup.unix { Address::Unix(dir.path().join("service.sock")) } else { Address::Tcp(own) };
        let udp = setup.udp.then_some(own);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = store::environment(dir.path(), "sandbox-paths =");
        let lab = Self { dir, store, address, udp, supervisor: None, runtime };
        init(&lab.path("repo"));
        std::fs::copy(stripped("served").join("served"), lab.path("repo/served")).unwrap();
        let system = format!("{}-linux", std::env::consts::ARCH);
        std::fs::write(lab.path("repo/flake.nix"), lab.filled(&FLAKE.replace("SYSTEM", &system))).unwrap();
        lab.commit(&lab.filled(if setup.first.is_empty() { "ok 1" } else { setup.first }));
        lab.configure(setup);
        Some(lab)
    }

    /// The same, with a running supervisor and a serving first version.
    pub fn serving(setup: Setup) -> Option<Self> {
        let mut lab = Self::new(setup)?;
        lab.start();
        lab.until("the first version to serve", |status| status.phase == Phase::Steady && status.active.is_some());
        Some(lab)
    }

    /// A path below the lab's directory.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The address of the service.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The address for datagrams.
    pub fn udp(&self) -> SocketAddr {
        self.udp.expect("a setup with `udp`")
    }

    /// Writes rei.toml.
    pub fn configure(&self, setup: Setup) {
        let listen = match &self.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => format!("unix:{}", path.display()),
        };
        let datagrams = self.udp.map(|address| format!(", \"echo=udp:{address}\"")).unwrap_or_default();
        let or = |given: &str, usual: &str| if given.is_empty() { usual.to_owned() } else { given.to_owned() };
        let health =
            or(setup.health, r#"http = { listen = "http", path = "/healthz", interval = "50ms", timeout = "5s" }"#);
        let promotion = or(setup.promotion, "canary = [{ share = 0.3, for = \"1500ms\" }]\nobserve = \"3s\"");
        let text = format!(
            "[runtime]\nname = \"served\"\nsource = \"{repo}\"\ncommand = [\"bin/served\"]\nlisten = [\"http={listen}\"{datagrams}]\n\
             poll = \"1s\"\nstart_timeout = \"30s\"\nstop_timeout = \"10s\"\n{runtime}\n[health]\n{health}\n\
             [promotion]\n{promotion}\n[evolution]\nbudget = {{ per_incident = 3, per_hour = 1000 }}\n\
             [state]\ndirectory = \"{state}\"\n{more}\n",
            repo = self.path("repo").display(),
            runtime = setup.runtime,
            state = self.path("state").display(),
            more = setup.more,
        );
        std::fs::write(self.path("rei.toml"), self.filled(&text)).unwrap();
    }

    /// Replaces `LAB` by the directory. In the flake this gives each lab its own builds, even in a shared store.
    fn filled(&self, text: &str) -> String {
        text.replace("LAB", &self.dir.path().to_string_lossy())
    }

    /// Runs git in the repository.
    pub fn git(&self, args: &[&str]) -> String {
        git(&self.path("repo"), args)
    }

    /// Commits a version with this behaviour; returns the commit.
    pub fn commit(&self, behaviour: &str) -> String {
        std::fs::write(self.path("repo/behaviour"), format!("{behaviour}\n")).unwrap();
        commit(&self.path("repo"), behaviour)
    }

    /// A command whose environment has only the lab's store and the machine's PATH.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.store.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command.env("RUST_BACKTRACE", "1").env("RUST_LOG", "info");
        command
    }

    /// The command `rei run`, not started yet. Its output is appended to the lab's log.
    pub fn rei(&self) -> Command {
        self.rei_at(&Self::program())
    }

    /// The same with a copy of rei.
    pub fn rei_at(&self, program: &Path) -> Command {
        let output = std::fs::File::options().create(true).append(true).open(self.path("output")).unwrap();
        let mut command = self.command(program);
        command.arg("run").arg(self.path("rei.toml"));
        command.stdout(output.try_clone().unwrap()).stderr(output);
        command
    }

    /// The program of the supervisor.
    pub fn program() -> PathBuf {
        stripped("served").join("rei")
    }

    /// Starts the supervisor.
    pub fn start(&mut self) {
        let command = self.rei();
        self.start_by(command);
    }

    /// Starts the supervisor by the given command.
    pub fn start_by(&mut self, mut command: Command) {
        assert!(self.supervisor.is_none(), "only one supervisor at a time");
        self.supervisor = Some(command.spawn().unwrap());
    }

    /// The process id of the supervisor.
    pub fn pid(&self) -> u32 {
        self.supervisor.as_ref().expect("it was started").id()
    }

    /// Kills only the supervisor.
    pub fn kill(&mut self) {
        let mut supervisor = self.supervisor.take().expect("it was started");
        let ended = supervisor.try_wait().unwrap();
        assert!(ended.is_none(), "rei had exited before: {ended:?}\n{}", self.output());
        supervisor.kill().unwrap();
        supervisor.wait().unwrap();
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Waits until the supervisor has exited; returns its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.supervisor.as_mut().expect("it was started").try_wait().unwrap() {
                self.supervisor = None;
                return status.code();
            }
            assert!(since.elapsed() < FACT, "rei does not exit\n{}", self.output());
            std::thread::sleep(POLL_PAUSE);
        }
    }

    /// The end of the log of all supervisors.
    pub fn output(&self) -> String {
        const TAIL: usize = 12_000;
        let said = std::fs::read(self.path("output")).unwrap_or_default();
        String::from_utf8_lossy(&said[said.len().saturating_sub(TAIL)..]).into_owned()
    }

    /// Sends a request to the control socket.
    pub fn ask<T>(&self, ask: impl AsyncFnOnce(OperationsClient) -> Operation<T>) -> Operation<T> {
        let path = self.path("state/control.sock");
        self.runtime.block_on(async { ask(OperationsClient::connect(path).await?).await })
    }

    /// The status for an operator; `None` if there is no answer.
    pub fn status(&self) -> Option<Status> {
        self.ask(async |client| client.status().await).ok()
    }

    /// Waits for a status; returns it.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Status) -> bool) -> Status {
        let mut last = None;
        self.wait_for(what, |lab| {
            last = lab.status().or(last.take());
            last.clone().filter(&mut holds)
        })
    }

    /// Waits for a fact.
    pub fn wait_for<T>(&mut self, what: &str, find: impl FnMut(&mut Self) -> Option<T>) -> T {
        self.look_for(what, POLL_PAUSE, find)
    }

    fn look_for<T>(&mut self, what: &str, pause: Duration, mut find: impl FnMut(&mut Self) -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            if let Some(found) = find(self) {
                return found;
            }
            if let Some(supervisor) = &mut self.supervisor
                && let Some(status) = supervisor.try_wait().unwrap()
            {
                panic!("rei exited ({status}) during the wait for {what}\n{}", self.output());
            }
            assert!(since.elapsed() < FACT, "no {what}; {:#?}\n{}", self.status(), self.output());
            std::thread::sleep(pause);
        }
    }

    /// Waits for the end of the evolution to a commit.
    pub fn verdict_on(&mut self, rev: &str) -> HistoryEntry {
        let rev = rev[..12].to_owned();
        self.look_for(&format!("end of the evolution to {rev}"), HISTORY_PAUSE, |lab| {
            let history = lab.ask(async |client| client.history(Some(50)).await).ok()?;
            history.into_iter().find(|entry| entry.finished_at.is_some() && entry.summary.contains(&rev))
        })
    }

    /// The journal, read and replayed.
    pub fn ledger(&self) -> Ledger {
        Ledger::read(&self.path("state/journal"))
    }

    /// The live processes of the service.
    pub fn processes(&self) -> Vec<Process> {
        process::of_service(&self.path("state"))
    }

    /// Waits until exactly the instances of the status run, and none of them is starting or stopping; returns their pids.
    pub fn until_settled(&mut self) -> BTreeMap<String, u32> {
        self.wait_for("the instances of the status", |lab| {
            let status = lab.status()?;
            let versions = [&status.active, &status.candidate, &status.previous];
            let instances: Vec<_> = versions.into_iter().flatten().flat_map(|version| &version.instances).collect();
            let rests = |state| matches!(state, InstanceState::Serving | InstanceState::Standby);
            if !instances.iter().all(|instance| rests(instance.state)) {
                return None;
            }
            let seen: BTreeMap<String, u32> =
                instances.into_iter().filter_map(|instance| Some((instance.id.clone(), instance.usage.pid?))).collect();
            let there: BTreeMap<String, u32> =
                lab.processes().into_iter().map(|process| (process.instance, process.pid)).collect();
            (seen == there && !seen.is_empty()).then_some(seen)
        })
    }

    /// The process id of the keeper.
    pub fn keeper(&self) -> Option<u32> {
        process::keeper(&self.path("state"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of rei ---\n{}", self.output());
        }
        let until = |mut over: Box<dyn FnMut() -> bool + '_>| {
            let since = Instant::now();
            while !over() && since.elapsed() < Duration::from_secs(30) {
                std::thread::sleep(POLL_PAUSE);
            }
        };
        if let Some(mut supervisor) = self.supervisor.take() {
            process::send(supervisor.id(), Signal::SIGTERM);
            until(Box::new(|| supervisor.try_wait().is_ok_and(|ended| ended.is_some())));
            let _ = supervisor.kill();
            let _ = supervisor.wait();
        }
        // Only processes of this test are killed.
        process::end_all(&self.path("state"));
        if std::env::var_os("REI_TELL").is_some() {
            eprintln!("{}", self.ledger().lines());
        }
        store::make_writable(self.dir.path());
    }
}
