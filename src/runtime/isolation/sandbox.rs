//! The sandbox of a process tree. It is built once and applied by each child that is spawned with it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libc::sock_filter;
use nix::sys::resource::{Resource, getrlimit};

use super::user::{User, can_switch_user};
use crate::sandbox::{
    ABI, Access, DEVICES, Domain, MACHINE_FACTS, NAME_SERVICES, OPTIONAL_PROGRAMS, PROGRAMS, PathError, RulesetError,
    SYSTEM_FILES, Tcp, kernel_abi,
};
use crate::seccomp::{Filter, Network};

/// A sandbox for [`crate::runtime::spawn`].
#[derive(Debug)]
pub struct Sandbox {
    pub(in crate::runtime) user: Option<User>,
    pub(in crate::runtime) limits: Vec<(Resource, u64)>,
    pub(in crate::runtime) ruleset: Option<OwnedFd>,
    pub(in crate::runtime) filter: Vec<sock_filter>,
    /// The paths whose programs may be executed; `None` if Landlock does not restrict that.
    executable: Option<Vec<PathBuf>>,
    missing: Vec<String>,
}

/// Why the sandbox could not be built.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A path that the process needs cannot be opened.
    #[error("cannot open {path} for the sandbox")]
    Path {
        /// The path.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the Landlock rules.
    #[error("the kernel refused the Landlock rules")]
    Landlock(#[source] Box<RulesetError>),
    /// The seccomp filter could not be compiled, for example for this architecture.
    #[error("cannot make the seccomp filter")]
    Seccomp(#[source] seccompiler::Error),
    /// The user does not exist, or a directory cannot be given to it.
    #[error("cannot set up the user of the sandbox")]
    User(#[source] super::user::UserError),
}

impl From<RulesetError> for SandboxError {
    fn from(error: RulesetError) -> Self {
        Self::Landlock(Box::new(error))
    }
}

impl SandboxError {
    /// A hint for the operator.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::User(error) => error.hint(),
            Self::Path { path, .. } => Some(format!("check this path: ls -ld {}", path.display())),
            Self::Landlock(_) | Self::Seccomp(_) => {
                Some("set isolation.enabled = false to run without Landlock and seccomp".into())
            }
        }
    }
}

impl Sandbox {
    /// A builder that allows nothing yet.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::default()
    }

    /// The restrictions that are not available here, one line of text each. Empty if everything is in force. If there is a remedy, it
    /// follows after a semicolon.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Adds one more restriction that is not available.
    pub(super) fn add_missing(&mut self, what: &str) {
        self.missing.push(what.to_owned());
    }

    /// True if the rules allow to execute this file. The path has no symbolic links.
    pub fn may_execute(&self, file: &Path) -> bool {
        self.executable.as_ref().is_none_or(|all| all.iter().any(|path| file.starts_with(path)))
    }

    /// The user of the process; `None` is the supervisor's own.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }
}

/// Collects what a process tree may do. Everything else is refused.
#[derive(Debug)]
pub struct SandboxBuilder {
    enabled: bool,
    read: Vec<PathBuf>,
    execute: Vec<PathBuf>,
    write: Vec<PathBuf>,
    optional: Vec<(&'static [&'static str], Access)>,
    connect: Option<Vec<u16>>,
    network: bool,
    user: Option<User>,
    memory_bytes: Option<u64>,
    processes: Option<u64>,
    fds: Option<u64>,
}

impl Default for SandboxBuilder {
    fn default() -> Self {
        Self {
            enabled: true,
            read: Vec::new(),
            execute: Vec::new(),
            write: Vec::new(),
            optional: Vec::new(),
            connect: None,
            network: true,
            user: None,
            memory_bytes: None,
            processes: None,
            fds: None,
        }
    }
}

impl SandboxBuilder {
    /// Enables Landlock and seccomp (default true). No new privileges, limits and the user are always set.
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Allows reading a file, or everything below a directory. It must exist.
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Allows reading and executing a file, or everything below a directory. It must exist.
    pub fn execute(mut self, path: impl Into<PathBuf>) -> Self {
        self.execute.push(path.into());
        self
    }

