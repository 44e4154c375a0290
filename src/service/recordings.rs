//! Recordings of live traffic: one that an operator asked for, and the standing sample of `golden.record`.
//!
//! A sample is in memory. Now and then, and at its end, the redacted run is written to the state directory. So a supervisor that
//! is killed loses what came after the last write, and the next one says so.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::time::Duration;

use super::capture::{Captures, Consumer};
use super::input::{Input, Inputs, Written};
use super::jobs;
use super::tools::Tools;
use crate::config::{Config, Listen, ListenAddress, StandingSample};
use crate::golden::{self, Captured, EXCHANGES_MAX, Recorder, SampleLimits};
use crate::interface::operations::{GoldenRecording, OperationsError};
use crate::interface::queue::Reply;
use crate::lifecycle::Slot;
use crate::runtime::traffic;
use crate::state::paths::Paths;
use crate::tap::{Capture, Orders};
use crate::time::{Timestamp, millis};

/// Exchanges that are copied each second for a recording: thousands in a minute to sample from, at little cost.
const PER_SECOND: u32 = 50;
/// The same for the standing sample, which has hours.
const STANDING_PER_SECOND: u32 = 5;
/// The memory of a recording's sample, in bytes.
const BYTES_MAX: usize = 16 << 20;
/// The largest body of an exchange, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Events of a stream of server-sent events that are recorded.
const EVENTS_MAX: usize = 5;
/// The longest recording: an operator who wants more wants the standing sample.
const TIME_MAX: Duration = Duration::from_hours(24);
/// The pause between two writes. This is what a killed supervisor can lose.
const WRITE_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause between two writes of the standing sample. It doubles until then: each write redacts all exchanges again.
const STANDING_PAUSE_MAX: Duration = Duration::from_mins(10);
/// Exchanges that belong together end some time after the recording ended: they may be older than its time by this much.
const AGE_SLACK: Duration = Duration::from_secs(60);
/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Takes the answer to `EndRecording`.
type EndReply = Reply<GoldenRecording, OperationsError>;

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct RecordOrder {
    /// The name of the run.
    pub name: String,
    /// The listener; without it, the first one that has a tap.
    pub listener: Option<String>,
    /// How long.
    pub time: Duration,
    /// The most exchanges.
    pub limit: u64,
}

/// All recordings of a service.
#[derive(Default)]
pub struct Recordings {
    recording: Option<Running>,
    /// The standing sample, and its configuration.
    standing: Option<Running>,
    standing_config: Option<StandingSample>,
    /// Why there is no standing sample although it is configured.
    refused: Option<GoldenRecording>,
    /// The recording that ended last.
    ended: Option<GoldenRecording>,
    /// A version is under trial: nothing is taken, as it may answer what the service never would.
    is_paused: bool,
    /// When the last pause ended. What began before is not taken.
    since: Timestamp,
}

/// A recording that is under way.
struct Running {
    recorder: Recorder,
    shown: GoldenRecording,
    wrote: Timestamp,
    /// The pause before the next write.
    pause: Duration,
    /// The number of exchanges that were seen at the last write.
    wrote_seen: u64,
    /// A write is under way.
    is_writing: bool,
    /// It has ended, why, and the callers that wait for its file.
    ends: Option<(String, Vec<EndReply>)>,
}

