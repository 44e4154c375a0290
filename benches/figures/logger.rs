//! The cost of reading an access log: the logger's part of a processor, for each format, at the most that it reads.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rei::runtime::logs::{Logger, Memory, RATE_BYTES_PER_S, pipe};

use super::report::Report;
use super::rig::{Result, rei};
use super::steady::cpu_ticks;

const CHAPTER: &str = "logger";
/// How long each format is written.
const TIME: Duration = Duration::from_secs(10);
/// The logger takes lines up to a rate as an access log, and faster ones as a flood that it does not read. A little below it,
/// every line is read.
const BYTES_PER_S: u64 = RATE_BYTES_PER_S / 10 * 9;
/// The pieces in which an instance writes.
const PIECE: Duration = Duration::from_millis(5);
/// A jiffy, in seconds.
const JIFFY_S: f64 = 0.01;
/// The size limit of the log's files, in bytes.
const LOG_BYTES: u64 = 64 << 20;

/// The formats: a name, the rules that the supervisor sends, and a line.
const FORMATS: [(&str, Option<&str>, &str); 5] = [
    ("lines that are only kept", None, COMBINED),
    ("combined", Some(r#"{"format":"combined","unit":null}"#), COMBINED),
    ("json", Some(r#"{"format":"json","unit":null}"#), JSON),
    ("logfmt", Some(r#"{"format":"logfmt","unit":null}"#), LOGFMT),
    (
        "a regular expression",
        Some(
            r#"{"format":{"pattern":"\"(?<method>\\S+) (?<path>\\S+)[^\"]*\" (?<status>\\d+) (?<bytes>\\S+)"},"unit":null}"#,
        ),
        COMBINED,
    ),
];
const COMBINED: &str = "10.0.0.7 - - [30/Nov/2026:10:00:00 +0000] \"GET /orders/NUMBER HTTP/1.1\" 200 1234 \"https://example.org/\" \"Mozilla/5.0 (X11; Linux x86_64)\"\n";
const JSON: &str = "{\"time\":\"2026-11-30T10:00:00Z\",\"level\":\"info\",\"msg\":\"request\",\"method\":\"GET\",\"path\":\"/orders/NUMBER\",\"status\":200,\"duration_ms\":3.25}\n";
const LOGFMT: &str =
    "time=2026-11-30T10:00:00Z level=info msg=request method=GET path=/orders/NUMBER status=200 duration=3.25ms\n";

pub fn measure(report: &mut Report, dir: &Path, _target: &Path) -> Result<()> {
    println!("the logger: {} MiB of lines in a second, {TIME:?} for each format", BYTES_PER_S >> 20);
    for (index, (name, rules, line)) in FORMATS.iter().enumerate() {
        let (logger, child) = Logger::start(&rei(), dir)?;
        let (read, write) = pipe()?;
        let path = dir.join(format!("{index}.log"));
        let log = match rules {
            Some(rules) => logger.counting(rules).read("1", &read, Memory::new()?, &path, LOG_BYTES),
            None => logger.read("1", &read, Memory::new()?, &path, LOG_BYTES),
        };
        drop(read);
        let before = cpu_ticks(child.id())?;
        let (lines, took) = written(File::from(write), line)?;
        let (mut counted, mut unread) = (0, 0);
        let stopped = Instant::now();
        while rules.is_some() && counted + unread < lines && stopped.elapsed() < TIME {
            if let Some(sample) = log.take_counts() {
                counted += sample.total().total();
                unread += sample.unread;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let ticks = cpu_ticks(child.id())? - before;
        let part = ticks as f64 * JIFFY_S / took.as_secs_f64() * 100.0;
        report.row(CHAPTER, &format!("{name}: part of one processor"), "%", vec![part]);
        if rules.is_some() {
            let rate = counted as f64 / took.as_secs_f64();
            report.row(CHAPTER, &format!("{name}: lines read in a second"), "1/s", vec![rate]);
            if counted < lines {
                report.note(format!("{name}: of {lines} lines, {unread} were too many to read"));
            }
        }
        drop((logger, log));
        let mut child = child;
        child.wait()?;
    }
    Ok(())
}

/// Writes lines at the rate. Returns their number and the time.
fn written(mut pipe: File, line: &str) -> Result<(u64, Duration)> {
    let lines: Vec<String> = (0..100).map(|n| line.replace("NUMBER", &format!("{}", 100 * n + 7))).collect();
    let begun = Instant::now();
    let (mut count, mut bytes) = (0_u64, 0_u64);
    while begun.elapsed() < TIME {
        let due = (begun.elapsed().as_secs_f64() * BYTES_PER_S as f64) as u64;
        let mut piece = String::new();
        while bytes < due {
            let next = &lines[count as usize % lines.len()];
            piece.push_str(next);
            (count, bytes) = (count + 1, bytes + next.len() as u64);
        }
        pipe.write_all(piece.as_bytes())?;
        std::thread::sleep(PIECE);
    }
    Ok((count, begun.elapsed()))
}
