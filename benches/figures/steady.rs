//! The cost of supervision while the service runs without events.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::report::{Report, median};
use super::rig::{Rei, Repo, Result, child, free_port, run};

const CHAPTER: &str = "steady";
/// Rounds of load, on the supervised and the bare server in turn.
const ROUNDS: usize = 12;
const ROUND: &str = "3s";
/// The time over which the idle supervisor's processor time is counted.
const IDLE: Duration = Duration::from_secs(10);
/// The goal for resident memory, in KiB.
const MEMORY_KIB_MAX: u64 = 10 << 10;

/// A server without a supervisor.
struct Bare(Child);

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The parts of the connections that go through the tap.
const SHARES: [(&str, &str); 3] =
    [("no tap", "false"), ("1 % tapped", "{ share = 0.01 }"), ("all tapped", "{ share = 1.0 }")];
/// The index in [`SHARES`] of the default.
const DEFAULT: usize = 1;

pub fn measure(report: &mut Report, dir: &Path, _target: &Path) -> Result<()> {
    println!("steady state: the same server with rei and without, {ROUNDS} rounds of {ROUND} each");
    let bare_port = free_port()?;
    let (repo, _) = Repo::begin(dir.join("repo"), "v1")?;
    let mut supervised = Vec::new();
    for (index, (_, tap)) in SHARES.iter().enumerate() {
        let port = free_port()?;
        let toml = format!(
            "[runtime]\nname = \"bench-steady\"\nsource = \"{}\"\ncommand = [\"bin/child\", \"serve\"]\n\
             listen = [\"http=127.0.0.1:{port}\"]\n[health]\nhttp = {{ path = \"/\" }}\n[traffic]\ntap = {tap}\n",
            repo.path().display()
        );
        supervised.push((port, Rei::start(dir.join(format!("rei-{index}")), &toml, &[])?));
    }
    let mut command = Command::new(child());
    command.arg("serve").arg(format!("127.0.0.1:{bare_port}")).stdin(Stdio::null());
    // Like rei's instance, the bare server gets its own session, because the kernel divides processor time among sessions.
    // SAFETY: between fork and exec, setsid(2) is allowed and nothing else is done.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
    let _bare = Bare(command.spawn()?);

    let rei = &supervised[DEFAULT].1;
    let before = cpu_ticks(rei.pid())?;
    std::thread::sleep(IDLE);
    let ticks = cpu_ticks(rei.pid())? - before;
    report.row(CHAPTER, "processor time of the idle supervisor in 10 s", "jiffies of 10 ms", vec![ticks as f64]);

    for (name, header) in [("new connections", &["-H", "Connection: close"][..]), ("keep-alive", &[])] {
        let mut seen: Vec<Vec<Seen>> = vec![Vec::new(); SHARES.len() + 1];
        for round in 0..ROUNDS {
            // Each server is first in turn, because the kernel remembers tens of thousands of closed connections of a round for
            // a minute.
            let ports = supervised.iter().map(|(port, _)| *port).chain([bare_port]);
            let mut all: Vec<(usize, u16)> = ports.enumerate().collect();
            all.rotate_left(round % (SHARES.len() + 1));
            for (index, port) in all {
                seen[index].push(load(port, header)?);
            }
        }
        let without = seen.pop().unwrap_or_default();
        rows(report, &format!("{name}, without rei"), &without);
        for ((share, _), with) in SHARES.iter().zip(&seen) {
            rows(report, &format!("{name}, {share}"), with);
            let ratio = |of: fn(&Seen) -> f64| ratio(with, &without, of);
            let (rate, p99) = (ratio(|seen| seen.rate), ratio(|seen| seen.p99_ms));
            let what = format!("throughput with rei divided by throughput without, {name}, {share}");
            if *share == "all tapped" {
                report.note(format!("steady: {what}: {rate:.3}"));
            } else {
                report.goal(CHAPTER, &what, "at least 0.99", format!("{rate:.3}"), rate >= 0.99);
            }
            report.note(format!("steady: p99 latency with rei divided by latency without, {name}, {share}: {p99:.3}"));
        }
        let added: Vec<f64> =
            seen[2].iter().zip(&seen[0]).map(|(all, none)| (all.p50_ms - none.p50_ms) * 1_000.0).collect();
        report.row(CHAPTER, &format!("{name}: added median latency of a tapped connection"), "µs", added);
    }

    let rei = &supervised[DEFAULT].1;
    let (resident, most) = (memory_kib(rei.pid(), "VmRSS:")?, memory_kib(rei.pid(), "VmHWM:")?);
    report.note(format!("steady: the supervisor's resident memory was never more than {most} KiB"));
    let met = resident <= MEMORY_KIB_MAX;
    report.goal(CHAPTER, "the supervisor's resident memory", "at most 10240 KiB", format!("{resident} KiB"), met);
    for (index, (share, _)) in SHARES.iter().enumerate().skip(DEFAULT) {
        for tap in rei::tap::find(&dir.join(format!("rei-{index}")).join("state")) {
            let (own, resident) = (memory_kib(tap.pid, "RssAnon:")?, memory_kib(tap.pid, "VmRSS:")?);
            report.note(format!("steady: the tap's own memory, {share}: {own} KiB, resident {resident} KiB"));
        }
    }
    Ok(())
}

/// What one round of load shows.
#[derive(Clone, Copy)]
struct Seen {
    /// Requests per second.
    rate: f64,
    /// The median of latencies, in milliseconds.
    p50_ms: f64,
    /// The 99th percentile of latencies, in milliseconds.
    p99_ms: f64,
}

fn rows(report: &mut Report, name: &str, rounds: &[Seen]) {
    report.row(CHAPTER, name, "requests/s", rounds.iter().map(|seen| seen.rate).collect());
    report.row(CHAPTER, &format!("{name}: p99 latency"), "ms", rounds.iter().map(|seen| seen.p99_ms).collect());
}

/// The median of the rounds' ratios: the measurements of one round saw the same load of the machine.
fn ratio(with: &[Seen], without: &[Seen], of: fn(&Seen) -> f64) -> f64 {
    median(&with.iter().zip(without).map(|(with, without)| of(with) / of(without)).collect::<Vec<f64>>())
}

fn load(port: u16, header: &[&str]) -> Result<Seen> {
    let url = format!("http://127.0.0.1:{port}/");
    let text = run(Command::new("wrk").args(["-t", "1", "-c", "16", "-d", ROUND, "--latency"]).args(header).arg(url))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(|rest| rest.trim().to_owned()).ok_or_else(|| format!("wrk does not say {name}: {text}"))
    };
    let ms = |name: &str| milliseconds(&field(name)?);
    Ok(Seen { rate: field("Requests/sec:")?.parse()?, p50_ms: ms("50%")?, p99_ms: ms("99%")? })
}

/// Reads wrk's `950.00us`, `1.20ms` or `1.01s`.
fn milliseconds(text: &str) -> Result<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).ok_or("no unit")?;
    let number: f64 = text[..unit].parse()?;
    match &text[unit..] {
        "us" => Ok(number / 1000.0),
        "ms" => Ok(number),
        "s" => Ok(number * 1000.0),
        other => Err(format!("unknown unit {other}").into()),
    }
}

/// User and system time of a process, in clock ticks.
/// The processor time of a process, in jiffies.
pub fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("no stat")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // Fields 14 and 15, counted from 1, of which two come before the end of the name.
    Ok(fields.get(11).ok_or("short")?.parse::<u64>()? + fields.get(12).ok_or("short")?.parse::<u64>()?)
}

fn memory_kib(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
