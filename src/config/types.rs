//! A valid configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::sources::{LogSource, MetricsSource};
use crate::interface::types::IncidentClass;

/// The whole of `rei.toml`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// What is supervised.
    pub runtime: Runtime,
    /// How its health is known.
    pub health: Health,
    /// What is an incident.
    pub incidents: Incidents,
    /// How a candidate becomes Active.
    pub promotion: Promotion,
    /// How often it may be tried.
    pub evolution: Evolution,
    /// What a candidate must pass.
    pub validation: Validation,
    /// How candidates are made.
    pub blueprints: Blueprints,
    /// Programs that make them, by name.
    pub agents: BTreeMap<String, Agent>,
    /// Commands that the blueprint action `run` may name.
    pub commands: BTreeMap<String, Vec<String>>,
    /// What rei sees of users' connections.
    pub traffic: Traffic,
    /// Golden runs from live traffic.
    pub golden: Golden,
    /// What instances may do and use.
    pub isolation: Isolation,
    /// Where rei keeps its files.
    pub state: State,
}

/// `[golden]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Golden {
    /// The standing sample of live traffic, if there is one.
    pub record: Option<StandingSample>,
}

/// `golden.record`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StandingSample {
    /// The name of its run.
    pub name: String,
    /// The listener; without it, the first one that has a tap.
    pub listener: Option<String>,
    /// The most exchanges.
    pub limit: u64,
    /// The most memory, in bytes.
    pub bytes: u64,
    /// The age at which an exchange is removed.
    pub age: Duration,
}

/// `[traffic]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Traffic {
    /// The tap.
    pub tap: Tap,
}

/// `traffic.tap`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tap {
    /// The smallest share of new connections that go through it, 0.0 to 1.0; 0 is off.
    pub share: f64,
    /// Which listeners have one.
    pub listeners: TapListeners,
}

impl Tap {
    /// Whether connections of a listener may go through the tap. For the instance they come from this machine. So by
    /// default only listeners whose connections come from this machine anyway have a tap.
    pub fn takes(&self, listen: &Listen) -> bool {
        match &listen.address {
            ListenAddress::Tcp(address) => {
                self.share > 0.0 && (self.listeners == TapListeners::All || address.ip().to_canonical().is_loopback())
            }
            ListenAddress::Udp(_) | ListenAddress::Unix(_) => false,
        }
    }
}

/// `traffic.tap.listeners`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TapListeners {
    /// Those of a loopback address.
    Loopback,
    /// All TCP listeners.
    All,
}

/// `[runtime]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Runtime {
    /// Letters, digits, `-` and `_`; at most 64.
    pub name: String,
    /// A git repository with a flake.nix: a path or a URL.
    pub source: String,
    /// The branch or tag that is followed.
    pub r#ref: String,
    /// Whether the files of submodules are built with the commit.
    pub submodules: bool,
    /// The directory of the flake inside the repository; empty for its root.
    pub dir: String,
    /// `packages.<system>.NAME`.
    pub package: String,
    /// The program inside the store path and its arguments.
    pub command: Vec<String>,
    /// Variables for the instances, besides those of socket activation.
    pub env: BTreeMap<String, String>,
    /// The listening sockets, in the order in which they are handed out.
    pub listen: Vec<Listen>,
    /// Whether two instances can run at once.
    pub strategy: Strategy,
    /// What stays warm during the observation window.
    pub standby: Standby,
    /// The bound from start to ready.
    pub start_timeout: Duration,
    /// The bound from the stop signal to SIGKILL.
    pub stop_timeout: Duration,
    /// The signal at which an instance finishes and exits.
    #[serde(serialize_with = "signal_name")]
    pub stop_signal: Signal,
    /// Which processes of an instance get it.
    pub stop_mode: StopMode,
    /// The pause between two polls of the followed ref.
    pub poll: Duration,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listen {
    /// Its name in `LISTEN_FDNAMES`.
    pub name: String,
    /// Where.
    pub address: ListenAddress,
}

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenAddress {
    /// `127.0.0.1:8080`, `[::1]:8080`.
    Tcp(SocketAddr),
    /// `udp:127.0.0.1:53`.
    Udp(SocketAddr),
    /// `unix:/run/x.sock`.
    Unix(PathBuf),
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `runtime.strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The candidate starts beside Active.
    Overlap,
    /// Active is stopped before the candidate starts; connections wait in the queue meanwhile.
    Recreate,
}

/// `runtime.stop_mode`, in the words of systemd's `KillMode=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopMode {
    /// Every process of the instance gets the stop signal, and has until `stop_timeout`.
    #[default]
    ControlGroup,
    /// The main process gets it; the others are killed when that has ended.
    Mixed,
}

fn signal_name<S: serde::Serializer>(signal: &Signal, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(signal.as_str())
}

/// `runtime.standby`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standby {
    /// Previous's own process stays, with its open connections.
    Keep,
    /// A second, idle instance of Previous stays; the old one drains at once.
    Fresh,
    /// Previous is started again when it is needed.
    Cold,
}

