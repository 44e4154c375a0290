//! Collects everything known about an incident into one folder and one `EvolutionContext`.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::interface::types::{
    ContextId, Evidence, EvolutionContext, IncidentClass, MESSAGE_BYTES_MAX, ReproductionRun, RuntimeHealthReport,
    RuntimeIncident, SCHEMA, Version,
};

use super::evidence::{Folder, digest_of};
use super::traces;
use crate::redact::{Redactor, Secrets, strip_ansi};

/// Size of the end of the log that is collected, in bytes: some thousands of lines, more than an agent reads.
pub const LOG_BYTES_MAX: usize = 256 << 10;
/// Number of newest health reports that are collected: ten minutes with one report in ten seconds.
pub const HEALTH_REPORTS_MAX: usize = 60;
/// Timeout of the request for the runtime's own context. The runtime may be hanging.
pub const RUNTIME_CONTEXT_MAX: Duration = Duration::from_secs(5);
/// Timeout of each of the two phases: redacting, and writing. A hanging disk must not block a repair.
pub const COLLECT_MAX: Duration = Duration::from_secs(20);

/// The supervisor's input for a context.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The state directory.
    pub state: PathBuf,
    /// The id of the context, assigned by the lifecycle.
    pub id: ContextId,
    /// The incident; `None` for an upgrade.
    pub incident: Option<RuntimeIncident>,
    /// The end of Active's log; `None` if it could not be read.
    pub log_tail: Option<Vec<u8>>,
    /// The exit status of the process, if it has exited: `exit code 2`, `signal 11 (SIGSEGV)`.
    pub exit_status: Option<String>,
    /// Health reports, oldest first.
    pub health: Vec<RuntimeHealthReport>,
    /// The version of Active's source.
    pub source: Option<Version>,
    /// The results of the reproduction runs.
    pub reproduction_runs: Vec<ReproductionRun>,
    /// The secrets that the configuration gives to the runtime and to agents.
    pub secrets: Secrets,
}

/// The result of a collection.
#[derive(Clone, Debug)]
pub struct Collected {
    /// The context, as it is in `context.json`.
    pub context: EvolutionContext,
    /// The folder. Files may be missing; `context.missing` lists them.
    pub folder: PathBuf,
    /// Every file that was written, `context.json` last.
    pub evidence: Vec<Evidence>,
}

/// Collects the evidence. `runtime_context` is a request to the runtime itself; `None` if the runtime does not serve
/// the Interface.
///
/// Always returns, within [`RUNTIME_CONTEXT_MAX`] plus twice [`COLLECT_MAX`]. What could not be collected or written is
/// listed in `missing` (`NAME: why`), and then `complete` is false.
pub async fn collect(
    request: Request,
    runtime_context: Option<impl Future<Output = Result<Value, String>>>,
) -> Collected {
    let asked = ask(runtime_context, RUNTIME_CONTEXT_MAX).await;
    let relative = relative_folder(&request);
    let folder = request.state.join(&relative);
    let state = request.state.clone();
    let bare = EvolutionContext {
        schema: SCHEMA.into(),
        id: request.id.clone(),
        incident_id: request.incident.as_ref().map(|incident| incident.id.clone()),
        collected_by: "supervisor".into(),
        ..EvolutionContext::default()
    };
    let late = |what: &str, context: EvolutionContext| {
        let missing = format!("{what}: not done within {COLLECT_MAX:?}");
        seal(EvolutionContext { missing: [context.missing, vec![missing]].concat(), ..context })
    };
    // The blocking work runs in threads of its own, so the event loop continues. A thread that hangs is abandoned.
    let prepared = run_blocking(move || prepare(request, asked)).await;
    let Some(prepared) = prepared else {
        return Collected { context: late("evidence", bare), folder, evidence: Vec::new() };
    };
    let context = prepared.context.clone();
    match run_blocking(move || write(&state, relative, prepared)).await {
        Some(collected) => collected,
        None => Collected { context: late("folder", context), folder, evidence: Vec::new() },
    }
}

