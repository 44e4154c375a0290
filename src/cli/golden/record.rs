//! `rei golden record`: makes a golden run of what users ask, and qualifies it.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::qualify;
use crate::cli::args::{Global, runtime};
use crate::cli::connect::{ask, look, paths};
use crate::cli::error::{CommandError, Kind};
use crate::cli::ui::Ui;
use crate::config::{Config, parse_duration};
use crate::golden::{self, SUFFIX};
use crate::interface::client::{ClientError, OperationsClient};
use crate::interface::operations::GoldenRecording;
use crate::time::millis;

/// The pause between two looks at the recording.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// A supervisor that is replaced is waited for at most this long.
const ABSENT_MAX: Duration = Duration::from_secs(30);

/// `rei golden record`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long to record; Ctrl-C ends it early and keeps what was recorded
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = time)]
    time: Duration,
    /// The name of the new run; without it, `live` and the time
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The most exchanges of the run: a sample of each route with each status class
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    limit: u64,
    /// The listener whose requests are recorded; without it, the first one that has a tap
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Take what the standing sample of `golden.record` has now, and record nothing more
    #[arg(long, conflicts_with_all = ["time", "limit", "listener"])]
    sample: bool,
    /// Write the run as it was recorded, and do not replay it on Active
    #[arg(long)]
    no_qualify: bool,
}

fn time(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or("write a time as in 90s, 10m or 1h")
}

/// Runs the command.
///
/// # Errors
/// If nothing can be recorded or written, or nothing of it can be repeated.
pub fn run(args: &Args, global: &Global, config: &Config, ui: &mut Ui) -> Result<(), CommandError> {
    let Some(directory) = config.validation.golden.first() else {
        let nowhere = CommandError::new(Kind::Config, "no directory for golden runs is configured");
        return Err(nowhere.hint("add `golden = [\"golden\"]` below `[validation]` in rei.toml"));
    };
    let digits = |ui: &Ui| look(ui).now.to_string().chars().filter(char::is_ascii_digit).take(14).collect::<String>();
    let name = args.name.clone().unwrap_or_else(|| format!("live-{}", digits(ui)));
    let path = directory.join(format!("{name}{SUFFIX}"));
    if path.exists() {
        let exists = CommandError::new(Kind::Failed, format!("{} exists", path.display()));
        return Err(exists.hint("choose another name with --name, or remove the file"));
    }
    if args.sample {
        let (file, count) = sample(global)?;
        take(Path::new(&file), directory, &path, Some(&name))?;
        ui.result(&format!("wrote {} with {count} exchanges", path.display()))?;
        return qualified(args, name, global, config, ui);
    }
    let (listener, for_ms) = (args.listener.clone(), millis(args.time));
    let begun = ask(global, async |it| it.record_golden(name.clone(), listener, for_ms, args.limit).await)?;
    ui.status(&format!("recording the requests to {}; Ctrl-C ends it early", begun.listener));
    let ended = follow(global, &begun, ui)?;
    let why = ended.ended.clone().unwrap_or_default();
    ui.status(&format!("the recording has ended: {why}"));
    counts(&ended, ui)?;
    let file = ended.path.as_deref().filter(|_| ended.written > 0);
    let Some(file) = file else {
        let empty = CommandError::new(Kind::Findings, "no exchange was recorded");
        return Err(empty.hint(if ended.paused_requests > 0 {
            "nothing is recorded while a version is under trial: record again when `rei status` says steady"
        } else {
            "`rei status` says what the tap sees of the requests; record for longer with --for"
        }));
    };
    take(Path::new(file), directory, &path, None)?;
    ui.result(&format!("wrote {} with {} exchanges", path.display(), ended.written))?;
    qualified(args, name, global, config, ui)
}

