//! Promotions and rollbacks of a running service: how long a rollback takes, and how many requests clients lose.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::report::{Report, ms};
use super::rig::{Rei, Repo, Result, ask, free_port, run};

const CHAPTER: &str = "rollback";
const LOAD: &str = "under load";
/// Cycles without load: each is an evolution, its promotion and its rollback.
const CYCLES: usize = 50;
/// Cycles under load: each is a promotion and a rollback.
const LOADED_CYCLES: usize = 50;
const NIX_SWITCHES: usize = 20;
/// The place of the time of a switch in a record of the journal.
const SWITCH_TIME: &str = "/body/event/took_us";
/// Longer than any chapter: a signal ends the load, which then prints its results.
const LOAD_MAX: &str = "3600s";
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// How long the prober continues after the reply to the rollback.
const AFTER: Duration = Duration::from_millis(20);

pub fn measure(report: &mut Report, dir: &Path, _target: &Path) -> Result<()> {
    let port = free_port()?;
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let (repo, _) = Repo::begin(dir.join("repo"), "v1")?;
    // The window is longer than the chapter, so that Previous is warm at every rollback.
    let toml = format!(
        "[runtime]\nname = \"bench-switch\"\nsource = \"{}\"\ncommand = [\"bin/child\", \"serve\"]\n\
         listen = [\"http=127.0.0.1:{port}\"]\npoll = \"1h\"\n\
         [health]\nhttp = {{ listen = \"http\", path = \"/\", interval = \"1s\", timeout = \"5s\" }}\n\
         [promotion]\ncanary = []\nobserve = \"2h\"\n\
         [evolution]\nbudget = {{ per_incident = 1000, per_hour = 100000 }}\n",
        repo.path().display()
    );
    let mut rei = Rei::start(dir.join("rei"), &toml, &[])?;
    let v2 = repo.commit("v2")?;

    println!("rollback: {CYCLES} evolutions, each promoted, then rolled back by an operator's request");
    let (mut cycles, mut synced) = (Cycles::default(), Vec::new());
    let mut file = File::create(dir.join("record"))?;
    for _ in 0..CYCLES {
        cycles.one(&mut rei, address, &v2)?;
        synced.push(sync_one(&mut file)?);
    }
    cycles.add_to(report, CHAPTER);
    report.row(
        CHAPTER,
        "for comparison: 1 KiB appended to a file and synced, like a record before its effect",
        "ms",
        synced,
    );
    if let Some(p99) = report.p99(CHAPTER, ANSWERED) {
        report.goal(CHAPTER, ANSWERED, "p99 below 1 ms", format!("{p99:.3} ms"), p99 < 1.0);
    }
    nix_env(report, &rei)?;

    println!("{LOADED_CYCLES} promotions and as many rollbacks under load");
    let loads = match (Load::begin("new connections", port, true), Load::begin("keep-alive", port, false)) {
        (Ok(new), Ok(kept)) => [new, kept],
        (Err(error), _) | (_, Err(error)) => {
            report.note(format!("lost requests are not measured, because there is no load: {error}"));
            return Ok(());
        }
    };
    let mut cycles = Cycles::default();
    for _ in 0..LOADED_CYCLES {
        cycles.one(&mut rei, address, &v2)?;
    }
    cycles.add_to(report, LOAD);
    let what = format!("requests failed over {LOADED_CYCLES} promotions and {LOADED_CYCLES} rollbacks");
    for load in loads {
        let name = load.name;
        let seen = load.end()?;
        let measured = format!("{} of {}", seen.failed, seen.requests);
        report.goal(LOAD, &format!("{what}, {name}"), "0", measured, seen.failed == 0);
        if seen.failed > 0 {
            report.note(format!("{name}: {}", seen.errors));
        }
    }
    Ok(())
}

/// The time that the disk needs for the size of a record, in milliseconds.
fn sync_one(file: &mut File) -> Result<f64> {
    let begun = Instant::now();
    file.write_all(&[b'x'; 1024])?;
    file.sync_data()?;
    Ok(ms(begun.elapsed()))
}

const ANSWERED: &str = "request of the rollback to the first answer of the warm Previous, by a new connection";

const SWITCHED: &str = "of that, the switch itself: routing and profile, synced to disk";

/// The times of cycles, in milliseconds.
#[derive(Default)]
struct Cycles {
    answered: Vec<f64>,
    replied: Vec<f64>,
    switched: Vec<f64>,
    evolution: Vec<f64>,
}

impl Cycles {
    /// Runs an evolution to `rev`, and rolls it back.
    fn one(&mut self, rei: &mut Rei, address: SocketAddr, rev: &str) -> Result<()> {
        let begun = Instant::now();
        rei.evolve(rev)?;
        rei.wait(|status| status["phase"] == "observing")?;
        self.evolution.push(ms(begun.elapsed()));
        let (answered, replied) = roll_back(&rei.control(), address)?;
        self.answered.push(answered);
        self.replied.push(replied);
        rei.wait(|status| status["phase"] == "steady" && status["candidate"].is_null())?;
        rei.release_all()?;
        self.read_switch_time(&rei.journal()?);
        Ok(())
    }

