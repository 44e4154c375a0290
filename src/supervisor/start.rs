//! From rei.toml to a running loop, and back: start, recovery, reload, end.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, broadcast, mpsc};

use super::attend::AbortOnDrop;
use super::clock::Clock;
use super::input::{INPUTS_MAX, Input, Inputs, News};
use super::keep;
use super::logger;
use super::memory;
use super::mend::{self, Standing};
use super::needed::Needed;
use super::operate::JOURNAL_READERS_MAX;
use super::paths::Paths;
use super::policy::policy;
use super::reconcile::Unfollowed;
use super::record::{Entry, replay};
use super::reexec;
use super::regain::listen;
use super::serve::{Reach, serve};
use super::shell::{End, Shell};
use super::slots::{Occupants, lock};
use super::sources::Sources;
use super::tools::{Measured, Tools, Workshop};
use super::undo::Undo;
use super::watch::Watch;
use super::witness;
use super::work::reason;
use crate::blueprint::library::{self, Library};
use crate::config::{self, Config, LoadError};
use crate::interface::operations::EVENTS_BEHIND_MAX;
use crate::interface::socket::SocketError;
use crate::journal::{self, Journal, Meta, Opened};
use crate::lifecycle::{self, Event, Lifecycle, Slot};
use crate::nix::{self as nix_driver, Profile, Roots};
use crate::process;
use crate::redact::Secrets;
use crate::report::chain;
use crate::runtime::keeper::StoreError;
use crate::runtime::logs::LogError;
use crate::runtime::notify::notify_systemd;
use crate::runtime::table::{InstanceTable, LOCK_WAIT, TableError};
use crate::runtime::traffic::OpenError;
use crate::runtime::tree::Trees;
use crate::source::{Follower, Mirror, ObjectId};
use crate::time::Timestamp;

