//! Measures what the processes of an instance use, with a few file reads per process. A process that exits meanwhile is
//! not counted.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

use crate::interface::types::ProcessUsage;

use super::instance::Instance;
use crate::process::{self, Stat};

/// Measures one instance.
#[derive(Clone, Copy, Debug)]
pub struct UsageMeter {
    page_bytes: u64,
    ticks_per_s: u64,
}

impl Default for UsageMeter {
    fn default() -> Self {
        let system =
            |what, usual| sysconf(what).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(usual);
        Self { page_bytes: process::page_bytes(), ticks_per_s: system(SysconfVar::CLK_TCK, 100).max(1) }
    }
}

impl UsageMeter {
    /// The current usage of the instance's tree. The supervisor fills in `restarts`.
    pub fn read(&self, instance: &Instance) -> ProcessUsage {
        let tree = instance.tree();
        let mut usage = self.sum(&tree.members());
        usage.pid = Some(instance.pid());
        usage.uptime_ms = uptime_ms(instance.start_ticks(), self.ticks_per_s);
        if let Some(us) = tree.cpu_us() {
            usage.cpu_ms = Some(us / 1000);
        }
        usage
    }

    fn sum(&self, members: &[Stat]) -> ProcessUsage {
        // If the descriptors of one process cannot be counted, the total is unknown.
        let fds = members.iter().try_fold(0, |sum, stat| match open_fds(stat.pid) {
            Some(fds) => Some(sum + fds),
            None => process::stat(stat.pid).is_none_or(|now| now.is_zombie()).then_some(sum),
        });
        let ticks: u64 = members.iter().map(|stat| stat.cpu_ticks).sum();
        let counted = !members.is_empty();
        ProcessUsage {
            rss_bytes: counted.then(|| members.iter().map(|stat| stat.rss_pages).sum::<u64>() * self.page_bytes),
            fds: fds.filter(|_| counted),
            cpu_ms: counted.then(|| ticks * 1000 / self.ticks_per_s),
            processes: Some(members.len() as u64),
            ..ProcessUsage::default()
        }
    }
}

/// Number of open descriptors of a process. Since Linux 6.2 it is the size of the directory; before, the entries are
/// counted.
fn open_fds(pid: u32) -> Option<u64> {
    let path = format!("/proc/{pid}/fd");
    match fs::metadata(&path).ok()?.len() {
        0 => Some(fs::read_dir(&path).ok()?.count() as u64),
        fds => Some(fds),
    }
}

fn uptime_ms(start_ticks: u64, ticks_per_s: u64) -> Option<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok()?;
    let now_ms = u64::try_from(now.tv_sec()).ok()? * 1000 + u64::try_from(now.tv_nsec()).ok()? / 1_000_000;
    Some(now_ms.saturating_sub(start_ticks * 1000 / ticks_per_s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    #[test]
    fn this_process_is_measured() {
        let meter = UsageMeter::default();
        let me = process::stat(std::process::id()).unwrap();
        let before = meter.sum(&[me]);
        let files: Vec<_> = (0..20).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = meter.sum(&[me]);
        // Other tests of this process open and close files meanwhile, hence 10 and not 20.
        assert!(after.fds >= before.fds.map(|fds| fds + 10), "{before:?} {after:?} {}", files.len());
        assert!(after.rss_bytes > Some(1 << 19) && after.processes == Some(1));
    }

    #[test]
    fn nothing_is_measured_of_processes_that_are_gone() {
        let meter = UsageMeter::default();
        let gone = Stat { pid: u32::MAX - 1, ..process::stat(std::process::id()).unwrap() };
        assert_eq!(meter.sum(&[gone]).fds, Some(0));
        let nothing = meter.sum(&[]);
        assert_eq!((nothing.rss_bytes, nothing.fds, nothing.cpu_ms, nothing.processes), (None, None, None, Some(0)));
    }

    #[test]
    fn uptime_counts_from_boot() {
        let me = process::stat(std::process::id()).unwrap();
        let ms = uptime_ms(me.start_ticks, UsageMeter::default().ticks_per_s).unwrap();
        assert!(ms < 24 * 3600 * 1000, "{ms}");
    }
}
