//! Reads facts about processes from `/proc`. A process may exit meanwhile; that is never an error here.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The environment variable with the id of the instance from which a process descends.
pub const INSTANCE_VARIABLE: &str = "REI_INSTANCE";

/// How much of a process's environment is read to find [`INSTANCE_VARIABLE`], in bytes. rei puts it first. A program
/// that grows its environment without limit must not cost the supervisor memory.
const ENVIRON_BYTES_MAX: u64 = 128 << 10;

/// The fields of `/proc/PID/stat` that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The pid.
    pub pid: u32,
    /// The state: `R`, `S`, `D`, `Z`, `T`, …
    pub state: char,
    /// The parent's pid.
    pub parent: u32,
    /// The process group.
    pub group: u32,
    /// The session.
    pub session: u32,
    /// CPU time of the process and its reaped children, in clock ticks.
    pub cpu_ticks: u64,
    /// The start time, in clock ticks since boot. With the pid it identifies a process until the next boot.
    pub start_ticks: u64,
    /// Resident memory, in pages.
    pub rss_pages: u64,
}

impl Stat {
    /// True if it has exited and was not reaped yet.
    pub fn is_zombie(&self) -> bool {
        self.state == 'Z' || self.state == 'X'
    }
}

/// Parses `/proc/PID/stat`. The command name may contain spaces and parentheses, so fields are counted from the last
/// `)`.
pub fn parse_stat(line: &str) -> Option<Stat> {
    let (pid, rest) = line.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Numbers of fields as in proc(5), where the state is field 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let small = |field: usize| number(field).and_then(|value| u32::try_from(value).ok());
    Some(Stat {
        pid: pid.parse().ok()?,
        state: fields.first()?.chars().next()?,
        parent: small(4)?,
        group: small(5)?,
        session: small(6)?,
        cpu_ticks: number(14)? + number(15)? + number(16)? + number(17)?,
        start_ticks: number(22)?,
        rss_pages: number(24)?,
    })
}

/// The state of a process; `None` if there is none with this pid.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
}

/// The size of a page of memory, in bytes.
pub fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096)
}

/// The time since the start of a process.
pub fn age(start_ticks: u64) -> std::time::Duration {
    use nix::time::{ClockId, clock_gettime};
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    let per_second = per_second.and_then(|ticks| u64::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100);
    let started = std::time::Duration::from_millis(start_ticks.saturating_mul(1000) / per_second);
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from).unwrap_or_default();
    now.saturating_sub(started)
}

/// All processes that this one can see, in no particular order.
pub fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The children of all threads of a process; `None` if the kernel does not list them.
pub fn children(pid: u32) -> Option<Vec<u32>> {
    let mut children = Vec::new();
    // The children of a process that is gone have another parent now.
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Some(children) };
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(line) => children.extend(line.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok())),
            // The thread has exited, or the kernel does not have this file; the first thread shows which.
            Err(_) if thread.file_name() == OsStr::new(&pid.to_string()) => return None,
            Err(_) => {}
        }
    }
    Some(children)
}

/// These processes and all their descendants, at most `max`, without repetitions; the given ones come first.
pub fn with_descendants(mut found: Vec<Stat>, max: usize) -> Vec<Stat> {
    let mut known: BTreeSet<u32> = found.iter().map(|stat| stat.pid).collect();
    let (mut next, mut everybody) = (0, None);
    while next < found.len() && found.len() < max {
        let parent = found[next].pid;
        let children: Vec<Stat> = match children(parent) {
            Some(pids) => pids.into_iter().filter_map(stat).collect(),
            None => everybody.get_or_insert_with(all).iter().filter(|stat| stat.parent == parent).copied().collect(),
        };
        found.extend(children.into_iter().filter(|stat| known.insert(stat.pid)));
        next += 1;
    }
    found
}

/// Memory of a process in bytes, where shared pages are divided among their users (`Pss` in proc_pid_smaps_rollup(5)).
/// `None` if it cannot be read. Takes milliseconds for a large process.
pub fn proportional_bytes(pid: u32) -> Option<u64> {
    parse_pss(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_pss(rollup: &str) -> Option<u64> {
    let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?.trim().strip_suffix(" kB")?;
    kib.parse::<u64>().ok()?.checked_mul(1024)
}

/// The instance in the environment of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// It descends from this instance.
    Instance(String),
    /// There is no instance: rei did not start it, or it has overwritten its environment.
    None,
    /// The environment cannot be read.
    Unreadable,
}

/// The instance in the environment of a process. A process can overwrite it, so it is only a hint and no proof.
pub fn tag(pid: u32) -> Tag {
    let mut environ = Vec::new();
    let Ok(file) = fs::File::open(format!("/proc/{pid}/environ")) else { return Tag::Unreadable };
    if file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ).is_err() {
        return Tag::Unreadable;
    }
    parse_tag(&environ)
}