/// The pause after the followed ref could not be looked at.
const FOLLOW_RETRY: Duration = Duration::from_secs(5);
/// The pause between two tries of the journal's lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// The bound of the end of everything, beyond the instances' own.
const END_GRACE: Duration = Duration::from_secs(10);

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// rei.toml is not right.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// Blueprints that rei.toml names cannot be used.
    #[error("{}", lines(.0))]
    Blueprints(Vec<library::Error>),
    /// A directory or file of the state directory failed.
    #[error("cannot {act} {}", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The journal cannot be used.
    #[error("cannot use the journal")]
    Journal(#[from] journal::Error),
    /// The instance table cannot be used.
    #[error("cannot use the table of instances")]
    Table(#[from] TableError),
    /// Nix cannot be used.
    #[error("cannot use Nix")]
    Nix(#[from] nix_driver::Error),
    /// No sandbox can be had, so nothing could be judged.
    #[error("sandboxed builds do not work here, so no candidate could be judged")]
    Sandbox(#[source] nix_driver::Refusal),
    /// The runtime's repository cannot be used.
    #[error("cannot use the source")]
    Source(#[from] crate::source::Error),
    /// The listeners cannot be opened.
    #[error("cannot listen")]
    Listen(#[from] OpenError),
    /// An instance of an earlier supervisor has the listeners, and they may not be taken from it.
    #[error(
        "cannot listen: the instance with process {pid}, of an earlier supervisor, has the sockets and may not be asked for them ({why})"
    )]
    Held {
        /// Its process.
        pid: u32,
        /// What the system said.
        why: String,
        /// What could not be opened.
        #[source]
        source: OpenError,
    },
    /// The keeper cannot be had.
    #[error("cannot have a keeper of the listening sockets")]
    Keeper(#[from] StoreError),
    /// Nobody can read what instances print.
    #[error("cannot have a logger of what instances print")]
    Logger(#[from] LogError),
    /// A socket of the supervisor cannot be opened.
    #[error("cannot serve {}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: SocketError,
    },
    /// The operators' group has no number.
    #[error("cannot find the operators' group {name:?}")]
    Operators {
        /// `state.operators`.
        name: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The first version does not serve, so there is nothing to supervise.
    #[error("there is nothing to supervise: {reason}")]
    GaveUp {
        /// Why.
        reason: String,
        /// What to do.
        hint: String,
    },
}

fn lines(errors: &[library::Error]) -> String {
    errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("\n")
}

impl StartError {
    /// The operator's next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Blueprints(errors) => errors.first().and_then(library::Error::hint),
            Self::File { .. } => Some("set [state] directory in rei.toml to one that you can write".to_owned()),
            Self::Journal(error) => error.hint(),
            Self::Table(error) => error.hint(),
            Self::Nix(error) => error.hint(),
            Self::Sandbox(refusal) => refusal.hint(),
            Self::Source(error) => error.hint(),
            Self::Listen(error) => error.hint(),
            Self::Held { pid, .. } => Some(format!(
                "run rei as root, or as the user of process {pid} with `sysctl kernel.yama.ptrace_scope=0`; or end it: kill {pid}"
            )),
            Self::Keeper(error) => error.hint(),
            Self::Logger(_) => None,
            Self::Socket { source, .. } => source.hint(),
            Self::Operators { name, .. } => {
                Some(format!("make it (groupadd --system {name}), or leave state.operators out"))
            }
            Self::GaveUp { hint, .. } => Some(hint.clone()),
        }
    }
}

/// What the operating system asks of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT: the runtime ends, then the supervisor.
    Terminate,
    /// SIGUSR2: the supervisor alone ends. The next one takes the runtime over.
    Leave,
    /// SIGHUP.
    Reload,
    /// SIGCHLD.
    Child,
}

/// The signals that the loop listens to, and the service manager that it talks to.
pub struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    usr2: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
    child: tokio::signal::unix::Signal,
    manager: bool,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr2: signal(SignalKind::user_defined2())?,
            hup: signal(SignalKind::hangup())?,
            child: signal(SignalKind::child())?,
            manager: std::env::var_os("NOTIFY_SOCKET").is_some(),
        })
    }

    /// The next one. May be cancelled.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.term.recv() => Signal::Terminate,
            _ = self.int.recv() => Signal::Terminate,
            _ = self.usr2.recv() => Signal::Leave,
            _ = self.hup.recv() => Signal::Reload,
            _ = self.child.recv() => Signal::Child,
        }
    }

    fn notify(&self, message: &str) {
        if self.manager
            && let Err(error) = notify_systemd(message)
        {
            tracing::warn!(%error, "the service manager does not take notifications");
        }
    }

    /// Tells the service manager that the loop goes round.
    pub fn feed_watchdog(&self) {
        self.notify("WATCHDOG=1");
    }

    /// Tells the service manager what is going on.
    pub fn status(&self, line: &str) {
        self.notify(&format!("STATUS={line}"));
    }
}

/// Supervises the runtime of a `rei.toml` until it is asked to end. `ready` is called once requests can be served.
///
/// # Errors
/// When there is nothing to begin with; what fails later is told and survived.
pub async fn supervise(config_path: &Path, exe: &Path, ready: impl FnOnce()) -> Result<End, StartError> {
    // Before anything secret is read: nothing of the same user may look into this process.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| StartError::File {
        act: "hide the memory of",
        path: exe.to_owned(),
        source: errno.into(),
    })?;
    memory::share_one_heap();
    let config = load(config_path)?;
    let paths = Paths::of(&config);
    let standing = Standing::now();
    for detail in mend::files(&paths) {
        tracing::warn!(detail, "a process of rei's user had changed what rei needs");
    }
    paths.make().map_err(|source| StartError::File { act: "make", path: paths.state().to_owned(), source })?;
    let (inputs, received) = mpsc::channel(INPUTS_MAX);
    let (mut shell, _sockets) = begin(config, config_path, paths, exe, standing, inputs.clone(), received).await?;
    shell.signals.notify("READY=1");
    ready();
    let _follower = follow(shell.tools.clone(), followed(&shell.core), inputs);
    let _warm_up = warm_up(shell.tools.clone());
    shell.sweep();
    let end = loop {
        match shell.run().await {
            // It comes back only where that failed.
            End::Reexec => shell.reexec().await,
            End::Left => {
                shell.leave().await;
                return Ok(End::Left);
            }
            end => break end,
        }
    };
    shell.end_all().await;
    if let End::GaveUp { reason, hint } = end {
        return Err(StartError::GaveUp { reason, hint });
    }
    Ok(end)
}