    /// Allows all access to a file, or to everything below a directory. It must exist.
    pub fn write(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(path.into());
        self
    }

    /// Allows executing the system's programs and libraries, in addition to [`SandboxBuilder::essentials`].
    pub fn system(mut self) -> Self {
        self.optional.extend([(PROGRAMS, Access::Execute), (OPTIONAL_PROGRAMS, Access::Execute)]);
        self.essentials()
    }

    /// Allows what nearly every program needs: name service, certificates, time zones, facts about the machine and
    /// harmless devices. Paths that do not exist are skipped.
    pub fn essentials(mut self) -> Self {
        self.optional.extend([
            (SYSTEM_FILES, Access::Read),
            (MACHINE_FACTS, Access::Read),
            (DEVICES, Access::Device),
            (NAME_SERVICES, Access::ReadAndConnect),
        ]);
        self
    }

    /// Restricts outgoing TCP connections to these ports; `None` means no restriction.
    pub fn connect(mut self, ports: Option<Vec<u16>>) -> Self {
        self.connect = ports;
        self
    }

    /// Enables the network (default true). Without it only Unix sockets work.
    pub fn network(mut self, network: bool) -> Self {
        self.network = network;
        self
    }

    /// The user of the process. It is ignored if the supervisor cannot switch users.
    pub fn user(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    /// Limits the memory of each process (private writable memory), in bytes.
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.memory_bytes = Some(bytes);
        self
    }

    /// Limits the number of processes and threads of the tree. It is counted per user, so without a user of its own the
    /// limit is reported as missing.
    pub fn processes(mut self, processes: u64) -> Self {
        self.processes = Some(processes);
        self
    }

    /// Limits the number of open descriptors of each process.
    pub fn fds(mut self, fds: u64) -> Self {
        self.fds = Some(fds);
        self
    }

    /// Builds the sandbox.
    ///
    /// # Errors
    /// If a path that must exist does not, or the kernel refuses the rules. If the kernel does not support a
    /// restriction, this is no error: [`Sandbox::missing`] reports it.
    pub fn build(mut self) -> Result<Sandbox, SandboxError> {
        let mut missing = Vec::new();
        if self.user.is_some() && !can_switch_user() {
            self.user = None;
        }
        if self.user.is_none() && !can_switch_user() {
            missing.push(
                "a user of its own: the supervisor is not root, so Unix sockets by path and the mode and times of this \
                 user's files are accessible"
                    .to_owned(),
            );
        }
        let limits = self.limits(&mut missing);
        let (ruleset, filter) = if self.enabled {
            (self.ruleset(kernel_abi(), &mut missing)?, self.filter()?)
        } else {
            missing.push("Landlock and seccomp: isolation.enabled is false".to_owned());
            (None, Vec::new())
        };
        let executable = ruleset.is_some().then(|| self.executable());
        Ok(Sandbox { user: self.user, limits, ruleset, filter, executable, missing })
    }

    fn limits(&self, missing: &mut Vec<String>) -> Vec<(Resource, u64)> {
        let mut limits = vec![(Resource::RLIMIT_CORE, 0)];
        if let Some(fds) = self.fds {
            limits.push((Resource::RLIMIT_NOFILE, within_hard_limit(Resource::RLIMIT_NOFILE, fds, missing)));
        }
        if let Some(bytes) = self.memory_bytes {
            limits.push((Resource::RLIMIT_DATA, within_hard_limit(Resource::RLIMIT_DATA, bytes, missing)));
        }
        match (self.processes, &self.user) {
            (Some(processes), Some(_)) => {
                limits.push((Resource::RLIMIT_NPROC, within_hard_limit(Resource::RLIMIT_NPROC, processes, missing)));
            }
            (Some(_), None) => {
                missing.push("a limit on processes: they are counted per user, and it has no user of its own".into())
            }
            (None, _) => {}
        }
        limits
    }

