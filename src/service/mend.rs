//! What a process of rei's own user can do to rei although it is confined, undone and told.
//!
//! Landlock does not know modes, and the filter of system calls cannot tell another process's thread from an own one. So
//! where instances have rei's user, one of them can take rei's rights to its own files (`chmod 0`), and bind the supervisor
//! to one processor. Neither changes a decision; it could keep rei from making one. Looked at before anything is opened,
//! every half minute, whenever the journal cannot be written, and before the program is replaced. Root has every right to a
//! file whatever its mode, and its instances have users of their own.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::state::paths::Paths;

/// Looks of the loop, one a second, from one look at all this to the next.
pub(super) const LOOKS: u32 = 30;
/// Files of one directory that are looked at: journals, logs and objects are pruned long before.
const FILES_MAX: usize = 4096;

/// Bits of a mode that must be there, and that must not.
struct Bits {
    directory: u32,
    file: u32,
    never: u32,
}

/// Of a directory around rei's own: it is passed through, and how else it is used is its owner's choice.
const AROUND: Bits = Bits { directory: 0o100, file: 0, never: 0 };
/// Of what is rei's.
const OURS: Bits = Bits { directory: 0o700, file: 0o600, never: 0 };
/// Of what nobody else may enter.
const PRIVATE: Bits = Bits { never: 0o077, ..OURS };

/// `ioprio_get` and `ioprio_set` are about one thread.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// Gives rei back the rights to its own files and directories, and says what was changed, a line each.
pub(super) fn files(paths: &Paths) -> Vec<String> {
    let mut told = Vec::new();
    if nix::unistd::geteuid().is_root() {
        return told;
    }
    // From the outside in: nothing below a closed directory can be seen.
    let mut around: Vec<&Path> = paths.state().ancestors().skip(1).collect();
    around.reverse();
    for path in around {
        told.extend(mend(path, &AROUND));
    }
    told.extend(mend(paths.state(), &OURS));
    let (journal, private) = (paths.journal(), paths.private());
    let snapshots = journal.join("snapshots");
    for dir in [journal, snapshots, private, paths.logs(), paths.sockets().to_owned(), paths.profiles(), paths.roots()]
    {
        told.extend(mend(&dir, if dir == paths.private() { &PRIVATE } else { &OURS }));
        told.extend(inside(&dir).filter_map(|path| mend(&path, &OURS)));
    }
    // Directories of many files: those that rei itself puts below the state directory.
    told.extend(inside(paths.state()).filter_map(|path| mend(&path, &OURS)));
    told
}

fn inside(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().take(FILES_MAX).map(|entry| entry.path())
}

/// Sets the bits right; `None` where nothing was amiss, or where it is another user's.
fn mend(path: &Path, bits: &Bits) -> Option<String> {
    let about = path.symlink_metadata().ok().filter(|about| about.uid() == nix::unistd::geteuid().as_raw())?;
    let needed = match about.file_type() {
        kind if kind.is_dir() => bits.directory,
        kind if kind.is_symlink() => return None,
        _ => bits.file,
    };
    let mode = about.mode() & 0o7777;
    let wanted = (mode | needed) & !bits.never;
    if wanted == mode {
        return None;
    }
    Some(match fs::set_permissions(path, Permissions::from_mode(wanted)) {
        Ok(()) => format!("{} had the mode {mode:03o} and has {wanted:03o} again", path.display()),
        Err(error) => format!("{} has the mode {mode:03o}, which cannot be changed: {error}", path.display()),
    })
}

/// How the kernel runs one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Share {
    /// A bit for each processor that it may use.
    processors: Vec<u64>,
    /// Its priority at the disks.
    disk: i64,
    /// How far it stands back behind others, from -20 to 19.
    nice: i64,
}

/// How the supervisor's threads ran when it was started.
#[derive(Debug)]
pub(super) struct Standing {
    share: Option<Share>,
}

impl Standing {
    /// As this thread runs now.
    pub(super) fn now() -> Self {
        // SAFETY: no arguments.
        let share = Share::of(unsafe { libc::gettid() }).ok();
        Self { share }
    }

    /// Has all threads run as at the start, and says what was changed, a line each.
    pub(super) fn restore(&mut self) -> Vec<String> {
        let Some(share) = &mut self.share else { return Vec::new() };
        let mut told = Vec::new();
        for thread in inside(Path::new("/proc/self/task")) {
            let Some(thread) = thread.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            // One that has ended needs nothing.
            let Ok(found) = Share::of(thread) else { continue };
            if found == *share {
                continue;
            }
            told.extend(
                found.differences(share).map(|what| format!("{what} of the supervisor's thread {thread} was changed")),
            );
            if let Err(error) = share.give(thread, &found) {
                told.push(format!("what was changed of thread {thread} cannot be undone: {error}"));
            }
            // What the machine has taken away (a processor, a right) is not asked for again and again.
            match Share::of(thread) {
                Ok(now) if now != *share => *share = now,
                _ => {}
            }
        }
        told
    }
}