impl Recordings {
    /// What an earlier supervisor has left: a recording that was interrupted.
    pub fn begin(paths: &Paths) -> Self {
        let path = paths.recording();
        let left = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<GoldenRecording>(&text).ok());
        // If it stays, the next supervisor says once more that the recording was interrupted.
        let _ = std::fs::remove_file(&path);
        let ended = left.map(|left| GoldenRecording {
            ended: Some(
                "the supervisor was started again; the exchanges until the last write are in the file".to_owned(),
            ),
            paused: false,
            ..left
        });
        Self { ended, ..Self::default() }
    }

    /// Begins, ends or changes the standing sample, as rei.toml says.
    pub fn configure(&mut self, tools: &Tools, at: Timestamp) {
        let config = &tools.config.golden.record;
        let is_refused = self.standing.is_none() && config.is_some();
        if *config == self.standing_config && !is_refused {
            return;
        }
        (self.standing, self.refused) = (None, None);
        self.standing_config.clone_from(config);
        let Some(config) = config else { return };
        let shown = GoldenRecording {
            name: config.name.clone(),
            standing: true,
            begun_at: at,
            limit: config.limit,
            // That of an earlier supervisor.
            path: Some(tools.paths.recorded(&config.name))
                .filter(|path| path.exists())
                .map(|path| path.display().to_string()),
            ..GoldenRecording::default()
        };
        match tapped(&tools.config, config.listener.as_deref()) {
            Ok(listener) => {
                let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
                let (exchanges, bytes) = (whole(config.limit), whole(config.bytes));
                let limits = SampleLimits { exchanges, bytes, age: config.age };
                self.standing = Some(Running::new(GoldenRecording { listener, ..shown }, limits, tools, at));
            }
            Err(why) => {
                tracing::warn!(why, "no standing sample is recorded");
                self.refused = Some(GoldenRecording { ended: Some(why), ..shown });
            }
        }
    }

    /// Begins a recording.
    ///
    /// # Errors
    /// If the order is impossible, or a recording is under way.
    pub fn record(
        &mut self,
        order: &RecordOrder,
        tools: &Tools,
        at: Timestamp,
    ) -> Result<GoldenRecording, OperationsError> {
        if let Some(running) = &self.recording {
            let reason = format!("the recording {} is under way", running.shown.name);
            return Err(OperationsError::Busy { reason });
        }
        if self.standing.as_ref().is_some_and(|standing| standing.shown.name == order.name) {
            let reason = "it is the name of the standing sample".to_owned();
            return Err(OperationsError::Invalid { field: "name".to_owned(), reason });
        }
        let invalid = |field: &str, reason: String| OperationsError::Invalid { field: field.to_owned(), reason };
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let name = &order.name;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') || !name.bytes().all(named) {
            let why = format!("{name:?} is not a name: use letters, digits, `-`, `_` and `.`");
            return Err(invalid("name", why));
        }
        if order.limit == 0 || order.limit > EXCHANGES_MAX as u64 {
            return Err(invalid("limit", format!("it must be between 1 and {EXCHANGES_MAX}")));
        }
        if order.time.is_zero() || order.time > TIME_MAX {
            return Err(invalid("for_ms", "it must be more than nothing, and at most a day".to_owned()));
        }
        let listener = tapped(&tools.config, order.listener.as_deref()).map_err(|why| invalid("listener", why))?;
        let limits = SampleLimits {
            exchanges: usize::try_from(order.limit).unwrap_or(EXCHANGES_MAX),
            bytes: BYTES_MAX,
            age: order.time + AGE_SLACK,
        };
        let shown = GoldenRecording {
            name: name.clone(),
            listener,
            begun_at: at,
            until: Some(at.plus_ms(millis(order.time))),
            limit: order.limit,
            paused: self.is_paused,
            ..GoldenRecording::default()
        };
        let running = Running::new(shown, limits, tools, at);
        // A file of the same name is of an earlier recording.
        let old = std::fs::remove_file(tools.paths.recorded(name));
        if let Err(error) = old.or_else(absent).and_then(|()| keep(&tools.paths, &running.shown)) {
            let reason = format!("the recording cannot be stored in {}: {error}", tools.paths.state().display());
            return Err(OperationsError::Busy { reason });
        }
        self.ended = None;
        let shown = running.shown(&Captures::default());
        self.recording = Some(running);
        Ok(shown)
    }

    /// Ends a recording before its time. The reply comes when its file is written.
    pub fn end(&mut self, name: &str, reply: EndReply) {
        match (&mut self.recording, &self.ended) {
            (Some(running), _) if running.shown.name == name => {
                let why = || ("an operator ended it".to_owned(), Vec::new());
                running.ends.get_or_insert_with(why).1.push(reply);
            }
            (_, Some(ended)) if ended.name == name => reply.send(Ok(ended.clone())),
            _ => reply.send(Err(OperationsError::NotFound { id: format!("recording {name}") })),
        }
    }

    /// What the tap is to copy for each: of Active, and only while no version is under trial.
    pub fn orders(&self, active: Option<Slot>) -> [(Consumer, Orders); 2] {
        let of = |running: &Option<Running>, per_second| {
            let is_wanted = !self.is_paused && running.as_ref().is_some_and(|running| running.ends.is_none());
            let of = |slot| {
                (is_wanted && active == Some(slot)).then_some(Capture {
                    per_second,
                    methods: None,
                    body_bytes_max: BODY_BYTES_MAX,
                    events_max: EVENTS_MAX,
                })
            };
            Orders { a: of(Slot::A), b: of(Slot::B) }
        };
        let standing = of(&self.standing, STANDING_PER_SECOND);
        [(Consumer::Recording, of(&self.recording, PER_SECOND)), (Consumer::Sample, standing)]
    }

    /// A trial has begun or ended, if `is_paused` changed.
    pub fn pause(&mut self, is_paused: bool, at: Timestamp) {
        if self.is_paused && !is_paused {
            self.since = at;
        }
        self.is_paused = is_paused;
        for running in self.recording.iter_mut().chain(&mut self.standing) {
            running.recorder.pause(is_paused);
        }
    }

    /// The tap saw this number of requests.
    pub fn saw(&mut self, requests: u64) {
        for running in self.recording.iter_mut().chain(&mut self.standing).filter(|_| self.is_paused) {
            running.shown.paused_requests += requests;
        }
    }

    /// The tap has copied an exchange of the instance in a slot.
    pub fn offer(&mut self, captures: &Captures, slot: traffic::Slot, exchange: &Captured) {
        if self.is_paused || exchange.at < self.since {
            return;
        }
        let all = [(Consumer::Recording, &mut self.recording), (Consumer::Sample, &mut self.standing)];
        for (consumer, running) in all {
            if let Some(running) = running.as_mut().filter(|_| captures.is_for(consumer, slot, exchange)) {
                running.offer(exchange);
            }
        }
    }

    /// Writes what is due. Called once a second, and when a recording is to end.
    pub fn look(&mut self, tools: &Tools, inputs: &Inputs, at: Timestamp) {
        for running in self.recording.iter_mut().chain(&mut self.standing) {
            running.look(tools, inputs, at);
        }
    }

    /// The supervisor ends or is replaced: writes what the recording has, so that nothing is lost.
    pub async fn leave(&mut self, tools: &Tools) {
        for running in self.recording.take().into_iter().chain(self.standing.take()) {
            let (path, Running { recorder, mut shown, .. }) = (tools.paths.recorded(&running.shown.name), running);
            let (paths, age) = (tools.paths.clone(), tools.config.golden.record.as_ref().map(|record| record.age));
            let write = move || {
                let (seen, kept, _) = recorder.counts();
                (shown.seen, shown.kept) = (seen, kept);
                if shown.standing {
                    return if kept == 0 {
                        Ok(())
                    } else {
                        write(recorder, &shown.name, &shown.listener, &path, age).map(drop)
                    };
                }
                (shown.written, shown.not_redactable) = write(recorder, &shown.name, &shown.listener, &path, None)?;
                shown.path = Some(path.display().to_string());
                keep(&paths, &shown).map_err(|error| error.to_string())
            };
            // A panic is already logged.
            if let Ok(Err(reason)) = tokio::task::spawn_blocking(write).await {
                tracing::error!(reason, "the recording cannot be written");
            }
        }
    }

    /// A write is done.
    pub fn on_written(&mut self, written: Written, captures: &Captures, tools: &Tools, at: Timestamp) {
        let mut all = self.recording.iter_mut().chain(&mut self.standing);
        let Some(running) = all.find(|running| running.shown.name == written.name) else { return };
        running.is_writing = false;
        match &written.result {
            Ok((count, not_redactable)) => {
                let shown = &mut running.shown;
                (shown.written_at, shown.written, shown.not_redactable) = (Some(at), *count, *not_redactable);
                shown.path = Some(tools.paths.recorded(&shown.name).display().to_string());
            }
            Err(reason) => tracing::error!(reason, name = written.name, "the recording cannot be written"),
        }
        if running.shown.standing {
            return;
        }
        if !written.is_last {
            let shown = running.shown(captures);
            if let Err(error) = keep(&tools.paths, &shown) {
                tracing::warn!(%error, "the next supervisor will not know the recording");
            }
            return;
        }
        let Some(running) = self.recording.take() else { return };
        let mut shown = running.shown(captures);
        let (why, replies) = running.ends.unwrap_or_default();
        shown.ended = Some(match &written.result {
            Ok(_) => why,
            Err(reason) => format!("{why}, and it cannot be written: {reason}"),
        });
        // If it stays, the next supervisor says that the recording was interrupted.
        let _ = std::fs::remove_file(tools.paths.recording());
        tracing::info!(name = shown.name, seen = shown.seen, written = shown.written, "the recording has ended");
        for reply in replies {
            reply.send(Ok(shown.clone()));
        }
        self.ended = Some(shown);
    }

    /// What an operator sees.
    pub fn shown(&self, captures: &Captures) -> Vec<GoldenRecording> {
        let shown = |running: &Running| GoldenRecording { paused: self.is_paused, ..running.shown(captures) };
        let running = self.recording.iter().map(shown).chain(self.ended.clone());
        running.chain(self.standing.iter().map(shown)).chain(self.refused.clone()).collect()
    }
}

