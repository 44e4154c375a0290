//! The rules of an instance, from `[isolation]` of rei.toml.

use std::path::{Path, PathBuf};

use crate::config::Isolation;

use super::sandbox::has_landlock;
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

/// Why an instance, or an agent of rei's user that may read the paths `agents`, could read a file that is rei's and
/// `group`'s alone; `None` where none could.
pub fn why_readable<'a>(
    config: &'a Isolation,
    agents: impl IntoIterator<Item = &'a PathBuf>,
    file: &Path,
    group: Option<u32>,
) -> Option<String> {
    let barred = is_another_user(config, group);
    if !barred && !config.enabled {
        return Some("isolation.enabled is false, and instances run as a user who may read rei's files".into());
    }
    if !barred && !has_landlock() {
        return Some("this kernel has no Landlock, and instances run as a user who may read rei's files".into());
    }
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let holds = |path: &&PathBuf| path.canonicalize().is_ok_and(|path| file.starts_with(path));
    let instances = config.read.iter().chain(&config.write).filter(|_| !barred);
    let granted = instances.chain(agents).find(holds)?;
    Some(format!("rei.toml lets instances or agents read {}, which holds {}", granted.display(), file.display()))
}

/// Whether instances run as a user who is not rei's, and no member of the group.
fn is_another_user(config: &Isolation, group: Option<u32>) -> bool {
    let user = match &config.user {
        _ if !can_switch_user() => return false,
        None => return true,
        // One that is not there fails the start of the instance.
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
    fn a_file_of_rei_is_readable_where_a_rule_or_no_rule_lets_an_instance_of_its_user() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("control.key");
        std::fs::write(&file, "").unwrap();
        let config = Isolation {
            read: vec!["/usr".into()],
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
            // As a user of its own it never is, whatever an instance is allowed; an agent may be rei's user all the same.
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
