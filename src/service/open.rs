//! Starts the supervision of a service in three steps: lock, open, begin. A start that fails leaves nothing behind.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::capture::Captures;
use super::clock::Clock;
use super::error::StartError;
use super::executor::Executor;
use super::fdstore::{SharedStore, StoreWatch, StoredFds};
use super::follow::{follow, followed};
use super::in_use::InUse;
use super::input::INPUTS_MAX;
use super::inspect;
use super::instances::set::Instances;
use super::jobs::Jobs;
use super::ledger::Ledger;
use super::listeners::Listeners;
use super::logger;
use super::logger_watch::LoggerWatch;
use super::monitors::Monitors;
use super::open_listeners::listen;
use super::reach::Reach;
use super::reconcile::Unfollowed;
use super::recordings::Recordings;
use super::shadow::ShadowWatch;
use super::sources::Sources;
use super::supervisor::{Parts, Service};
use super::sync::AbortOnDrop;
use super::tap_watch::{self, TapWatch};
use super::timers::Timers;
use super::tools::{LazyNix, Measured, Tools};
use super::undo::Undo;
use crate::config::Config;
use crate::history::entry::{Entry, replay};
use crate::journal::{self, Journal, Meta, Opened as OpenedJournal};
use crate::lifecycle::{self, Lifecycle, Reality};
use crate::nix::{Profile, Roots};
use crate::preflight;
use crate::process;
use crate::redact::Secrets;
use crate::report::chain;
use crate::runtime::table::{InstanceTable, LOCK_WAIT};
use crate::runtime::tree::Trees;
use crate::source::Mirror;
use crate::state::paths::Paths;
use crate::tap::TapLink;
use crate::time::Timestamp;

/// The pause between two tries to lock the journal.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// A service whose journal and table are locked, so no other supervisor can change it.
pub struct Locked {
    config: Config,
    config_path: PathBuf,
    paths: Paths,
    journal: Journal<Entry>,
    table: InstanceTable,
    core: Lifecycle,
    unfollowed: Option<Unfollowed>,
    clock: Clock,
}

/// A service whose sockets are open. No new instance of it has been started yet.
pub struct Opened {
    parts: Parts,
    undo: Undo,
    stored: StoredFds,
    reality: Option<Reality>,
    /// Whether descriptors were recovered from instances. The store must then be given them.
    recovered: bool,
    /// The tap that an earlier supervisor has left.
    tap: Option<TapLink>,
}

/// A service that is supervised.
pub struct Begun {
    /// The service.
    pub service: Service,
    /// Its sockets and its background work.
    pub tasks: Vec<AbortOnDrop<()>>,
}

