//! The templates for users: rei accepts each of them, and its service answers as in its golden run.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rei::blueprint::library::Library;
use rei::config::Config;
use rei::golden::{self, GoldenRun};
use rei::http::Address;

/// The time limit of one request to a service that has just started.
const REQUEST_MAX: Duration = Duration::from_secs(20);

const LANGUAGES: [&str; 4] = ["go", "python", "rust", "shell"];

fn template(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(language)
}

/// The only golden run of a template.
fn golden_run(language: &str) -> GoldenRun {
    let config = Config::load(&template(language).join("rei.toml")).unwrap_or_else(|error| panic!("{error:?}"));
    let runs = golden::list(&config.validation.golden).unwrap();
    assert_eq!(runs.len(), 1, "{language}");
    golden::read(&runs[0].path).unwrap()
}

fn has(program: &str) -> bool {
    let there = which::which(program).is_ok();
    if !there {
        eprintln!("SKIPPED: no {program} here");
    }
    there
}

#[test]
fn rei_accepts_each_template() {
    for language in LANGUAGES {
        let config = Config::load(&template(language).join("rei.toml")).unwrap_or_else(|error| panic!("{error:?}"));
        let unusable = Library::new(config.blueprints.directory.clone()).unusable(&config);
        assert!(unusable.is_empty(), "{language}: {unusable:?}");
        let run = golden_run(language);
        assert!(config.runtime.listen.iter().any(|listen| listen.name == run.header.listener), "{language}");
        assert!(run.exchanges.len() > 2, "{language}");
    }
}

/// The first descriptor of socket activation.
const FIRST_INHERITED: i32 = 3;

/// Starts `program` by socket activation: the shell sets LISTEN_PID to its own pid before it executes the program.
fn activated(program: &str, listener: &TcpListener, directory: &Path) -> Child {
    let fd = listener.as_raw_fd();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("LISTEN_PID=$$ LISTEN_FDS=1 exec {program}")]);
    command.current_dir(directory).env("PYTHONDONTWRITEBYTECODE", "1").stderr(Stdio::null());
    // SAFETY: only two system calls that take integers run between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::libc::dup2(fd, FIRST_INHERITED);
            // If the listener already has this number, dup2 does not clear its close-on-exec flag.
            nix::libc::fcntl(FIRST_INHERITED, nix::libc::F_SETFD, 0);
            Ok(())
        });
    }
    command.spawn().unwrap()
}

/// Runs a service, replays its golden run, and stops it by SIGTERM.
async fn answers(language: &str, program: &str, directory: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let mut server = activated(program, &listener, directory);
    let run = golden_run(language);
    let replay = golden::Replay::new(address, &run.exchanges);
    for (index, exchange) in run.exchanges.iter().enumerate() {
        let answer = replay.ask(index, exchange, REQUEST_MAX).await;
        let (answered, expected) = (answer.response.unwrap(), exchange.response.clone().unwrap());
        assert_eq!((answered.status, Some(answered.body)), (expected.status, expected.body), "{exchange:?}");
        for header in &expected.headers {
            assert!(answered.headers.contains(header), "{header:?} is not in {:?}", answered.headers);
        }
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    server.wait().unwrap();
}

#[tokio::test]
async fn python_answers() {
    if has("python3") {
        answers("python", "python3 notes.py", &template("python")).await;
    }
}

#[tokio::test]
async fn shell_answers() {
    if !has("bash") {
        return;
    }
    let shell = template("shell");
    let tested = Command::new("bash").arg("test.sh").arg(shell.join("greeter.sh")).current_dir(&shell).status();
    assert!(tested.unwrap().success());
    // socat accepts an inherited listening socket from version 1.8 on.
    let addresses = Command::new("socat").arg("-h").output().map(|output| output.stdout).unwrap_or_default();
    if !String::from_utf8_lossy(&addresses).contains("ACCEPT-FD") {
        return eprintln!("SKIPPED in part: no socat 1.8 here");
    }
    answers("shell", "./greeter.sh", &shell).await;
}

#[tokio::test]
async fn rust_answers() {
    if !has("rustc") {
        return;
    }
    let built = tempfile::tempdir().unwrap();
    // Built by rustc and not by cargo, which would wait for a lock and write files beside the source.
    for (kind, file) in [("lib", "src/lib.rs"), ("bin", "src/main.rs")] {
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition=2024", "--crate-name=greeter", "--crate-type", kind, file, "-L"]).arg(built.path());
        rustc.arg("--out-dir").arg(built.path()).current_dir(template("rust"));
        if kind == "bin" {
            rustc.arg("--extern").arg(format!("greeter={}", built.path().join("libgreeter.rlib").display()));
        }
        assert!(rustc.status().unwrap().success(), "{file}");
    }
    answers("rust", &built.path().join("greeter").display().to_string(), built.path()).await;
}
