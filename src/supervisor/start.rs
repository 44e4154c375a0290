//! From rei.toml to a running loop, and back: start, recovery, reload, end.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc};

use super::attend::AbortOnDrop;
use super::clock::Clock;
use super::input::{INPUTS_MAX, Input, Inputs};
use super::paths::Paths;
use super::policy::policy;
use super::record::{Divergence, Entry, replay};
use super::shell::{End, Shell};
use super::slots::{Occupants, Wanted, lock};
use super::sockets::{Control, Facade};
use super::tools::Tools;
use super::watch::Watch;
use super::work::reason;
use crate::config::{self, Config, LoadError};
use crate::interface::access::Access;
use crate::interface::evolution::serve_evolution;
use crate::interface::operations::{EVENTS_BEHIND_MAX, serve_operations};
use crate::interface::socket::{Socket, SocketError};
use crate::journal::{self, Journal, Meta};
use crate::lifecycle::{Event, Lifecycle, Run, Running, Slot};
use crate::nix::{self, Builder, Nix, Profile, Roots};
use crate::report::chain;
use crate::runtime::keeper::{FdStore, Keeper, StoreError, SystemdStore};
use crate::runtime::notify::notify_systemd;
use crate::runtime::table::{InstanceTable, TableError};
use crate::runtime::traffic::{OpenError, Routing, Setup, Traffic};
use crate::runtime::tree::Trees;
use crate::source::{Follower, Mirror, ObjectId};
use crate::time::Timestamp;