/// The file of the standing sample, and the number of its exchanges.
fn sample(global: &Global) -> Result<(String, usize), CommandError> {
    let all = ask(global, async |it| it.status().await)?.recordings;
    let Some(standing) = all.into_iter().find(|it| it.standing) else {
        let none = CommandError::new(Kind::Failed, "there is no standing sample");
        return Err(none.hint("write `record = true` below `[golden]` in rei.toml"));
    };
    if let Some(why) = standing.ended {
        return Err(CommandError::new(Kind::Failed, format!("there is no standing sample: {why}")));
    }
    let path = standing.path.filter(|path| Path::new(path).exists()).ok_or_else(|| {
        let empty = CommandError::new(Kind::Findings, "the standing sample was not written yet");
        empty.hint("`rei status` says how many exchanges it has")
    })?;
    let count = golden::read(Path::new(&path))?.exchanges.len();
    Ok((path, count))
}

/// Qualifies the run that was written, if this is wanted.
fn qualified(args: &Args, name: String, global: &Global, config: &Config, ui: &mut Ui) -> Result<(), CommandError> {
    if args.no_qualify {
        ui.hint(&format!("keep what Active repeats: rei golden qualify {name}"));
        return Ok(());
    }
    qualify::run(&qualify::Args::of(name), global, config, ui)
}

/// Waits for the end of the recording, and shows what it has.
fn follow(global: &Global, begun: &GoldenRecording, ui: &mut Ui) -> Result<GoldenRecording, CommandError> {
    let paths = paths(global)?;
    let mut progress = ui.progress();
    runtime()?.block_on(async {
        let mut interrupts = signal(SignalKind::interrupt())
            .map_err(|error| CommandError::new(Kind::Failed, "cannot wait for Ctrl-C").because(error))?;
        let mut answered = Instant::now();
        loop {
            let ends = tokio::select! {
                _ = interrupts.recv() => true,
                () = tokio::time::sleep(LOOK_PAUSE) => false,
            };
            let found = async {
                let client = OperationsClient::connect(paths.control()).await?;
                if ends {
                    return client.end_recording(begun.name.clone()).await.map(Some);
                }
                let all = client.status().await?.recordings;
                Ok(all.into_iter().find(|it| !it.standing && it.name == begun.name))
            };
            match found.await {
                Ok(Some(recording)) if recording.ended.is_some() => return Ok(recording),
                Ok(Some(recording)) => {
                    answered = Instant::now();
                    progress.stage(if recording.paused {
                        "paused while a version is under trial"
                    } else {
                        "recording"
                    });
                    progress.count(recording.kept, recording.limit);
                }
                Ok(None) => {
                    let gone = format!("the supervisor does not know the recording {} any more", begun.name);
                    return Err(CommandError::new(Kind::Failed, gone));
                }
                // It is replaced by another one, which says what was kept.
                Err(ClientError::NotRunning { .. }) if !ends && answered.elapsed() < ABSENT_MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
    })
}

fn counts(ended: &GoldenRecording, ui: &mut Ui) -> std::io::Result<()> {
    let GoldenRecording { seen, kept, written, not_redactable, not_copied, paused_requests, .. } = ended;
    ui.result(&format!("{seen} exchanges seen, {kept} in the sample, {written} written without secrets"))?;
    for (count, what) in [
        (not_redactable, "cannot be examined for secrets, so they are not kept"),
        (not_copied, "could not be copied: too large, not complete, of another protocol, or not decodable"),
        (paused_requests, "came while a version was under trial, and were not taken"),
    ] {
        if *count > 0 {
            ui.result(&format!("  {count} {what}"))?;
        }
    }
    Ok(())
}

/// Copies the run to the folder of golden runs, under another name if it is given.
fn take(from: &Path, directory: &Path, to: &Path, name: Option<&str>) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| {
        let failed = CommandError::new(Kind::Failed, format!("cannot write {}", to.display())).because(error);
        failed.hint(format!("copy {} there as a user who may read and write both", from.display()))
    };
    let mut run = golden::read(from)?;
    if let Some(name) = name {
        name.clone_into(&mut run.header.name);
    }
    std::fs::create_dir_all(directory).map_err(failed)?;
    golden::write(to, run).map_err(CommandError::from)
}
