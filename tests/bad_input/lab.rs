//! A real supervisor and a real service in their own directory: store, repository, state, port.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rei::interface::client::OperationsClient;
use rei::interface::operations::Status;

use crate::common::addresses;
use crate::common::git::{commit, git, init};
use crate::common::programs::{can_build, passable, stripped};
use crate::common::{process, store};

/// The time limit of a wait for a fact: on two busy cores a build of milliseconds takes seconds.
const FACT: Duration = Duration::from_secs(120);
/// The pause between two polls: tests that run side by side share the processors with the polls.
const POLL_PAUSE: Duration = Duration::from_millis(25);
/// The pause between two polls of the history: the supervisor reads its journal for each.
const HISTORY_PAUSE: Duration = Duration::from_millis(150);
/// The time limit of one request: a switch, restart or kill of the supervisor must not delay a client longer.
const REQUEST: Duration = Duration::from_secs(10);

/// The flake of the service. Two files beside it describe the service and its checks.
pub const FLAKE: &str = r#"{
  outputs = { self }: let
    make = attributes: derivation ({
      system = "SYSTEM"; builder = "${./unruly}"; args = [ "make" ]; program = "${./unruly}";
    } // attributes);
    check = attributes: make ({ args = [ "try" ]; } // attributes);
  in {
    packages.SYSTEM.default = make { name = "service"; behaviour = builtins.readFile ./behaviour; };
    checks.SYSTEM = import ./checks/default.nix { inherit check self; };
  };
}
"#;

/// The checks of the usual service: one check, which reads the behaviour.
pub const CHECKS: &str = r#"{ check, self }: {
  right = check { name = "right"; try = "reads"; subject = "${../behaviour}"; };
}
"#;

/// A directory with everything that one supervisor needs.
pub struct Lab {
    dir: tempfile::TempDir,
    store: Vec<(OsString, OsString)>,
    address: SocketAddr,
    program: &'static str,
}

impl Lab {
    /// A healthy service; if the machine has no Nix or no user namespaces, prints the reason and returns `None`.
    pub fn new() -> Option<Self> {
        Self::of("unruly")
    }

    /// The same with another example as the service.
    pub fn of(program: &'static str) -> Option<Self> {
        if !can_build() {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("rei-bad-").tempdir().unwrap();
        passable(dir.path());
        let store = store::environment(dir.path(), "sandbox-paths =");
        let lab = Self { dir, store, address: addresses::own(), program };
        init(&lab.path("repo"));
        std::fs::copy(stripped(program).join(program), lab.path("repo").join(program)).unwrap();
        lab.write("flake.nix", &FLAKE.replace("SYSTEM", &system()).replace("unruly", program));
        lab.write("checks/default.nix", if program == "unruly" { CHECKS } else { "{ check, self }: { }\n" });
        lab.commit(if program == "unruly" { "well 1" } else { "1" });
        lab.configure("");
        Some(lab)
    }

    /// Uses its own store, even if the other tests share one.
    pub fn take_own_store(&mut self) {
        self.store = store::own(self.dir.path(), "sandbox-paths =");
    }

    /// Adds the lab's directory `chance` to every sandbox, as `/chance`. Files there change the result of a build without changing its
    /// derivation. This needs its own store.
    pub fn let_chance_in(&self) {
        std::fs::create_dir(self.path("chance")).unwrap();
        let conf = std::fs::read_to_string(self.path("etc/nix.conf")).unwrap();
        let paths = format!("sandbox-paths = /chance={}", self.path("chance").display());
        std::fs::write(self.path("etc/nix.conf"), conf.replace("sandbox-paths =", &paths)).unwrap();
    }

    /// A path below the lab's directory.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Writes rei.toml: the usual one, with lines added at its end.
    pub fn configure(&self, more: &str) {
        self.configure_with("", more);
    }

    /// The same, with lines added to `[runtime]` too.
    pub fn configure_with(&self, runtime: &str, more: &str) {
        let health = if more.contains("[health]") {
            String::new()
        } else {
            "[health]\nhttp = { listen = \"http\", path = \"/healthz\", interval = \"100ms\", timeout = \"2s\" }\n"
                .to_owned()
        };
        let promotion = if more.contains("[promotion]") {
            ""
        } else {
            "[promotion]\ncanary = [{ share = 0.5, for = \"1s\" }]\nobserve = \"2s\"\n"
        };
        let start = if runtime.contains("start_timeout") { "" } else { "start_timeout = \"20s\"\n" };
        let text = format!(
            "[runtime]\nname = \"service\"\nsource = \"{repo}\"\ncommand = [\"bin/{program}\"]\nlisten = [\"http={port}\"]\n\
             poll = \"1s\"\nstop_timeout = \"2s\"\n{start}{runtime}\n{health}{promotion}\
             [state]\ndirectory = \"{state}\"\n{more}\n",
            program = self.program,
            repo = self.path("repo").display(),
            port = self.address,
            state = self.path("state").display(),
        );
        std::fs::write(self.path("rei.toml"), text).unwrap();
    }

    /// Replaces a text of rei.toml, which must exist.
    pub fn reword(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("rei.toml")).unwrap();
        assert!(text.contains(from), "{from:?} is not in {text}");
        std::fs::write(self.path("rei.toml"), text.replace(from, to)).unwrap();
    }