impl Running {
    fn new(shown: GoldenRecording, limits: SampleLimits, tools: &Tools, at: Timestamp) -> Self {
        let seed = RandomState::new().build_hasher().finish();
        let recorder = Recorder::new(limits, seed, at).knowing(tools.secrets.clone());
        Self { recorder, shown, wrote: at, pause: WRITE_PAUSE, wrote_seen: 0, is_writing: false, ends: None }
    }

    /// Takes an exchange that is one of its own.
    fn offer(&mut self, exchange: &Captured) {
        let is_own = exchange.listener == self.shown.listener && exchange.at >= self.shown.begun_at;
        if is_own && self.ends.is_none() {
            self.recorder.offer(exchange.clone());
        }
    }

    /// Writes the run if it is due.
    fn look(&mut self, tools: &Tools, inputs: &Inputs, at: Timestamp) {
        if self.ends.is_none() && self.shown.until.is_some_and(|until| at >= until) {
            self.ends = Some(("its time is over".to_owned(), Vec::new()));
        }
        let (seen, ..) = self.recorder.counts();
        let is_last = self.ends.is_some();
        let is_due = at.ms_since(self.wrote) >= millis(self.pause) && seen > self.wrote_seen;
        if self.is_writing || !(is_last || is_due) {
            return;
        }
        (self.is_writing, self.wrote, self.wrote_seen) = (true, at, seen);
        if self.shown.standing {
            self.pause = (self.pause * 2).min(STANDING_PAUSE_MAX);
        }
        let age = tools.config.golden.record.as_ref().map(|record| record.age).filter(|_| self.shown.standing);
        let (recorder, name, listener) = (self.recorder.clone(), self.shown.name.clone(), self.shown.listener.clone());
        let (path, inputs) = (tools.paths.recorded(&name), inputs.clone());
        tokio::spawn(async move {
            let work = {
                let name = name.clone();
                move || write(recorder, &name, &listener, &path, age)
            };
            // A panic is already logged.
            let result = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()));
            // The send fails only when the supervisor stops.
            let _ = inputs.send(Input::Recorded(Written { name, is_last, result })).await;
        });
    }

    fn shown(&self, captures: &Captures) -> GoldenRecording {
        let (seen, kept, _) = self.recorder.counts();
        let counts = captures.counts();
        let not_copied = counts.too_large
            + counts.full
            + counts.unfinished
            + counts.streams
            + counts.not_taken
            + captures.undecoded();
        GoldenRecording { seen, kept, not_copied, ..self.shown.clone() }
    }
}

