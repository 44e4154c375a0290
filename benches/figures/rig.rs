//! A repository whose flake builds the measured program, and a supervisor on it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// An error ends the chapter, and the report notes it.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The time limit of a call to the supervisor.
const CALL_MAX: Duration = Duration::from_secs(20);
/// The time limit of a wait for a phase: evaluations and builds on a loaded machine.
const PHASE_MAX: Duration = Duration::from_secs(180);
const PHASE_PAUSE: Duration = Duration::from_millis(2);
/// The time limit of the supervisor's stop.
const END_MAX: Duration = Duration::from_secs(40);

const FLAKE: &str = r#"{
  outputs = { self }: let
    make = name: derivation {
      inherit name;
      system = "SYSTEM";
      builder = "${./child}";
      args = [ "make" ];
      program = "${./child}";
      version = builtins.readFile ./version;
    };
  in {
    packages.SYSTEM.default = make "served";
    checks.SYSTEM.one = make "check";
  };
}
"#;

/// The program `rei`: of this build, or the one that the variable `REI` names.
pub fn rei() -> PathBuf {
    std::env::var_os("REI").map_or_else(|| env!("CARGO_BIN_EXE_rei").into(), PathBuf::from)
}

/// The measured program.
pub fn child() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_rei")).with_file_name("examples").join("bench-child")
}

/// A git repository with a flake.
pub struct Repo(PathBuf);

impl Repo {
    pub fn begin(at: PathBuf, version: &str) -> Result<(Self, String)> {
        std::fs::create_dir_all(&at)?;
        std::fs::copy(child(), at.join("child"))?;
        let system = format!("{}-linux", std::env::consts::ARCH);
        std::fs::write(at.join("flake.nix"), FLAKE.replace("SYSTEM", &system))?;
        let repo = Self(at);
        repo.git(&["init", "--quiet", "--initial-branch=main"])?;
        let rev = repo.commit(version)?;
        Ok((repo, rev))
    }

    /// Commits another version and returns its revision.
    pub fn commit(&self, version: &str) -> Result<String> {
        std::fs::write(self.0.join("version"), version)?;
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", version])?;
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn git(&self, args: &[&str]) -> Result<String> {
        let identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"];
        run(Command::new("git").arg("-C").arg(&self.0).args(identity).args(args))
    }
}

/// Runs a program and returns its output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A free port on the loopback address.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A supervisor as users run it, of the build that is measured.
pub struct Rei {
    process: Child,
    dir: PathBuf,
}

impl Rei {
    /// Starts it in `dir` with a `rei.toml`, and waits until the first version serves.
    pub fn start(dir: PathBuf, toml: &str, env: &[(&str, &str)]) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("rei.toml"), format!("{toml}\n[state]\ndirectory = \"{}/state\"\n", dir.display()))?;
        let log = File::create(dir.join("rei.log"))?;
        let mut command = Command::new(rei());
        command.arg("run").current_dir(&dir).envs(env.iter().copied());
        let process = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut rei = Self { process, dir };
        rei.wait(|status| status["phase"] == "steady" && !status["active"].is_null())?;
        Ok(rei)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn control(&self) -> PathBuf {
        self.state().join("control.sock")
    }

    /// Calls the operator's interface.
    pub fn call(&self, method: &str, parameters: Value) -> Result<Value> {
        let mut connection = UnixStream::connect(self.control())?;
        ask(&mut connection, method, parameters)
    }

    pub fn status(&self) -> Result<Value> {
        Ok(self.call("Status", json!({}))?["status"].take())
    }

    /// Waits for a status and returns it.
    pub fn wait(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let begun = Instant::now();
        let mut last = String::from("no answer");
        while begun.elapsed() < PHASE_MAX {
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("rei exited, {status}: {}", self.last_line()).into());
            }
            match self.status() {
                Ok(status) if wanted(&status) => return Ok(status),
                Ok(status) => last = format!("{}, {}", status["phase"], status["attention"]),
                Err(_) => {}
            }
            std::thread::sleep(PHASE_PAUSE);
        }
        Err(format!("the wait timed out, with the status {last}: {}", self.last_line()).into())
    }

    /// The last line of its log.
    fn last_line(&self) -> String {
        let log = std::fs::read(self.dir.join("rei.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().last().unwrap_or_default().to_owned()
    }

    /// Requests an evolution to a revision.
    pub fn evolve(&self, rev: &str) -> Result<String> {
        let reply = self.call("Evolve", json!({ "rev": rev }))?;
        Ok(reply["evolution_id"].as_str().unwrap_or_default().to_owned())
    }

    /// Releases all content from quarantine, so that the same version can be promoted again.
    pub fn release_all(&self) -> Result<()> {
        let reply = self.call("Quarantine", json!({}))?;
        for entry in reply["entries"].as_array().into_iter().flatten() {
            self.call("LiftQuarantine", json!({ "id": entry["store_path"] }))?;
        }
        Ok(())
    }

    /// The records of the journal, oldest first.
    pub fn journal(&self) -> Result<Vec<Value>> {
        let mut segments: Vec<PathBuf> =
            std::fs::read_dir(self.state().join("journal"))?.flatten().map(|entry| entry.path()).collect();
        segments.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        segments.sort();
        let mut records = Vec::new();
        for segment in segments {
            let text = std::fs::read_to_string(segment)?;
            records.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
        }
        Ok(records)
    }
}

impl Drop for Rei {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < END_MAX && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(PHASE_PAUSE);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One call on a connection.
pub fn ask(connection: &mut UnixStream, method: &str, parameters: Value) -> Result<Value> {
    connection.set_read_timeout(Some(CALL_MAX))?;
    let mut message =
        serde_json::to_vec(&json!({ "method": format!("io.openexec.Supervisor.{method}"), "parameters": parameters }))?;
    message.push(0);
    connection.write_all(&message)?;
    let (mut reply, mut chunk) = (Vec::new(), [0; 8192]);
    while !reply.ends_with(&[0]) {
        match connection.read(&mut chunk)? {
            0 => return Err(format!("{method} was not answered").into()),
            read => reply.extend_from_slice(&chunk[..read]),
        }
    }
    reply.pop();
    let mut reply: Value = serde_json::from_slice(&reply)?;
    match reply.get("error") {
        Some(error) => Err(format!("{method}: {error} {}", reply["parameters"]).into()),
        None => Ok(reply["parameters"].take()),
    }
}
