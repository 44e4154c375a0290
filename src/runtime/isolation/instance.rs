//! The sandbox of an instance, from `[isolation]` of rei.toml.

use std::path::{Path, PathBuf};

use crate::config::Isolation;

use super::sandbox::has_landlock;
use super::sandbox::{Sandbox, SandboxError};
use super::user::{User, can_switch_user};

/// The facts for an instance's sandbox that are not in the configuration.
#[derive(Clone, Copy, Debug)]
pub struct InstancePaths<'a> {
    /// The name from which a user id is derived if none is configured: the runtime's name.
    pub user: &'a str,
    /// Store paths (or the whole store) that the instance may read and execute.
    pub closure: &'a [&'a Path],
    /// The directory for its state. It is created, and owned by the instance's user.
    pub state: &'a Path,
    /// The directory for its temporary files. It is created, and owned by the instance's user.
    pub temporary: &'a Path,
    /// True if a cgroup limits the memory of its tree.
    pub memory_by_cgroup: bool,
    /// True if a cgroup limits its number of processes.
    pub processes_by_cgroup: bool,
}

impl Sandbox {
    /// Makes the sandbox of an instance. Creates its state and temporary directories, owned by its user.
    ///
    /// # Errors
    /// If the user does not exist, a directory cannot be created, or a path of rei.toml cannot be opened.
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
        builder = config.execute.iter().fold(builder, |builder, path| builder.execute(path));
        builder = config.write.iter().fold(builder, |builder, path| builder.write(path));
        if let Some(bytes) = config.memory_bytes.filter(|_| !paths.memory_by_cgroup) {
            builder = builder.memory_bytes(bytes);
        }
        if !paths.processes_by_cgroup {
            builder = builder.processes(config.processes);
        }
        let mut sandbox = builder.build()?;
        if config.memory_bytes.is_some() && !paths.memory_by_cgroup {
            sandbox.add_missing("a memory limit of the whole tree: there is no memory cgroup, so the limit applies to each process separately");
        }
        Ok(sandbox)
    }
}

/// True if an instance may execute this file. `store` is the Nix store; the path has no symbolic links.
pub fn may_execute(config: &Isolation, store: &Path, file: &Path) -> bool {
    let is_below = |path: &PathBuf| path.canonicalize().is_ok_and(|path| file.starts_with(path));
    let named = config.execute.iter().chain(&config.write).any(is_below);
    !config.enabled || !has_landlock() || file.starts_with(store) || named
}

/// Why an instance, or an agent with rei's user and access to the paths `agents`, could read a file that only rei and
/// `group` may read. `None` if none could.
pub fn why_readable<'a>(
    config: &'a Isolation,
    agents: impl IntoIterator<Item = &'a PathBuf>,
    file: &Path,
    group: Option<u32>,
) -> Option<String> {
    let barred = is_another_user(config, group);
    if !barred && !config.enabled {
        return Some("isolation.enabled is false, and instances run as a user that may read rei's files".into());
    }
    if !barred && !has_landlock() {
        return Some("this kernel has no Landlock, and instances run as a user that may read rei's files".into());
    }
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let holds = |path: &&PathBuf| path.canonicalize().is_ok_and(|path| file.starts_with(path));
    let instances = config.read.iter().chain(&config.execute).chain(&config.write).filter(|_| !barred);
    let granted = instances.chain(agents).find(holds)?;
    Some(format!("rei.toml lets instances or agents read {}, which contains {}", granted.display(), file.display()))
}

/// True if instances run as a user that is not rei's and not a member of the group.
fn is_another_user(config: &Isolation, group: Option<u32>) -> bool {
    let user = match &config.user {
        _ if !can_switch_user() => return false,
        None => return true,
        // If this user does not exist, no instance can start.
        Some(name) => User::named(name),
    };
    user.is_ok_and(|user| {
        let is_member = group.is_some_and(|group| user.gid == group || user.groups.contains(&group));
        user.uid != nix::unistd::geteuid().as_raw() && !is_member
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_rei_is_readable_if_its_user_and_the_sandbox_rules_allow_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("control.key");
        std::fs::write(&file, "").unwrap();
        let config = Isolation {
            read: vec!["/usr".into()],
            execute: vec![],
            write: vec![],
            user: Some("root".into()),
            memory_bytes: None,
            processes: 1,
            fds: 1,
            connect: None,
            enabled: true,
        };
        let why = |config: &Isolation, agents: &[PathBuf]| why_readable(config, agents, &file, None);
        let off = Isolation { enabled: false, ..config.clone() };
        assert!(why(&off, &[]).unwrap().contains("isolation.enabled"));
        let (around, beside) = (directory.path().to_owned(), directory.path().join("other"));
        if can_switch_user() {
            // With its own user an instance can never read it, whatever the rules allow; but an agent may have rei's
            // user.
            let other = Isolation { user: None, read: vec![around.clone()], ..off };
            assert_eq!(why(&other, &[]), None);
            assert!(why(&other, std::slice::from_ref(&around)).is_some());
        }
        if !has_landlock() {
            assert!(why(&config, &[]).unwrap().contains("Landlock"));
            return;
        }
        assert_eq!(why(&config, &[beside]), None);
        assert!(why(&config, std::slice::from_ref(&around)).is_some());
        for open in
            [Isolation { read: vec!["/".into()], ..config.clone() }, Isolation { write: vec![around], ..config }]
        {
            assert!(why(&open, &[]).unwrap().contains("control.key"));
        }
    }
}
