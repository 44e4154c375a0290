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

pub fn measure(report: &mut Report, dir: &Path, _target: &Path) -> Result<()> {
    println!("steady state: the same server with rei and without, {ROUNDS} rounds of {ROUND} each");
    let (port, bare_port) = (free_port()?, free_port()?);
    let (repo, _) = Repo::begin(dir.join("repo"), "v1")?;
    let toml = format!(
        "[runtime]\nname = \"bench-steady\"\nsource = \"{}\"\ncommand = [\"bin/child\", \"serve\"]\n\
         listen = [\"http=127.0.0.1:{port}\"]\n[health]\nhttp = {{ path = \"/\" }}\n",
        repo.path().display()
    );
    let rei = Rei::start(dir.join("rei"), &toml, &[])?;
    let mut command = Command::new(child());
    command.arg("serve").arg(format!("127.0.0.1:{bare_port}")).stdin(Stdio::null());
    // Like rei's instance, the bare server gets its own session, because the kernel divides processor time among sessions.
    // SAFETY: between fork and exec, setsid(2) is allowed and nothing else is done.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
    let _bare = Bare(command.spawn()?);

    let before = cpu_ticks(rei.pid())?;
    std::thread::sleep(IDLE);
    let ticks = cpu_ticks(rei.pid())? - before;
    report.row(CHAPTER, "processor time of the idle supervisor in 10 s", "jiffies of 10 ms", vec![ticks as f64]);

    for (name, header) in [("new connections", &["-H", "Connection: close"][..]), ("keep-alive", &[])] {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            // Each server is first in half of the rounds, because the kernel remembers tens of thousands of closed connections of
            // a round for a minute.
            let mut both = [(bare_port, &mut without), (port, &mut with)];
            if round % 2 == 1 {
                both.reverse();
            }
            for (port, seen) in both {
                seen.push(load(port, header)?);
            }
        }
        let (ratio, p99_ratio) = compare(report, name, &with, &without);
        let what = format!("throughput with rei divided by throughput without, {name}");
        report.goal(CHAPTER, &what, "at least 0.99", format!("{ratio:.3}"), ratio >= 0.99);
        report.note(format!("steady: p99 latency with rei divided by latency without, {name}: {p99_ratio:.3}"));
    }

    let (resident, most) = (memory_kib(rei.pid(), "VmRSS:")?, memory_kib(rei.pid(), "VmHWM:")?);
    report.note(format!("steady: the supervisor's resident memory was never more than {most} KiB"));
    let met = resident <= MEMORY_KIB_MAX;
    report.goal(CHAPTER, "the supervisor's resident memory", "at most 10240 KiB", format!("{resident} KiB"), met);
    Ok(())
}

/// Requests per second, and the 99th percentile of latency in milliseconds.
type Seen = (f64, f64);

fn compare(report: &mut Report, name: &str, with: &[Seen], without: &[Seen]) -> Seen {
    let column = |rounds: &[Seen], of: fn(&Seen) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
    for (server, rounds) in [("with rei", with), ("without", without)] {
        report.row(CHAPTER, &format!("{name}, {server}"), "requests/s", column(rounds, |seen| seen.0));
        report.row(CHAPTER, &format!("{name}, {server}: p99 latency"), "ms", column(rounds, |seen| seen.1));
    }
    // The median of the rounds' ratios: the two measurements of one round saw the same load of the machine.
    let ratios = |of: fn(&Seen) -> f64| {
        median(&with.iter().zip(without).map(|(with, without)| of(with) / of(without)).collect::<Vec<f64>>())
    };
    (ratios(|seen| seen.0), ratios(|seen| seen.1))
}

fn load(port: u16, header: &[&str]) -> Result<Seen> {
    let url = format!("http://127.0.0.1:{port}/");
    let text = run(Command::new("wrk").args(["-t", "1", "-c", "16", "-d", ROUND, "--latency"]).args(header).arg(url))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
        line.map(|rest| rest.trim().to_owned()).ok_or_else(|| format!("wrk does not say {name}: {text}"))
    };
    Ok((field("Requests/sec:")?.parse()?, milliseconds(&field("99%")?)?))
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
fn cpu_ticks(pid: u32) -> Result<u64> {
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
