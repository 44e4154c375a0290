//! What all process trees in the sandbox have in common: their variables, their output, and their end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::job::Subject;
use crate::validation::checks::InstanceSpec;

/// The pause between looks at a process: short against any start, long against a look.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

/// What of an instance's output goes into the build's log, in bytes; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 256 << 10;

/// The end of an instance's output that a verdict quotes, in bytes.
const TAIL_BYTES_MAX: usize = 2048;

/// Ends every process of this PID namespace but the judge, which is process 1, and waits until they are gone.
pub(crate) fn end_all_others() {
    if std::process::id() != 1 {
        return;
    }
    // None may be left, and each round reaps at least one.
    while kill(Pid::from_raw(-1), Signal::SIGKILL).is_ok() || waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok() {
        match waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
}

/// The variables of a process.
pub(super) fn environment(
    spec: &InstanceSpec,
    subject: &Subject,
    work: &Path,
    notify: Option<PathBuf>,
) -> Vec<(String, String)> {
    let work = work.display().to_string();
    let mut env: Vec<(String, String)> = vec![
        ("HOME".into(), work.clone()),
        ("TMPDIR".into(), work.clone()),
        ("STATE_DIRECTORY".into(), work),
        ("REI_STORE_PATH".into(), subject.store_path.display().to_string()),
    ];
    env.retain(|(name, _)| !spec.env.contains_key(name));
    env.extend(spec.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    if !spec.listen.is_empty() {
        let names: Vec<&str> = spec.listen.iter().map(|listen| listen.name.as_str()).collect();
        env.push(("LISTEN_FDS".into(), names.len().to_string()));
        env.push(("LISTEN_FDNAMES".into(), names.join(":")));
    }
    if let Some(notify) = notify {
        env.push(("NOTIFY_SOCKET".into(), notify.display().to_string()));
    }
    env
}

/// Reads what an instance prints: into the build's log up to a bound, and its end for the verdict.
pub(super) async fn collect(mut reader: pipe::Receiver, tail: Arc<Mutex<Vec<u8>>>) {
    use std::io::Write;
    let mut chunk = [0_u8; 4096];
    let mut logged = 0;
    while let Ok(n @ 1..) = reader.read(&mut chunk).await {
        let len = OUTPUT_BYTES_MAX.saturating_sub(logged).min(n);
        // The log is for people; if it cannot be written, the verdict stands.
        let _ = std::io::stderr().write_all(&chunk[..len]);
        logged += len;
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&chunk[..n]);
        let excess = tail.len().saturating_sub(TAIL_BYTES_MAX);
        tail.drain(..excess);
    }
}

/// The paths of the machine that the operator lets instances execute, without those that lead to the judge's own files:
/// the expected answers are in the store, and the results below `top`.
pub(super) fn machine_paths(spec: &InstanceSpec, subject: &Subject, top: &Path) -> Vec<PathBuf> {
    let store = subject.store_path.parent().unwrap_or(&subject.store_path);
    let real = |path: &PathBuf| path.canonicalize().ok();
    let hides = |path: &PathBuf| ![store, top].iter().any(|own| own.starts_with(path) || path.starts_with(own));
    spec.execute.iter().filter_map(real).filter(hides).collect()
}
