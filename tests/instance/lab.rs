//! A directory for instances of a test; it is always cleaned up.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rei::process::{self, Tag};
use rei::runtime::cgroup::{Base, TreeLimits};
use rei::runtime::instance::Instance;
use rei::runtime::isolation::Sandbox;
use rei::runtime::spawn::{Gate, SpawnError, SpawnSpec, Spawned, spawn};
use rei::runtime::table::PidCell;
use rei::runtime::tree::{Tree, TreeMethod, Trees};
use tempfile::TempDir;

/// The time limit of every wait, generous for a loaded machine.
pub const LONG: Duration = Duration::from_secs(30);

/// Only one lab at a time: a process has one set of children and inherits every orphan.
static ALONE: Mutex<()> = Mutex::new(());

pub struct Lab {
    pub dir: TempDir,
    pub trees: Trees,
    pub prefix: String,
    _alone: MutexGuard<'static, ()>,
}

/// The options of a start.
#[derive(Default)]
pub struct Start<'a> {
    pub env: Vec<(OsString, OsString)>,
    pub fds: Vec<(String, BorrowedFd<'a>)>,
    pub dir: Option<&'a Path>,
    pub sandbox: Option<&'a Sandbox>,
    pub notify: Option<(&'a Path, Option<Duration>)>,
    pub cell: Option<PidCell<'a>>,
    pub output: Option<BorrowedFd<'a>>,
    pub gate: Option<&'a Gate>,
}

impl Lab {
    pub fn new() -> Self {
        Self::with(TreeMethod::Scan { why: "the test wants it".into() })
    }

    pub fn with(method: TreeMethod) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        // Instances that run as another user must reach the program inside.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let prefix = format!("test-{}-{}-", std::process::id(), dir.path().file_name().unwrap().to_str().unwrap());
        Self { dir, trees: Trees::with(method).unwrap(), prefix, _alone: alone }
    }

    /// A lab that uses a cgroup; `None` if this machine gives none to this process.
    pub fn with_cgroup() -> Option<Self> {
        match Base::find() {
            Ok(base) => Some(Self::with(TreeMethod::Cgroup(base))),
            Err(why) => {
                println!("SKIPPED: {why}");
                None
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn id(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A copy of this test program that every user can execute.
    pub fn helper(&self) -> PathBuf {
        let path = self.path("helper");
        if !path.exists() {
            std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        path
    }

    pub fn spawn(
        &self,
        id: &str,
        program: &Path,
        args: &[&str],
        start: &Start,
        tree: Option<&Tree>,
    ) -> Result<Spawned, SpawnError> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let output = start.output.unwrap_or(null.as_fd());
        spawn(&SpawnSpec {
            id,
            program,
            args: &args,
            env: &start.env,
            dir: start.dir,
            fds: &start.fds,
            stdout: output,
            stderr: output,
            sandbox: start.sandbox,
            cgroup: tree.and_then(Tree::cgroup),
            notify: start.notify,
            pid_cell: start.cell,
            gate: start.gate,
        })
    }

    pub fn start(&self, name: &str, program: &Path, args: &[&str], start: &Start) -> Instance {
        let id = self.id(name);
        let tree = self.trees.create(&id, TreeLimits::default()).unwrap();
        let spawned = self.spawn(&id, program, args, start, Some(&tree)).unwrap();
        Instance::new(&id, spawned, tree).unwrap()
    }

    pub fn shell(&self, name: &str, script: &str) -> Instance {
        self.start(name, Path::new("/bin/sh"), &["-c", script], &Start { env: path_variable(), ..Start::default() })
    }

    /// Runs a program to its end and returns its output.
    pub async fn output(&self, name: &str, program: &Path, args: &[&str], start: Start<'_>) -> String {
        let (mut read, write) = std::io::pipe().unwrap();
        let mut instance = self.start(name, program, args, &Start { output: Some(write.as_fd()), ..start });
        drop(write);
        let text = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            read.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let text = tokio::time::timeout(LONG, text).await.expect("the program ends").unwrap();
        instance.end().await;
        text
    }

    /// Runs an action of the helper inside an instance.
    pub async fn act(&self, act: &str, start: Start<'_>) -> String {
        let mut env = start.env.clone();
        env.push(("REI_TEST_ACT".into(), act.into()));
        self.output(act, &self.helper(), &HELPER_ARGS, Start { env, ..start }).await
    }

    /// The live processes that this lab has started, with any parent.
    pub fn alive(&self) -> Vec<u32> {
        let ours = |pid| matches!(process::tag(pid), Tag::Instance(id) if id.starts_with(&self.prefix));
        process::all().into_iter().filter(|stat| !stat.is_zombie() && ours(stat.pid)).map(|stat| stat.pid).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for pid in self.alive() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        self.trees.reap_orphans();
    }
}

/// The arguments with which the test program runs only the helper.
pub const HELPER_ARGS: [&str; 4] = ["helper_program", "--exact", "--nocapture", "--test-threads=1"];

pub fn path_variable() -> Vec<(OsString, OsString)> {
    vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())]
}

/// Waits for a fact.
pub fn until<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        match fact() {
            Some(value) => return value,
            None => assert!(Instant::now() < deadline, "{what} did not happen in time"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the test runs as root; if not, prints that it is skipped.
pub fn is_root() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        println!("SKIPPED: needs root to become another user");
    }
    root
}

/// An empty list of processes.
pub const NONE: [u32; 0] = [];
