//! The scheduling of rei's threads. A process of rei's own user can bind them to one processor although it is confined,
//! because the filter of system calls cannot distinguish a thread of another process from one of its own process. rei
//! checks its threads every half minute and before the program is replaced. A change is undone and reported. See
//! `service/repair` for rei's files.

use std::fs;
use std::io;

/// The argument of `ioprio_get` and `ioprio_set` that selects one thread.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// The bound of threads that are checked. rei has some tens of threads.
const THREADS_MAX: usize = 4096;

/// The scheduling of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ThreadScheduling {
    /// A bit for each processor that it may use.
    processors: Vec<u64>,
    /// Its I/O priority.
    disk: i64,
    /// Its nice value, from -20 to 19.
    nice: i64,
}

/// The scheduling of the supervisor's threads at its start.
#[derive(Debug)]
pub struct Scheduling {
    original: Option<ThreadScheduling>,
}

impl Scheduling {
    /// The present scheduling of this thread.
    pub fn now() -> Self {
        // SAFETY: the call has no arguments.
        let original = ThreadScheduling::of(unsafe { libc::gettid() }).ok();
        Self { original }
    }

    /// Restores the scheduling of all threads as it was at the start. Returns one line for each change.
    pub fn restore(&mut self) -> Vec<String> {
        let Some(original) = &mut self.original else { return Vec::new() };
        let mut changes = Vec::new();
        for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten().take(THREADS_MAX) {
            let Some(thread) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread that has ended needs nothing.
            let Ok(found) = ThreadScheduling::of(thread) else { continue };
            if found == *original {
                continue;
            }
            changes.extend(
                found
                    .differences(original)
                    .map(|what| format!("{what} of the supervisor's thread {thread} was changed")),
            );
            if let Err(error) = original.apply(thread, &found) {
                changes.push(format!("the scheduling of thread {thread} cannot be restored: {error}"));
            }
            // If the machine itself has taken something away (a processor, a permission), rei accepts it, and does not
            // try again and again.
            match ThreadScheduling::of(thread) {
                Ok(now) if now != *original => *original = now,
                _ => {}
            }
        }
        changes
    }
}

impl ThreadScheduling {
    /// The number of words of 64 processors each: more than any kernel supports.
    const WORDS: usize = 128;

    fn of(thread: libc::pid_t) -> io::Result<Self> {
        let mut processors = vec![0_u64; Self::WORDS];
        let bytes = size_of_val(&processors[..]);
        // SAFETY: the kernel writes at most `bytes` bytes.
        let written =
            checked(unsafe { libc::syscall(libc::SYS_sched_getaffinity, thread, bytes, processors.as_mut_ptr()) })?;
        processors.truncate(usize::try_from(written).unwrap_or(0).div_ceil(size_of::<u64>()));
        // SAFETY: all arguments are plain numbers.
        let disk = checked(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, thread) })?;
        // SAFETY: all arguments are plain numbers. The kernel returns 20 minus the nice value, so that no value is an
        // error.
        let nice = 20 - checked(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, thread) })?;
        Ok(Self { processors, disk, nice })
    }

    fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'static str> + 'a {
        [
            (self.processors != other.processors, "the set of processors"),
            (self.disk != other.disk, "the I/O priority"),
            (self.nice != other.nice, "the nice value"),
        ]
        .into_iter()
        .filter_map(|(differs, what)| differs.then_some(what))
    }

    /// Applies this scheduling to a thread. If one value cannot be set, the others are set all the same.
    fn apply(&self, thread: libc::pid_t, found: &Self) -> io::Result<()> {
        let mut result = Ok(());
        if self.processors != found.processors {
            let bytes = size_of_val(&self.processors[..]);
            // SAFETY: the kernel reads `bytes` bytes.
            let set = unsafe { libc::syscall(libc::SYS_sched_setaffinity, thread, bytes, self.processors.as_ptr()) };
            result = result.and(checked(set).map(drop));
        }
        if self.disk != found.disk {
            // SAFETY: all arguments are plain numbers.
            let set = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, thread, self.disk) };
            result = result.and(checked(set).map(drop));
        }
        if self.nice != found.nice {
            // SAFETY: all arguments are plain numbers.
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
    fn the_scheduling_of_a_thread_is_restored_only_if_it_was_changed() {
        let mut scheduling = Scheduling::now();
        assert_eq!(scheduling.restore(), Vec::<String>::new());
        // SAFETY: the call has no arguments.
        let thread = unsafe { libc::gettid() };
        let before = ThreadScheduling::of(thread).unwrap();
        let mut one = before.clone();
        let word = one.processors.iter().position(|word| *word != 0).unwrap();
        one.processors.fill(0);
        one.processors[word] = 1 << before.processors[word].trailing_zeros();
        // The lowest I/O priority of the class that every process may set.
        one.disk = 2 << 13 | 7;
        one.apply(thread, &before).unwrap();
        let changes = scheduling.restore();
        assert!(changes.iter().any(|line| line.contains("I/O priority")), "{changes:?}");
        assert_eq!(ThreadScheduling::of(thread).unwrap(), before);
        assert_eq!(scheduling.restore(), Vec::<String>::new(), "a change is reported once");
    }
}
