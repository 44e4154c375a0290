//! The rules of an instance, from `[isolation]` of rei.toml.

use std::path::Path;

use crate::config::Isolation;

use super::sandbox::{Sandbox, SandboxError};
use super::user::{User, can_switch_user};

/// What an instance's rules need besides the configuration.
#[derive(Clone, Copy, Debug)]
pub struct InstancePaths<'a> {
    /// Names the user that rei makes up where none is configured: the runtime's name.
    pub user: &'a str,
    /// Store paths (or the whole store) that it may read and execute.
    pub closure: &'a [&'a Path],
    /// The directory for its state; made, and given to its user.
    pub state: &'a Path,
    /// The directory for its temporary files; made, and given to its user.
    pub temporary: &'a Path,
    /// Whether a cgroup bounds the memory of its tree.
    pub memory_by_cgroup: bool,
    /// Whether a cgroup bounds its processes.
    pub processes_by_cgroup: bool,
}

impl Sandbox {
    /// The rules of an instance. Its state and temporary directory are made and belong to its user afterwards.
    ///
    /// # Errors
    /// When the user is not there, a directory cannot be made, or a path of rei.toml cannot be opened.
    pub fn instance(config: &Isolation, paths: &InstancePaths) -> Result<Self, SandboxError> {
        let user = match &config.user {
            _ if !can_switch_user() => None,
            Some(name) => Some(User::named(name).map_err(SandboxError::User)?),
            None => Some(User::derived(paths.user)),
        };
        for dir in [paths.state, paths.temporary] {
            match &user {
                Some(user) => user.own_dir(dir).map_err(SandboxError::User)?,
                None => std::fs::create_dir_all(dir)
                    .map_err(|source| SandboxError::Path { path: dir.to_owned(), source })?,
            }
        }
        let mut builder = Self::builder()
            .enabled(config.enabled)
            .essentials()
            .write(paths.state)
            .write(paths.temporary)
            .connect(config.connect.clone())
            .user(user)
            .fds(config.fds);
        builder = paths.closure.iter().fold(builder, |builder, path| builder.execute(*path));
        builder = config.read.iter().fold(builder, |builder, path| builder.read(path));
        builder = config.write.iter().fold(builder, |builder, path| builder.write(path));
        if let Some(bytes) = config.memory_bytes.filter(|_| !paths.memory_by_cgroup) {
            builder = builder.memory_bytes(bytes);
        }
        if !paths.processes_by_cgroup {
            builder = builder.processes(config.processes);
        }
        let mut sandbox = builder.build()?;
        if config.memory_bytes.is_some() && !paths.memory_by_cgroup {
            sandbox.lacks("a bound of the tree's memory: no memory cgroup, so each process is bounded by itself");
        }
        Ok(sandbox)
    }
}
