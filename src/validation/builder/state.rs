//! The first content of an instance's state directory: files that are copied, or a program that makes them.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use std::os::fd::AsFd;
use tokio::net::unix::pipe;

use super::Infrastructure;
use super::confine::{self, Exec};
use super::job::Subject;
use super::tree::{LOOK, collect, end_all_others, environment, machine_paths};
use crate::validation::checks::InstanceSpec;

/// The most bytes that are copied for each start: a fixture is a small example, not a copy of the data.
const BYTES_MAX: u64 = 256 << 20;

/// The most files and directories that are copied for each start.
const ENTRIES_MAX: usize = 10_000;

/// The deepest directory that is copied.
const DEPTH_MAX: usize = 32;

/// Copies the content of a directory; the copies can be written.
pub(super) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut left = Left { bytes: BYTES_MAX, entries: ENTRIES_MAX };
    copy_directory(from, to, DEPTH_MAX, &mut left)
}

struct Left {
    bytes: u64,
    entries: usize,
}

fn copy_directory(from: &Path, to: &Path, depth: usize, left: &mut Left) -> std::io::Result<()> {
    let too_large = |what: &str| std::io::Error::other(format!("{}: more than {what}", from.display()));
    if depth == 0 {
        return Err(too_large(&format!("{DEPTH_MAX} directories inside each other")));
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        left.entries = left.entries.checked_sub(1).ok_or_else(|| too_large(&format!("{ENTRIES_MAX} files")))?;
        if kind.is_dir() {
            std::fs::create_dir(&target)?;
            copy_directory(&source, &target, depth - 1, left)?;
        } else if kind.is_symlink() {
            symlink(std::fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            let metadata = entry.metadata()?;
            let bytes = left.bytes.checked_sub(metadata.len());
            left.bytes = bytes.ok_or_else(|| too_large(&format!("{BYTES_MAX} bytes")))?;
            std::fs::copy(&source, &target)?;
            let mode = metadata.permissions().mode() | 0o200;
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Runs the program that makes the content, confined like the instance itself but without its listeners. `Ok(Err(reason))`
/// is the version's own fault.
pub(super) async fn prepare(
    spec: &InstanceSpec,
    subject: &Subject,
    top: &Path,
    work: &Path,
) -> Result<Result<(), String>, Infrastructure> {
    let Some((program, args)) = spec.prepare.split_first() else { return Ok(Ok(())) };
    let begun = Instant::now();
    let (reader, writer) =
        pipe2(OFlag::O_CLOEXEC).map_err(|errno| Infrastructure::system("make a pipe")(errno.into()))?;
    let alone = InstanceSpec { listen: Vec::new(), ..spec.clone() };
    let exec = Exec {
        program: subject.store_path.join(program),
        args,
        env: environment(&alone, subject, work, None),
        listeners: Vec::new(),
        output: writer.as_fd(),
        read: &subject.closure,
        execute: &machine_paths(spec, subject, top),
        work,
    };
    let main = match confine::start(&exec)? {
        Ok(main) => main,
        Err(reason) => return Ok(Err(format!("validation.state: {reason}"))),
    };
    drop(writer);
    let tail = Arc::new(Mutex::new(Vec::new()));
    let reader = pipe::Receiver::from_owned_fd(reader).map_err(Infrastructure::system("read the program's output"))?;
    let collector = tokio::spawn(collect(reader, Arc::clone(&tail)));
    let bound = Duration::from_millis(spec.start_timeout_ms);
    let ended = loop {
        if let Some(ended) = ended(main) {
            break Some(ended);
        }
        if begun.elapsed() >= bound {
            break None;
        }
        tokio::time::sleep(LOOK).await;
    };
    // What it left behind must not meet the instance; this also ends its output.
    end_all_others();
    let _ = tokio::time::timeout(LOOK * 40, collector).await;
    let said = || {
        let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&tail).lines().last().map(|line| format!("; it printed: {line}")).unwrap_or_default()
    };
    Ok(match ended {
        Some(Ok(())) => Ok(()),
        Some(Err(how)) => Err(format!("validation.state: {program} {how}{}", said())),
        None => Err(format!("validation.state: {program} did not end within {} ms{}", spec.start_timeout_ms, said())),
    })
}

/// How a process ended, once it has; every other ended process is reaped too.
fn ended(main: Pid) -> Option<Result<(), String>> {
    loop {
        let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, 0)) => (pid, Ok(())),
            Ok(WaitStatus::Exited(pid, code)) => (pid, Err(format!("ended with exit code {code}"))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Err(format!("was ended by signal {signal}"))),
            Err(Errno::EINTR) => continue,
            Err(_) => return Some(Err("ended".to_owned())),
            Ok(_) => return None,
        };
        if pid == main {
            return Some(how);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixture_is_copied_with_its_links_and_can_be_written() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(from.path().join("db")).unwrap();
        std::fs::write(from.path().join("db/rows"), "1\n").unwrap();
        std::fs::set_permissions(from.path().join("db/rows"), std::fs::Permissions::from_mode(0o444)).unwrap();
        symlink("db/rows", from.path().join("latest")).unwrap();
        copy(from.path(), to.path()).unwrap();
        assert_eq!(std::fs::read_link(to.path().join("latest")).unwrap(), Path::new("db/rows"));
        let mode = std::fs::metadata(to.path().join("db/rows")).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, std::fs::read_to_string(to.path().join("latest")).unwrap()), (0o644, "1\n".into()));
        let mut left = Left { bytes: 1, entries: 10 };
        let again = tempfile::tempdir().unwrap();
        let error = copy_directory(from.path(), again.path(), DEPTH_MAX, &mut left).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }
}
