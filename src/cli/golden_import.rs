//! `rei golden import`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::args::runtime;
use super::connect::look;
use super::error::{CommandError, Kind};
use super::ui::Ui;
use crate::config::{Config, ListenAddress};
use crate::golden::{
    self, ArchiveError, Chosen, FILE_BYTES_MAX, GoldenRun, Header, Imported, LeftOut, LeftOutEntry, Protocol,
    REQUEST_TIMEOUT, RedactedRun, Redaction, SUFFIX, TakenEntry,
};
use crate::http::Address;
use crate::redact::Secrets;

/// The most places with placeholders that are named; an archive has the same ones in every exchange.
const PLACES_MAX: usize = 40;
/// The most other origins that are named.
const ORIGINS_MAX: usize = 5;

/// `rei golden import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// A HAR file, a list with one `METHOD URL` on each line, or a transcript of lines (`> sent`, `< received`)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The name of the new run; without it, the name of the file
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The listener for the run's requests; without it, the first of the runtime
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// For a list: the server with the good answers; without it, that listener
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// For a transcript: the lines of the protocol end with CR and LF, as in SMTP and Redis; without it, with LF
    #[arg(long)]
    crlf: bool,
    /// For an archive: the origin to take, as in https://example.org; without it, the one that the archive shows to be
    /// the service's
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// Keep secrets and personal data; without it, placeholders replace them
    #[arg(long)]
    keep_credentials: bool,
}

/// What a file gives, before anything is written.
struct Made {
    run: GoldenRun,
    /// `entry` of an archive, or `request` of a list.
    noun: &'static str,
    /// One for each exchange.
    taken: Vec<TakenEntry>,
    left_out: Vec<LeftOutEntry>,
    /// The origin of an archive's run, and the others.
    origin: Option<String>,
    other_origins: Vec<String>,
    redacted: RedactedRun,
}

