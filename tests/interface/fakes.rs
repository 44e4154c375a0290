//! An owner of both interfaces that records its calls, and the sockets on which it serves.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rei::interface::access::{Access, Caller};
use rei::interface::client::{EvolutionClient, OperationsClient};
use rei::interface::evolution::{EvolutionError, RuntimeEvolution, serve_evolution};
use rei::interface::operations::*;
use rei::interface::socket::Socket;
use rei::interface::types::*;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use crate::shapes;

/// The time limit of every wait of a test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Records its calls, answers with the samples of `shapes`, and fails if the test sets a failure.
pub struct Owner {
    pub calls: Mutex<Vec<String>>,
    pub failure: Mutex<Option<OperationsError>>,
    pub history_summary: Mutex<String>,
    pub shown: Mutex<Option<ShowReply>>,
    /// Its start time; without it, the start time of the sample.
    pub started_at: Mutex<Option<rei::time::Timestamp>>,
    pub events: broadcast::Sender<MonitorEvent>,
}

impl Owner {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            failure: Mutex::default(),
            history_summary: Mutex::default(),
            shown: Mutex::default(),
            started_at: Mutex::default(),
            events: broadcast::channel(EVENTS_BEHIND_MAX).0,
        })
    }

    fn did(&self, call: String) -> Result<(), OperationsError> {
        self.calls.lock().unwrap().push(call);
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

impl Operations for Owner {
    async fn status(&self) -> Result<Status, OperationsError> {
        let mut status = shapes::status();
        status.supervisor.started_at = self.started_at.lock().unwrap().unwrap_or(status.supervisor.started_at);
        self.did("status".into()).map(|()| status)
    }

    async fn monitor(&self) -> Result<broadcast::Receiver<MonitorEvent>, OperationsError> {
        self.did("monitor".into()).map(|()| self.events.subscribe())
    }

    async fn evolve(
        &self,
        caller: &Caller,
        rev: Option<String>,
        blueprint: Option<String>,
    ) -> Result<EvolutionId, OperationsError> {
        self.did(format!("evolve {} {rev:?} {blueprint:?}", caller.pid)).map(|()| EvolutionId::numbered(1))
    }

    async fn approve(&self, _: &Caller, id: String) -> Result<EvolutionId, OperationsError> {
        self.did(format!("approve {id}")).map(|()| EvolutionId::numbered(2))
    }

    async fn reject(&self, _: &Caller, id: String, reason: String) -> Result<EvolutionId, OperationsError> {
        self.did(format!("reject {id} {reason}")).map(|()| EvolutionId::numbered(3))
    }

    async fn settle(&self, _: &Caller, trust: Trust, reason: Option<String>) -> Result<u64, OperationsError> {
        self.did(format!("settle {trust:?} {reason:?}")).map(|()| 42)
    }

    async fn rollback(&self, _: &Caller, to_generation: Option<u64>) -> Result<u64, OperationsError> {
        self.did(format!("rollback {to_generation:?}")).map(|()| 41)
    }

    async fn history(&self, limit: u64) -> Result<Vec<HistoryEntry>, OperationsError> {
        let summary = self.history_summary.lock().unwrap().clone();
        self.did(format!("history {limit}")).map(|()| vec![HistoryEntry { summary, ..shapes::history_entry() }])
    }

    async fn show(&self, id: String) -> Result<ShowReply, OperationsError> {
        let shown = self.shown.lock().unwrap().clone().unwrap_or_else(shapes::show_reply);
        self.did(format!("show {id}")).map(|()| shown)
    }

    async fn routes(&self) -> Result<Vec<TrafficStatus>, OperationsError> {
        self.did("routes".into()).map(|()| vec![TrafficStatus::default()])
    }

    async fn qualify_golden(&self, _: &Caller, name: String) -> Result<GoldenQualified, OperationsError> {
        self.did(format!("qualify {name}")).map(|()| GoldenQualified::default())
    }

    async fn record_golden(
        &self,
        _: &Caller,
        name: String,
        listener: Option<String>,
        for_ms: u64,
        limit: u64,
    ) -> Result<GoldenRecording, OperationsError> {
        self.did(format!("record {name} {listener:?} {for_ms} {limit}")).map(|()| GoldenRecording::default())
    }

    async fn end_recording(&self, _: &Caller, name: String) -> Result<GoldenRecording, OperationsError> {
        self.did(format!("end recording {name}")).map(|()| GoldenRecording::default())
    }

    async fn pause(&self, _: &Caller) -> Result<(), OperationsError> {
        self.did("pause".into())
    }

    async fn resume(&self, _: &Caller) -> Result<(), OperationsError> {
        self.did("resume".into())
    }

    async fn quarantine(&self) -> Result<Vec<QuarantineEntry>, OperationsError> {
        self.did("quarantine".into()).map(|()| vec![shapes::quarantine_entry()])
    }

    async fn lift_quarantine(&self, _: &Caller, id: String) -> Result<(), OperationsError> {
        self.did(format!("lift {id}"))
    }

    async fn reexec(&self, _: &Caller) -> Result<(), OperationsError> {
        self.did("reexec".into())
    }

    async fn stop(&self, _: &Caller) -> Result<(), OperationsError> {
        self.did("stop".into())
    }
}

impl RuntimeEvolution for Owner {
    async fn report_runtime_health(&self) -> Result<RuntimeHealthReport, EvolutionError> {
        let mut calls = self.calls.lock().unwrap();
        calls.push("health".into());
        Ok(RuntimeHealthReport { seq: calls.len() as u64, ..shapes::health_report() })
    }

    async fn collect_evolution_context(&self, incident_id: IncidentId) -> Result<EvolutionContext, EvolutionError> {
        if incident_id == IncidentId::numbered(1) {
            Ok(shapes::evolution_context())
        } else {
            Err(EvolutionError::UnknownIncident { incident_id: incident_id.0 })
        }
    }

    async fn build_candidate_runtime(&self, context: EvolutionContext) -> Result<CandidateRuntime, EvolutionError> {
        self.calls.lock().unwrap().push(format!("build {}", context.digest));
        Ok(shapes::candidate())
    }

    async fn validate_candidate(&self, candidate: CandidateRuntime) -> Result<ValidationReport, EvolutionError> {
        self.calls.lock().unwrap().push(format!("validate {}", candidate.version.store_path));
        Ok(shapes::validation_report())
    }
}

/// A service on a socket in its own directory; it stops when the value is dropped.
pub struct Served {
    pub owner: Arc<Owner>,
    pub path: PathBuf,
    _directory: tempfile::TempDir,
    /// The task of the server.
    pub task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn place(name: &str) -> (tempfile::TempDir, PathBuf, Socket) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    let socket = Socket::bind(&path, None).unwrap();
    (directory, path, socket)
}

pub fn operations(access: Access) -> Served {
    operations_by(|_| access)
}

/// The same, with an access rule that depends on the socket's path.
pub fn operations_by(access: impl FnOnce(&Path) -> Access) -> Served {
    let (owner, (directory, path, socket)) = (Owner::new(), place("control.sock"));
    let task = tokio::spawn(serve_operations(socket, Arc::clone(&owner), access(&path)));
    Served { owner, path, _directory: directory, task }
}

pub fn evolution() -> Served {
    evolution_by(|_| Access::own_user())
}

/// The same, with an access rule that depends on the socket's path.
pub fn evolution_by(access: impl FnOnce(&Path) -> Access) -> Served {
    let (owner, (directory, path, socket)) = (Owner::new(), place("rei.sock"));
    let task = tokio::spawn(serve_evolution(socket, Arc::clone(&owner), access(&path)));
    Served { owner, path, _directory: directory, task }
}

impl Served {
    pub async fn operator(&self) -> OperationsClient {
        OperationsClient::connect(&self.path).await.unwrap()
    }

    pub fn automation(&self) -> EvolutionClient {
        EvolutionClient::of_supervisor(&self.path, PATIENCE)
    }

    /// A connection without a client, for messages that no client sends.
    pub fn bare(&self) -> tokio::net::UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_nonblocking(true).unwrap();
        tokio::net::UnixStream::from_std(stream).unwrap()
    }
}

/// Prints why a test is skipped, directly to the terminal, because the test runner hides the output of passing tests.
pub fn skip(why: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes());
}

/// Waits until the fact holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