    /// The time that the supervisor itself took for the switch, from its journal.
    fn read_switch_time(&mut self, journal: &[Value]) {
        let took_us = journal.iter().rev().find_map(|record| record.pointer(SWITCH_TIME)?.as_f64());
        self.switched.extend(took_us.map(|took_us| took_us / 1000.0));
    }

    fn add_to(self, report: &mut Report, chapter: &'static str) {
        report.row(chapter, ANSWERED, "ms", self.answered);
        report.row(chapter, "request of the rollback to its reply (everything is on disk)", "ms", self.replied);
        report.row(chapter, SWITCHED, "ms", self.switched);
        report.row(chapter, "evolution to a version that is already built, until it is promoted", "ms", self.evolution);
    }
}

/// Requests the rollback while a client opens connections one after the other. Returns the milliseconds until the first answer of
/// another version, and until the supervisor's reply.
fn roll_back(control: &Path, address: SocketAddr) -> Result<(f64, f64)> {
    let (ready, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| -> std::io::Result<(Vec<u8>, Option<Instant>)> {
            let before = get(address)?;
            ready.store(true, Ordering::Release);
            let mut changed = None;
            while !stop.load(Ordering::Acquire) {
                let answer = get(address)?;
                if changed.is_none() && answer != before {
                    changed = Some(Instant::now());
                }
            }
            Ok((before, changed))
        });
        let mut connection = UnixStream::connect(control)?;
        while !ready.load(Ordering::Acquire) && !prober.is_finished() {
            std::thread::yield_now();
        }
        let asked = Instant::now();
        let reply = ask(&mut connection, "Rollback", json!({ "to_generation": null }));
        let replied = ms(asked.elapsed());
        std::thread::sleep(AFTER);
        stop.store(true, Ordering::Release);
        let (before, changed) = prober.join().map_err(|_| "the prober panicked")??;
        reply?;
        let before = String::from_utf8_lossy(&before).into_owned();
        let changed = changed.ok_or_else(|| format!("only {before} answered"))?;
        Ok((ms(changed.duration_since(asked)), replied))
    })
}

/// Sends one request on a new connection; returns the whole answer.
fn get(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(REQUEST_MAX))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::with_capacity(256);
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Measures `nix-env` for the profile's part of the switch, on a copy of the generations that the cycles made.
fn nix_env(report: &mut Report, rei: &Rei) -> Result<()> {
    let copy = rei.state().join("bench-profile");
    run(Command::new("cp").arg("--archive").arg(rei.state().join("profiles")).arg(&copy))?;
    let mut nixs = Vec::new();
    for round in 0..NIX_SWITCHES {
        let to = if round % 2 == 0 { "1" } else { "2" };
        let begun = Instant::now();
        run(Command::new("nix-env").arg("--profile").arg(copy.join("bench-switch")).args(["--switch-generation", to]))?;
        nixs.push(ms(begun.elapsed()));
    }
    std::fs::remove_dir_all(copy)?;
    let nixs = report.row(CHAPTER, "nix-env --switch-generation", "ms", nixs);
    if let (Some(own), Some(nixs)) = (report.p50(CHAPTER, SWITCHED), nixs) {
        report.note(format!(
            "rollback: nix-env's p50 is {:.0} times that of rei's whole switch, most of it the start of nix-env",
            nixs / own
        ));
    }
    Ok(())
}

/// A steady load from wrk.
struct Load {
    name: &'static str,
    process: Child,
}

/// The results of a load.
struct Seen {
    requests: u64,
    failed: u64,
    errors: String,
}

impl Load {
    fn begin(name: &'static str, port: u16, close: bool) -> Result<Self> {
        which::which("wrk")?;
        // Nix and rei have priority: the load takes the rest of the processor time, and the cycles end in minutes.
        let mut command = Command::new("nice");
        command.args(["-n", "10", "wrk", "-t", "1", "-c", "8", "-d", LOAD_MAX, "--timeout", "10s"]);
        if close {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(format!("http://127.0.0.1:{port}/"));
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Ok(Self { name, process: process.map_err(|error| format!("wrk: {error}"))? })
    }

    fn end(mut self) -> Result<Seen> {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGINT)?;
        let mut text = String::new();
        self.process.stdout.take().ok_or("no output")?.read_to_string(&mut text)?;
        self.process.wait()?;
        Seen::parse(&text)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Seen {
    /// Reads `N requests in`, `Socket errors: connect N, read N, write N, timeout N` and `Non-2xx or 3xx responses: N`.
    fn parse(text: &str) -> Result<Self> {
        let (mut requests, mut failed, mut errors) = (None, 0, String::new());
        for line in text.lines().map(str::trim) {
            if let Some((count, _)) = line.split_once(" requests in ") {
                requests = Some(count.parse()?);
            } else if line.starts_with("Socket errors") || line.starts_with("Non-2xx") {
                let numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
                // The digits 2 and 3 in `Non-2xx or 3xx` are not counts.
                failed += numbers.skip(if line.starts_with("Non") { 2 } else { 0 }).sum::<u64>();
                let _ = write!(errors, "{line}; ");
            }
        }
        let requests = requests.ok_or_else(|| format!("wrk says {text}"))?;
        Ok(Self { requests, failed, errors })
    }
}