async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(COLLECT_MAX, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

/// The runtime's own context, or the reason why there is none.
async fn ask(
    runtime_context: Option<impl Future<Output = Result<Value, String>>>,
    wait: Duration,
) -> Result<Value, String> {
    let Some(answer) = runtime_context else { return Err("the runtime does not serve the interface".into()) };
    let answer = tokio::time::timeout(wait, answer).await;
    let value = answer.map_err(|_| format!("no answer within {wait:?}"))??;
    let bytes = value.to_string().len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(format!("{bytes} bytes, more than {MESSAGE_BYTES_MAX}"));
    }
    Ok(value)
}

/// `incidents/INC`, or `contexts/CTX` for an upgrade. Evidence is never overwritten: a later context of the same
/// incident gets a subfolder.
fn relative_folder(request: &Request) -> PathBuf {
    let Some(incident) = &request.incident else { return PathBuf::from("contexts").join(plain(&request.id.0)) };
    let folder = PathBuf::from("incidents").join(plain(&incident.id.0));
    let earlier = request.state.join(&folder).join("context.json").exists();
    if earlier { folder.join(plain(&request.id.0)) } else { folder }
}

/// Converts an id into the name of one directory, whatever it contains.
fn plain(id: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = id.chars().take(64).map(safe).collect();
    if name.is_empty() { "unnamed".into() } else { name }
}

/// The context without secrets, and the log for the file beside it.
struct Prepared {
    context: EvolutionContext,
    log: Option<String>,
}

fn prepare(request: Request, asked: Result<Value, String>) -> Prepared {
    let mut redactor = Redactor::knowing(&request.secrets);
    let log = request.log_tail.as_deref().map(|tail| redactor.text(&strip_ansi(&text_of(tail))));
    let stack_traces = log.as_deref().map(|log| traces::parse(log.as_bytes())).unwrap_or_default();
    let mut missing = Vec::new();
    let runtime_context = asked.map_err(|why| missing.push(format!("runtime_context: {why}"))).ok();
    let upgrade = request.incident.as_ref().is_none_or(|incident| incident.class == IncidentClass::UpgradeRequest);
    let ended = request.incident.as_ref().is_some_and(|incident| incident.cause.starts_with("crash"));
    for (name, lacks) in [
        ("log: could not be read", log.is_none()),
        ("exit_status: not known", ended && request.exit_status.is_none()),
        ("health: no report was made", request.health.is_empty()),
        ("source: Active's revision is not known", request.source.is_none()),
        ("reproduction_runs: none was run", !upgrade && request.reproduction_runs.is_empty()),
    ] {
        if lacks {
            missing.push(name.into());
        }
    }
    let health = request.health.len().saturating_sub(HEALTH_REPORTS_MAX);
    let context = EvolutionContext {
        schema: SCHEMA.into(),
        id: request.id,
        incident_id: request.incident.as_ref().map(|incident| incident.id.clone()),
        incident: request.incident,
        collected_by: "supervisor".into(),
        complete: false,
        missing,
        logs: Vec::new(),
        stack_traces,
        exit_status: request.exit_status,
        reproduction_runs: request.reproduction_runs,
        health: request.health.into_iter().skip(health).collect(),
        source: request.source,
        memory: Vec::new(),
        runtime_context,
        redactions: 0,
        digest: String::new(),
    };
    let mut context = without_secrets(context, &mut redactor);
    context.redactions = redactor.count();
    Prepared { context, log }
}

/// Redacts the whole context, because a summary, a reason or the message of a check can contain a secret, too. If the
/// result cannot be parsed again, the context is left out and this is listed.
fn without_secrets(context: EvolutionContext, redactor: &mut Redactor) -> EvolutionContext {
    let clean = serde_json::to_value(&context).map(|value| redactor.value(&value)).and_then(serde_json::from_value);
    match clean {
        Ok(clean) => clean,
        Err(error) => EvolutionContext {
            schema: context.schema,
            id: context.id,
            incident_id: context.incident_id,
            collected_by: context.collected_by,
            missing: [context.missing, vec![format!("context: could not be redacted: {error}")]].concat(),
            source: context.source,
            ..EvolutionContext::default()
        },
    }
}

/// The last [`LOG_BYTES_MAX`] bytes of a log, from the beginning of a line.
fn text_of(tail: &[u8]) -> String {
    let start = tail.len().saturating_sub(LOG_BYTES_MAX);
    let cut = &tail[start..];
    let line = if start == 0 { 0 } else { cut.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1) };
    String::from_utf8_lossy(&cut[line..]).into_owned()
}

