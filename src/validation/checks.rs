//! A check as data: the supervisor asks for it, the Nix expression passes it on, and the builder runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::step::StepId;
use crate::config::{Config, Fixture, ListenAddress, StopMode};
use crate::golden::REQUEST_TIMEOUT;
use crate::time::millis;

/// The version of [`CheckSpec`], `major.minor` after the name: supervisor and builder are one program, but a derivation
/// may outlive it.
pub const SCHEMA: &str = "rei-check/1.0";

/// How often a reproduction is tried on each side: this tells a fault that comes now and then from one that always comes.
const TRIES: u64 = 3;

/// The listener on which a runtime serves the Interface.
pub const INTERFACE_LISTENER: &str = "rei";

/// What is checked, each kind with its own data. Its word is also the name of its expression in `checks/default.nix`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// That a sandboxed build works here and now, and is sandboxed.
    Control,
    /// That the candidate becomes ready in time, stays in the foreground, and stops on its stop signal in time.
    Boot,
    /// That the candidate answers as recorded.
    Golden(GoldenSpec),
    /// That what failed on Active passes on the candidate; without a candidate, whether it fails on Active.
    Reproduction(ReproductionSpec),
    /// Which exchanges of a recording Active repeats in a fresh instance.
    Qualify(GoldenSpec),
}

/// How a golden run is replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldenSpec {
    /// The bound of one request, in milliseconds.
    pub request_timeout_ms: u64,
}

/// How the exchanges of an incident are replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReproductionSpec {
    /// The bound of one request, in milliseconds.
    pub request_timeout_ms: u64,
    /// How often it is tried on each side.
    #[serde(default = "tries")]
    pub tries: u64,
}

impl Default for GoldenSpec {
    fn default() -> Self {
        Self { request_timeout_ms: millis(REQUEST_TIMEOUT) }
    }
}

impl Default for ReproductionSpec {
    fn default() -> Self {
        Self { request_timeout_ms: millis(REQUEST_TIMEOUT), tries: TRIES }
    }
}

fn tries() -> u64 {
    TRIES
}

/// One sandboxed check without its store paths, which Nix passes beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSpec {
    /// [`SCHEMA`].
    pub schema: String,
    /// Its name, which the verdict repeats: `boot`, `golden/NAME`, …
    pub check: String,
    /// What is done.
    #[serde(flatten)]
    pub kind: Kind,
    /// How the judged version is started and known to be ready.
    pub instance: InstanceSpec,
    /// The bound of the whole check, in milliseconds: the check ends by itself before Nix would kill it.
    pub timeout_ms: u64,
}

/// What a check reads. Nix passes each as an attribute of this name to the builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputName {
    /// The version that is judged.
    Candidate,
    /// The version that it is compared with.
    Active,
    /// The golden run that is replayed.
    Golden,
    /// The large bodies of that run: a directory.
    Bodies,
    /// The files that an instance finds in its state directory.
    State,
}

impl InputName {
    /// All inputs that a check can have.
    pub const ALL: [Self; 5] = [Self::Candidate, Self::Active, Self::Golden, Self::Bodies, Self::State];

    /// The name of the attribute.
    pub fn word(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Active => "active",
            Self::Golden => "golden",
            Self::Bodies => "bodies",
            Self::State => "state",
        }
    }

    /// Whether it is a version, whose closure its process may read; else it is a file that no version may read.
    pub fn is_version(self) -> bool {
        matches!(self, Self::Candidate | Self::Active)
    }
}

/// How an instance is started in the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// The path of the program inside the store path, and its arguments.
    pub command: Vec<String>,
    /// Its variables, besides those of socket activation.
    pub env: BTreeMap<String, String>,
    /// The program inside the store path, and its arguments, that makes the first content of the state directory; empty if
    /// there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepare: Vec<String>,
    /// Paths besides its closure that it may read and execute, as far as the sandbox has them: `isolation.execute`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub execute: Vec<PathBuf>,
    /// Its sockets, in the order in which they are handed out.
    pub listen: Vec<ListenSpec>,
    /// The probes that must all succeed before it is ready; if there are none, it is ready when it runs.
    pub probes: Vec<ReadinessProbe>,
    /// The bound from start to ready, in milliseconds.
    pub start_timeout_ms: u64,
    /// The bound from the stop signal to its end, in milliseconds.
    pub stop_timeout_ms: u64,
    /// The name of the stop signal.
    #[serde(default = "sigterm")]
    pub stop_signal: String,
    /// Which processes get it.
    #[serde(default)]
    pub stop_mode: StopMode,
}

