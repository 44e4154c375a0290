//! A runtime that serves the Interface: the few lines that an author writes, on a really inherited socket.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Duration;

use rei::interface::client::{ClientError, EvolutionClient};
use rei::interface::evolution::EvolutionError;
use rei::interface::runtime::{self, RuntimeError};
use rei::interface::types::{CandidateRuntime, HealthStatus, IncidentId, RuntimeHealthReport, SCHEMA};
use serde_json::json;

use crate::fakes::PATIENCE;

const CHILD: &str = "REI_TEST_RUNTIME";

/// The program of a runtime author. Not a test by itself: the tests start it as their child.
#[test]
fn the_runtime_of_the_other_tests() {
    if std::env::var_os(CHILD).is_none() {
        assert!(matches!(
            runtime::spawn((RuntimeHealthReport::default, |_: &IncidentId| json!(null))),
            Err(RuntimeError::NotInherited)
        ));
        return;
    }
    let health = || RuntimeHealthReport { status: HealthStatus::Ok, ready: Some(true), ..Default::default() };
    let context = |incident: &IncidentId| json!({ "asked_for": incident });
    runtime::spawn((health, context)).unwrap().join().unwrap();
}

struct Child(tokio::process::Child);

fn start(listener: &UnixListener) -> Child {
    let program = std::env::current_exe().unwrap();
    // The shell acts like a supervisor: the socket is descriptor 3, and the variables name the process.
    let script = r#"exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=rei; exec "$0" "$@""#;
    let child = tokio::process::Command::new("sh")
        .args(["-c", script])
        .arg(program)
        .args(["--exact", "runtime::the_runtime_of_the_other_tests", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    Child(child.unwrap())
}

#[tokio::test]
async fn health_and_context_come_over_the_inherited_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rei.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let client = EvolutionClient::new(&path, PATIENCE);
    let mut child = start(&listener);

    let mut reports = client.stream_runtime_health(Duration::from_millis(50)).await.unwrap();
    for seq in 1..=3 {
        let report = reports.next(PATIENCE).await.unwrap().unwrap();
        assert_eq!((report.seq, report.status, report.ready), (seq, HealthStatus::Ok, Some(true)));
        assert_eq!((report.schema.as_str(), report.provider.as_str()), (SCHEMA, "native"));
        assert!(report.observed_at.as_unix_ms() > 0);
    }
    let context = client.collect_evolution_context(IncidentId::numbered(7)).await.unwrap();
    assert_eq!(context.runtime_context, Some(json!({ "asked_for": "inc_0007" })));
    assert_eq!((context.collected_by.as_str(), context.complete), ("runtime", true));
    let refused = client.validate_candidate(CandidateRuntime::default()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Answered(EvolutionError::NotAvailable { .. })), "{refused:?}");

    child.0.kill().await.unwrap();
    let end = reports.next(PATIENCE).await.unwrap();
    assert!(matches!(end, Err(ClientError::Closed { .. } | ClientError::Wire { .. })), "{end:?}");
}