fn write(state: &std::path::Path, relative: PathBuf, prepared: Prepared) -> Collected {
    let Prepared { mut context, log } = prepared;
    let mut folder = Folder::make(state, relative);
    if let Some(log) = log {
        context.logs.extend(folder.write("log.txt", log.as_bytes()));
    }
    if let Some(status) = &context.exit_status {
        folder.write("exit.txt", format!("{status}\n").as_bytes());
    }
    let traces = serde_json::to_vec_pretty(&context.stack_traces).unwrap_or_default();
    folder.write("traces.json", &traces);
    let line = |report: &RuntimeHealthReport| serde_json::to_string(report).map(|line| line + "\n").unwrap_or_default();
    folder.write("health.jsonl", context.health.iter().map(line).collect::<String>().as_bytes());
    if let Some(value) = &context.runtime_context {
        folder.write("runtime-context.json", value.to_string().as_bytes());
    }
    context.missing.append(&mut folder.missing);
    context = seal(context);
    // Written last, so that a folder with a context is complete.
    let json = serde_json::to_vec_pretty(&context).unwrap_or_default();
    if folder.write("context.json", &json).is_none() {
        context.missing.append(&mut folder.missing);
        context = seal(context);
    }
    Collected { context, folder: folder.path(), evidence: folder.written }
}