fn sigterm() -> String {
    Signal::SIGTERM.as_str().to_owned()
}

/// A socket, by kind: inside the sandbox it is always on loopback, on a port that the kernel chooses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenSpec {
    /// Its name in `LISTEN_FDNAMES`.
    pub name: String,
    /// Its kind.
    pub kind: ListenKind,
}

/// The kind of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenKind {
    /// TCP on 127.0.0.1.
    Tcp4,
    /// TCP on ::1.
    Tcp6,
    /// UDP on 127.0.0.1.
    Udp4,
    /// UDP on ::1.
    Udp6,
    /// A Unix stream socket.
    Unix,
}

/// How the judge knows that an instance is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReadinessProbe {
    /// `GET path` answers 2xx or 3xx.
    Http {
        /// The listener that is asked.
        listen: String,
        /// The path.
        path: String,
        /// The bound of one probe, in milliseconds.
        timeout_ms: u64,
    },
    /// A connection is accepted.
    Tcp {
        /// The listener that is asked.
        listen: String,
        /// The bound of one probe, in milliseconds.
        timeout_ms: u64,
    },
    /// `READY=1` comes by `sd_notify`.
    Notify,
    /// The runtime's own health report does not say that it is failed or not ready.
    Interface {
        /// The bound of one probe, in milliseconds.
        timeout_ms: u64,
    },
}

impl InstanceSpec {
    /// As the operator configured it. A `health.command` is a program of this machine, which a sandbox does not have:
    /// only the canary runs it.
    pub fn of(config: &Config) -> Self {
        let mut listen: Vec<ListenSpec> = config
            .runtime
            .listen
            .iter()
            .map(|listen| ListenSpec { name: listen.name.clone(), kind: ListenKind::of(&listen.address) })
            .collect();
        let health = &config.health;
        let mut probes = Vec::new();
        if let Some(probe) = &health.http {
            let (listen, path) = (probe.listen.clone(), probe.path.clone());
            probes.push(ReadinessProbe::Http { listen, path, timeout_ms: millis(probe.timeout) });
        }
        if let Some(probe) = &health.tcp {
            probes.push(ReadinessProbe::Tcp { listen: probe.listen.clone(), timeout_ms: millis(probe.timeout) });
        }
        if health.notify.is_some() {
            probes.push(ReadinessProbe::Notify);
        }
        if let Some(probe) = &health.interface {
            probes.push(ReadinessProbe::Interface { timeout_ms: millis(probe.interval) });
            if !listen.iter().any(|listen| listen.name == INTERFACE_LISTENER) {
                listen.push(ListenSpec { name: INTERFACE_LISTENER.into(), kind: ListenKind::Unix });
            }
        }
        Self {
            command: config.runtime.command.clone(),
            env: config.runtime.env.clone(),
            prepare: match &config.validation.state {
                Some(Fixture::Command(command)) => command.clone(),
                Some(Fixture::Directory(_)) | None => Vec::new(),
            },
            execute: config.isolation.execute.clone(),
            listen,
            probes,
            start_timeout_ms: millis(config.runtime.start_timeout),
            stop_timeout_ms: millis(config.runtime.stop_timeout),
            stop_signal: config.runtime.stop_signal.as_str().to_owned(),
            stop_mode: config.runtime.stop_mode,
        }
    }
}

impl ListenKind {
    fn of(address: &ListenAddress) -> Self {
        match address {
            ListenAddress::Tcp(to) if to.is_ipv6() => Self::Tcp6,
            ListenAddress::Tcp(_) => Self::Tcp4,
            ListenAddress::Udp(to) if to.is_ipv6() => Self::Udp6,
            ListenAddress::Udp(_) => Self::Udp4,
            ListenAddress::Unix(_) => Self::Unix,
        }
    }

    /// Whether requests can be sent to it.
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6 | Self::Unix)
    }
}

impl CheckSpec {
    /// A check of this kind under this configuration.
    pub fn new(id: &StepId, kind: Kind, config: &Config) -> Self {
        Self {
            schema: SCHEMA.into(),
            check: id.to_string(),
            kind,
            instance: InstanceSpec::of(config),
            timeout_ms: millis(config.validation.timeout) / 10 * 9,
        }
    }
}

/// Whether a command's program is a path that stays inside the store path.
pub(crate) fn stays_inside(program: &str) -> bool {
    let path = Path::new(program);
    !program.is_empty() && path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}