/// `[health]`. Without a probe, an instance is ready when it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Health {
    /// `GET path` must answer 2xx or 3xx.
    pub http: Option<HttpProbe>,
    /// A connection must be accepted.
    pub tcp: Option<TcpProbe>,
    /// A command must exit 0.
    pub command: Option<CommandProbe>,
    /// `sd_notify`: READY=1, WATCHDOG=1, STATUS=.
    pub notify: Option<NotifyProbe>,
    /// The runtime serves `io.openexec.RuntimeEvolution` on the inherited socket named `rei`.
    pub interface: Option<InterfaceProbe>,
    /// The runtime counts its requests on a page of metrics.
    pub metrics: Option<MetricsSource>,
    /// The runtime prints a line for each request.
    pub log: Option<LogSource>,
}

/// `health.http`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpProbe {
    /// The listener that is asked.
    pub listen: String,
    /// The path of the request.
    pub path: String,
    /// The pause between probes.
    pub interval: Duration,
    /// The bound of one probe.
    pub timeout: Duration,
}

/// `health.tcp`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TcpProbe {
    /// The listener that is asked.
    pub listen: String,
    /// The pause between probes.
    pub interval: Duration,
    /// The bound of one probe.
    pub timeout: Duration,
}

/// `health.command`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommandProbe {
    /// Program and arguments; `REI_SLOT_PID` and `REI_STORE_PATH` say which instance.
    pub command: Vec<String>,
    /// The pause between probes.
    pub interval: Duration,
    /// The bound of one probe.
    pub timeout: Duration,
}

/// `health.notify`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NotifyProbe {
    /// A `WATCHDOG=1` must come at least this often; `None` for readiness alone.
    pub watchdog: Option<Duration>,
}

/// `health.interface`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InterfaceProbe {
    /// A health report must come at least three times in three of these.
    pub interval: Duration,
}

/// `[incidents]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Incidents {
    /// Restarts within a time that make a crash loop; a single crash is counted by its fingerprint.
    pub crash: CrashBound,
    /// 99th percentile over a bound for a time.
    pub latency: Option<LatencyBound>,
    /// Share of failures over a bound for a time.
    pub errors: Option<ErrorBound>,
    /// Growth of resident memory.
    pub memory: Option<GrowthBound>,
    /// Growth of open descriptors.
    pub fds: Option<GrowthBound>,
    /// Equal crashes after which an incident starts an evolution.
    pub repeats: u64,
}

/// `incidents.crash`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CrashBound {
    /// This many restarts …
    pub restarts: u64,
    /// … within this time.
    pub within: Duration,
}

/// `incidents.latency`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyBound {
    /// The bound of the 99th percentile.
    pub p99: Duration,
    /// How long it must be exceeded.
    pub r#for: Duration,
}

/// `incidents.errors`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorBound {
    /// Failures per request or probe, 0 to 1.
    pub ratio: f64,
    /// How long it must be exceeded.
    pub r#for: Duration,
}

/// `incidents.memory`, `incidents.fds`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GrowthBound {
    /// Bytes, or descriptors, per hour.
    pub per_hour: u64,
    /// How long the slope must hold.
    pub r#for: Duration,
}

/// `[promotion]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Promotion {
    /// Who decides.
    pub mode: PromotionMode,
    /// What the candidate is asked before it gets a share; `None` for nothing.
    pub shadow: Option<Shadow>,
    /// Shares of new connections before all of them.
    pub canary: Vec<CanaryStep>,
    /// The observation window after all traffic was switched.
    pub observe: Duration,
    /// What to do if there are not enough data.
    pub on_inconclusive: OnInconclusive,
    /// How long a canary step or the window may wait for enough data. After that, `on_inconclusive` decides.
    pub hold: Duration,
    /// Profile generations that are kept, besides those in use.
    pub keep_generations: u64,
}

/// `promotion.shadow`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shadow {
    /// Of the requests that may be asked once more, above 0 and at most 1.
    pub share: f64,
    /// How long.
    pub r#for: Duration,
    /// Routes that may be asked once more although their method is not GET or HEAD: `POST /search`.
    pub routes: Vec<String>,
    /// Routes that must not be asked once more: `GET /logout`.
    pub except: Vec<String>,
}