impl Locked {
    /// Locks a service and reads its journal.
    ///
    /// # Errors
    /// When another supervisor has locked it, or the journal or the table cannot be read.
    pub fn new(config: Config, config_path: &Path, paths: Paths) -> Result<Self, StartError> {
        let meta = Meta { runtime: config.runtime.name.clone(), created: Clock::starting(Timestamp::default()).now() };
        let (journal, opened) = open_journal(&paths, &meta)?;
        for warning in &opened.warnings {
            tracing::warn!("{warning}");
        }
        if let Some(torn_line) = &opened.torn_line {
            tracing::warn!("{torn_line}");
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
        let table = InstanceTable::open(&paths.table())?;
        Ok(Self {
            config,
            config_path: config_path.to_owned(),
            paths,
            journal,
            table,
            core: replayed.state,
            unfollowed,
            clock: Clock::starting(last),
        })
    }

    /// Opens the descriptors and processes that the service needs, or takes them over from an earlier supervisor.
    ///
    /// # Errors
    /// When the service cannot be started. A later failure is logged, and the service continues.
    pub async fn open(
        self,
        trees: Trees,
        store: SharedStore,
        mut stored: StoredFds,
        exe: &Path,
    ) -> Result<Opened, StartError> {
        let Self { config, config_path, paths, mut journal, table, core, unfollowed, clock } = self;
        let mut undo = Undo::new(&store, &stored, &table);
        let reality = inspect::look(&config, &paths, &core, unfollowed, &mut journal, &table, &stored)?;
        let routing = match &reality {
            Some(reality) => reality.serves.as_ref().map(|(slot, _)| lifecycle::Routing::all(*slot)),
            None => core.routing(),
        };
        let (traffic, recovered) = listen(&config, &paths, routing, &table, &mut stored, &store)?;
        let nothing_serves = core.active().is_none() && reality.is_none() && !core.is_held();
        let traffic = Arc::new(Mutex::new(traffic));
        undo.add_listeners(&traffic);
        let tools = Arc::new(tools(config, &config_path, paths)?);
        if nothing_serves {
            // On a first start a missing prerequisite is a configuration error, not a temporary outage.
            preflight::before_the_first_version(tools.clone()).await?;
        }
        let logger = logger::open(&tools.paths, exe, &mut stored, &store)?;
        let tap = tap_watch::left(&mut stored, &store);
        undo.add_tap(tap.as_ref());
        let (inputs, received) = mpsc::channel(INPUTS_MAX);
        let executor = Executor {
            shadow: ShadowWatch::default(),
            inputs,
            listeners: Listeners::new(traffic).map_err(StartError::Alarm)?,
            store: StoreWatch::new(store, exe),
            logs: LoggerWatch::new(&logger, exe.to_owned()),
            tap: TapWatch::new(exe.to_owned(), &tools.config.traffic.tap),
            captures: Captures::default(),
            recordings: Recordings::begin(&tools.paths),
            instances: Instances::new(trees, table, logger),
            monitors: Monitors::new(&tools.config),
            jobs: Jobs::default(),
            timers: Timers::restored(core.timers().iter().map(|(timer, armed)| (*timer, armed.at))),
            last_exit: None,
            tools,
        };
        let (ledger, reach) = (Ledger::new(journal), Reach::default());
        let parts = Parts { core, ledger, clock, executor, received, reach };
        Ok(Opened { parts, undo, stored, reality, recovered, tap })
    }
}

impl Opened {
    /// Opens both interfaces, takes over the running instances, and decides about them.
    ///
    /// # Errors
    /// When an interface cannot be opened.
    pub fn begin(self) -> Result<Begun, StartError> {
        let Self { parts, undo, stored, reality, recovered, tap } = self;
        let mut service = Service::new(parts);
        let mut tasks = Vec::from(service.serve()?);
        // From here on the start cannot fail, so nothing has to be undone.
        undo.disarm();
        service.take_over(stored, reality);
        if recovered {
            let executor = service.executor();
            executor.instances.store_all(&executor.store.shared);
        }
        service.executor().begin_tap(tap);
        service.decide();
        let executor = service.executor();
        let (tools, inputs) = (executor.tools.clone(), executor.inputs.clone());
        let core = service.core();
        if core.active().is_some() || core.is_held() {
            tasks.push(AbortOnDrop(tokio::spawn(preflight::beside_active(tools.clone()))));
        }
        tasks.push(AbortOnDrop(tokio::spawn(preflight::follow_files(tools.clone()))));
        tasks.push(follow(tools, followed(service.core()), inputs));
        service.sweep();
        Ok(Begun { service, tasks })
    }
}

/// Opens the journal. If a supervisor was killed a moment ago, a child that it had forked still holds the lock until
/// the child executes its own program.
fn open_journal(
    paths: &Paths,
    meta: &Meta,
) -> Result<(Journal<Entry>, OpenedJournal<Entry, Lifecycle>), journal::Error> {
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

/// Whether a process with this pid is alive and is not this process.
fn lives(pid: u32) -> bool {
    pid != std::process::id() && process::stat(pid).is_some_and(|stat| !stat.is_zombie())
}

/// The values that all parts share. Nix and the builder are located later, when they are needed.
fn tools(config: Config, config_path: &Path, paths: Paths) -> Result<Tools, StartError> {
    let roots = Roots::open(&paths.roots())?;
    let profile = Profile::open(&paths.profiles(), &config.runtime.name)?;
    let mirror = Mirror::at(paths.state(), &config.runtime.source, &config.runtime.r#ref)?;
    let mirror = mirror.with_submodules(config.runtime.submodules);
    let lazy_nix = LazyNix::default();
    let (sources, in_use, measured) = (Sources::default(), InUse::default(), Measured::default());
    let (config_path, secrets) = (config_path.to_owned(), Secrets::new(config.all_secrets()));
    Ok(Tools { config, config_path, paths, lazy_nix, mirror, sources, in_use, measured, profile, roots, secrets })
}
