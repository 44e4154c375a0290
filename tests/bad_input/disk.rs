//! A full disk: Active serves, rei restarts it if it dies, and a rollback needs no free space.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rei::interface::operations::VersionStatus;
use rei::interface::types::MaintenanceAction;

use crate::lab::{Lab, Supervisor};

/// A small file system, mounted as the lab's state directory.
struct Disk {
    at: PathBuf,
    filler: PathBuf,
}

impl Disk {
    /// Mounts it; if this user may not mount, prints the reason and returns `None`.
    fn mount(lab: &Lab) -> Option<Self> {
        let at = lab.path("state");
        std::fs::create_dir_all(&at).unwrap();
        let image = lab.path("disk.img");
        std::fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
        let ran = |program: &str, args: &[&str]| {
            Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
        };
        let (image, dir) = (image.to_str().unwrap(), at.to_str().unwrap());
        // Without reserved blocks for root, so that the disk is really full.
        let mounted = ran("mkfs.ext4", &["-q", "-m", "0", image]) && ran("mount", &["-o", "loop", image, dir]);
        if mounted { Some(Self::mounted(at)) } else { Self::mount_in_memory(lab) }
    }

    /// Mounts one in memory, on which a record costs no time. If this user may not mount, prints the reason and returns
    /// `None`.
    fn mount_in_memory(lab: &Lab) -> Option<Self> {
        let at = lab.path("state");
        std::fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=48m,mode=0711", "tmpfs"]).arg(&at);
        if !mount.output().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: this test needs to mount a file system");
            return None;
        }
        Some(Self::mounted(at))
    }

    fn mounted(at: PathBuf) -> Self {
        eprintln!("{}", kind(&at));
        Self { filler: at.join("filler"), at }
    }

    /// Fills the disk completely.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.filler).unwrap();
        for size in [1 << 20, 4096, 512, 1] {
            let block = vec![0x78_u8; size];
            while file.write_all(&block).is_ok() {}
        }
        let _ = file.sync_all();
    }

    fn free(&self) {
        std::fs::remove_file(&self.filler).unwrap();
    }
}

/// The ioctl that shuts an ext4 file system down: every later write fails.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
static EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;

#[test]
fn a_disk_that_fails_while_it_serves() {
    let Some(lab) = Lab::new() else { return };
    let Some(disk) = Disk::mount(&lab) else { return };
    let mut supervisor = lab.serving();
    let root = std::fs::File::open(&disk.at).unwrap();
    // SAFETY: the ioctl reads only one integer.
    let failed = unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&root),
            EXT4_IOC_SHUTDOWN as _,
            &raw const EXT4_GOING_FLAGS_NOLOGFLUSH,
        )
    };
    if failed != 0 {
        eprintln!("SKIPPED: this file system cannot be made to fail");
        return;
    }
    drop(root);
    // rei decides nothing without a journal. The service continues, and requests to rei fail with the reason.
    let load = lab.load();
    let refused = supervisor.operator(async |client| client.pause().await.expect_err("no journal")).unwrap();
    let refused = rei::report::chain(&refused);
    println!("{refused}");
    assert!(refused.contains("cannot write") && refused.contains("journal"), "{refused}");
    let asked = load.count();
    supervisor.until("requests meanwhile", |_| load.count() > asked + 50);
    load.none_lost();
    // The exit of an instance is an event that must wait for the journal.
    let _ = lab.ask("/die");
    let line = supervisor.says("nothing is decided");
    println!("{line}");
    assert!(line.contains("journal") && line.contains("hint: "), "{line}");
    let status = supervisor.status().expect("it answers");
    assert!(status.attention.is_some_and(|text| text.contains("journal")));
    println!("{}", supervisor.output());
    assert_eq!(supervisor.output().matches("nothing is decided").count(), 1, "logged once");
    supervisor.stop();
}

fn kind(at: &Path) -> String {
    let output = Command::new("stat").args(["-f", "-c", "file system: %T"]).arg(at).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).output();
    }
}

