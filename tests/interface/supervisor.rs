//! `io.openexec.Supervisor`, called by its own client.

use rei::interface::access::Access;
use rei::interface::client::{ClientError, OperationsClient};
use rei::interface::operations::{MonitorEvent, OperationsError, Phase, Trust};
use rei::interface::types::EvolutionId;

use crate::fakes::{operations, until};
use crate::shapes;

#[tokio::test]
async fn every_call_arrives_and_every_reply_returns() {
    let served = operations(Access::own_user());
    let operator = served.operator().await;
    assert_eq!(operator.status().await.unwrap(), shapes::status());
    assert_eq!(operator.evolve(Some("main".into()), None).await.unwrap(), EvolutionId::numbered(1));
    assert_eq!(operator.approve("cand_0001".into()).await.unwrap(), EvolutionId::numbered(2));
    assert_eq!(operator.reject("evo_0001".into(), "slow".into()).await.unwrap(), EvolutionId::numbered(3));
    assert_eq!(operator.rollback(Some(40)).await.unwrap(), 41);
    assert_eq!(operator.settle(Trust::Reality, Some("seen".into())).await.unwrap(), 42);
    assert_eq!(operator.history(None).await.unwrap().len(), 1);
    operator.history(Some(100_000)).await.unwrap();
    assert_eq!(operator.show("rec_0001".into()).await.unwrap(), shapes::show_reply());
    operator.pause().await.unwrap();
    operator.resume().await.unwrap();
    assert_eq!(operator.routes().await.unwrap(), [rei::interface::operations::TrafficStatus::default()]);
    operator.qualify_golden("live".into()).await.unwrap();
    operator.record_golden("live".into(), None, 60_000, 500).await.unwrap();
    operator.end_recording("live".into()).await.unwrap();
    assert_eq!(operator.quarantine().await.unwrap(), [shapes::quarantine_entry()]);
    operator.lift_quarantine("cand_0001".into()).await.unwrap();
    operator.reexec().await.unwrap();
    operator.stop().await.unwrap();
    let evolve = format!("evolve {} Some(\"main\") None", std::process::id());
    let calls = [
        "status",
        &evolve,
        "approve cand_0001",
        "reject evo_0001 slow",
        "rollback Some(40)",
        "settle Reality Some(\"seen\")",
        "history 20",
        "history 500",
        "show rec_0001",
        "pause",
        "resume",
        "routes",
        "qualify live",
        "record live None 60000 500",
        "end recording live",
        "quarantine",
        "lift cand_0001",
        "reexec",
        "stop",
    ];
    assert_eq!(served.owner.calls(), calls);
}

#[tokio::test]
async fn each_error_comes_back_with_its_type_and_a_hint() {
    let served = operations(Access::own_user());
    let operator = served.operator().await;
    let text = String::from;
    let errors = [
        OperationsError::NotFound { id: text("evo_9999") },
        OperationsError::WrongPhase { phase: Phase::AwaitingApproval, hint: text("wait") },
        OperationsError::Invalid { field: text("rev"), reason: text("no such commit") },
        OperationsError::Busy { reason: text("starting") },
        OperationsError::NotAllowed { reason: text("no") },
    ];
    for error in errors {
        *served.owner.failure.lock().unwrap() = Some(error.clone());
        let got = operator.approve("evo_9999".into()).await.unwrap_err();
        assert_eq!(got.hint(), error.hint());
        assert_eq!(got.to_string(), error.to_string());
        assert!(matches!(got, ClientError::Answered(answered) if answered == error));
    }
}

#[tokio::test]
async fn a_supervisor_that_does_not_run_is_named_with_the_command_that_starts_it() {
    let directory = tempfile::tempdir().unwrap();
    let error = OperationsClient::connect(directory.path().join("control.sock")).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
    assert_eq!(error.hint().as_deref(), Some("start the supervisor: `rei run`"));
}

#[tokio::test]
async fn events_are_streamed_in_their_order() {
    let served = operations(Access::own_user());
    let mut events = served.operator().await.monitor().await.unwrap();
    until("the stream is open", || served.owner.events.receiver_count() == 1).await;
    for seq in 1..=100 {
        served.owner.events.send(MonitorEvent { seq, ..shapes::monitor_event() }).unwrap();
    }
    for seq in 1..=100 {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event, MonitorEvent { seq, ..shapes::monitor_event() });
    }
    drop(events);
    until("the closed stream is released", || served.owner.events.receiver_count() == 0).await;
}

#[tokio::test]
async fn a_reader_that_falls_behind_gets_lagged_and_is_dropped() {
    let served = operations(Access::own_user());
    let mut events = served.operator().await.monitor().await.unwrap();
    until("the stream is open", || served.owner.events.receiver_count() == 1).await;
    // All events are sent at once: the server's task runs only after the last one.
    for seq in 1..=1000 {
        served.owner.events.send(MonitorEvent { seq, ..shapes::monitor_event() }).unwrap();
    }
    let last = events.next().await.unwrap();
    assert!(matches!(last, Err(ClientError::Answered(OperationsError::Lagged { missed: 1.. }))), "{last:?}");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_dropped_and_delays_no_other() {
    let served = operations(Access::own_user());
    let operator = served.operator().await;
    let _unread = operator.monitor().await.unwrap();
    until("the stream is open", || served.owner.events.receiver_count() == 1).await;
    let text = "x".repeat(100_000);
    for _ in 0..50 {
        served.owner.events.send(MonitorEvent { text: text.clone(), ..shapes::monitor_event() }).unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(operator.status().await.unwrap(), shapes::status(), "others are served meanwhile");
    assert_eq!(served.owner.events.receiver_count(), 1, "its time limit is not over yet");
    until("the reader is dropped", || served.owner.events.receiver_count() == 0).await;
}

#[tokio::test]
async fn a_reply_that_is_too_large_is_an_error_of_the_interface() {
    let served = operations(Access::own_user());
    *served.owner.history_summary.lock().unwrap() = "x".repeat(2 << 20);
    let error = served.operator().await.history(None).await.unwrap_err();
    let too_large = OperationsError::TooLarge { limit_bytes: 1 << 20 };
    assert!(matches!(error, ClientError::Answered(answered) if answered == too_large));
}
