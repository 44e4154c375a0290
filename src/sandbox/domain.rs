//! The rules of one Landlock domain.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::sys::stat::{SFlag, fstat};

/// What may be done with a file, or with everything below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read files and list directories.
    Read,
    /// Read, and run programs.
    Execute,
    /// Read, and connect to Unix sockets by their paths.
    ReadAndConnect,
    /// Read and write what is there.
    Device,
    /// Everything.
    Write,
    /// Everything but making devices.
    WriteNoDevices,
}

impl Access {
    fn rights(self, abi: ABI) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        match self {
            Self::Read => read,
            Self::Execute => read | AccessFs::Execute,
            Self::ReadAndConnect => read | AccessFs::ResolveUnix,
            Self::Device => AccessFs::ReadFile | AccessFs::WriteFile,
            Self::Write => AccessFs::from_all(abi),
            Self::WriteNoDevices => AccessFs::from_all(abi) & !(AccessFs::MakeChar | AccessFs::MakeBlock),
        }
    }
}

/// Which TCP ports may be used.
#[derive(Clone, Copy, Debug)]
pub enum Tcp<'a> {
    /// All.
    Open,
    /// Connections to these; listening is not restricted.
    Connect(&'a [u16]),
    /// None, neither to connect nor to listen.
    Closed,
}

/// Why a rule for a path could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// The path cannot be opened.
    #[error("cannot open it")]
    Open(#[source] io::Error),
    /// The kernel refused the rule.
    #[error("the kernel refused the rule")]
    Refused(#[source] RulesetError),
}

/// A domain in the making. Whatever is not allowed is refused, and signals and abstract sockets of others are out of reach.
///
/// A kernel that knows less enforces less; which version it knows is [`kernel_abi`].
#[derive(Debug)]
pub struct Domain {
    abi: ABI,
    rules: RulesetCreated,
}

impl Domain {
    /// A domain that allows no files. It refuses what Landlock knows at this version.
    ///
    /// # Errors
    /// If the kernel refuses the rules.
    pub fn new(abi: ABI, tcp: Tcp<'_>) -> Result<Self, RulesetError> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .scope(Scope::AbstractUnixSocket | Scope::Signal)?;
        let (ruleset, ports) = match tcp {
            Tcp::Open => (ruleset, &[][..]),
            Tcp::Connect(ports) => (ruleset.handle_access(AccessNet::ConnectTcp)?, ports),
            Tcp::Closed => (ruleset.handle_access(AccessNet::ConnectTcp | AccessNet::BindTcp)?, &[][..]),
        };
        let mut rules = ruleset.create()?;
        for port in ports {
            rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
        Ok(Self { abi, rules })
    }

    /// Allows a path, which must be there.
    ///
    /// # Errors
    /// If it cannot be opened, or the kernel refuses the rule.
    pub fn allow(self, path: &Path, access: Access) -> Result<Self, PathError> {
        let rule = rule(path, access.rights(self.abi), self.abi).map_err(PathError::Open)?;
        let rules = self.rules.add_rule(rule).map_err(PathError::Refused)?;
        Ok(Self { abi: self.abi, rules })
    }

    /// Allows those of the paths that exist. A path that does not exist needs no rule, because no process can use it.
    ///
    /// # Errors
    /// If the kernel refuses a rule.
    pub fn allow_if_there<P: AsRef<Path>>(
        mut self,
        paths: impl IntoIterator<Item = P>,
        access: Access,
    ) -> Result<Self, RulesetError> {
        for path in paths {
            if let Ok(rule) = rule(path.as_ref(), access.rights(self.abi), self.abi) {
                self.rules = self.rules.add_rule(rule)?;
            }
        }
        Ok(self)
    }

    /// The rules as a descriptor, which a process takes by `landlock_restrict_self`; `None` if this kernel has no Landlock.
    pub fn into_fd(self) -> Option<OwnedFd> {
        self.rules.into()
    }

    /// Restricts this thread, and all that it starts from now on.
    ///
    /// # Errors
    /// A fragment for a person, if this kernel has no Landlock or refuses.
    pub fn enter(self) -> Result<(), String> {
        let status = self.rules.restrict_self().map_err(|error| error.to_string())?;
        match status.ruleset {
            RulesetStatus::NotEnforced => Err("this kernel has no Landlock".into()),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        }
    }
}

/// `rights` to what is at `path`, without those that only a directory can have if it is none.
fn rule(path: &Path, rights: BitFlags<AccessFs>, abi: ABI) -> io::Result<PathBeneath<PathFd>> {
    let fd = PathFd::new(path).map_err(|error| match error {
        landlock::PathFdError::OpenCall { source, .. } => source,
        other => io::Error::other(other),
    })?;
    let mode = fstat(&fd)?.st_mode;
    let is_dir = SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    let possible = if is_dir { AccessFs::from_all(abi) } else { AccessFs::from_file(abi) };
    Ok(PathBeneath::new(fd, rights & possible))
}

/// The version of Landlock that this kernel speaks, as far as it is known here.
pub fn kernel_abi() -> ABI {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call reads no memory and returns a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    ABI::from(i32::try_from(version).unwrap_or(0))
}