    /// The address of the service.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs git in the repository.
    pub fn git(&self, args: &[&str]) -> String {
        git(&self.path("repo"), args)
    }

    /// Writes a file of the repository.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path("repo").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Commits the tree with this behaviour, `DOES VERSION`; returns the commit.
    pub fn commit(&self, behaviour: &str) -> String {
        self.write("behaviour", &format!("{behaviour}\n"));
        self.commit_tree(behaviour)
    }

    /// Commits the current tree; returns the commit.
    pub fn commit_tree(&self, message: &str) -> String {
        commit(&self.path("repo"), message)
    }

    /// A command that runs rei with the lab's store.
    pub fn rei(&self) -> Command {
        let mut command = Command::new(stripped(self.program).join("rei"));
        self.environment(&mut command);
        command
    }

    /// Gives a command an environment with only the lab's store and the machine's PATH.
    pub fn environment(&self, command: &mut Command) {
        command.env_clear().envs(self.store.iter().map(|(name, value)| (name, value)));
        command.env("RUST_BACKTRACE", "1").env("RUST_LOG", "info").stdin(Stdio::null());
    }

    /// Starts `rei run`.
    pub fn run(&self) -> Supervisor {
        self.run_by(self.rei())
    }

    /// Starts `rei run` by the given command.
    pub fn run_by(&self, mut command: Command) -> Supervisor {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let output = self.path(&format!("output-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = std::fs::File::create(&output).unwrap();
        command.arg("run").args(config_args(&self.path("rei.toml")));
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Supervisor { child, output, control: self.path("state/control.sock"), ended: None }
    }

    /// Starts `rei run`, which must fail; returns its output. No process may serve, and no process may be left.
    pub fn refused(&self) -> String {
        let mut supervisor = self.run();
        let code = supervisor.wait();
        let output = supervisor.output();
        assert_ne!(code, Some(0), "rei run should have failed: {output}");
        output
    }

    /// Checks that after a failed `rei run` there is no keeper and no instance, and that no process listens.
    pub fn nothing_is_left(&self) {
        let left = || {
            let listens = match TcpStream::connect_timeout(&self.address(), REQUEST) {
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => None,
                other => Some(format!("{other:?}")),
            };
            let state = self.path("state");
            let left = (process::keeper(&state), process::of_service(&state), listens);
            (left != (None, Vec::new(), None)).then_some(left)
        };
        // A process that got a signal needs a moment to exit.
        eventually(|| left().is_none(), || format!("left: {:?}", left()));
    }

    /// Starts `rei run` and waits until the first version serves.
    pub fn serving(&self) -> Supervisor {
        let mut supervisor = self.run();
        supervisor.until("the first version to serve", |it| it.status().is_some_and(|it| it.active.is_some()));
        assert!(self.ask("/").is_ok_and(|body| body.ends_with('1')));
        supervisor
    }

    /// Sends one request; returns the body of the answer.
    pub fn ask(&self, path: &str) -> Result<String, String> {
        ask(self.address(), path)
    }

    /// Sends requests in the background, one after another, until the value is dropped.
    pub fn load(&self) -> Load {
        Load::on(self.address())
    }
}

/// Waits for a fact; if it does not happen in time, fails with the message of `otherwise`.
pub fn eventually(mut holds: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < FACT, "{}", otherwise());
        std::thread::sleep(POLL_PAUSE);
    }
}

/// The arguments that name rei.toml.
fn config_args(path: &Path) -> Vec<std::ffi::OsString> {
    vec![path.into()]
}

/// Nix's name for this system.
pub fn system() -> String {
    format!("{}-linux", std::env::consts::ARCH)
}

/// Sends one request on a new connection; returns the body of the answer.
pub fn ask(address: SocketAddr, path: &str) -> Result<String, String> {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, REQUEST)?;
        stream.set_read_timeout(Some(REQUEST))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = answer().map_err(|error| error.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {text:?}"))?;
    if head.starts_with("HTTP/1.1 200") { Ok(body.to_owned()) } else { Err(head.to_owned()) }
}

