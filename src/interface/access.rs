//! Who may call: the user of the calling process, and that it is no process of an instance.
//!
//! A process is pinned by its pidfd before anything is read about it, and what was read counts only if the process was
//! still there afterwards: a process id that was given to another one in between cannot fool the check. Where the kernel
//! has no `SO_PEERPIDFD` (before 6.5) the caller is pinned when it is accepted instead of when it connected.
//!
//! Descent is lost when a supervisor dies (its orphans go to another reaper), so an owner whose instances have control
//! groups names these too. Best of all is that an instance cannot reach the socket: see [`super::socket`].

use std::fmt;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt};

use crate::poll::is_ready;

/// Ancestors that are looked at; a deeper caller is refused. No login is that deep.
const ANCESTORS_MAX: usize = 64;
/// Walks up the ancestors before giving up because some ended meanwhile.
const WALKS_MAX: usize = 5;
/// The part of /etc/passwd that is searched for a name, in bytes.
const PASSWD_BYTES_MAX: u64 = 1 << 20;

/// A process that calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its process when it connected.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Caller {
    /// `operator:NAME` for records; the number where the user has no name.
    pub fn operator(&self) -> String {
        use std::io::Read;
        let mut passwd = Vec::new();
        let file = std::fs::File::open("/etc/passwd");
        // Not `getpwuid`: a statically linked program would load the system's modules for it.
        let _ = file.and_then(|file| file.take(PASSWD_BYTES_MAX).read_to_end(&mut passwd));
        match user_name(&String::from_utf8_lossy(&passwd), self.uid) {
            Some(name) => format!("operator:{name}"),
            None => format!("operator:{}", self.uid),
        }
    }
}

fn user_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// A caller who may not call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who.
    pub caller: Caller,
    /// Why.
    pub reason: RefusalReason,
}

/// Why a caller may not call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Another user.
    User,
    /// It is a process of an instance, or descends from one: a policy anomaly. The process that was found.
    Instance(u32),
    /// It is in a control group of another supervisor's instance: no news of ours.
    Foreign(u32),
    /// It descends from the supervisor, as everything does that escapes from an instance: a policy anomaly.
    Descendant,
    /// It has ended, so nothing is known about it.
    Gone,
    /// The system does not say who it is.
    Unknown(String),
}

impl RefusalReason {
    /// Whether an owner reports it as a policy anomaly: something supervised reaches for the operator's authority.
    pub fn is_policy_anomaly(&self) -> bool {
        matches!(self, Self::Instance(_) | Self::Descendant)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Caller { pid, uid, .. } = self.caller;
        match &self.reason {
            RefusalReason::User => write!(f, "uid {uid} may not call"),
            RefusalReason::Instance(instance) if *instance == pid => write!(f, "process {pid} is an instance's"),
            RefusalReason::Instance(instance) => write!(f, "process {pid} descends from instance process {instance}"),
            RefusalReason::Foreign(_) => write!(f, "process {pid} is another supervisor's instance's"),
            RefusalReason::Descendant => write!(f, "process {pid} descends from the supervisor"),
            RefusalReason::Gone => write!(f, "process {pid} has ended"),
            RefusalReason::Unknown(what) => write!(f, "nothing is known about process {pid}: {what}"),
        }
    }
}

type IsInstance = dyn Fn(u32) -> bool + Send + Sync;
type IsInstanceCgroup = dyn Fn(&str) -> bool + Send + Sync;
type OnRefusal = dyn Fn(&Refusal) + Send + Sync;

/// The rule of one socket.
#[derive(Clone)]
pub struct Access {
    /// Users who may call; `None` for all.
    uids: Option<Vec<u32>>,
    /// A group whose members may call too.
    group: Option<u32>,
    supervisor: Option<u32>,
    is_instance: Option<Arc<IsInstance>>,
    is_instance_cgroup: Option<Arc<IsInstanceCgroup>>,
    on_refusal: Option<Arc<OnRefusal>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("uids", &self.uids).field("group", &self.group).finish_non_exhaustive()
    }
}

impl Access {
    /// For the user that this process runs as, and root.
    pub fn own_user() -> Self {
        let uids = vec![nix::unistd::geteuid().as_raw(), 0];
        Self { uids: Some(uids), ..Self::anyone() }
    }

    /// For everyone who can connect: the file system or the supervisor decides.
    pub fn anyone() -> Self {
        Self {
            uids: None,
            group: None,
            supervisor: None,
            is_instance: None,
            is_instance_cgroup: None,
            on_refusal: None,
        }
    }

    /// Also for the members of `group`.
    pub fn group(self, group: u32) -> Self {
        Self { group: Some(group), ..self }
    }

    /// Not for instances: `is_instance` is asked for the caller's process and each of its ancestors.
    pub fn refuse_instances(self, is_instance: impl Fn(u32) -> bool + Send + Sync + 'static) -> Self {
        Self { is_instance: Some(Arc::new(is_instance)), ..self }
    }

    /// Not for instances of any supervisor: `is_instance` is asked for the caller's control group, as `/proc/PID/cgroup`
    /// names it. Two supervisors on one machine may have users of one group, and their instances with them.
    pub fn refuse_instance_cgroups(self, is_instance: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self { is_instance_cgroup: Some(Arc::new(is_instance)), ..self }
    }

