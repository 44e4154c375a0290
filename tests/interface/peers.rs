//! The supervisor as client of a wrong runtime: each wrong behaviour is a typed error, in bounded time and memory.

use std::path::PathBuf;
use std::time::Duration;

use rei::interface::client::{ClientError, EvolutionClient};
use rei::interface::evolution::EvolutionError;
use rei::interface::types::{HealthStatus, IncidentId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::fakes::{PATIENCE, evolution};
use crate::shapes;

/// A runtime that reads a call and then sends what the test gives it.
struct Peer {
    client: EvolutionClient,
    listener: UnixListener,
    _directory: tempfile::TempDir,
}

impl Peer {
    fn new() -> Self {
        Self::called_with(PATIENCE)
    }

    /// A peer whose caller waits this long for its reply.
    fn called_with(patience: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("rei.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self { client: EvolutionClient::new(path, patience), listener, _directory: directory }
    }

    async fn called(&self) -> UnixStream {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        while stream.read_u8().await.unwrap() != 0 {}
        stream
    }

    /// The error of a client that gets this answer.
    async fn answer(&self, answer: &[u8]) -> ClientError<EvolutionError> {
        let called = async {
            let mut stream = self.called().await;
            stream.write_all(answer).await.unwrap();
        };
        let (error, ()) = tokio::join!(self.client.report_runtime_health(), called);
        error.unwrap_err()
    }
}

#[tokio::test]
async fn garbage_is_reported_as_garbage() {
    let peer = Peer::new();
    let garbage: [&[u8]; 7] = [
        b"hello\0",
        b"\0",
        b"7\0",
        b"{}\0",
        b"{\"parameters\":{\"report\":{}}}\0",
        b"{\"parameters\":{\"report\":{\"status\":\"splendid\"}}}\0",
        b"{\"parameters\":{\"report\":{\"status\":\"ok\"",
    ];
    for answer in garbage {
        let error = peer.answer(answer).await;
        assert!(matches!(error, ClientError::Garbage { .. }), "{answer:?}: {error:?}");
    }
    let error = peer.answer(b"\x1b[2J\xff\0").await.to_string();
    assert!(!error.contains('\x1b'), "the quoted text is safe to print: {error}");
}

#[tokio::test]
async fn known_errors_keep_their_type_and_unknown_errors_their_name() {
    let peer = Peer::new();
    let error =
        peer.answer(b"{\"error\":\"io.openexec.RuntimeEvolution.NotAvailable\",\"parameters\":{\"reason\":\"no\"}}\0");
    let no = EvolutionError::NotAvailable { reason: "no".into() };
    assert!(matches!(error.await, ClientError::Answered(answered) if answered == no));
    let error = peer
        .answer(b"{\"error\":\"org.varlink.service.InterfaceNotFound\",\"parameters\":{\"interface\":\"x\"}}\0")
        .await;
    assert!(matches!(&error, ClientError::NotServed { error, .. } if error.contains("InterfaceNotFound")), "{error:?}");
    assert!(matches!(peer.answer(b"").await, ClientError::Closed { .. }));
}

#[tokio::test]
async fn a_reply_of_100_megabytes_is_cut_at_the_bound() {
    let peer = Peer::new();
    let flood = async {
        let mut stream = peer.called().await;
        let (chunk, mut written) = (vec![b'x'; 64 << 10], 0_usize);
        while written < 100 << 20 {
            match stream.write(&chunk).await {
                Ok(bytes) => written += bytes,
                Err(_) => break,
            }
        }
        written
    };
    let (error, written) = tokio::join!(peer.client.report_runtime_health(), flood);
    assert!(matches!(error, Err(ClientError::TooLarge { limit_bytes: 1_048_576, .. })), "{error:?}");
    assert!(written < 4 << 20, "{written} bytes were read");
}

#[tokio::test]
async fn silence_and_a_closed_connection_are_different_errors() {
    let silence = Duration::from_millis(50);
    let peer = Peer::called_with(silence);
    let (error, stream) = tokio::join!(peer.client.report_runtime_health(), peer.called());
    assert!(matches!(error, Err(ClientError::Timeout { after, .. }) if after == silence), "{error:?}");
    drop(stream);

    let (reports, mut stream) = tokio::join!(peer.client.stream_runtime_health(silence), peer.called());
    let mut reports = reports.unwrap();
    assert!(matches!(reports.next(silence).await, Some(Err(ClientError::Timeout { .. }))));
    let report = b"{\"continues\":true,\"parameters\":{\"report\":{\"status\":\"ok\"}}}\0";
    let (head, tail) = report.split_at(20);
    stream.write_all(head).await.unwrap();
    assert!(
        matches!(reports.next(silence).await, Some(Err(ClientError::Timeout { .. }))),
        "half a message does not count"
    );
    stream.write_all(tail).await.unwrap();
    assert_eq!(reports.next(PATIENCE).await.unwrap().unwrap().status, HealthStatus::Ok, "and it was not lost");
    drop(stream);
    assert!(matches!(reports.next(PATIENCE).await, Some(Err(ClientError::Closed { .. }))));
    assert!(reports.next(PATIENCE).await.is_none());
}

#[tokio::test]
async fn no_process_listens() {
    let directory = tempfile::tempdir().unwrap();
    let error = EvolutionClient::new(directory.path().join("rei.sock"), PATIENCE).report_runtime_health().await;
    assert!(matches!(error, Err(ClientError::NotRunning { .. })), "{error:?}");
}

#[tokio::test]
async fn the_evolution_interface_answers_all_four_calls() {
    let served = evolution();
    let client = served.automation();
    assert_eq!(client.report_runtime_health().await.unwrap().runtime.name, "greeter");
    let context = client.collect_evolution_context(IncidentId::numbered(1)).await.unwrap();
    assert_eq!(context, shapes::evolution_context());
    let unknown = client.collect_evolution_context(IncidentId::numbered(7)).await.unwrap_err();
    let expected = EvolutionError::UnknownIncident { incident_id: "inc_0007".into() };
    assert!(matches!(unknown, ClientError::Answered(error) if error == expected));
    let candidate = client.build_candidate_runtime(context).await.unwrap();
    assert_eq!(candidate, shapes::candidate());
    assert_eq!(client.validate_candidate(candidate).await.unwrap(), shapes::validation_report());
    assert_eq!(served.owner.calls(), ["health", "build sha256:11ee", "validate /nix/store/abc-greeter"]);
}

#[tokio::test]
async fn health_is_streamed_until_the_caller_disconnects() {
    let served = evolution();
    let mut reports = served.automation().stream_runtime_health(Duration::ZERO).await.unwrap();
    for seq in 1..=3 {
        assert_eq!(reports.next(PATIENCE).await.unwrap().unwrap().seq, seq);
    }
    drop(reports);
    // A new caller shows it: if the old stream still ran, the numbers of the reports would continue to grow.
    let mut last = 0;
    let mut still = 0;
    while still < 3 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        let calls = served.owner.calls().len();
        still = if calls == last { still + 1 } else { 0 };
        last = calls;
        assert!(calls < 100, "the stream continues without its caller");
    }
}
