//! Supervisors side by side: each keeps one `bench-child stamp` alive.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::rig::{Rei, Repo, Result, child, run};

/// The bound of a start or restart: the slowest peer pauses for seconds.
const START_MAX: Duration = Duration::from_secs(30);
/// The pause between two polls of the file of stamps: the supervisor needs the processor more than this program.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// The name of the peer that is no supervisor.
pub const BARE: &str = "minimal restarter";
/// Bytes of a stamp: process id, then nanoseconds.
const STAMP_BYTES: usize = 16;

/// A supervisor and its child.
pub struct Peer {
    pub name: &'static str,
    stamps: PathBuf,
    read: usize,
    running: Running,
    /// The child, and the time at which it was first seen.
    pub pid: i32,
    pub since: Instant,
}

#[expect(dead_code, reason = "the process is stopped when this is dropped")]
enum Running {
    Rei(Rei),
    Process(Process),
}

/// A process that is stopped and awaited when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < START_MAX && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK_PAUSE);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A supervisor that exits may leave its child running: then it is killed here.
        if let Running::Process(process) = &mut self.running {
            let _ = kill(Pid::from_raw(process.0.id().cast_signed()), Signal::SIGTERM);
            let _ = process.0.wait();
            // There may be no child; process id 0 would mean this process group.
            if self.pid > 0 {
                let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            }
        }
    }
}

impl Peer {
    /// Starts rei on a flake whose program is the child.
    pub fn rei(dir: &Path) -> Result<Self> {
        let (repo, _) = Repo::begin(dir.join("repo"), "stamp")?;
        let source = repo.path().display();
        // So many crashes would open an incident, which is not measured here, so the limits are high.
        let toml = format!(
            "[runtime]\nname = \"bench-stamp\"\nsource = \"{source}\"\ncommand = [\"bin/child\", \"stamp\"]\nlisten = []\n\
             [incidents]\ncrash = {{ restarts = 100000, within = \"60s\" }}\nrepeats = 100000\n"
        );
        let rei = Rei::start(dir.join("rei"), &toml, &[])?;
        let stamps = rei.state().join("runtime/stamps");
        Self::begun("rei", stamps, Running::Rei(rei))
    }

    /// Starts the minimal restarter: no supervisor can be much faster.
    pub fn bare(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let process = Self::spawn(dir, Command::new(child()).arg("respawn"))?;
        Self::begun(BARE, dir.join("stamps"), Running::Process(process))
    }

    /// Starts runit's runsv.
    pub fn runit(dir: &Path) -> Result<Self> {
        Self::service("runit runsv", dir, "runsv")
    }

    /// Starts s6-supervise.
    pub fn s6(dir: &Path) -> Result<Self> {
        Self::service("s6-supervise", dir, "s6-supervise")
    }

    /// Both runit and s6 take a directory with a program `run`: here the child itself, which they can start fastest.
    fn service(name: &'static str, dir: &Path, program: &str) -> Result<Self> {
        fs::create_dir_all(dir)?;
        symlink(child(), dir.join("run"))?;
        let process = Self::spawn(dir, Command::new(program).arg(dir))?;
        Self::begun(name, dir.join("stamps"), Running::Process(process))
    }

    /// Starts supervisord from PyPI, in an environment below `target`.
    pub fn supervisord(dir: &Path, target: &Path) -> Result<Self> {
        let venv = target.join("bench-supervisord");
        let program = venv.join("bin/supervisord");
        if !program.exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
            run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "supervisor==4.3.0"]))?;
        }
        fs::create_dir_all(dir)?;
        let (child, here) = (child(), dir.display());
        let config = format!(
            "[supervisord]\nnodaemon=true\nlogfile={here}/log\npidfile={here}/pid\nchildlogdir={here}\n\
             [program:stamp]\ncommand={} stamp\ndirectory={here}\nautorestart=true\nstartsecs=1\nstartretries=1000\n",
            child.display()
        );
        fs::write(dir.join("supervisord.conf"), config)?;
        let process = Self::spawn(dir, Command::new(program).arg("-c").arg(dir.join("supervisord.conf")))?;
        Self::begun("supervisord", dir.join("stamps"), Running::Process(process))
    }

    fn spawn(dir: &Path, command: &mut Command) -> Result<Process> {
        let log = File::create(dir.join("peer.log"))?;
        command.current_dir(dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Process(command.spawn().map_err(|error| format!("{command:?}: {error}"))?))
    }

    fn begun(name: &'static str, stamps: PathBuf, running: Running) -> Result<Self> {
        let mut peer = Self { name, stamps, read: 0, running, pid: 0, since: Instant::now() };
        peer.next()?;
        Ok(peer)
    }

    /// Waits for the next child and gives the time of its first act, in nanoseconds of the monotonic clock.
    pub fn next(&mut self) -> Result<u64> {
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            let bytes = fs::read(&self.stamps).unwrap_or_default();
            if let Some(stamp) = bytes.get(self.read * STAMP_BYTES..(self.read + 1) * STAMP_BYTES) {
                let (pid, at_ns) = stamp.split_at(8);
                self.pid = i32::try_from(u64::from_le_bytes(pid.try_into()?))?;
                self.since = Instant::now();
                self.read += 1;
                return Ok(u64::from_le_bytes(at_ns.try_into()?));
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        Err(format!("{} does not start its child", self.name).into())
    }
}