/// The pause after the followed ref could not be looked at.
const FOLLOW_RETRY: Duration = Duration::from_secs(5);
/// The root that keeps the builder of sandboxed checks.
const BUILDER_ROOT: &str = "builder";
/// The bound of the end of everything, beyond the instances' own.
const END_GRACE: Duration = Duration::from_secs(10);

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// rei.toml is not right.
    #[error(transparent)]
    Config(#[from] LoadError),
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
    /// The journal does not fit this program.
    #[error("cannot go on from the journal")]
    Divergence(#[from] Divergence),
    /// A snapshot of the journal cannot be read.
    #[error("the journal's snapshot is not one of this program")]
    Snapshot(#[source] serde_json::Error),
    /// The instance table cannot be used.
    #[error("cannot use the table of instances")]
    Table(#[from] TableError),
    /// Nix cannot be used.
    #[error("cannot use Nix")]
    Nix(#[from] nix::Error),
    /// No sandbox can be had, so nothing could be judged.
    #[error("sandboxed builds do not work here, so no candidate could be judged")]
    Sandbox(#[source] nix::Refusal),
    /// The runtime's repository cannot be used.
    #[error("cannot use the source")]
    Source(#[from] crate::source::Error),
    /// The listeners cannot be opened.
    #[error("cannot listen")]
    Listen(#[from] OpenError),
    /// The keeper cannot be had.
    #[error("cannot have a keeper of the listening sockets")]
    Keeper(#[from] StoreError),
    /// A socket of the supervisor cannot be opened.
    #[error("cannot serve {}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: SocketError,
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

impl StartError {
    /// The operator's next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::File { .. } => Some("set [state] directory in rei.toml to one that you can write".to_owned()),
            Self::Journal(error) => error.hint(),
            Self::Divergence(error) => Some(error.hint()),
            Self::Snapshot(_) => {
                Some("use the rei that wrote it, or remove the journal's snapshots directory".to_owned())
            }
            Self::Table(error) => error.hint(),
            Self::Nix(error) => error.hint(),
            Self::Sandbox(refusal) => refusal.hint(),
            Self::Source(error) => error.hint(),
            Self::Listen(error) => error.hint(),
            Self::Keeper(error) => error.hint(),
            Self::Socket { source, .. } => source.hint(),
            Self::GaveUp { hint, .. } => Some(hint.clone()),
        }
    }
}

/// What the operating system asks of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT.
    Terminate,
    /// SIGHUP.
    Reload,
    /// SIGCHLD.
    Child,
}

/// The signals that the loop listens to, and the service manager that it talks to.
pub struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
    child: tokio::signal::unix::Signal,
    manager: bool,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
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
    let config = load(config_path)?;
    let paths = Paths::of(&config);
    paths.make().map_err(|source| StartError::File { act: "make", path: paths.state().to_owned(), source })?;
    let (inputs, received) = mpsc::channel(INPUTS_MAX);
    let mut shell = begin(config, config_path, paths, exe, inputs.clone(), received).await?;
    if shell.core.active().is_none() {
        // With nothing to serve, a source that cannot be read is no bad day but a mistake.
        shell.tools.mirror.look().await?;
    }
    let _sockets = serve(&shell)?;
    shell.signals.notify("READY=1");
    ready();
    let _follower = follow(shell.tools.clone(), followed(&shell.core), inputs);
    let end = shell.run().await;
    match &end {
        End::Reexec => {}
        End::Asked | End::GaveUp { .. } => shell.end_all().await,
    }
    if let End::GaveUp { reason, hint } = end {
        return Err(StartError::GaveUp { reason, hint });
    }
    Ok(end)
}

fn load(path: &Path) -> Result<Config, StartError> {
    Ok(Config::load(path)?)
}

async fn begin(
    config: Config,
    config_path: &Path,
    paths: Paths,
    exe: &Path,
    inputs: Inputs,
    received: mpsc::Receiver<Input>,
) -> Result<Shell, StartError> {
    // Locks first: a second supervisor must touch nothing.
    let meta = Meta { runtime: config.runtime.name.clone(), created: Clock::starting(Timestamp::default()).now() };
    let (journal, opened) = Journal::<Entry>::open(&paths.journal(), &meta)?;
    for warning in &opened.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(cut) = &opened.cut {
        tracing::warn!("{cut}");
    }
    let state: Lifecycle = match opened.snapshot {
        Some((_, state)) => serde_json::from_value(state).map_err(StartError::Snapshot)?,
        None => Lifecycle::default(),
    };
    let last = opened.records.last().map_or(state.phase_since(), |record| record.at);
    let core = replay(state, opened.records.iter().map(|record| (record.seq, record.at, &record.body)))?;
    let table = InstanceTable::open(&paths.table())?;
    let clock = Clock::starting(last);
    let trees = Trees::detect().map_err(|source| StartError::File {
        act: "become the reaper of orphans of",
        path: paths.state().to_owned(),
        source,
    })?;
    let (store, mut kept) = descriptor_store(&paths, exe)?;
    let traffic = listen(&config, &paths, &core, &mut kept, &store)?;
    let tools = Arc::new(tools(config, config_path, paths).await?);
    let traffic = Arc::new(Mutex::new(traffic));
    let alarm = lock(&traffic).alarm();
    let io = |act| move |source| StartError::File { act, path: "the listeners".into(), source };
    let mut shell = Shell {
        core,
        journal,
        clock,
        pending: VecDeque::new(),
        inputs,
        received,
        listeners: broadcast::channel(EVENTS_BEHIND_MAX).0,
        traffic,
        store,
        alarm: alarm.map_err(io("watch"))?,
        occupants: Occupants::new(trees, table),
        watch: Watch::new(&tools.config),
        draining: None,
        working: Vec::new(),
        signals: Signals::listen().map_err(io("take signals for"))?,
        reap_at: None,
        end: None,
        since_snapshot: 0,
        started_at: clock.now(),
        not_yet: [None, None],
        last_exit: None,
        asides: 0,
        tools,
    };
    shell.take_over(kept);
    shell.drain().await;
    Ok(shell)
}

/// Where descriptors outlive the supervisor, and what is there.
#[expect(clippy::type_complexity, reason = "a store and what it kept, used once")]
fn descriptor_store(
    paths: &Paths,
    exe: &Path,
) -> Result<(Arc<Mutex<dyn FdStore + Send>>, Vec<(String, OwnedFd)>), StartError> {
    // SAFETY: called once, before anything else looks at inherited descriptors.
    let systemd = unsafe { SystemdStore::from_env() };
    if let Some(mut systemd) = systemd {
        let kept = systemd.fetch_all()?;
        return Ok((Arc::new(Mutex::new(systemd)), kept));
    }
    let mut keeper = Keeper::start_or_connect(&paths.keeper(), exe)?;
    let kept = keeper.fetch_all()?;
    Ok((Arc::new(Mutex::new(keeper)), kept))
}

fn listen(
    config: &Config,
    paths: &Paths,
    core: &Lifecycle,
    kept: &mut Vec<(String, OwnedFd)>,
    store: &Arc<Mutex<dyn FdStore + Send>>,
) -> Result<Traffic, StartError> {
    let private = paths.private();
    let setup = Setup {
        listens: &config.runtime.listen,
        interface: config.health.interface.as_ref().map(|_| private.as_path()),
        sticky: false,
    };
    let routing = core.routing().map_or(Routing::All(Slot::A.into()), Into::into);
    let (traffic, adoption) = Traffic::adopt(setup, routing, kept, &mut *lock(store))?;
    for lost in &adoption.lost {
        tracing::warn!(lost, "a listening socket was lost with the supervisor and is opened anew");
    }
    if adoption.moved {
        tracing::error!("a listener was tampered with while no supervisor ran; it is in order again");
    }
    Ok(traffic)
}

async fn tools(config: Config, config_path: &Path, paths: Paths) -> Result<Tools, StartError> {
    let nix = Nix::locate(&paths.nix_home()).await?;
    let nix = nix.allow_import_from_derivation(config.validation.allow_import_from_derivation);
    let builder = Builder::this_program().map_err(StartError::Sandbox)?;
    let proof = nix::prove(&nix, &builder, &paths.private()).await.map_err(StartError::Sandbox)?;
    let roots = Roots::open(&paths.roots())?;
    roots.add(&nix, BUILDER_ROOT, &proof.builder).await?;
    let profile = Profile::open(&paths.profiles(), &config.runtime.name)?;
    let mirror = Mirror::open(paths.state(), &config.runtime.source, &config.runtime.r#ref).await?;
    Ok(Tools {
        config,
        config_path: config_path.to_owned(),
        paths,
        nix,
        builder: proof.builder,
        mirror,
        profile,
        roots,
    })
}

/// The commit that needs no telling: Active's.
fn followed(core: &Lifecycle) -> Option<ObjectId> {
    core.active().and_then(|active| ObjectId::parse(&active.version.rev))
}

/// Looks after the followed ref and tells each new commit.
fn follow(tools: Arc<Tools>, seen: Option<ObjectId>, inputs: Inputs) -> AbortOnDrop<()> {
    AbortOnDrop(tokio::spawn(async move {
        let mut follower = Follower::new(tools.mirror.clone(), tools.config.runtime.poll, seen);
        // A source that is away for a day is told once.
        let mut told_of: Option<String> = None;
        loop {
            let told = async {
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

/// Opens both sockets.
fn serve(shell: &Shell) -> Result<[AbortOnDrop<()>; 2], StartError> {
    let paths = &shell.tools.paths;
    let bind = |path: PathBuf| Socket::bind(&path, None).map_err(|source| StartError::Socket { path, source });
    let (control, facade) = (bind(paths.control())?, bind(paths.facade())?);
    let trees = shell.occupants.trees();
    let (told, inputs) = (shell.inputs.clone(), shell.inputs.clone());
    let access = Access::own_user()
        .refuse_instances(move |pid| trees.contains(pid))
        .refuse_descendants_of(std::process::id())
        .on_refusal(move |refusal| {
            if refusal.reason.is_policy_anomaly() {
                // A full queue has worse to tell.
                let _ = told.try_send(Input::Intruder(refusal.to_string()));
            }
        });
    let operations = Arc::new(Control { inputs: inputs.clone(), listeners: shell.listeners.clone() });
    let evolution = Arc::new(Facade { inputs });
    let own = access.clone();
    Ok([
        AbortOnDrop(tokio::spawn(serve_operations(control, operations, access))),
        AbortOnDrop(tokio::spawn(serve_evolution(facade, evolution, own))),
    ])
}

impl Shell {
    /// Finds what an earlier supervisor left running, and goes on in the same phase.
    fn take_over(&mut self, mut kept: Vec<(String, OwnedFd)>) {
        let fresh = self.core.policy().is_none();
        self.pending.push_back(Event::Configured { policy: policy(&self.tools.config) });
        if fresh {
            return;
        }
        let recorded = self.occupants.recorded();
        let mut running = [None, None];
        for slot in Slot::ALL {
            running[slot.index()] = self.adopt(slot, &recorded, &mut kept);
        }
        // An instance that no slot knows of would be a second copy: it ends.
        for entry in recorded {
            let known = Slot::ALL.iter().any(|slot| self.occupants.id(*slot) == Some(&*entry.id));
            if !known {
                self.occupants.end_stray(&entry);
            }
        }
        let rebooted = self.occupants.rebooted();
        self.pending.push_back(Event::Recovered { running, rebooted });
    }

    /// The instance that the journal, or the table, has for a slot.
    fn adopt(
        &mut self,
        slot: Slot,
        recorded: &[crate::runtime::table::Entry],
        kept: &mut Vec<(String, OwnedFd)>,
    ) -> Option<Running> {
        let state = self.core.slot(slot).clone();
        let version = state.version.clone()?;
        let suffix = format!("-{}", slot.to_string().to_lowercase());
        let entry = recorded.iter().find(|entry| match &state.instance {
            Some(instance) => entry.id == instance.id,
            // It was made, and the record of it was not written any more.
            None => entry.id.ends_with(&suffix),
        })?;
        let pid = entry.pid?;
        let ready = state.run == Run::Ready || state.run == Run::Stopping;
        let (tools, traffic, store, inputs) =
            (self.tools.clone(), self.traffic.clone(), self.store.clone(), self.inputs.clone());
        let wanted = Wanted {
            slot,
            store_path: &version.store_path,
            tools: &tools,
            traffic: &traffic,
            store: &store,
            inputs: &inputs,
        };
        match self.occupants.adopt(&wanted, &entry.id, pid, entry.start_ticks, kept, ready) {
            Ok(()) => {
                let role = if self.core.active_slot() == Some(slot) {
                    crate::interface::types::Role::Active
                } else {
                    crate::interface::types::Role::Candidate
                };
                let runtime = self.runtime_ref(slot, role, &entry.id);
                let now = self.clock.now();
                self.watch.begin(slot, &version.store_path, runtime, now);
                Some(Running { store_path: version.store_path, ready })
            }
            Err(reason) => {
                tracing::warn!(%slot, reason, "an instance did not outlive the supervisor");
                self.occupants.forget(&entry.id);
                None
            }
        }
    }

    /// Reads rei.toml again. What cannot be changed while it runs is named.
    pub(super) fn reload(&mut self) {
        let config = match load(&self.tools.config_path) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(error = chain(&error), "rei.toml is not taken; the old one holds");
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
            config,
            config_path: old.config_path.clone(),
            paths: old.paths.clone(),
            nix: old.nix.clone(),
            builder: old.builder.clone(),
            mirror: old.mirror.clone(),
            profile: old.profile.clone(),
            roots: old.roots.clone(),
        });
        self.occupants.configure();
        self.watch.configure(&self.tools.config);
        self.pending.push_back(Event::Configured { policy: policy(&self.tools.config) });
        tracing::info!(changes = changes.len(), "rei.toml was read again");
    }

    /// Ends the runtime: instances are asked to finish, listeners are closed, the keeper ends.
    async fn end_all(&mut self) {
        self.signals.notify("STOPPING=1");
        for (_, handle) in self.working.drain(..) {
            handle.abort();
        }
        let grace = self.tools.config.runtime.stop_timeout + END_GRACE;
        for slot in Slot::ALL {
            self.occupants.stop(slot, false);
        }
        let ended = async {
            while Slot::ALL.iter().any(|slot| self.occupants.id(*slot).is_some()) {
                let Some(input) = self.received.recv().await else { return };
                if let Input::Instance { slot, id, news: super::input::News::Stopped | super::input::News::Exited(..) } =
                    input
                    && self.occupants.id(slot) == Some(&*id)
                {
                    self.occupants.remove(slot);
                }
            }
        };
        if tokio::time::timeout(grace, ended).await.is_err() {
            tracing::error!("instances did not end in time");
        }
        if let Err(error) = self.journal.snapshot(&self.core) {
            tracing::warn!(error = chain(&error), "cannot write a snapshot");
        }
        if let Err(error) = lock(&self.store).finish() {
            tracing::warn!(error = chain(&error), "the keeper did not end");
        }
    }
}