fn load(path: &Path) -> Result<Config, StartError> {
    let config = Config::load(path)?;
    let unusable = Library::new(config.blueprints.directory.clone()).unusable(&config);
    if unusable.is_empty() { Ok(config) } else { Err(StartError::Blueprints(unusable)) }
}

async fn begin(
    config: Config,
    config_path: &Path,
    paths: Paths,
    exe: &Path,
    standing: Standing,
    inputs: Inputs,
    received: mpsc::Receiver<Input>,
) -> Result<(Shell, [AbortOnDrop<()>; 2]), StartError> {
    // Locks first: a second supervisor must touch nothing.
    let meta = Meta { runtime: config.runtime.name.clone(), created: Clock::starting(Timestamp::default()).now() };
    let (mut journal, opened) = open_journal(&paths, &meta)?;
    for warning in &opened.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(cut) = &opened.cut {
        tracing::warn!("{cut}");
    }
    let (since, state) = opened.snapshot.unwrap_or_default();
    let last = opened.records.last().map_or(state.phase_since(), |record| record.at);
    let replayed = replay(state, opened.records.iter().map(|record| (record.seq, record.at, &record.body)));
    let understood = opened.records.last().map_or(since, |record| record.seq);
    let unfollowed = match (&replayed.divergence, &opened.later) {
        (Some(divergence), _) => Some(Unfollowed { first: divergence.seq, why: divergence.to_string() }),
        (None, Some(later)) => Some(Unfollowed { first: understood + 1, why: chain(later) }),
        (None, None) => None,
    };
    let core = replayed.state;
    let table = InstanceTable::open(&paths.table())?;
    let clock = Clock::starting(last);
    let trees = Trees::detect().map_err(|source| StartError::File {
        act: "become the reaper of orphans of",
        path: paths.state().to_owned(),
        source,
    })?;
    let (store, mut kept) = keep::open(&paths, exe)?;
    let mut undo = Undo::new(&store, &kept, &table);
    let reality = witness::look(&config, &paths, &core, unfollowed, &mut journal, &table, &kept)?;
    let routing = match &reality {
        Some(reality) => reality.serves.as_ref().map(|(slot, _)| lifecycle::Routing::all(*slot)),
        None => core.routing(),
    };
    let (traffic, regained) = listen(&config, &paths, routing, &table, &mut kept, &store)?;
    let nothing_serves = core.active().is_none() && reality.is_none() && !core.is_held();
    let traffic = Arc::new(Mutex::new(traffic));
    undo.listens(&traffic);
    let tools = Arc::new(tools(config, config_path, paths, nothing_serves).await?);
    if nothing_serves {
        // With nothing to serve, a source that cannot be read is no bad day but a mistake.
        tools.mirror.look().await?;
    }
    let alarm = lock(&traffic).alarm();
    let logger = logger::open(&tools.paths, exe, &mut kept, &store)?;
    let io = |act| move |source| StartError::File { act, path: "the listeners".into(), source };
    let mut shell = Shell {
        core,
        journal,
        clock,
        pending: VecDeque::new(),
        alarm_at: None,
        stalled: None,
        inputs,
        received,
        listeners: broadcast::channel(EVENTS_BEHIND_MAX).0,
        traffic,
        lifeline: keep::Lifeline::of(&store),
        reading: logger::Reading::by(&logger),
        store,
        exe: exe.to_owned(),
        alarm: alarm.map_err(io("watch"))?,
        occupants: Occupants::new(trees, table, logger),
        watch: Watch::new(&tools.config),
        draining: None,
        working: Vec::new(),
        signals: Signals::listen().map_err(io("take signals for"))?,
        reap_at: None,
        end: None,
        since_snapshot: 0,
        started_at: clock.now(),
        not_yet: [None, None],
        extended: [None, None],
        last_exit: None,
        journal_readers: Arc::new(Semaphore::new(JOURNAL_READERS_MAX)),
        asides: 0,
        looks_since_record: 0,
        is_journal_short: false,
        reach: Reach::default(),
        standing,
        looks_since_mend: 0,
        tools,
    };
    shell.tools.needed.update(&shell.core);
    reexec::release_signals().map_err(io("take signals for"))?;
    let sockets = serve(&shell)?;
    // Nothing fails from here on, so nothing is started that would be left.
    undo.disarm();
    shell.take_over(kept, reality);
    if regained {
        shell.occupants.store_all(&shell.store);
    }
    shell.drain();
    Ok((shell, sockets))
}