/// A thread that sends requests without a pause.
pub struct Load {
    end: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn on(address: SocketAddr) -> Self {
        let (end, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let thread = std::thread::spawn({
            let (end, count, failures) = (end.clone(), count.clone(), failures.clone());
            move || {
                while !end.load(Ordering::Relaxed) {
                    if let Err(error) = ask(address, "/") {
                        failures.lock().unwrap().push(error);
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Self { end, count, failures, thread: Some(thread) }
    }

    /// The number of requests so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Stops it. Every request must have an answer, and there must be at least one.
    pub fn none_lost(mut self) {
        self.stop();
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} of {} requests failed: {:?}", failures.len(), self.count(), failures.first());
        assert!(self.count() > 0);
    }

    fn stop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A running supervisor.
pub struct Supervisor {
    child: Child,
    output: PathBuf,
    control: PathBuf,
    ended: Option<Option<i32>>,
}

impl Supervisor {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its output so far, without colours.
    pub fn output(&self) -> String {
        let text = String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned();
        let mut plain = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(at) = rest.find('\u{1b}') {
            plain.push_str(&rest[..at]);
            rest = rest[at..].split_once('m').map_or("", |(_, rest)| rest);
        }
        plain + rest
    }

    /// Its output so far, byte for byte.
    pub fn raw_output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// The status for an operator; `None` before it answers.
    pub fn status(&self) -> Option<Status> {
        self.operator(async |client| client.status().await.ok()).flatten()
    }

    /// Sends a request to the control socket; `None` if there is no answer.
    pub fn operator<T>(&self, ask: impl AsyncFnOnce(OperationsClient) -> T) -> Option<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = OperationsClient::connect(&self.control).await.ok()?;
            Some(ask(client).await)
        })
    }

    /// Waits for a fact.
    pub fn until(&mut self, what: &str, holds: impl FnMut(&mut Self) -> bool) {
        self.look(what, POLL_PAUSE, holds);
    }

    fn look(&mut self, what: &str, pause: Duration, mut holds: impl FnMut(&mut Self) -> bool) {
        let since = Instant::now();
        while !holds(self) {
            assert!(self.is_running(), "rei exited during the wait for {what}:\n{}", self.output());
            assert!(since.elapsed() < FACT, "no {what}; status {:#?}\n{}", self.status(), self.output());
            std::thread::sleep(pause);
        }
    }

    /// Waits for words in its output; returns the line.
    pub fn says(&mut self, words: &str) -> String {
        self.until(words, |it| it.output().contains(words));
        self.output().lines().find(|line| line.contains(words)).unwrap_or_default().to_owned()
    }

    /// Waits for the end of the evolution to a commit; returns its entry in the history.
    pub fn verdict_on(&mut self, rev: &str) -> rei::interface::operations::HistoryEntry {
        let mut found = None;
        self.look(&format!("the end of the evolution to {rev}"), HISTORY_PAUSE, |it| {
            let history = it.operator(async |client| client.history(Some(50)).await.unwrap_or_default());
            let wanted = &rev[..12];
            found = history.unwrap_or_default().into_iter().find(|entry| {
                entry.finished_at.is_some() && (entry.summary.contains(wanted) || entry.summary.contains(rev))
            });
            found.is_some()
        });
        found.expect("the wait has found it")
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has exited; returns its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let output = self.output.clone();
        let said = || format!("rei does not exit:\n{}", String::from_utf8_lossy(&std::fs::read(&output).unwrap()));
        eventually(|| !self.is_running(), said);
        let code = self.child.wait().unwrap().code();
        self.ended = Some(code);
        code
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn stop(&mut self) -> Option<i32> {
        process::send(self.pid(), Signal::SIGTERM);
        self.wait()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.is_running() {
            process::send(self.pid(), Signal::SIGTERM);
            let since = Instant::now();
            while self.is_running() && since.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(POLL_PAUSE);
            }
            let _ = self.child.kill();
        }
        if std::thread::panicking() {
            eprintln!("--- the log of rei ---\n{}", self.output());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Only processes of this test are killed.
        process::end_all(&self.path("state"));
        store::make_writable(self.dir.path());
    }
}

/// The texts of all files below a directory, in any order; links are not followed.
pub fn texts_below(dir: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            text += &texts_below(&entry.path());
        } else if kind.is_file() {
            text += &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default());
        }
    }
    text
}

/// The program in the role of an agent.
pub fn agent() -> PathBuf {
    stripped("unruly").join("unruly")
}