/// Writes a run. Returns the number of its exchanges, and of those that could not be redacted.
///
/// The standing sample of a new supervisor is small at first. So it takes the place of the one before only if it has as many
/// exchanges, or if that one is older than `age`.
fn write(
    recorder: Recorder,
    name: &str,
    listener: &str,
    path: &Path,
    age: Option<Duration>,
) -> Result<(u64, u64), String> {
    let run = recorder.finish(name, listener);
    let not_redactable = run.header.recording.as_ref().map_or(0, |recording| recording.not_redactable);
    let written = run.exchanges.len() as u64;
    let before = age.and_then(|age| {
        let modified = path.metadata().and_then(|found| found.modified()).ok()?;
        let is_young = modified.elapsed().is_ok_and(|elapsed| elapsed < age);
        // A file that cannot be read is replaced.
        is_young.then(|| golden::read(path).ok()).flatten()
    });
    if let Some(before) = before.map(|before| before.exchanges.len() as u64).filter(|before| *before > written) {
        return Ok((before, not_redactable));
    }
    jobs::write_run(path, run).map(|()| (written, not_redactable))
}

/// The listener whose requests the tap sees.
fn tapped(config: &Config, wanted: Option<&str>) -> Result<String, String> {
    let tap = &config.traffic.tap;
    let off = "`traffic.tap` is off: remove `tap = false` below `[traffic]` in rei.toml";
    let foreign = "the tap sees only listeners of a loopback address by default: set `traffic.tap.listeners = \"all\"` in \
                   rei.toml; the service then sees local addresses in place of the clients'";
    let why_not = |listen: &Listen| match &listen.address {
        _ if tap.takes(listen) => None,
        ListenAddress::Tcp(_) if tap.share == 0.0 => Some(off),
        ListenAddress::Tcp(_) => Some(foreign),
        ListenAddress::Udp(_) | ListenAddress::Unix(_) => Some("only requests to a TCP listener can be recorded"),
    };
    let listeners = &config.runtime.listen;
    let found = match wanted {
        Some(name) => {
            let found = listeners.iter().find(|listen| listen.name == name);
            found.ok_or_else(|| format!("the runtime has no listener {name:?}"))?
        }
        None => {
            let first = listeners.iter().find(|listen| why_not(listen).is_none()).or(listeners.first());
            first.ok_or_else(|| "the runtime has no listener".to_owned())?
        }
    };
    match why_not(found) {
        None => Ok(found.name.clone()),
        Some(why) => Err(format!("{} has no tap: {why}", found.name)),
    }
}

