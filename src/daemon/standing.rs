//! How the kernel runs rei's threads. A process of rei's own user can bind them to one processor, although it is confined: the
//! filter of system calls cannot tell another process's thread from an own one. It is looked at every half minute and before the
//! program is replaced, undone and told. See `service/repair` for rei's files.

use std::fs;
use std::io;

/// `ioprio_get` and `ioprio_set` are about one thread.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// Threads that are looked at: some tens are there.
const THREADS_MAX: usize = 4096;

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
pub struct Standing {
    share: Option<Share>,
}

impl Standing {
    /// As this thread runs now.
    pub fn now() -> Self {
        // SAFETY: no arguments.
        let share = Share::of(unsafe { libc::gettid() }).ok();
        Self { share }
    }

    /// Has all threads run as at the start, and says what was changed, a line each.
    pub fn restore(&mut self) -> Vec<String> {
        let Some(share) = &mut self.share else { return Vec::new() };
        let mut told = Vec::new();
        for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten().take(THREADS_MAX) {
            let Some(thread) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
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