impl Share {
    /// Words of 64 processors each: more than the kernel is built for.
    const WORDS: usize = 128;

    fn of(thread: libc::pid_t) -> io::Result<Self> {
        let mut processors = vec![0_u64; Self::WORDS];
        let bytes = size_of_val(&processors[..]);
        // SAFETY: the kernel writes at most as many bytes as it is told.
        let written =
            checked(unsafe { libc::syscall(libc::SYS_sched_getaffinity, thread, bytes, processors.as_mut_ptr()) })?;
        processors.truncate(usize::try_from(written).unwrap_or(0).div_ceil(size_of::<u64>()));
        // SAFETY: plain numbers.
        let disk = checked(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, thread) })?;
        // SAFETY: plain numbers. The kernel itself gives 20 minus the value, so that none is an error.
        let nice = 20 - checked(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, thread) })?;
        Ok(Self { processors, disk, nice })
    }

    fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'static str> + 'a {
        [
            (self.processors != other.processors, "the set of processors"),
            (self.disk != other.disk, "the priority at the disks"),
            (self.nice != other.nice, "the nice value"),
        ]
        .into_iter()
        .filter_map(|(differs, what)| differs.then_some(what))
    }

    /// Everything that can be is given, whatever cannot.
    fn give(&self, thread: libc::pid_t, found: &Self) -> io::Result<()> {
        let mut result = Ok(());
        if self.processors != found.processors {
            let bytes = size_of_val(&self.processors[..]);
            // SAFETY: the kernel reads as many bytes as it is told.
            let set = unsafe { libc::syscall(libc::SYS_sched_setaffinity, thread, bytes, self.processors.as_ptr()) };
            result = result.and(checked(set).map(drop));
        }
        if self.disk != found.disk {
            // SAFETY: plain numbers.
            let set = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, thread, self.disk) };
            result = result.and(checked(set).map(drop));
        }
        if self.nice != found.nice {
            // SAFETY: plain numbers.
            let set = unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, thread, self.nice) };
            result = result.and(checked(set).map(drop));
        }
        result
    }
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_and_a_file_get_back_what_their_owner_needs_and_nothing_else_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file, link) = (dir.path().join("folder"), dir.path().join("file"), dir.path().join("link"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for (path, bits, before, after) in [
            (&folder, &OURS, 0o000, Some(0o700)),
            (&folder, &OURS, 0o050, Some(0o750)),
            (&folder, &OURS, 0o755, None),
            (&folder, &AROUND, 0o055, Some(0o155)),
            (&folder, &AROUND, 0o555, None),
            (&folder, &PRIVATE, 0o777, Some(0o700)),
            (&file, &OURS, 0o000, Some(0o600)),
            (&file, &OURS, 0o444, Some(0o644)),
            (&file, &OURS, 0o640, None),
        ] {
            set(path, before);
            let told = mend(path, bits);
            assert_eq!(told.is_some(), after.is_some(), "{told:?}");
            assert_eq!(mode(path), after.unwrap_or(before));
        }
        assert_eq!((mend(&link, &OURS), mend(&dir.path().join("nothing"), &OURS)), (None, None));
    }

    #[test]
    fn a_thread_that_was_bound_to_a_processor_is_let_go_and_one_that_nobody_touched_is_left_alone() {
        let mut standing = Standing::now();
        assert_eq!(standing.restore(), Vec::<String>::new());
        // SAFETY: no arguments.
        let thread = unsafe { libc::gettid() };
        let before = Share::of(thread).unwrap();
        let mut one = before.clone();
        let word = one.processors.iter().position(|word| *word != 0).unwrap();
        one.processors.fill(0);
        one.processors[word] = 1 << before.processors[word].trailing_zeros();
        // The lowest priority of the kind that everyone may ask for.
        one.disk = 2 << 13 | 7;
        one.give(thread, &before).unwrap();
        let told = standing.restore();
        assert!(told.iter().any(|line| line.contains("priority at the disks")), "{told:?}");
        assert_eq!(Share::of(thread).unwrap(), before);
        assert_eq!(standing.restore(), Vec::<String>::new(), "it is told once");
    }
}
