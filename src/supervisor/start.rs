//! From rei.toml to a running loop.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, broadcast, mpsc};

use super::clock::Clock;
use super::error::StartError;
use super::follow::{follow, followed};
use super::input::{INPUTS_MAX, Input, Inputs};
use super::keep;
use super::logger;
use super::memory;
use super::mend::{self, Standing};
use super::needed::Needed;
use super::operate::JOURNAL_READERS_MAX;
use super::paths::Paths;
use super::reach::Reach;
use super::reconcile::Unfollowed;
use super::record::{Entry, replay};
use super::reexec;
use super::regain::listen;
use super::reload::load;
use super::serve::serve;
use super::shell::{End, Shell};
use super::signals::Signals;
use super::slots::Occupants;
use super::sources::Sources;
use super::sync::{AbortOnDrop, lock};
use super::tools::{Measured, Tools, Workshop};
use super::undo::Undo;
use super::watch::Watch;
use super::witness;
use crate::config::Config;
use crate::interface::operations::EVENTS_BEHIND_MAX;
use crate::journal::{self, Journal, Meta, Opened};
use crate::lifecycle::{self, Lifecycle};
use crate::nix::{Profile, Roots};
use crate::preflight;
use crate::process;
use crate::redact::Secrets;
use crate::report::chain;
use crate::runtime::table::{InstanceTable, LOCK_WAIT};
use crate::runtime::tree::Trees;
use crate::source::Mirror;
use crate::time::Timestamp;

/// The pause between two tries of the journal's lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);
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
    let serves = shell.core.active().is_some() || shell.core.is_held();
    let _preflight = serves.then(|| AbortOnDrop(tokio::spawn(preflight::beside_active(shell.tools.clone()))));
    let _files = AbortOnDrop(tokio::spawn(preflight::follow_files(shell.tools.clone())));
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
    let tools = Arc::new(tools(config, config_path, paths)?);
    if nothing_serves {
        // With nothing to serve, what is missing is no bad day but a mistake.
        preflight::before_the_first_version(tools.clone()).await?;
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

/// What the parts work with. What is not there is asked for again when it is needed.
fn tools(config: Config, config_path: &Path, paths: Paths) -> Result<Tools, StartError> {
    let roots = Roots::open(&paths.roots())?;
    let profile = Profile::open(&paths.profiles(), &config.runtime.name)?;
    let mirror = Mirror::at(paths.state(), &config.runtime.source, &config.runtime.r#ref)?;
    let workshop = Workshop::default();
    let (sources, needed, measured) = (Sources::default(), Needed::default(), Measured::default());
    let (config_path, secrets) = (config_path.to_owned(), Secrets::new(config.all_secrets()));
    Ok(Tools { config, config_path, paths, workshop, mirror, sources, needed, measured, profile, roots, secrets })
}