    /// Not for what descends from `supervisor`: a subreaper is where every process ends that escapes from an instance.
    pub fn refuse_descendants_of(self, supervisor: u32) -> Self {
        Self { supervisor: Some(supervisor), ..self }
    }

    /// Tells the owner of each refusal, from within the server: it must not block.
    pub fn on_refusal(self, on_refusal: impl Fn(&Refusal) + Send + Sync + 'static) -> Self {
        Self { on_refusal: Some(Arc::new(on_refusal)), ..self }
    }

    /// Decides about the process that connected to `stream`, and tells the owner of a refusal.
    pub(super) fn check(&self, stream: &impl AsFd) -> Result<Caller, Refusal> {
        let (caller, decision) = self.decide(stream);
        decision.map(|()| caller.clone()).map_err(|reason| {
            let refusal = Refusal { caller, reason };
            if let Some(on_refusal) = &self.on_refusal {
                on_refusal(&refusal);
            }
            refusal
        })
    }

    fn decide(&self, stream: &impl AsFd) -> (Caller, Result<(), RefusalReason>) {
        let credentials = match getsockopt(stream, sockopt::PeerCredentials) {
            Ok(credentials) => credentials,
            Err(errno) => {
                let nobody = Caller { pid: 0, uid: u32::MAX, gid: u32::MAX };
                return (nobody, Err(RefusalReason::Unknown(errno.to_string())));
            }
        };
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        let caller = Caller { pid, uid: credentials.uid(), gid: credentials.gid() };
        let decision = self.decide_about(&caller, stream);
        (caller, decision)
    }

    fn decide_about(&self, caller: &Caller, stream: &impl AsFd) -> Result<(), RefusalReason> {
        let by_process = self.supervisor.is_some() || self.is_instance.is_some() || self.is_instance_cgroup.is_some();
        let allowed =
            self.uids.as_ref().is_none_or(|uids| uids.contains(&caller.uid)) || self.group == Some(caller.gid);
        if allowed && !by_process {
            return Ok(());
        }
        if !allowed && self.group.is_none() {
            return Err(RefusalReason::User);
        }
        let process = Process::of_peer(stream, caller.pid)?;
        if !allowed && !self.group.is_some_and(|group| process.groups().is_ok_and(|groups| groups.contains(&group))) {
            return Err(RefusalReason::User);
        }
        self.refuse_by_process(process)
    }

    fn refuse_by_process(&self, process: Process) -> Result<(), RefusalReason> {
        for (index, pid) in process.lineage()?.into_iter().enumerate() {
            if self.is_instance.as_ref().is_some_and(|is_instance| is_instance(pid)) {
                return Err(RefusalReason::Instance(pid));
            }
            if index > 0 && Some(pid) == self.supervisor {
                return Err(RefusalReason::Descendant);
            }
        }
        if let Some(is_instance_cgroup) = &self.is_instance_cgroup {
            let cgroups = process.read("cgroup")?;
            // Lines are ID:CONTROLLERS:PATH.
            if cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| is_instance_cgroup(path)) {
                return Err(RefusalReason::Foreign(process.pid));
            }
        }
        Ok(())
    }
}

/// A process that is pinned: its id means it and no other as long as it has not ended.
struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    fn of_peer(stream: &impl AsFd, pid: u32) -> Result<Self, RefusalReason> {
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

    /// `None` when there is no such process.
    fn open(pid: u32) -> Option<Self> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the descriptor is new and nobody else's.
        Some(Self { pid, pidfd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    fn has_ended(&self) -> bool {
        is_ready(self.pidfd.as_fd(), PollFlags::POLLIN) != Ok(false)
    }

    /// A file of /proc/PID, known to be this process's.
    fn read(&self, file: &str) -> Result<String, RefusalReason> {
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

    fn groups(&self) -> Result<Vec<u32>, RefusalReason> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
        Ok(line.split_whitespace().filter_map(|group| group.parse().ok()).collect())
    }

    /// This process and its ancestors. An ancestor that ends meanwhile changes the line, so the walk begins again.
    fn lineage(&self) -> Result<Vec<u32>, RefusalReason> {
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
                // 0 is the parent of init, and of what was sent into a process namespace from outside.
                Ok(0) => return Ok(Some(lineage)),
                Ok(parent) => parent,
                Err(RefusalReason::Gone) if above.is_some() => return Ok(None),
                Err(reason) => return Err(reason),
            };
            let Some(pinned) = Process::open(parent) else { return Ok(None) };
            // Only a parent that is named again after it was pinned is surely this one.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_behind_any_name() {
        assert_eq!(parent_in_stat("42 (a) 1 (b) S 7 42 42 0"), Some(7));
        assert_eq!(parent_in_stat("42 (a"), None);
    }

    #[test]
    fn a_user_has_the_name_of_its_line() {
        let passwd = "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\nbroken\n";
        assert_eq!(user_name(passwd, 1000), Some("ada"));
        assert_eq!(user_name(passwd, 7), None);
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
    }
}