    /// The paths whose programs may be executed, without symbolic links: what may be written is among them.
    fn executable(&self) -> Vec<PathBuf> {
        let lists = self.optional.iter().filter(|(_, access)| *access == Access::Execute);
        let optional = lists.flat_map(|(paths, _)| paths.iter()).map(Path::new);
        let named = self.execute.iter().chain(&self.write).map(PathBuf::as_path);
        named.chain(optional).filter_map(|path| path.canonicalize().ok()).collect()
    }

    fn filter(&self) -> Result<Vec<sock_filter>, SandboxError> {
        let network = match (self.network, &self.connect) {
            (false, _) => Network::None,
            (true, Some(_)) => Network::Restricted,
            (true, None) => Network::Open,
        };
        Filter { network, shares_user: self.user.is_none() }.program().map_err(SandboxError::Seccomp)
    }

    fn ruleset(&self, abi: ABI, missing: &mut Vec<String>) -> Result<Option<OwnedFd>, SandboxError> {
        missing.extend(unknown_to(abi, self.connect.is_some() || !self.network).map(str::to_owned));
        if abi == ABI::Unsupported {
            return Ok(None);
        }
        let tcp = match &self.connect {
            _ if !self.network => Tcp::Closed,
            Some(ports) => Tcp::Connect(ports),
            None => Tcp::Open,
        };
        let mut domain = Domain::new(abi, tcp)?;
        for (paths, access) in
            [(&self.read, Access::Read), (&self.execute, Access::Execute), (&self.write, Access::Write)]
        {
            for path in paths {
                domain = domain.allow(path, access).map_err(|error| match error {
                    PathError::Open(source) => SandboxError::Path { path: path.to_owned(), source },
                    PathError::Refused(error) => error.into(),
                })?;
            }
        }
        for (paths, access) in &self.optional {
            domain = domain.allow_if_there(*paths, *access)?;
        }
        Ok(domain.into_fd())
    }
}

/// The requested restrictions that this Landlock version does not support.
fn unknown_to(abi: ABI, connections: bool) -> impl Iterator<Item = &'static str> {
    let (files, version) = (abi == ABI::Unsupported, abi as i32);
    [
        (files, "Landlock: this kernel does not support it (it needs Linux 5.13 with `landlock` among the security modules), or a seccomp filter around rei blocks it"),
        (!files && version < 2, "moves between directories: needs Landlock ABI 2 (Linux 5.19)"),
        (!files && version < 3, "truncation of files: needs Landlock ABI 3 (Linux 6.2)"),
        (connections && version < 4, "TCP by port: needs Landlock ABI 4 (Linux 6.7)"),
        (version < 6, "signals and abstract sockets out of the sandbox: need Landlock ABI 6 (Linux 6.12)"),
    ]
    .into_iter()
    .filter_map(|(lacks, what)| lacks.then_some(what))
}

/// Limits the value to the hard limit: raising that needs a privilege which even root may lack.
fn within_hard_limit(resource: Resource, wanted: u64, missing: &mut Vec<String>) -> u64 {
    let hard = getrlimit(resource).map_or(wanted, |(_, hard)| hard);
    if wanted > hard {
        let (key, unit, shell) = match resource {
            Resource::RLIMIT_NOFILE => ("isolation.fds", "LimitNOFILE=", "ulimit -Hn"),
            Resource::RLIMIT_NPROC => ("isolation.processes", "LimitNPROC=", "ulimit -Hu"),
            _ => ("isolation.memory", "LimitDATA=", "ulimit -Hd"),
        };
        missing.push(format!(
            "{wanted} as {resource:?}: the supervisor's own limit is {hard}; raise it ({unit} in the unit, {shell} in a \
             shell), or set {key} = {hard}"
        ));
    }
    wanted.min(hard)
}

/// True if this kernel has Landlock and lets us use it.
pub(super) fn has_landlock() -> bool {
    kernel_abi() != ABI::Unsupported
}