/// Stores what the next supervisor must know of a recording.
fn keep(paths: &Paths, shown: &GoldenRecording) -> std::io::Result<()> {
    let (path, text) = (paths.recording(), serde_json::to_vec(shown)?);
    std::fs::create_dir_all(path.parent().unwrap_or(paths.state()))?;
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, path)
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;

    fn listener(traffic: &str, wanted: Option<&str>) -> Result<String, String> {
        let text = format!(
            "[runtime]\nname = \"a\"\nsource = \"/a\"\ncommand = [\"b\"]\n\
             listen = [\"u=udp:127.0.0.1:3\", \"out=0.0.0.0:1\", \"in=127.0.0.1:2\"]\n{traffic}"
        );
        let place = Place { directory: "/etc/rei".into(), root: true, state_home: None };
        tapped(&Config::from_toml(&text, &place).unwrap(), wanted)
    }

    #[test]
    fn a_listener_without_a_tap_is_refused_with_the_next_step() {
        assert_eq!(listener("", None).unwrap(), "in");
        assert_eq!(listener("[traffic]\ntap = { listeners = \"all\" }", Some("out")).unwrap(), "out");
        assert!(listener("", Some("out")).unwrap_err().contains("traffic.tap.listeners"));
        assert!(listener("[traffic]\ntap = false", Some("in")).unwrap_err().contains("`traffic.tap` is off"));
        assert!(listener("", Some("u")).unwrap_err().contains("TCP"));
        assert!(listener("", Some("x")).unwrap_err().contains("no listener \"x\""));
    }
}