fn seal(mut context: EvolutionContext) -> EvolutionContext {
    context.complete = context.missing.is_empty();
    context.digest = digest_of(&context);
    context
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use serde_json::json;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::health::{Cause, Finding};
    use crate::interface::types::{IncidentId, RuntimeRef, Severity};
    use crate::time::Timestamp;

    type Answer = std::future::Ready<Result<Value, String>>;
    const NO_RUNTIME: Option<Answer> = None;

    fn request(state: &std::path::Path) -> Request {
        let finding = Finding {
            class: IncidentClass::RuntimeFailure,
            cause: Cause::Crash,
            severity: Severity::Critical,
            fingerprint: "sha256:00".into(),
            summary: "login failed: password=hunter22".into(),
            occurrence: 2,
            evolve: true,
        };
        let log =
            b"GET / 200\nDB_PASSWORD=hunter22\nthread 'main' panicked at a.rs:1:1:\nboom\nnote: run with\n".to_vec();
        Request {
            state: state.into(),
            id: ContextId::numbered(1),
            incident: Some(finding.incident(
                IncidentId::numbered(7),
                RuntimeRef::default(),
                Timestamp::from_unix_ms(1),
            )),
            log_tail: Some(log),
            exit_status: Some("exit code 101".into()),
            health: vec![RuntimeHealthReport { seq: 3, ..RuntimeHealthReport::default() }],
            source: Some(Version { rev: "abc".into(), ..Version::default() }),
            reproduction_runs: vec![ReproductionRun {
                tries: 3,
                failures: 3,
                reproduces: Some(true),
                ..Default::default()
            }],
            secrets: Secrets::default(),
        }
    }

    #[tokio::test]
    async fn the_folder_has_the_files_of_the_context_and_no_secret() {
        let state = tempfile::tempdir().unwrap();
        let answer = ready(Ok(json!({"goroutines": 7, "api_key": "hunter22"})));
        let collected = collect(request(state.path()), Some(answer)).await;
        let context = &collected.context;
        assert!(context.complete, "{:?}", context.missing);
        assert_eq!(collected.folder, state.path().join("incidents/inc_0007"));
        let names: Vec<&str> = collected.evidence.iter().map(|it| it.path.rsplit('/').next().unwrap()).collect();
        assert_eq!(
            names,
            ["log.txt", "exit.txt", "traces.json", "health.jsonl", "runtime-context.json", "context.json"]
        );
        for evidence in &collected.evidence {
            let bytes = std::fs::read(state.path().join(&evidence.path)).unwrap();
            let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!((&sha256, bytes.len() as u64), (&evidence.sha256, evidence.bytes), "{}", evidence.path);
            assert!(!String::from_utf8(bytes).unwrap().contains("hunter22"), "{}", evidence.path);
        }
        assert_eq!(context.redactions, 3);
        assert_eq!((context.stack_traces[0].reason.as_str(), &context.logs[0]), ("boom", &collected.evidence[0]));
        let stored = std::fs::read(collected.folder.join("context.json")).unwrap();
        let stored: EvolutionContext = serde_json::from_slice(&stored).unwrap();
        assert_eq!(&stored, context);
        assert_eq!(digest_of(&stored), stored.digest);
        assert_ne!(digest_of(&EvolutionContext { exit_status: None, ..stored }), context.digest);
    }

    #[tokio::test]
    async fn the_request_to_the_runtime_has_a_timeout() {
        let silent = ask(Some(pending()), Duration::from_millis(20)).await;
        assert_eq!(silent, Err("no answer within 20ms".into()));
        let refused = ask(Some(ready(Err("connection reset".into()))), RUNTIME_CONTEXT_MAX).await;
        assert_eq!(refused, Err("connection reset".into()));
    }

    #[tokio::test]
    async fn missing_and_too_large_parts_are_listed() {
        let state = tempfile::tempdir().unwrap();
        let large = ready(Ok(Value::String("x".repeat(MESSAGE_BYTES_MAX))));
        let collected = collect(request(state.path()), Some(large)).await;
        assert_eq!(collected.context.missing, ["runtime_context: 1048578 bytes, more than 1048576"]);
        let bare = Request {
            log_tail: None,
            exit_status: None,
            health: vec![],
            source: None,
            reproduction_runs: vec![],
            ..request(state.path())
        };
        let missing = collect(bare, NO_RUNTIME).await.context.missing;
        let names: Vec<&str> = missing.iter().filter_map(|it| it.split(':').next()).collect();
        assert_eq!(names, ["runtime_context", "log", "exit_status", "health", "source", "reproduction_runs"]);
    }

    #[tokio::test]
    async fn an_unwritable_folder_is_listed_and_the_context_is_still_returned() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("incidents"), "in the way").unwrap();
        let collected = collect(request(state.path()), NO_RUNTIME).await;
        let context = &collected.context;
        assert_eq!((context.complete, collected.evidence.len(), context.logs.len()), (false, 0, 0));
        for name in ["folder: ", "log.txt: ", "context.json: "] {
            assert!(context.missing.iter().any(|it| it.starts_with(name)), "{name} {:?}", context.missing);
        }
        assert_eq!(context.stack_traces[0].reason, "boom");
        assert_eq!(digest_of(context), context.digest);
    }

    #[tokio::test]
    async fn evidence_is_never_overwritten_and_no_id_leads_outside() {
        let state = tempfile::tempdir().unwrap();
        let first = collect(request(state.path()), NO_RUNTIME).await;
        let second = collect(Request { id: ContextId::numbered(2), ..request(state.path()) }, NO_RUNTIME).await;
        assert_eq!(second.folder, first.folder.join("ctx_0002"));
        let mut outside = request(state.path());
        outside.incident.as_mut().unwrap().id = IncidentId("../../x".into());
        let outside = collect(outside, NO_RUNTIME).await;
        assert_eq!(outside.folder, state.path().join("incidents/------x"));
        let upgrade = collect(Request { incident: None, ..request(state.path()) }, NO_RUNTIME).await;
        assert_eq!(upgrade.folder, state.path().join("contexts/ctx_0001"));
    }

    #[tokio::test]
    async fn a_large_log_is_cut_at_a_line_and_only_the_newest_health_reports_are_kept() {
        let state = tempfile::tempdir().unwrap();
        let mut large = request(state.path());
        large.log_tail = Some((0..100_000).map(|i| format!("line {i:06}\n")).collect::<String>().into_bytes());
        large.health = (0..500).map(|seq| RuntimeHealthReport { seq, ..RuntimeHealthReport::default() }).collect();
        let collected = collect(large, NO_RUNTIME).await;
        let log = std::fs::read_to_string(collected.folder.join("log.txt")).unwrap();
        assert!(log.len() <= LOG_BYTES_MAX && log.starts_with("line ") && log.ends_with("line 099999\n"));
        assert_eq!(collected.context.health.len(), HEALTH_REPORTS_MAX);
        assert_eq!(collected.context.health[HEALTH_REPORTS_MAX - 1].seq, 499);
    }
}
