//! Recordings of live traffic: one that an operator asked for, and the standing sample of `golden.record`.
//!
//! A sample is in memory. Now and then, and at its end, the redacted run is written to the state directory. So a supervisor that
//! is killed loses what came after the last write, and the next one says so.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use super::capture::{Captures, Consumer};
use super::input::{Input, Inputs, Written};
use super::jobs;
use super::tools::Tools;
use crate::config::{Config, Listen, ListenAddress};
use crate::golden::{Captured, EXCHANGES_MAX, Recorder, SampleLimits};
use crate::interface::operations::{GoldenRecording, OperationsError};
use crate::interface::queue::Reply;
use crate::lifecycle::Slot;
use crate::runtime::traffic;
use crate::state::paths::Paths;
use crate::tap::{Capture, Orders};
use crate::time::{Timestamp, millis};

/// Exchanges that are copied each second for a recording: thousands in a minute to sample from, at little cost.
const PER_SECOND: u32 = 50;
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
        let running = Running {
            recorder: Recorder::new(limits, RandomState::new().build_hasher().finish(), at)
                .knowing(tools.secrets.clone()),
            shown,
            wrote: at,
            wrote_seen: 0,
            is_writing: false,
            ends: None,
        };
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

    /// What the tap is to copy: of Active, and only while no version is under trial.
    pub fn orders(&self, active: Option<Slot>) -> Orders {
        let is_wanted = !self.is_paused && self.recording.as_ref().is_some_and(|running| running.ends.is_none());
        let capture = || Capture {
            per_second: PER_SECOND,
            methods: None,
            body_bytes_max: BODY_BYTES_MAX,
            events_max: EVENTS_MAX,
        };
        let of = |slot| (is_wanted && active == Some(slot)).then(capture);
        Orders { a: of(Slot::A), b: of(Slot::B) }
    }

    /// A trial has begun or ended, if `is_paused` changed.
    pub fn pause(&mut self, is_paused: bool, at: Timestamp) {
        if self.is_paused && !is_paused {
            self.since = at;
        }
        self.is_paused = is_paused;
        if let Some(running) = &mut self.recording {
            running.recorder.pause(is_paused);
        }
    }

    /// The tap saw this number of requests.
    pub fn saw(&mut self, requests: u64) {
        if let Some(running) = self.recording.as_mut().filter(|_| self.is_paused) {
            running.shown.paused_requests += requests;
        }
    }

    /// The tap has copied an exchange of the instance in a slot.
    pub fn offer(&mut self, captures: &Captures, slot: traffic::Slot, exchange: &Captured) {
        let Some(running) = &mut self.recording else { return };
        let is_meant = captures.is_for(Consumer::Recording, slot, exchange)
            && exchange.listener == running.shown.listener
            && exchange.at >= running.shown.begun_at
            && exchange.at >= self.since
            && !self.is_paused;
        if is_meant && running.ends.is_none() {
            running.recorder.offer(exchange.clone());
        }
    }

    /// Writes what is due. Called once a second, and when a recording is to end.
    pub fn look(&mut self, tools: &Tools, inputs: &Inputs, at: Timestamp) {
        let Some(running) = &mut self.recording else { return };
        if running.ends.is_none() && running.shown.until.is_some_and(|until| at >= until) {
            running.ends = Some(("its time is over".to_owned(), Vec::new()));
        }
        let (seen, ..) = running.recorder.counts();
        let is_last = running.ends.is_some();
        let is_due = at.ms_since(running.wrote) >= millis(WRITE_PAUSE) && seen > running.wrote_seen;
        if running.is_writing || !(is_last || is_due) {
            return;
        }
        (running.is_writing, running.wrote, running.wrote_seen) = (true, at, seen);
        let (recorder, name, listener) =
            (running.recorder.clone(), running.shown.name.clone(), running.shown.listener.clone());
        let (path, inputs) = (tools.paths.recorded(&name), inputs.clone());
        tokio::spawn(async move {
            let named = name.clone();
            let work = move || {
                let run = recorder.finish(&named, &listener);
                let not_redactable = run.header.recording.as_ref().map_or(0, |recording| recording.not_redactable);
                let written = run.exchanges.len() as u64;
                jobs::write_run(&path, run).map(|()| (written, not_redactable))
            };
            // A panic is already logged.
            let result = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()));
            // The send fails only when the supervisor stops.
            let _ = inputs.send(Input::Recorded(Written { name, is_last, result })).await;
        });
    }

    /// The supervisor ends or is replaced: writes what the recording has, so that nothing is lost.
    pub async fn leave(&mut self, tools: &Tools) {
        let Some(running) = self.recording.take() else { return };
        let (path, Running { recorder, mut shown, .. }) = (tools.paths.recorded(&running.shown.name), running);
        let paths = tools.paths.clone();
        let write = move || {
            let (seen, kept, _) = recorder.counts();
            (shown.seen, shown.kept) = (seen, kept);
            let run = recorder.finish(&shown.name, &shown.listener);
            shown.written = run.exchanges.len() as u64;
            shown.path = Some(path.display().to_string());
            jobs::write_run(&path, run).and_then(|()| keep(&paths, &shown).map_err(|error| error.to_string()))
        };
        // A panic is already logged.
        if let Ok(Err(reason)) = tokio::task::spawn_blocking(write).await {
            tracing::error!(reason, "the recording cannot be written");
        }
    }

    /// A write is done.
    pub fn on_written(&mut self, written: Written, captures: &Captures, tools: &Tools, at: Timestamp) {
        let Some(running) = self.recording.as_mut().filter(|running| running.shown.name == written.name) else {
            return;
        };
        running.is_writing = false;
        match &written.result {
            Ok((count, not_redactable)) => {
                let shown = &mut running.shown;
                (shown.written_at, shown.written, shown.not_redactable) = (Some(at), *count, *not_redactable);
                shown.path = Some(tools.paths.recorded(&shown.name).display().to_string());
            }
            Err(reason) => tracing::error!(reason, name = written.name, "the recording cannot be written"),
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
        let running = self
            .recording
            .as_ref()
            .map(|running| GoldenRecording { paused: self.is_paused, ..running.shown(captures) });
        running.into_iter().chain(self.ended.clone()).collect()
    }
}

impl Running {
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
