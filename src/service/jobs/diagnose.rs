//! Collects the context of an evolution.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::diagnosis::{self, Collected, Request, exchanges_of};
use crate::digest;
use crate::golden::{GoldenRun, Header, Writer};
use crate::interface::client::EvolutionClient;
use crate::interface::types::{
    ContextId, Evidence, EvolutionId, ReproductionRun, RuntimeHealthReport, RuntimeIncident, Version,
};
use crate::lifecycle::Event;
use crate::report::chain;
use crate::service::instances::logfiles::SlotLog;
use crate::service::tools::Tools;
use crate::state::objects;
use crate::time::Timestamp;
use crate::validation::{self, GoldenFact};

/// Timeout of the request for the runtime's own context.
const RUNTIME_CONTEXT: Duration = Duration::from_secs(5);
/// Size of the end of the log that is read, in bytes.
const LOG_BYTES: usize = 256 << 10;

/// Maximum number of files that an incident names, newest last: those of some twenty collections. The folder has all
/// files.
const EVIDENCE_MAX: usize = 128;

/// The facts that the event loop knows when a diagnosis begins.
pub struct DiagnosisFacts {
    /// The context's id.
    pub id: ContextId,
    /// The incident.
    pub incident: Option<RuntimeIncident>,
    /// Active's log.
    pub log: Option<SlotLog>,
    /// The last exit status of Active, if it has exited.
    pub exit_status: Option<String>,
    /// Health reports, oldest first.
    pub health: Vec<RuntimeHealthReport>,
    /// Active.
    pub active: Option<Version>,
    /// Where the runtime serves the Interface.
    pub interface: Option<PathBuf>,
    /// Now.
    pub at: Timestamp,
}

/// Answers `Effect::Diagnose`.
pub async fn diagnose(tools: Arc<Tools>, evolution: EvolutionId, facts: DiagnosisFacts) -> Option<Event> {
    let collected = diagnose_now(&tools, facts).await;
    Some(Event::Diagnosed { evolution, context: collected.context.digest })
}

/// Collects the evidence, replays what led to the incident against Active in a sandbox, and writes it all down.
pub async fn diagnose_now(tools: &Tools, facts: DiagnosisFacts) -> Collected {
    let log_tail = match (&facts.log, &facts.active) {
        (Some(log), Some(active)) => Some(log.tail(&active.store_path, LOG_BYTES).await),
        _ => None,
    };
    let reproduction_runs = match (&facts.incident, &facts.active, &log_tail) {
        (Some(incident), Some(active), Some(log)) => reproduce(tools, incident, active, log, facts.at).await,
        _ => Vec::new(),
    };
    let incident = facts.incident.clone();
    let incident_id = incident.as_ref().map(|incident| incident.id.clone());
    let ask = facts.interface.clone().zip(incident_id).map(|(path, incident)| async move {
        let context = EvolutionClient::new(path, RUNTIME_CONTEXT).collect_evolution_context(incident).await;
        context
            .map_err(|error| chain(&error))
            .and_then(|context| serde_json::to_value(context).map_err(|error| error.to_string()))
    });
    let request = Request {
        state: tools.paths.state().to_owned(),
        id: facts.id.clone(),
        incident: facts.incident,
        log_tail,
        exit_status: facts.exit_status,
        health: facts.health,
        source: facts.active,
        reproduction_runs,
        secrets: tools.secrets.clone(),
    };
    let collected = diagnosis::collect(request, ask).await;
    objects::keep(&tools.paths, &facts.id.0, &collected.context).await;
    if let Some(incident) = incident {
        keep_incident(tools, incident, &collected.evidence).await;
    }
    collected
}

/// Keeps an incident with all its evidence, so that `rei show` names it: what was collected now, what earlier
/// evolutions collected, and the exchanges that led to it.
async fn keep_incident(tools: &Tools, mut incident: RuntimeIncident, collected: &[Evidence]) {
    let paths = tools.paths.clone();
    let (id, reproduction) = (incident.id.clone(), tools.paths.reproduction(&incident.id));
    let on_disk = tokio::task::spawn_blocking(move || {
        let earlier = objects::read::<RuntimeIncident>(&paths, &id.0).map(|earlier| earlier.evidence);
        (earlier.unwrap_or_default(), evidence(paths.state(), &reproduction))
    });
    let (mut all, reproduction) = on_disk.await.unwrap_or_default();
    for new in collected.iter().cloned().chain(reproduction) {
        // Of all files, only the reproduction is ever rewritten.
        all.retain(|known: &Evidence| known.path != new.path);
        all.push(new);
    }
    incident.evidence = all.split_off(all.len().saturating_sub(EVIDENCE_MAX));
    objects::keep(&tools.paths, &incident.id.0, &incident).await;
}

/// A file as evidence, if the file exists.
fn evidence(state: &Path, file: &Path) -> Option<Evidence> {
    let path = file.strip_prefix(state).ok()?.to_string_lossy().into_owned();
    Some(Evidence { path, sha256: digest::sha256_of_file(file).ok()?, bytes: file.metadata().ok()?.len() })
}

async fn reproduce(
    tools: &Tools,
    incident: &RuntimeIncident,
    active: &Version,
    log: &[u8],
    at: Timestamp,
) -> Vec<ReproductionRun> {
    let Some(listener) = tools.config.health.http.as_ref().map(|http| http.listen.clone()) else { return Vec::new() };
    let exchanges = exchanges_of(log);
    if exchanges.is_empty() {
        return Vec::new();
    }
    let path = tools.paths.reproduction(&incident.id);
    let run = GoldenRun { header: Header::new(incident.id.0.clone(), listener.clone(), at), exchanges };
    let fact = match write(&path, run) {
        Ok(sha256) => GoldenFact { name: incident.id.0.clone(), listener, path, sha256, bodies: None },
        Err(why) => return vec![ReproductionRun { detail: why, ..ReproductionRun::default() }],
    };
    let nonce = format!("{}-{}", incident.id, at.as_unix_ms());
    let tried = async {
        let builder = tools.builder().await.map_err(|refusal| chain(&refusal))?;
        let means = tools.means(None).await.map_err(|error| chain(&error))?;
        let tried = validation::reproduce(&tools.config, active, &fact, builder, &nonce, means).await;
        tried.map_err(|error| chain(&error))
    };
    vec![tried.await.unwrap_or_else(|detail: String| ReproductionRun { detail, ..ReproductionRun::default() })]
}

/// Writes the run, in place of an earlier file, and returns its digest.
fn write(path: &Path, run: GoldenRun) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot write {}: {error}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    let mut writer = Writer::create(path, &run.header).map_err(|error| chain(&error))?;
    for exchange in run.exchanges {
        writer.push(exchange).map_err(|error| chain(&error))?;
    }
    writer.finish().map_err(|error| chain(&error))?;
    digest::sha256_of_file(path).map_err(|error| failed(&error))
}
