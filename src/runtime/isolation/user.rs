//! The user of an instance if the supervisor is root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::unistd::Uid;

/// Range of the user ids that rei derives. No distribution, container manager or systemd assigns ids from it.
const RANGE: std::ops::Range<u32> = 1_900_000_000..2_000_000_000;

/// The range of systemd's dynamic users, used if a user namespace maps only 65536 ids.
const RANGE_SMALL: std::ops::Range<u32> = 61_184..65_520;

/// A user with its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// All group ids, with the primary one.
    pub groups: Vec<u32>,
}

/// Why the user cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name does not exist, or `/etc/passwd` or `/etc/group` cannot be read.
    #[error("there is no user {name:?} in /etc/passwd")]
    Unknown {
        /// The name in rei.toml.
        name: String,
        /// The error of the system, if there was one.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The owner of a directory could not be changed.
    #[error("cannot make user {uid} the owner of {path}")]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// The user.
        uid: u32,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
}

impl UserError {
    /// A hint for the operator.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { name, .. } => Some(format!(
                "create it (useradd --system {name}), or leave isolation.user out: then rei derives a user id itself"
            )),
            Self::Directory { .. } => None,
        }
    }
}

impl User {
    /// Looks up a user with its groups in `/etc/passwd` and `/etc/group`. (The C library's lookup functions load shared
    /// libraries, which a statically linked program must not do.)
    ///
    /// # Errors
    /// If the user does not exist.
    pub fn named(name: &str) -> Result<Self, UserError> {
        let unknown = |source| UserError::Unknown { name: name.to_owned(), source };
        let passwd = fs::read_to_string("/etc/passwd").map_err(|error| unknown(Some(error)))?;
        let group = fs::read_to_string("/etc/group").map_err(|error| unknown(Some(error)))?;
        find(name, &passwd, &group).ok_or_else(|| unknown(None))
    }

    /// An unprivileged user that needs no entry in `/etc/passwd`. The same name always gives the same id, so the next
    /// instance owns the files that the last one wrote. The id is at least 1 900 000 000, or one of systemd's dynamic
    /// users if a container does not map such high ids.
    pub fn derived(name: &str) -> Self {
        let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let range = if maps(&uid_map, RANGE.end - 1) { RANGE } else { RANGE_SMALL };
        let uid = range.start + hash(name) % (range.end - range.start);
        Self { uid, gid: uid, groups: Vec::new() }
    }

    /// Creates a directory that only this user can access, or changes the owner of an existing one. Files in it keep
    /// their owner.
    ///
    /// # Errors
    /// If it cannot be created, or its owner cannot be changed.
    pub fn own_dir(&self, path: &Path) -> Result<(), UserError> {
        let own = || -> std::io::Result<()> {
            fs::create_dir_all(path)?;
            let metadata = fs::symlink_metadata(path)?;
            if (metadata.uid(), metadata.gid()) != (self.uid, self.gid) {
                chown(path, Some(self.uid), Some(self.gid))?;
            }
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        };
        own().map_err(|source| UserError::Directory { path: path.to_owned(), uid: self.uid, source })
    }
}

fn find(name: &str, passwd: &str, group: &str) -> Option<User> {
    let fields = |line: &str| -> Vec<String> { line.split(':').map(str::to_owned).collect() };
    let user = passwd.lines().map(fields).find(|fields| fields[0] == name)?;
    let (uid, gid) = (user.get(2)?.parse().ok()?, user.get(3)?.parse().ok()?);
    let is_member = |fields: &Vec<String>| fields.get(3).is_some_and(|names| names.split(',').any(|one| one == name));
    let others = group.lines().map(fields).filter(is_member).filter_map(|fields| fields.get(2)?.parse().ok());
    let mut groups: Vec<u32> = std::iter::once(gid).chain(others).collect();
    groups.dedup();
    Some(User { uid, gid, groups })
}

/// The id of a group, from `/etc/group`.
///
/// # Errors
/// If the file cannot be read; [`std::io::ErrorKind::NotFound`] if it has no such group.
pub fn group_named(name: &str) -> std::io::Result<u32> {
    let text = fs::read_to_string("/etc/group")?;
    find_group(name, &text).ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "not in /etc/group"))
}

fn find_group(name: &str, text: &str) -> Option<u32> {
    let mut groups = text.lines().map(|line| line.split(':'));
    groups.find_map(|mut fields| if fields.next() == Some(name) { fields.nth(1)?.parse().ok() } else { None })
}

/// True if this process can switch to another user.
pub fn can_switch_user() -> bool {
    Uid::effective().is_root()
}

/// True if a user namespace with this map contains the id.
fn maps(uid_map: &str, id: u32) -> bool {
    uid_map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(_), Some(Ok(count))) => (first..first + count).contains(&u64::from(id)),
            _ => false,
        }
    })
}

/// FNV-1a. The id must be the same in every version of rei.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_user_is_stable_and_high() {
        let greeter = User::derived("greeter");
        assert_eq!(greeter, User::derived("greeter"));
        assert_ne!(greeter.uid, User::derived("greeter2").uid);
        assert!(RANGE.contains(&greeter.uid) || RANGE_SMALL.contains(&greeter.uid));
        // Fixed: another id would leave the state of every installation with the wrong owner.
        assert_eq!(RANGE.start + hash("greeter") % (RANGE.end - RANGE.start), 1_914_077_725);
    }

    #[test]
    fn a_container_with_few_ids_is_detected() {
        assert!(maps("         0          0 4294967295\n", 1_999_999_999));
        assert!(!maps("0 100000 65536\n", 1_999_999_999));
        assert!(maps("0 100000 65536\n", 65_519));
        assert!(!maps("", 0) && !maps("x y z\n", 0));
    }

    #[test]
    fn a_user_has_all_groups_that_list_it() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nwww:x:33:33:www:/var/www:/usr/sbin/nologin\nbroken:x\n";
        let group = "root:x:0:\nwww:x:33:\nssl:x:101:git,www\nlog:x:4:wwwx,git\nbroken\n";
        assert_eq!(find("www", passwd, group), Some(User { uid: 33, gid: 33, groups: vec![33, 101] }));
        assert_eq!(find("root", passwd, group), Some(User { uid: 0, gid: 0, groups: vec![0] }));
        assert_eq!((find("ww", passwd, group), find("broken", passwd, group)), (None, None));
    }

    #[test]
    fn a_group_is_found_by_its_name() {
        let text = "root:x:0:\nrei-operators:x:990:ada,bo\nrei:x:991:\nbroken\n";
        assert_eq!((find_group("rei-operators", text), find_group("rei", text)), (Some(990), Some(991)));
        assert_eq!((find_group("operators", text), find_group("broken", text)), (None, None));
    }

    #[test]
    fn names_are_looked_up() {
        let root = User::named("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        let error = User::named("no-such-user-here").unwrap_err();
        assert!(error.hint().unwrap().contains("useradd"), "{error}");
    }
}