fn parse_tag(environ: &[u8]) -> Tag {
    let value = environ.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(INSTANCE_VARIABLE.as_bytes())?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok()
    });
    value.map_or(Tag::None, |id| Tag::Instance(id.to_owned()))
}

/// The cgroup v2 path of a process (`/system.slice/x.service`).
pub fn cgroup(pid: u32) -> Option<std::path::PathBuf> {
    parse_cgroup(&fs::read(format!("/proc/{pid}/cgroup")).ok()?)
}

fn parse_cgroup(lines: &[u8]) -> Option<std::path::PathBuf> {
    let line = lines.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    Some(Path::new(OsStr::from_bytes(line)).to_owned())
}

/// Resident memory of this process, in bytes.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) b (c) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 991 1000 33 rest";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.pid, stat.state, stat.parent, stat.group, stat.session), (42, 'S', 7, 42, 40));
        assert_eq!((stat.cpu_ticks, stat.start_ticks, stat.rss_pages), (26, 991, 33));
    }

    #[test]
    fn the_given_processes_come_before_their_descendants() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = stat(std::process::id()).unwrap();
        let of_child = stat(child.id()).unwrap();
        let found = with_descendants(vec![own, of_child], 1000);
        assert_eq!((found[0].pid, found[1].pid), (own.pid, of_child.pid));
        assert_eq!(found.iter().filter(|stat| stat.pid == child.id()).count(), 1, "without repetitions");
        assert!(with_descendants(vec![own], 1000).iter().any(|stat| stat.pid == child.id()));
        assert_eq!(with_descendants(vec![own], 1).len(), 1, "limited");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(children(child.id()), Some(Vec::new()), "a process that is gone has no children");
    }

    #[test]
    fn proportional_memory_is_read() {
        let own = proportional_bytes(std::process::id()).unwrap();
        assert!((1..1 << 40).contains(&own), "{own}");
        let rollup = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:   916 kB\nPss:   34 kB\nPss_Dirty: 9 kB\n";
        assert_eq!(parse_pss(rollup), Some(34 << 10));
        assert_eq!(parse_pss("Pss: much kB"), None);
    }

    #[test]
    fn garbage_is_no_stat() {
        for line in
            ["", "42", "42 (x", "42 (x) S", "x (x) S 1 2 3", "42 (x) S -1 2 3 0 0 0 0 0 0 0 1 1 1 1 0 0 0 0 5 6 7"]
        {
            assert_eq!(parse_stat(line), None, "{line}");
        }
    }

    #[test]
    fn this_process_is_listed_with_its_parent() {
        let me = stat(std::process::id()).unwrap();
        assert_eq!(i64::from(me.parent), i64::from(nix::unistd::getppid().as_raw()));
        assert!(all().contains(&Stat { ..stat(1).unwrap() }));
        assert_eq!(stat(u32::MAX), None);
    }

    #[test]
    fn the_age_is_the_time_since_the_start() {
        let start = stat(std::process::id()).unwrap().start_ticks;
        assert!(age(start) < age(start.saturating_sub(100)) && age(u64::MAX).is_zero());
    }

    #[test]
    fn the_tag_is_found_anywhere_in_the_environment() {
        assert_eq!(parse_tag(b"A=1\0REI_INSTANCE=inst_7\0B=2\0"), Tag::Instance("inst_7".into()));
        assert_eq!(parse_tag(b"A=1\0XREI_INSTANCE=7\0REI_INSTANCES=8\0"), Tag::None);
        assert_eq!(parse_tag(b""), Tag::None);
    }

    #[test]
    fn the_unified_line_is_the_cgroup() {
        let lines = b"9:name=systemd:/\n4:memory:/x\n0::/system.slice/rei.service\n";
        assert_eq!(parse_cgroup(lines).unwrap(), Path::new("/system.slice/rei.service"));
        assert_eq!(parse_cgroup(b"4:memory:/x\n"), None);
    }
}
