//! Who may call: the user of the calling process, and that it is no process of an instance.
//!
//! The check pins a process by its pidfd before it reads anything about the process. What it read counts only if the
//! process still exists afterwards. So the check stays correct if the kernel gives the process id to another process
//! in between. If the kernel has no `SO_PEERPIDFD` (before 6.5), the caller is pinned when it is accepted instead of
//! when it connected.
//!
//! Descent is lost when a supervisor dies, because its orphans get another parent. So an owner whose instances have
//! control groups names these too. One mark always stays: every instance and every agent has given up new privileges
//! (`no_new_privs`). Its descendants inherit the mark, and no process can remove it. So a caller without the mark
//! descends from none of them. A caller with the mark may still be an operator, in a container or a hardened unit. It
//! has to prove that it can read a secret which instances and agents cannot read: see [`super::proof`]. A system call
//! filter shows no more than this mark: an operator's process can have one too, and an instance without isolation has
//! none.
//!
//! The best protection is that an instance cannot reach the socket: see [`super::socket`].

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::socket::{getsockopt, sockopt};

use super::peer::Process;
use super::secret::Secret;

pub use super::refusal::RefusalReason;

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
    /// What is known of its descent.
    pub descent: Descent,
}

/// What is known of a caller's descent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descent {
    /// It descends from no instance and no agent: an operator.
    Operator,
    /// It may descend from one, and has not proved the opposite. The server answers none of its calls.
    Unproven,
}

/// How a caller that has given up new privileges proves that it descends from no instance.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By this secret.
    Secret(Arc<Secret>),
    /// Not at all, because an instance could do the same: why.
    Impossible(String),
}

impl Caller {
    /// The name of its user, for records; the number if the user has none.
    pub fn name(&self) -> String {
        use std::io::Read;
        let mut passwd = Vec::new();
        let file = std::fs::File::open("/etc/passwd");
        // Not `getpwuid`: a statically linked program would load the system's modules for it.
        let _ = file.and_then(|file| file.take(PASSWD_BYTES_MAX).read_to_end(&mut passwd));
        match user_name(&String::from_utf8_lossy(&passwd), self.uid) {
            Some(name) => name.to_owned(),
            None => self.uid.to_string(),
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

/// A caller that may not call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The caller.
    pub caller: Caller,
    /// The reason.
    pub reason: RefusalReason,
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
            RefusalReason::Unprovable(why) => write!(
                f,
                "process {pid} has no_new_privs, as each process of an instance has, and nothing tells it from one, because \
                 {why}; call from a process without no_new_privs, or set isolation.enabled = true and restart rei"
            ),
            RefusalReason::WrongSecret => write!(f, "process {pid} gave a wrong secret"),
            RefusalReason::Gone => write!(f, "process {pid} has ended"),
            RefusalReason::Unknown(what) => write!(f, "nothing is known about process {pid}: {what}"),
        }
    }
}

