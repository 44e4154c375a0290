//! A process at the other end of a connection. It is pinned, so that what is read is not about another process.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::refusal::RefusalReason;
use crate::poll::is_ready;

/// Maximum number of ancestors that are checked. A caller with more is refused; no login has so many.
const ANCESTORS_MAX: usize = 64;
/// Maximum number of walks up the ancestors, if some of them end during a walk.
const WALKS_MAX: usize = 5;

/// A pinned process: until it ends, its id means this process and no other.
pub(super) struct Process {
    pub(super) pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    pub(super) fn of_peer(stream: &impl AsFd, pid: u32) -> Result<Self, RefusalReason> {
        if pid == 0 {
            return Err(RefusalReason::Unknown("it is in another process namespace".into()));
        }
        match getsockopt(stream, sockopt::PeerPidfd) {
            Ok(pidfd) => Ok(Self { pid, pidfd }),
            Err(Errno::ENOPROTOOPT) => Self::open(pid).ok_or(RefusalReason::Gone),
            Err(Errno::ESRCH | Errno::ENODATA | Errno::EINVAL) => Err(RefusalReason::Gone),
            Err(errno) => Err(RefusalReason::Unknown(errno.to_string())),
        }
    }

    /// `None` if there is no such process.
    fn open(pid: u32) -> Option<Self> {
        let named = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        Some(Self { pid, pidfd: pidfd_open(named, PidfdFlags::empty()).ok()? })
    }

    fn has_ended(&self) -> bool {
        is_ready(self.pidfd.as_fd(), PollFlags::POLLIN) != Ok(false)
    }

    /// A file of /proc/PID, known to be this process's.
    pub(super) fn read(&self, file: &str) -> Result<String, RefusalReason> {
        let text = std::fs::read(format!("/proc/{}/{file}", self.pid));
        if self.has_ended() {
            return Err(RefusalReason::Gone);
        }
        let text = text.map_err(|error| RefusalReason::Unknown(format!("/proc/{}/{file}: {error}", self.pid)))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn parent(&self) -> Result<u32, RefusalReason> {
        let stat = self.read("stat")?;
        parent_in_stat(&stat).ok_or_else(|| RefusalReason::Unknown(format!("/proc/{}/stat is unreadable", self.pid)))
    }

    pub(super) fn groups(&self) -> Result<Vec<u32>, RefusalReason> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
        Ok(line.split_whitespace().filter_map(|group| group.parse().ok()).collect())
    }

    /// Whether it has given up new privileges: a mark that each child inherits and no process can remove.
    pub(super) fn no_new_privileges(&self) -> Result<bool, RefusalReason> {
        no_new_privileges_in_status(&self.read("status")?).ok_or_else(|| {
            let what = "does not say whether it may gain privileges (Linux 4.10 and later do)";
            RefusalReason::Unknown(format!("/proc/{}/status {what}", self.pid))
        })
    }

    /// This process and its ancestors. If an ancestor ends during the walk, the ancestors change, so the walk starts again.
    pub(super) fn lineage(&self) -> Result<Vec<u32>, RefusalReason> {
        for _ in 0..WALKS_MAX {
            if let Some(lineage) = self.walk()? {
                return Ok(lineage);
            }
        }
        Err(RefusalReason::Unknown("its ancestors change too fast".into()))
    }

    fn walk(&self) -> Result<Option<Vec<u32>>, RefusalReason> {
        let mut lineage = vec![self.pid];
        let mut above: Option<Process> = None;
        while lineage.len() <= ANCESTORS_MAX {
            let child = above.as_ref().unwrap_or(self);
            let parent = match child.parent() {
                // 0 is the parent of init, and of a process that entered a process namespace from outside.
                Ok(0) => return Ok(Some(lineage)),
                Ok(parent) => parent,
                Err(RefusalReason::Gone) if above.is_some() => return Ok(None),
                Err(reason) => return Err(reason),
            };
            let Some(pinned) = Process::open(parent) else { return Ok(None) };
            // The pinned process is the parent only if the child still names it after it was pinned.
            match child.parent() {
                Ok(again) if again == parent => {}
                Ok(_) => return Ok(None),
                Err(RefusalReason::Gone) if above.is_some() => return Ok(None),
                Err(reason) => return Err(reason),
            }
            lineage.push(parent);
            above = Some(pinned);
        }
        Err(RefusalReason::Unknown(format!("it has more than {ANCESTORS_MAX} ancestors")))
    }
}

/// The fourth field; the second, the name, is in parentheses and may hold anything.
fn parent_in_stat(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn no_new_privileges_in_status(status: &str) -> Option<bool> {
    match status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:"))?.trim() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_behind_any_name() {
        assert_eq!(parent_in_stat("42 (a) 1 (b) S 7 42 42 0"), Some(7));
        assert_eq!(parent_in_stat("42 (a"), None);
    }

    #[test]
    fn a_status_that_does_not_say_it_says_nothing() {
        let said = |status| no_new_privileges_in_status(status);
        // The kernel quotes the name of a process, so the name cannot add a line.
        assert_eq!(said("Name:\ta\\nNoNewPrivs:\t0\nNoNewPrivs:\t1\nSeccomp:\t0\n"), Some(true));
        assert_eq!(said("Name:\ta\nNoNewPrivs:\t0\n"), Some(false));
        assert_eq!((said("Name:\ta\n"), said("NoNewPrivs:\t\n"), said("NoNewPrivs:\t2\n")), (None, None, None));
    }

    #[test]
    fn the_lineage_of_this_process_begins_with_it_and_its_parent() {
        let lineage = Process::open(std::process::id()).unwrap().lineage().unwrap();
        assert_eq!(lineage[..2], [std::process::id(), std::os::unix::process::parent_id()]);
    }

    #[test]
    fn nothing_is_read_about_a_process_that_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pinned = Process::open(child.id()).unwrap();
        child.wait().unwrap();
        assert_eq!(pinned.parent(), Err(RefusalReason::Gone));
        assert_eq!(pinned.no_new_privileges(), Err(RefusalReason::Gone));
    }
}