/// Runs the command.
///
/// # Errors
/// If the file gives no run, or the run cannot be written.
pub fn run(args: &ImportArgs, config: &Config, ui: &mut Ui) -> Result<(), CommandError> {
    let Some(directory) = config.validation.golden.first() else {
        let nowhere = CommandError::new(Kind::Config, "no directory for golden runs is configured");
        return Err(nowhere.hint("add `golden = [\"golden\"]` below `[validation]` in rei.toml"));
    };
    let stem = || args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = args.name.clone().or_else(stem).unwrap_or_default();
    if name.contains('/') {
        return Err(CommandError::new(
            Kind::Usage,
            format!("{name} is not a name: use letters, digits, `-`, `_` and `.`"),
        ));
    }
    let first = || config.runtime.listen.first().map(|listen| listen.name.clone());
    let Some(listener) = args.listener.clone().or_else(first) else {
        return Err(CommandError::new(Kind::Config, "the runtime has no listener for the requests of a run"));
    };
    let mut redaction = Redaction::new(&Secrets::new(config.all_secrets()));
    let mut made = make(args, Header::new(name, listener, look(ui).now), config)?;
    redact(&mut made, args.keep_credentials, &mut redaction);
    print_entries(&made, &mut redaction, ui)?;
    if made.run.exchanges.is_empty() {
        return Err(ArchiveError::AllLeftOut { path: args.file.clone() }.into());
    }
    std::fs::create_dir_all(directory).map_err(|error| {
        CommandError::new(Kind::Failed, format!("cannot make {}", directory.display())).because(error)
    })?;
    let path = directory.join(format!("{}{SUFFIX}", made.run.header.name));
    let count = counted(made.run.exchanges.len(), "exchange", "exchanges");
    write(&path, made.run.clone())?;
    ui.result(&format!("wrote {} with {count}", path.display()))?;
    print_counts(&made, ui)?;
    print_places(&made.redacted, args.keep_credentials, ui)?;
    ui.hint("check that each answer is good, then run `rei golden replay`");
    Ok(())
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn make(args: &ImportArgs, header: Header, config: &Config) -> Result<Made, CommandError> {
    let bytes = read(&args.file)?;
    let is_archive =
        golden::is_archive(&bytes) || args.file.extension().is_some_and(|it| it.eq_ignore_ascii_case("har"));
    if is_archive {
        let port =
            config.runtime.listen.iter().find(|it| it.name == header.listener).and_then(|it| match &it.address {
                ListenAddress::Tcp(address) => Some(address.port()),
                _ => None,
            });
        let chosen = Chosen { origin: args.origin.clone(), port };
        let Imported { run, taken, left_out, origin, other_origins } =
            golden::from_har(&args.file, &bytes, header, &chosen)?;
        let redacted = RedactedRun::default();
        return Ok(Made { run, noun: "entry", taken, left_out, origin, other_origins, redacted });
    }
    if golden::is_transcript(&bytes) {
        let mut header = header;
        header.protocol = if args.crlf { Protocol::CrlfLines } else { Protocol::Lines };
        let exchanges = golden::parse_transcript(&String::from_utf8_lossy(&bytes))?;
        let taken = (1..=exchanges.len()).map(|entry| TakenEntry { entry, without_body: None }).collect();
        let (run, redacted) = (GoldenRun { header, exchanges }, RedactedRun::default());
        let (left_out, other_origins) = (Vec::new(), Vec::new());
        return Ok(Made { run, noun: "connection", taken, left_out, origin: None, other_origins, redacted });
    }
    let requests = golden::parse_requests(&String::from_utf8_lossy(&bytes))?;
    let from = address(args.from.as_deref(), &header.listener, config)?;
    let run = runtime()?.block_on(golden::record(&from, header, requests, REQUEST_TIMEOUT))?;
    let taken = (1..=run.exchanges.len()).map(|entry| TakenEntry { entry, without_body: None }).collect();
    let (origin, other_origins) = (None, Vec::new());
    let redacted = RedactedRun::default();
    Ok(Made { run, noun: "request", taken, left_out: Vec::new(), origin, other_origins, redacted })
}

/// Replaces the secrets of the run, and moves what cannot be kept to the entries that are left out.
fn redact(made: &mut Made, keep_credentials: bool, redaction: &mut Redaction) {
    let names: Vec<String> =
        made.run.exchanges.iter().map(|it| it.name().split('?').next().unwrap_or_default().to_owned()).collect();
    let not_kept = if keep_credentials {
        let marked = made.run.exchanges.iter().enumerate();
        let marked: Vec<_> = marked.filter_map(|(at, it)| Some((at + 1, golden::has_mark(it).err()?))).collect();
        let mut at = 0;
        made.run.exchanges.retain(|_| {
            at += 1;
            !marked.iter().any(|(number, _)| *number == at)
        });
        marked
    } else {
        made.redacted = redaction.run(&mut made.run);
        std::mem::take(&mut made.redacted.not_kept)
    };
    let mut all: Vec<Option<TakenEntry>> = std::mem::take(&mut made.taken).into_iter().map(Some).collect();
    for (number, why) in not_kept {
        let Some(entry) = all.get_mut(number - 1).and_then(Option::take) else { continue };
        let (name, why) = (names[number - 1].clone(), LeftOut::Unredactable(why.reason));
        made.left_out.push(LeftOutEntry { entry: entry.entry, name, why });
    }
    made.taken = all.into_iter().flatten().collect();
}

/// One line for each entry of an archive, and for each request of a list that is left out.
fn print_entries(made: &Made, redaction: &mut Redaction, ui: &mut Ui) -> std::io::Result<()> {
    let mut lines = Vec::new();
    let noun = made.noun;
    for (taken, exchange) in made.taken.iter().zip(&made.run.exchanges).filter(|_| noun == "entry") {
        let without = taken.without_body.as_ref();
        let without = without.map_or(String::new(), |why| format!(" (without the body of the answer: {why})"));
        lines.push((taken.entry, format!("took      {noun} {}: {}{without}", taken.entry, exchange.name())));
    }
    for LeftOutEntry { entry, name, why } in &made.left_out {
        // These entries were not redacted, and their paths can have secrets.
        let (name, why) = (redaction.text(name), redaction.text(&why.to_string()));
        let name = if name.is_empty() { name } else { format!("{name}: ") };
        lines.push((*entry, format!("left out  {noun} {entry}: {name}{why}")));
    }
    lines.sort_by_key(|(entry, _)| *entry);
    lines.iter().try_for_each(|(_, line)| ui.result(line))
}

/// How many entries were taken, and how many were left out for which reason.
fn print_counts(made: &Made, ui: &mut Ui) -> std::io::Result<()> {
    let (taken, left_out) = (made.taken.len(), made.left_out.len());
    if made.noun == "request" && left_out == 0 {
        return Ok(());
    }
    let many = if made.noun == "entry" { "entries" } else { "requests" };
    let all = counted(taken + left_out, made.noun, many);
    let of = made.origin.as_ref().map_or(String::new(), |origin| format!(", all of {origin}"));
    ui.result(&format!("took {taken} of {all}{of}; left out {left_out}"))?;
    let mut kinds: BTreeMap<&'static str, usize> = BTreeMap::new();
    made.left_out.iter().for_each(|it| *kinds.entry(it.why.kind()).or_default() += 1);
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    kinds.iter().try_for_each(|(kind, count)| ui.result(&format!("  {count} {kind}")))?;
    if let Some(first) = made.other_origins.first() {
        let others: Vec<&str> = made.other_origins.iter().take(ORIGINS_MAX).map(String::as_str).collect();
        let more = made.other_origins.len().saturating_sub(ORIGINS_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        ui.hint(&format!("the archive also has {}{more}; to take one of them: --origin {first}", others.join(", ")));
    }
    Ok(())
}

/// The places with placeholders.
fn print_places(redacted: &RedactedRun, keep_credentials: bool, ui: &mut Ui) -> std::io::Result<()> {
    let places = &redacted.places;
    if keep_credentials {
        ui.hint("the file has the secrets of the messages: do not commit it, and do not share it");
    }
    if places.is_empty() {
        return Ok(());
    }
    ui.result(&format!("replaced secrets and personal data in {}:", counted(places.len(), "place", "places")))?;
    places.iter().take(PLACES_MAX).try_for_each(|it| ui.result(&format!("  {it}")))?;
    if let Some(more) = places.len().checked_sub(PLACES_MAX).filter(|more| *more > 0) {
        ui.result(&format!("  and {more} more"))?;
    }
    ui.hint("a replay fills placeholders from earlier answers of the run, and from `rei golden replay --secrets FILE`");
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|it| it.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| CommandError::new(Kind::Failed, format!("cannot read {}", file.display())).because(error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let large = format!("{} is larger than {FILE_BYTES_MAX} bytes", file.display());
        return Err(CommandError::new(Kind::Failed, large).hint("split it"));
    }
    Ok(bytes)
}

/// Writes the whole run, or no file.
fn write(path: &Path, run: GoldenRun) -> Result<(), CommandError> {
    if path.symlink_metadata().is_ok() {
        // An existing run, with its bodies, is left alone.
        return Ok(golden::write(path, run)?);
    }
    // Read the file back: if it has a name or an exchange that cannot be read, it must not stay.
    let done = golden::write(path, run).and_then(|()| golden::read(path).map(drop));
    if done.is_err() {
        // Only the first error is reported.
        let _ = std::fs::remove_file(path);
        let _ = golden::prune(path, std::iter::empty());
    }
    Ok(done?)
}

/// The given address, or the address of a listener.
pub(super) fn address(given: Option<&str>, listener: &str, config: &Config) -> Result<Address, CommandError> {
    if let Some(given) = given {
        return given.parse().map_err(|error: crate::http::Error| {
            let hint = error.hint();
            CommandError::of(Kind::Usage, &error, hint)
        });
    }
    match config.runtime.listen.iter().find(|listen| listen.name == listener).map(|listen| &listen.address) {
        Some(ListenAddress::Tcp(address)) => Ok(Address::Tcp(*address)),
        Some(ListenAddress::Unix(path)) => Ok(Address::Unix(path.clone())),
        Some(ListenAddress::Udp(_)) => {
            Err(CommandError::new(Kind::Failed, format!("the listener `{listener}` is UDP and cannot be asked")))
        }
        None => {
            let absent = format!("the runtime has no listener `{listener}`");
            Err(CommandError::new(Kind::Failed, absent).hint("name an address instead"))
        }
    }
}