type IsInstance = dyn Fn(u32) -> bool + Send + Sync;
type IsInstanceCgroup = dyn Fn(&str) -> bool + Send + Sync;
type HowToProve = dyn Fn() -> Proof + Send + Sync;
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
    proof: Option<Arc<HowToProve>>,
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
            proof: None,
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

    /// Not for descendants of `supervisor`: it is a subreaper, so every process that escapes from an instance becomes its
    /// child.
    pub fn refuse_descendants_of(self, supervisor: u32) -> Self {
        Self { supervisor: Some(supervisor), ..self }
    }

    /// Not for processes that have given up new privileges, as every descendant of an instance has, unless they prove that
    /// they are none. `proof` is called for each of them.
    pub fn ask_for_proof(self, proof: impl Fn() -> Proof + Send + Sync + 'static) -> Self {
        Self { proof: Some(Arc::new(proof)), ..self }
    }

    /// Calls the owner for each refusal, from within the server: it must not block.
    pub fn on_refusal(self, on_refusal: impl Fn(&Refusal) + Send + Sync + 'static) -> Self {
        Self { on_refusal: Some(Arc::new(on_refusal)), ..self }
    }

    /// Decides about the process that connected to `stream`, and reports a refusal to the owner.
    pub(super) fn check(&self, stream: &impl AsFd) -> Result<Caller, Refusal> {
        let (caller, decision) = self.decide(stream);
        match decision {
            Ok(descent) => Ok(Caller { descent, ..caller }),
            Err(reason) => Err(self.refuse(caller, reason)),
        }
    }

    /// Compares what a caller gave with the secret.
    pub(super) fn check_secret(&self, caller: Caller, given: &str) -> Result<Caller, Refusal> {
        match self.proof.as_ref().map(|proof| proof()) {
            // On this socket no caller has to prove anything, or this caller has done so already.
            _ if caller.descent == Descent::Operator => Ok(caller),
            Some(Proof::Secret(secret)) if secret.is(given) => Ok(Caller { descent: Descent::Operator, ..caller }),
            Some(Proof::Impossible(why)) => Err(self.refuse(caller, RefusalReason::Unprovable(why))),
            Some(Proof::Secret(_)) | None => Err(self.refuse(caller, RefusalReason::WrongSecret)),
        }
    }

    /// Whether a caller is root or the owner, and not of a group that may call too.
    pub(super) fn is_owner(&self, caller: &Caller) -> bool {
        self.uids.as_ref().is_none_or(|uids| uids.contains(&caller.uid))
    }

    /// Whether callers of this socket may have to prove their descent.
    pub(super) fn may_ask_for_proof(&self) -> bool {
        self.proof.is_some()
    }

    /// The file that has the secret, for callers that have to prove themselves.
    pub(super) fn secret_file(&self) -> Option<std::path::PathBuf> {
        match self.proof.as_ref().map(|proof| proof()) {
            Some(Proof::Secret(secret)) => Some(secret.path().to_owned()),
            Some(Proof::Impossible(_)) | None => None,
        }
    }

    fn refuse(&self, caller: Caller, reason: RefusalReason) -> Refusal {
        let refusal = Refusal { caller, reason };
        if let Some(on_refusal) = &self.on_refusal {
            on_refusal(&refusal);
        }
        refusal
    }

    fn decide(&self, stream: &impl AsFd) -> (Caller, Result<Descent, RefusalReason>) {
        let descent = Descent::Unproven;
        let credentials = match getsockopt(stream, sockopt::PeerCredentials) {
            Ok(credentials) => credentials,
            Err(errno) => {
                let nobody = Caller { pid: 0, uid: u32::MAX, gid: u32::MAX, descent };
                return (nobody, Err(RefusalReason::Unknown(errno.to_string())));
            }
        };
        let pid = u32::try_from(credentials.pid()).unwrap_or(0);
        let caller = Caller { pid, uid: credentials.uid(), gid: credentials.gid(), descent };
        let decision = self.decide_about(&caller, stream);
        (caller, decision)
    }

    fn decide_about(&self, caller: &Caller, stream: &impl AsFd) -> Result<Descent, RefusalReason> {
        let by_process = self.supervisor.is_some()
            || self.is_instance.is_some()
            || self.is_instance_cgroup.is_some()
            || self.proof.is_some();
        let allowed =
            self.uids.as_ref().is_none_or(|uids| uids.contains(&caller.uid)) || self.group == Some(caller.gid);
        if allowed && !by_process {
            return Ok(Descent::Operator);
        }
        if !allowed && self.group.is_none() {
            return Err(RefusalReason::User);
        }
        let process = Process::of_peer(stream, caller.pid)?;
        if !allowed && !self.group.is_some_and(|group| process.groups().is_ok_and(|groups| groups.contains(&group))) {
            return Err(RefusalReason::User);
        }
        self.refuse_by_process(&process)?;
        let Some(proof) = &self.proof else { return Ok(Descent::Operator) };
        if !process.no_new_privileges()? {
            return Ok(Descent::Operator);
        }
        match proof() {
            Proof::Secret(_) => Ok(Descent::Unproven),
            Proof::Impossible(why) => Err(RefusalReason::Unprovable(why)),
        }
    }

    fn refuse_by_process(&self, process: &Process) -> Result<(), RefusalReason> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_name_of_its_line() {
        let passwd = "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\nbroken\n";
        assert_eq!(user_name(passwd, 1000), Some("ada"));
        assert_eq!(user_name(passwd, 7), None);
    }
}