/// `promotion.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromotionMode {
    /// A passing report is enough.
    Automatic,
    /// An operator decides.
    Approve,
}

/// `promotion.on_inconclusive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// An operator decides.
    Ask,
    /// As if the candidate were healthy.
    Promote,
    /// As if it were degraded.
    Revert,
}

/// One entry of `promotion.canary`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CanaryStep {
    /// Of the new connections, above 0 and below 1.
    pub share: f64,
    /// How long.
    pub r#for: Duration,
}

/// `[evolution]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evolution {
    /// Evolutions for one incident fingerprint.
    pub per_incident: u64,
    /// Evolutions in any one hour.
    pub per_hour: u64,
    /// Runs of agents in any one hour after which no repair begins by itself.
    pub agent_runs: u64,
    /// The time of agents in any one hour, likewise.
    pub agent_time: Duration,
    /// What is tried again by itself, and when.
    pub retry: Retry,
}

/// `evolution.retry`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retry {
    /// The first pause before what failed is tried again; doubles each time.
    pub pause: Duration,
    /// The longest such pause.
    pub pause_max: Duration,
    /// Tries in a row that come to no verdict before an operator is asked.
    pub tries: u32,
}

/// `[validation]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Validation {
    /// Directories of golden runs, relative to rei.toml.
    pub golden: Vec<PathBuf>,
    /// Globs of files that must be as in Active.
    pub protected: Vec<String>,
    /// The bound of a whole validation.
    pub timeout: Duration,
    /// Whether `import` from a derivation is allowed in evaluation.
    pub allow_import_from_derivation: bool,
    /// What an instance in a sandbox finds in its state directory; `None` is an empty directory.
    pub state: Option<Fixture>,
}

/// `validation.state.fixture`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fixture {
    /// The files of this directory.
    Directory(PathBuf),
    /// What this program of the version makes there: its path inside the store path, and its arguments.
    Command(Vec<String>),
}

/// `[blueprints]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blueprints {
    /// The operator's blueprints; rei's own are found without it.
    pub directory: Option<PathBuf>,
    /// The blueprint for every incident class that has none of its own; `None` asks an operator.
    pub incident: Option<String>,
    /// The blueprint of one class.
    pub by_class: BTreeMap<IncidentClass, String>,
    /// The blueprint for a new commit of the followed ref.
    pub upgrade: String,
    /// The bound of a whole blueprint run.
    pub timeout: Duration,
}

/// `[agents.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agent {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables, in place of rei's own.
    pub env: BTreeMap<String, String>,
    /// The bound of one stage.
    pub timeout: Duration,
    /// Memory of its processes together, in bytes.
    pub memory_bytes: u64,
    /// What is kept of its output, in bytes.
    pub output_bytes: u64,
    /// Paths it may read besides its workspace and the system's programs.
    pub read: Vec<PathBuf>,
    /// Whether it may use the network: an agent that calls a model needs it.
    pub network: bool,
}

/// `[isolation]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Isolation {
    /// Paths an instance may read besides the store.
    pub read: Vec<PathBuf>,
    /// Paths an instance may read and execute besides the store.
    pub execute: Vec<PathBuf>,
    /// Paths an instance may write besides its state and temporary directory.
    pub write: Vec<PathBuf>,
    /// The user of the instances if rei is root; `None` gives them an unprivileged one of their own.
    pub user: Option<String>,
    /// Bound of memory, in bytes, if cgroups can enforce it.
    pub memory_bytes: Option<u64>,
    /// Bound of processes.
    pub processes: u64,
    /// Bound of open descriptors of each process.
    pub fds: u64,
    /// TCP ports it may connect to; `None` does not restrict.
    pub connect: Option<Vec<u16>>,
    /// Whether Landlock and seccomp are used.
    pub enabled: bool,
}

/// `[state]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct State {
    /// Journal, evidence, mirror, sockets and the profile.
    pub directory: PathBuf,
    /// Where `control.sock` and `rei.sock` are; `None` for `directory`.
    pub sockets: Option<PathBuf>,
    /// The group whose members may use `control.sock`, besides rei's own user and root.
    pub operators: Option<String>,
    /// What is kept of an instance's log, and of the logs of all earlier ones in its slot, in bytes each.
    pub log_bytes: u64,
    /// How many ended evolutions, and how many incidents, are kept with their evidence.
    pub runs: u64,
    /// What their evidence may take in all, in bytes.
    pub evidence_bytes: u64,
}

impl State {
    /// The directory of the journal.
    pub fn journal(&self) -> PathBuf {
        self.directory.join("journal")
    }
}