/// Opens the journal. A child of a supervisor that was killed just now holds its lock until it runs its program.
fn open_journal(paths: &Paths, meta: &Meta) -> Result<(Journal<Entry>, Opened<Entry, Lifecycle>), journal::Error> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match Journal::open(&paths.journal(), meta) {
            Err(journal::Error::Locked { pid: Some(pid), .. }) if !lives(pid) && Instant::now() < deadline => {
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Whether another process than this one has the pid.
fn lives(pid: u32) -> bool {
    pid != std::process::id() && process::stat(pid).is_some_and(|stat| !stat.is_zombie())
}

/// What the parts work with. With nothing to serve, all of it must be right; else the runtime comes first, and what is
/// not there is told and asked for again when it is needed.
async fn tools(config: Config, config_path: &Path, paths: Paths, nothing_serves: bool) -> Result<Tools, StartError> {
    let roots = Roots::open(&paths.roots())?;
    let profile = Profile::open(&paths.profiles(), &config.runtime.name)?;
    let mirror = Mirror::at(paths.state(), &config.runtime.source, &config.runtime.r#ref)?;
    let workshop = Workshop::default();
    let (sources, needed, measured) = (Sources::default(), Needed::default(), Measured::default());
    let (config_path, secrets) = (config_path.to_owned(), Secrets::new(config.all_secrets()));
    let tools =
        Tools { config, config_path, paths, workshop, mirror, sources, needed, measured, profile, roots, secrets };
    if nothing_serves {
        tools.mirror.prepare().await?;
        tools.nix().await?;
        tools.builder().await.map_err(StartError::Sandbox)?;
    }
    Ok(tools)
}

/// Looks beside the loop whether candidates could be made and judged, and says so where they could not.
fn warm_up(tools: Arc<Tools>) -> AbortOnDrop<()> {
    AbortOnDrop(tokio::spawn(async move {
        if let Err(refusal) = tools.builder().await {
            let why = reason(&refusal, refusal.hint());
            tracing::error!("no candidate can be made or judged now, Active goes on: {why}");
        }
    }))
}

/// The commit that needs no telling: the last that was told, or else Active's.
fn followed(core: &Lifecycle) -> Option<ObjectId> {
    let active = || core.active().map(|active| &*active.version.rev);
    ObjectId::parse(core.followed().or_else(active)?)
}

/// Looks after the followed ref and tells each new commit.
fn follow(tools: Arc<Tools>, seen: Option<ObjectId>, inputs: Inputs) -> AbortOnDrop<()> {
    AbortOnDrop(tokio::spawn(async move {
        let mut follower = Follower::new(tools.mirror.clone(), tools.config.runtime.poll, seen);
        // A source that is away for a day is told once.
        let mut told_of: Option<String> = None;
        let mut prepared = false;
        loop {
            let told = async {
                if !prepared {
                    tools.mirror.prepare().await?;
                    prepared = true;
                }
                let commit = follower.next().await?;
                tools.mirror.fetch().await?;
                let tree = tools.mirror.tree(&commit).await?;
                Ok::<_, crate::source::Error>(Event::Followed { rev: commit.to_string(), tree: tree.to_string() })
            };
            match told.await {
                Ok(event) => {
                    if told_of.take().is_some() {
                        tracing::info!("the source can be read again");
                    }
                    if inputs.send(Input::Event(event)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let why = reason(&error, error.hint());
                    if told_of.as_ref() != Some(&why) {
                        tracing::warn!("cannot follow the source, Active goes on: {why}");
                        told_of = Some(why);
                    }
                    tokio::time::sleep(FOLLOW_RETRY).await;
                }
            }
        }
    }))
}

impl Shell {
    /// Reads rei.toml again. What cannot be changed while it runs is named.
    pub(super) fn reload(&mut self) {
        let config = match load(&self.tools.config_path) {
            Ok(config) => config,
            Err(error) => {
                let mistakes = if let StartError::Config(error) = &error { error.mistakes() } else { Vec::new() };
                let why: Vec<String> = std::iter::once(chain(&error)).chain(mistakes).collect();
                tracing::error!(why = why.join("; "), "rei.toml is not taken; the old one holds");
                return;
            }
        };
        let changes = config::diff(&self.tools.config, &config);
        if let Some(change) = changes.iter().find(|change| change.when == config::When::Restart) {
            tracing::error!(key = change.key, "this cannot change while rei runs; the old rei.toml holds");
            return;
        }
        let old = &self.tools;
        self.tools = Arc::new(Tools {
            secrets: Secrets::new(config.all_secrets()),
            config,
            config_path: old.config_path.clone(),
            paths: old.paths.clone(),
            workshop: old.workshop.clone(),
            mirror: old.mirror.clone(),
            sources: old.sources.clone(),
            needed: old.needed.clone(),
            measured: old.measured.clone(),
            profile: old.profile.clone(),
            roots: old.roots.clone(),
        });
        self.reach.look(&self.tools);
        self.occupants.configure();
        self.watch.configure(&self.tools.config);
        self.pending.push_back(Event::Configured { policy: policy(&self.tools.config) });
        tracing::info!(changes = changes.len(), "rei.toml was read again");
    }

    /// Ends without the runtime: it serves on, and the next supervisor takes it over as after a crash.
    async fn leave(&mut self) {
        self.signals.notify("STOPPING=1\nSTATUS=the runtime serves on");
        self.end_work().await;
    }

    /// Ends the runtime: instances are asked to finish, the files of unix sockets are removed, and the store lets go of the
    /// listeners (the keeper ends, systemd is told to close them). The last copies are this process's own and end with it.
    async fn end_all(&mut self) {
        self.signals.notify("STOPPING=1");
        for (_, handle) in self.working.drain(..) {
            handle.abort();
        }
        let mut until = Instant::now() + self.tools.config.runtime.stop_timeout + END_GRACE;
        let last = until + Duration::from_millis(lifecycle::EXTENDED_MS_MAX);
        for slot in Slot::ALL {
            self.occupants.stop(slot, false);
        }
        let mut in_time = true;
        while !self.occupants.is_empty() && in_time {
            let Ok(input) = tokio::time::timeout_at(until.into(), self.received.recv()).await else {
                in_time = false;
                continue;
            };
            let Some(Input::Instance { slot, id, news }) = input else { continue };
            match news {
                News::Extends(by) => {
                    until = until.max(Instant::now() + by + END_GRACE).min(last);
                    // The service manager has a bound as well.
                    self.signals.notify(&format!("EXTEND_TIMEOUT_USEC={}", (by + END_GRACE).as_micros()));
                }
                News::Stopped | News::Exited(..)
                    if !self.occupants.dismiss(&id) && self.occupants.id(slot) == Some(&*id) =>
                {
                    self.occupants.remove(slot);
                }
                _ => {}
            }
        }
        match in_time && tokio::time::timeout_at(until.into(), self.occupants.leftovers_gone()).await.is_ok() {
            true => self.occupants.all_ended(),
            false => tracing::error!("instances did not end in time"),
        }
        self.snapshot();
        lock(&self.traffic).unlink();
        if let Err(error) = lock(&self.store).finish() {
            tracing::warn!(error = chain(&error), "the keeper did not end");
        }
    }
}