/// The logger counts requests before it writes their lines.
#[test]
fn a_full_disk_hides_no_request() {
    let Some(lab) = Lab::of("shop") else { return };
    let Some(disk) = Disk::mount(&lab) else { return };
    lab.configure_with(
        "env = { SHOP_LOG = \"json\" }\n",
        "[health]\nhttp = { listen = \"http\", path = \"/healthz\" }\n\
         log = { format = \"json\", status = \"status\", duration = \"duration_ms\" }\n",
    );
    let mut supervisor = lab.serving();
    disk.fill();
    let load = lab.load();
    let requests = |it: &Supervisor| {
        let traffic = it.status().and_then(|status| status.active).map(|active| active.traffic).unwrap_or_default();
        traffic.iter().find(|traffic| traffic.source == "log").map_or(0, |traffic| traffic.requests)
    };
    let before = requests(&supervisor);
    supervisor.until("requests that the logger counted", |it| requests(it) > before + 100);
    supervisor.until("bytes that the disk did not take, in the status", |it| {
        let instance = it.status().and_then(|status| status.active).and_then(|mut active| active.instances.pop());
        instance.and_then(|it| it.log_dropped_bytes).is_some_and(|bytes| bytes > 0)
    });
    load.none_lost();
    disk.free();
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn full_while_it_serves() {
    let Some(lab) = Lab::new() else { return };
    let Some(disk) = Disk::mount(&lab) else { return };
    let mut supervisor = lab.serving();
    let load = lab.load();
    disk.fill();
    // An upgrade is impossible, and the log says so.
    let rev = lab.commit("well 2");
    let line = supervisor.says("No space left");
    println!("{line}");
    load.none_lost();
    // The service dies, and rei restarts it.
    for _ in 0..5 {
        assert!(lab.ask("/die").is_err());
        assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    }
    assert!(supervisor.status().is_some(), "it answers");
    println!("{}", supervisor.output());
    disk.free();
    // When there is space again, rei does the upgrade.
    let again = lab.commit("well 3");
    let _ = rev;
    let end = supervisor.verdict_on(&again);
    println!("{}", supervisor.output());
    assert_eq!(end.action, Some(MaintenanceAction::Promoted), "{}", end.summary);
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn full_in_the_canary() {
    let Some(lab) = Lab::new() else { return };
    let Some(disk) = Disk::mount(&lab) else { return };
    lab.configure("[promotion]\ncanary = [{ share = 0.5, for = \"10m\" }]\nobserve = \"30s\"");
    let mut supervisor = lab.serving();
    let active = |it: &Supervisor| it.status().and_then(|status| status.active).expect("an Active");
    let before = active(&supervisor);
    let rev = lab.commit("well 2");
    let mut candidate = None;
    supervisor.until("the candidate's share", |it| {
        let trial = it.status().and_then(|status| status.candidate).filter(|trial| trial.share > 0.0);
        candidate = trial.and_then(|trial| trial.instances.first()?.usage.pid);
        candidate.is_some()
    });
    disk.fill();
    // The candidate must die, not Active: each answers half of the requests, so a request could reach either.
    kill(Pid::from_raw(candidate.unwrap().cast_signed()), Signal::SIGKILL).unwrap();
    let end = supervisor.verdict_on(&rev);
    println!("{}\n{}", end.summary, supervisor.output());
    assert_eq!(end.action, Some(MaintenanceAction::RolledBack), "{}", end.summary);
    assert!(end.summary.contains("SIGKILL"), "{}", end.summary);
    let after = active(&supervisor);
    assert_eq!((&after.version, after.share), (&before.version, 1.0));
    let pid = |it: &VersionStatus| it.instances.first().and_then(|instance| instance.usage.pid);
    assert_eq!(pid(&after), pid(&before), "Active kept its process");
    assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    disk.free();
    assert_eq!(supervisor.stop(), Some(0));
}

#[test]
fn a_rollback_on_a_full_disk() {
    let Some(lab) = Lab::new() else { return };
    let Some(disk) = Disk::mount(&lab) else { return };
    lab.configure("[promotion]\ncanary = []\nobserve = \"60s\"\n[incidents]\nerrors = { ratio = 0.1, for = \"1s\" }");
    let mut supervisor = lab.serving();
    let before = supervisor.status().and_then(|it| it.active).unwrap();
    let rev = lab.commit("well 2");
    supervisor.until("the promotion", |it| {
        lab.ask("/").as_deref() == Ok("2")
            && it.status().is_some_and(|status| status.phase == rei::interface::operations::Phase::Observing)
    });
    disk.fill();
    let load = lab.load();
    assert_eq!(lab.ask("/sicken"), Ok("sick".to_owned()));
    supervisor.until("Previous", |_| lab.ask("/").as_deref() == Ok("1"));
    let end = supervisor.verdict_on(&rev);
    println!("{}\n{}", end.summary, supervisor.output());
    assert_eq!(end.action, Some(MaintenanceAction::RolledBack), "{}", end.summary);
    let after = supervisor.status().and_then(|it| it.active).unwrap();
    assert_eq!((after.version, after.generation), (before.version, before.generation));
    let current = std::fs::read_link(lab.path("state/profiles/service")).unwrap();
    assert_eq!(current.to_str(), Some("service-1-link"), "the profile is rolled back too");
    load.none_lost();
    disk.free();
    assert_eq!(supervisor.stop(), Some(0));
}

/// Pauses and resumes evolutions this many times: two records each.
fn record(supervisor: &Supervisor, times: usize) {
    let recorded = supervisor.operator(async |client| {
        for _ in 0..times {
            client.pause().await.unwrap();
            client.resume().await.unwrap();
        }
    });
    recorded.expect("the supervisor answers");
}

#[test]
fn full_until_the_reserved_space_of_the_journal_shrinks() {
    /// Pairs of records that use up half of the reserved 2 MiB: a record has more than 250 bytes.
    const PAIRS: usize = 2_500;
    let Some(lab) = Lab::new() else { return };
    let Some(disk) = Disk::mount_in_memory(&lab) else { return };
    let mut supervisor = lab.serving();
    disk.fill();
    let warning = "the journal lacks space";
    record(&supervisor, PAIRS);
    let line = supervisor.says(warning);
    println!("{line}");
    assert!(line.contains("bytes are left") && line.contains("No space left") && line.contains("journal"), "{line}");
    // It is said once, and records are still written to the space that is left.
    record(&supervisor, 10);
    disk.free();
    record(&supervisor, 1);
    supervisor.says("the journal has enough space again");
    assert_eq!(supervisor.output().matches(warning).count(), 1);
    assert_eq!(lab.ask("/"), Ok("1".to_owned()));
    assert_eq!(supervisor.stop(), Some(0));
}
